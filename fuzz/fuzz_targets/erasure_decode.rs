#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| datamesh_store::fuzz::fuzz_erasure_decode(data));
