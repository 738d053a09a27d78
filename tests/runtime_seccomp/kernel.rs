//! Compiled profiles in the kernel: each operator, each action, each architecture of this machine.

use orlop::runtime::seccomp::compile;
use serde_json::{Value, json};

use crate::sys::{Abi, Call, Made, under_filter};

/// Takes no argument, so it can be given any.
const CALL: u32 = libc::SYS_getuid as u32;

fn made(profile: Value, calls: &[Call]) -> Made {
    let filter = compile(&serde_json::from_value(profile).unwrap()).unwrap();
    under_filter(&filter.program, filter.flags, calls)
}

fn call(number: u32, args: [u64; 6]) -> Call {
    Call { abi: Abi::Native, number, args }
}

fn uid() -> i64 {
    rustix::process::getuid().as_raw().into()
}

#[test]
fn operators_compare_all_bits() {
    let interesting = [0, 1, 6, 7, 8, 0xffff_ffff, 1 << 32, (1 << 32) + 7, (7 << 32) + 1, u64::MAX - 1, u64::MAX];
    type Holds = fn(u64, u64) -> bool;
    let operators: [(&str, Holds); 6] = [
        ("SCMP_CMP_NE", |a, v| a != v),
        ("SCMP_CMP_LT", |a, v| a < v),
        ("SCMP_CMP_LE", |a, v| a <= v),
        ("SCMP_CMP_EQ", |a, v| a == v),
        ("SCMP_CMP_GE", |a, v| a >= v),
        ("SCMP_CMP_GT", |a, v| a > v),
    ];
    for index in [0, 5] {
        for value in [0, 7, 0xffff_ffff, 1 << 32, (1 << 32) + 7, u64::MAX] {
            for (name, holds) in operators {
                let rule = json!({ "names": ["getuid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77,
                    "args": [{ "index": index, "value": value, "op": name }] });
                let calls = interesting.map(|argument| {
                    let mut args = [3; 6];
                    args[index] = argument;
                    call(CALL, args)
                });
                let made = made(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }), &calls);
                let expected = interesting.map(|argument| if holds(argument, value) { -77 } else { uid() });
                assert_eq!(made.results, expected, "argument {index} {name} {value:#x}");
            }
        }
    }
}

#[test]
fn a_mask_picks_bits_of_both_halves() {
    for (mask, value) in [(0xff, 7), (0xff << 32, 7 << 32), (0x8000_0001_8000_0001, 0x8000_0000_0000_0001)] {
        let rule = json!({ "names": ["getuid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 78,
            "args": [{ "index": 1, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" }] });
        let arguments = [0u64, 7, 7 << 32, (7 << 32) + 7, 1 << 63, (1 << 63) + 1, 0x107, 0x107 << 32, u64::MAX];
        let calls = arguments.map(|argument| call(CALL, [0, argument, 0, 0, 0, 0]));
        let made = made(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }), &calls);
        assert_eq!(made.results, arguments.map(|a| if a & mask == value { -78 } else { uid() }), "{mask:#x}");
    }
}

#[test]
fn actions_do_what_they_are_called() {
    let outcome = |action: &str, errno: Option<u32>| {
        let mut rule = json!({ "names": ["getuid"], "action": action });
        if let Some(errno) = errno {
            rule["errnoRet"] = json!(errno);
        }
        let profile = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99, "syscalls": [
            { "names": ["write", "exit_group", "exit"], "action": "SCMP_ACT_ALLOW" }, rule,
        ] });
        made(profile, &[call(CALL, [0; 6]), call(libc::SYS_getgid as u32, [0; 6])])
    };
    let alive = |result: i64| Made { results: vec![result, -99], signal: 0 };
    assert_eq!(outcome("SCMP_ACT_ALLOW", None), alive(uid()));
    assert_eq!(outcome("SCMP_ACT_LOG", None), alive(uid()));
    assert_eq!(outcome("SCMP_ACT_ERRNO", None), alive(-i64::from(libc::EPERM)));
    assert_eq!(outcome("SCMP_ACT_ERRNO", Some(4095)), alive(-4095));
    assert_eq!(outcome("SCMP_ACT_ERRNO", Some(0)), alive(0));
    // Without a tracer.
    assert_eq!(outcome("SCMP_ACT_TRACE", Some(5)), alive(-i64::from(libc::ENOSYS)));
    for action in ["SCMP_ACT_TRAP", "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS"] {
        assert_eq!(outcome(action, None), Made { results: Vec::new(), signal: libc::SIGSYS }, "{action}");
    }
}

#[test]
fn flags_are_taken_by_the_kernel() {
    let all = ["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"].map(|f| format!("SECCOMP_FILTER_FLAG_{f}"));
    let lists = all.iter().map(|flag| vec![flag.clone()]).chain([all.to_vec(), Vec::new()]);
    for flags in lists {
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": flags, "syscalls": [
            { "names": ["getuid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7 },
        ] });
        assert_eq!(made(profile, &[call(CALL, [0; 6])]).results, [-7], "{flags:?}");
    }
}

#[test]
fn calls_that_are_newer_than_the_profile_do_not_exist() {
    let profile = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": [
        { "names": ["write", "exit_group", "openat2", "not_a_call"], "action": "SCMP_ACT_ALLOW" },
    ] });
    // Older than openat2, the newest that is named; newer.
    let calls = [call(libc::SYS_getuid as u32, [0; 6]), call(libc::SYS_futex_waitv as u32, [0; 6])];
    assert_eq!(made(profile, &calls).results, [-1, -i64::from(libc::ENOSYS)]);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_other_architectures_of_the_machine() {
    // getuid32 of i386, and getuid of x32.
    let i386 = Call { abi: Abi::I386, number: 199, args: [0; 6] };
    let x32 = call(0x4000_0000 | CALL, [0; 6]);
    let profile = |architectures: &[&str]| {
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": [
            { "names": ["getuid", "getuid32"], "action": "SCMP_ACT_ERRNO", "errnoRet": 55 },
        ] })
    };
    let native = made(profile(&["SCMP_ARCH_X86_64"]), &[call(CALL, [0; 6])]);
    assert_eq!(native.results, [-55]);
    let all = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    assert_eq!(made(profile(&all), &[x32, i386, call(CALL, [0; 6])]).results, [-55, -55, -55]);
    // One that is not listed is no way around the filter.
    for other in [i386, x32] {
        let killed = made(profile(&["SCMP_ARCH_X86_64"]), &[other]);
        assert_eq!(killed, Made { results: Vec::new(), signal: libc::SIGSYS }, "{other:?}");
    }
}
