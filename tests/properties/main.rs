//! What must hold for every input, tried on a few here and on many by the fuzzers of `fuzz/`, which share these files.
//!
//! Each property is a function of bytes. A fuzzer changes the bytes with an eye on which code they reach; here they are
//! random. A failure that a fuzzer finds becomes a test of its own, or an entry of `found` here.

#![allow(clippy::unwrap_used)] // It is all test code.

mod bytes;
mod frames;
mod manifest;
mod names;
mod plan;
#[allow(dead_code)] // The fuzzer against libseccomp uses what no test does.
mod seccomp;

use proptest::prelude::*;

fn some() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![prop::collection::vec(any::<u8>(), 0..64), prop::collection::vec(any::<u8>(), 64..1024)]
}

proptest! {
    #[test]
    fn specifications_become_plans_or_errors(bytes in some()) {
        plan::check(&bytes);
    }

    #[test]
    fn seccomp_programs_say_what_their_profiles_say(bytes in some()) {
        seccomp::check(&bytes);
    }

    #[test]
    fn frames_are_read_or_refused(bytes in some()) {
        frames::check(&bytes);
    }

    #[test]
    fn names_are_taken_or_refused(bytes in some()) {
        names::check(&bytes);
    }

    #[test]
    fn manifests_are_read_or_refused(bytes in some()) {
        manifest::check(&bytes);
    }
}
