#![no_main]

#[allow(dead_code)] // Another fuzzer uses what this one does not.
#[path = "../../tests/properties/bytes.rs"]
mod bytes;
#[allow(dead_code)] // Another fuzzer uses what this one does not.
#[path = "../../tests/properties/plan.rs"]
mod plan;

libfuzzer_sys::fuzz_target!(|data: &[u8]| plan::check(data));
