#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mirrorgate_fuzz::reason(data));
