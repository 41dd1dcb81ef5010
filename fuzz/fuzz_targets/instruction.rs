//! Records of the instruction store, their keys, and lines to load them from.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidereal_fuzz::run("instruction", data));
