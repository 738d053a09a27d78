//! Our compiler of seccomp profiles against libseccomp, used as runc uses it: whatever the one says of a call, the other
//! says too.
//!
//! Left out is where they are meant to differ: a call newer than the profile does not exist for ours (runc adds that to
//! libseccomp's program), and a profile that libseccomp does not take.
#![no_main]

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompOperator};

#[allow(dead_code)]
#[path = "../../tests/properties/bytes.rs"]
mod bytes;
#[allow(dead_code)]
#[path = "../../tests/properties/seccomp.rs"]
mod seccomp;

#[repr(C)]
#[derive(Clone, Copy)]
struct Compare {
    argument: c_uint,
    operator: c_int,
    first: u64,
    second: u64,
}

#[link(name = "seccomp")]
unsafe extern "C" {
    fn seccomp_init(default: u32) -> *mut c_void;
    fn seccomp_release(context: *mut c_void);
    fn seccomp_syscall_resolve_name(name: *const c_char) -> c_int;
    fn seccomp_rule_add_array(context: *mut c_void, action: u32, call: c_int, count: c_uint, args: *const Compare) -> c_int;
    fn seccomp_export_bpf(context: *const c_void, fd: c_int) -> c_int;
}

/// `None` where libseccomp refuses.
fn theirs(profile: &LinuxSeccomp) -> Option<Vec<u8>> {
    let default = seccomp::action(profile.default_action(), profile.default_errno_ret());
    // SAFETY: the functions of seccomp.h; the context is released on every way out, and strings and arrays live through
    // the calls.
    unsafe {
        let context = seccomp_init(default);
        assert!(!context.is_null());
        let mut taken = true;
        for call in profile.syscalls().iter().flatten() {
            let action = seccomp::action(call.action(), call.errno_ret());
            if action == default {
                continue;
            }
            let compares: Vec<Compare> = call
                .args()
                .iter()
                .flatten()
                .map(|condition| Compare {
                    argument: condition.index() as c_uint,
                    operator: match condition.op() {
                        LinuxSeccompOperator::ScmpCmpNe => 1,
                        LinuxSeccompOperator::ScmpCmpLt => 2,
                        LinuxSeccompOperator::ScmpCmpLe => 3,
                        LinuxSeccompOperator::ScmpCmpEq => 4,
                        LinuxSeccompOperator::ScmpCmpGe => 5,
                        LinuxSeccompOperator::ScmpCmpGt => 6,
                        LinuxSeccompOperator::ScmpCmpMaskedEq => 7,
                    },
                    first: condition.value(),
                    second: condition.value_two().unwrap_or(0),
                })
                .collect();
            let twice = (0..6).any(|n| compares.iter().filter(|c| c.argument == n).count() > 1);
            for name in call.names() {
                let name = CString::new(name.as_str()).unwrap();
                let number = seccomp_syscall_resolve_name(name.as_ptr());
                let mut add = |list: &[Compare]| {
                    taken &= seccomp_rule_add_array(context, action, number, list.len() as c_uint, list.as_ptr()) == 0;
                };
                match twice {
                    true => compares.iter().for_each(|one| add(&[*one])),
                    false => add(&compares),
                }
            }
        }
        let fd = libc::memfd_create(c"bpf".as_ptr(), 0);
        let mut file = std::fs::File::from_raw_fd(fd);
        taken &= seccomp_export_bpf(context, file.as_raw_fd()) == 0;
        seccomp_release(context);
        let mut program = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut program).unwrap();
        taken.then_some(program)
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut bytes = bytes::Bytes(data);
    let profile = seccomp::profile(&mut bytes);
    let ours = orlop::runtime::seccomp::compile(&profile).unwrap().program;
    let Some(theirs) = theirs(&profile) else { return };
    let highest = seccomp::highest(&profile);
    for (number, args) in seccomp::calls(&mut bytes) {
        if highest.is_none_or(|highest| number > highest) || seccomp::ambiguous(&profile, number, args) {
            continue;
        }
        let (a, b) = (seccomp::run(&ours, seccomp::X86_64, number, args), seccomp::run(&theirs, seccomp::X86_64, number, args));
        assert_eq!(a, b, "ours {a:#x}, libseccomp's {b:#x}: {profile:?}, call {number} {args:?}");
    }
});
