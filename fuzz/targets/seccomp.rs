#![no_main]

#[allow(dead_code)] // Another fuzzer uses what this one does not.
#[path = "../../tests/properties/bytes.rs"]
mod bytes;
#[allow(dead_code)] // Another fuzzer uses what this one does not.
#[path = "../../tests/properties/seccomp.rs"]
mod seccomp;

libfuzzer_sys::fuzz_target!(|data: &[u8]| seccomp::check(data));
