#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| datamesh_net::fuzz::local_proof(data));
