#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| datamesh_core::testing::fuzz::stored(data));
