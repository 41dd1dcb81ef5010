//! Fuzzes `catalog_source`: see `src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidereal_fuzz::run("catalog_source", data));
