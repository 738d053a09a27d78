#![no_main]

#[allow(dead_code)] // Another fuzzer uses what this one does not.
#[path = "../../tests/properties/bytes.rs"]
mod bytes;
#[allow(dead_code)] // Another fuzzer uses what this one does not.
#[path = "../../tests/properties/manifest.rs"]
mod manifest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| manifest::check(data));
