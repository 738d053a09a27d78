//! Programs run by an interpreter, against rules read in the simplest way, and in the kernel.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompOperator as Op};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::table::SYSCALLS;
use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32: u32 = 0x4000_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;
const EPERM: u32 = ERRNO | libc::EPERM as u32;

fn profile(value: Value) -> LinuxSeccomp {
    serde_json::from_value(value).unwrap()
}

fn compiled(value: Value) -> Vec<u8> {
    compile(&profile(value)).unwrap().program
}

/// Runs classic BPF over a `struct seccomp_data`, as strictly as the kernel checks it.
fn run(program: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let code: Vec<(u16, usize, usize, u32)> = program
        .chunks_exact(8)
        .map(|c| {
            let value = u32::from_ne_bytes([c[4], c[5], c[6], c[7]]);
            (u16::from_ne_bytes([c[0], c[1]]), c[2].into(), c[3].into(), value)
        })
        .collect();
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend(0u64.to_ne_bytes());
    args.iter().for_each(|a| data.extend(a.to_ne_bytes()));
    let (mut at, mut a) = (0, 0u32);
    loop {
        let (operation, yes, no, k) = code[at];
        at += 1;
        let mut branch = |holds: bool| at += if holds { yes } else { no };
        match operation {
            0x20 => a = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            0x54 => a &= k,
            0x15 => branch(a == k),
            0x25 => branch(a > k),
            0x35 => branch(a >= k),
            0x05 => at += k as usize,
            0x06 => return k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn number(name: &str, column: usize) -> Option<u32> {
    SYSCALLS.iter().find(|(n, _)| *n == name).and_then(|(_, numbers)| u32::try_from(numbers[column]).ok())
}

fn x86_64(name: &str) -> u32 {
    number(name, 0).unwrap()
}

#[test]
fn the_table_is_sorted_and_has_no_number_twice() {
    assert!(SYSCALLS.is_sorted_by(|a, b| a.0 < b.0));
    for column in 0..5 {
        let mut numbers: Vec<_> = SYSCALLS.iter().map(|(_, n)| n[column]).filter(|n| *n >= 0).collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        // sync_file_range2 of arm has two names.
        assert!(all - numbers.len() <= 1, "column {column}");
        assert!(all > 290);
    }
    // What the C library was built with.
    if cfg!(target_arch = "x86_64") {
        assert_eq!(i64::from(x86_64("seccomp")), libc::SYS_seccomp);
        assert_eq!(i64::from(x86_64("fchmodat2")), libc::SYS_fchmodat2);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn unlisted_architectures_are_killed() {
    let native = compiled(json!({ "defaultAction": "SCMP_ACT_ALLOW" }));
    assert_eq!(run(&native, X86_64, 1, [0; 6]), ALLOW);
    assert_eq!(run(&native, I386, 1, [0; 6]), KILL_PROCESS);
    assert_eq!(run(&native, X86_64, X32 | 1, [0; 6]), KILL_PROCESS);
    assert_eq!(run(&native, X86_64, u32::MAX, [0; 6]), ALLOW);
    let all = compiled(json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_PPC64LE"] }));
    for (arch, number) in [(X86_64, 1), (I386, 1), (X86_64, X32 | 1), (X86_64, u32::MAX)] {
        assert_eq!(run(&all, arch, number, [0; 6]), ALLOW);
    }
    assert_eq!(run(&all, 0xc000_00b7, 1, [0; 6]), KILL_PROCESS);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_newer_than_the_profile_do_not_exist() {
    let program = compiled(json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
        "syscalls": [{ "names": ["read", "openat2", "not_a_syscall"], "action": "SCMP_ACT_ALLOW" }] }));
    let openat2 = x86_64("openat2");
    assert_eq!(run(&program, X86_64, 0, [0; 6]), ALLOW);
    assert_eq!(run(&program, X86_64, openat2 - 1, [0; 6]), ERRNO | 13);
    assert_eq!(run(&program, X86_64, openat2, [0; 6]), ALLOW);
    for number in [openat2 + 1, 5000, X32 - 1] {
        assert_eq!(run(&program, X86_64, number, [0; 6]), ENOSYS, "{number}");
    }
    assert_eq!(run(&program, X86_64, X32 | (openat2 - 1), [0; 6]), ERRNO | 13);
    assert_eq!(run(&program, X86_64, X32 | (openat2 + 1), [0; 6]), ENOSYS);
    assert_eq!(run(&program, X86_64, u32::MAX, [0; 6]), ERRNO | 13);
    // Where the default lets calls pass there is nothing to soften.
    let open = compiled(json!({ "defaultAction": "SCMP_ACT_LOG",
        "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ERRNO" }] }));
    assert_eq!(run(&open, X86_64, 5000, [0; 6]), 0x7ffc_0000);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn every_action_has_its_value() {
    for (action, errno, expected) in [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, KILL_PROCESS),
        ("SCMP_ACT_TRAP", None, 0x0003_0000),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", Some(0), ERRNO),
        ("SCMP_ACT_ERRNO", Some(38), ENOSYS),
        ("SCMP_ACT_TRACE", Some(7), 0x7ff0_0007),
        ("SCMP_ACT_LOG", None, 0x7ffc_0000),
        ("SCMP_ACT_NOTIFY", None, 0x7fc0_0000),
    ] {
        let mut rule = json!({ "names": ["read"], "action": action });
        if let Some(errno) = errno {
            rule["errnoRet"] = json!(errno);
        }
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "syscalls": [rule] });
        let program = compiled(profile);
        assert_eq!(run(&program, X86_64, 0, [0; 6]), expected, "{action}");
        assert_eq!(run(&program, X86_64, 1, [0; 6]), ALLOW);
    }
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let with = |key: &str, value: Value| {
        let mut profile = json!({ "defaultAction": "SCMP_ACT_ERRNO" });
        profile[key] = value;
        compile(&self::profile(profile)).unwrap_err().to_string()
    };
    assert!(with("defaultAction", json!("SCMP_ACT_NOTIFY")).contains("NOTIFY"));
    let notify = json!([{ "names": ["read"], "action": "SCMP_ACT_NOTIFY" }]);
    assert!(with("syscalls", notify).contains("listenerPath"));
    assert!(with("listenerMetadata", json!("x")).contains("listenerPath"));
    assert!(with("defaultErrnoRet", json!(4096)).contains("4096"));
    let args = json!([{ "index": 6, "value": 1, "op": "SCMP_CMP_EQ" }]);
    let rule = json!([{ "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args }]);
    assert!(with("syscalls", rule).contains("argument 6"));
    let rules: Vec<_> = (0..900)
        .map(|n| {
            json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 0, "value": n, "op": "SCMP_CMP_EQ" }] })
        })
        .collect();
    assert!(with("syscalls", json!(rules)).contains("4096"));
}

#[test]
fn flags_are_those_listed_or_the_usual_one() {
    let of = |value: Value| compile(&profile(value)).unwrap().flags;
    assert_eq!(of(json!({ "defaultAction": "SCMP_ACT_ALLOW" })), 4);
    assert_eq!(of(json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": [] })), 0);
    let flags = json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"]);
    assert_eq!(of(json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": flags })), 3);
    let rules = json!([{ "names": ["read"], "action": "SCMP_ACT_NOTIFY" }]);
    let all = ["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"].map(|f| format!("SECCOMP_FILTER_FLAG_{f}"));
    // A listener, and a way for TSYNC to fail beside it.
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": all, "syscalls": rules, "listenerPath": "/x" });
    assert_eq!(of(profile), 63);
    assert_eq!(of(json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": all })), 7);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn conditions_on_one_argument_are_alternatives_and_on_several_must_all_hold() {
    let args = |list: &[(u32, u64)]| {
        let args: Vec<_> = list.iter().map(|(i, v)| json!({ "index": i, "value": v, "op": "SCMP_CMP_EQ" })).collect();
        compiled(json!({ "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args }] }))
    };
    let either = args(&[(0, 1), (0, 2)]);
    assert_eq!(run(&either, X86_64, 0, [1, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&either, X86_64, 0, [2, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&either, X86_64, 0, [3, 0, 0, 0, 0, 0]), EPERM);
    let both = args(&[(0, 1), (1, 2)]);
    assert_eq!(run(&both, X86_64, 0, [1, 2, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&both, X86_64, 0, [1, 1, 0, 0, 0, 0]), EPERM);
    assert_eq!(run(&both, X86_64, 0, [2, 2, 0, 0, 0, 0]), EPERM);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_socket_is_refused_through_socketcall_too() {
    let program = compiled(json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{ "names": ["socket", "msgget"], "action": "SCMP_ACT_ERRNO" }] }));
    let call = |name: &str, first: u64| run(&program, I386, number(name, 1).unwrap(), [first, 0, 0, 0, 0, 0]);
    assert_eq!(call("socket", 0), EPERM);
    assert_eq!(call("socketcall", 1), EPERM);
    assert_eq!(call("socketcall", 2), ALLOW);
    assert_eq!(call("ipc", 13), EPERM);
    assert_eq!(call("ipc", 0x1_000d), EPERM);
    assert_eq!(call("ipc", 14), ALLOW);
}

/// Capabilities that containers get unless they ask for others.
const USUAL: u64 = 0xa804_25fb;

#[test]
#[cfg(target_arch = "x86_64")]
fn the_default_profile_allows_and_refuses_what_containerds_does() {
    let plain = compile(&default_profile(USUAL)).unwrap().program;
    let all = compile(&default_profile(u64::MAX)).unwrap().program;
    let is = |program: &[u8], name: &str, first: u64| run(program, X86_64, x86_64(name), [first, 0, 0, 0, 0, 0]);
    for name in ["read", "openat2", "ptrace", "arch_prctl", "chroot", "clone", "fchmodat2", "statmount", "socketpair"] {
        assert_eq!(is(&plain, name, 0), ALLOW, "{name}");
    }
    for name in [
        "mount",
        "umount2",
        "bpf",
        "unshare",
        "setns",
        "reboot",
        "add_key",
        "keyctl",
        "io_uring_setup",
        "open_by_handle_at",
        "userfaultfd",
        "perf_event_open",
        "kexec_load",
        "swapon",
        "syslog",
        "move_mount",
    ] {
        assert_eq!(is(&plain, name, 0), EPERM, "{name}");
    }
    for name in ["mount", "unshare", "bpf", "open_by_handle_at", "syslog", "clone3", "reboot", "acct"] {
        assert_eq!(is(&all, name, 0), ALLOW, "{name}");
    }
    for name in ["io_uring_setup", "keyctl", "userfaultfd", "kexec_load"] {
        assert_eq!(is(&all, name, 0), EPERM, "{name}");
    }
    assert_eq!(is(&plain, "clone3", 0), ENOSYS);
    for flag in [libc::CLONE_NEWNS, libc::CLONE_NEWUSER, libc::CLONE_NEWNET | libc::CLONE_VM] {
        assert_eq!(is(&plain, "clone", flag as u64), EPERM);
        assert_eq!(is(&all, "clone", flag as u64), ALLOW);
    }
    assert_eq!(is(&plain, "clone", (libc::CLONE_VM | libc::SIGCHLD) as u64), ALLOW);
    for family in 0..46u64 {
        let expected = if [38, 40].contains(&family) { EPERM } else { ALLOW };
        assert_eq!(is(&plain, "socket", family), expected, "family {family}");
    }
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        assert_eq!(is(&plain, "personality", persona), ALLOW);
    }
    assert_eq!(is(&plain, "personality", 0x40_0000), EPERM);
    assert_eq!(run(&plain, X86_64, 1000, [0; 6]), ENOSYS);
    assert_eq!(run(&plain, I386, number("socketcall", 1).unwrap(), [1, 0, 0, 0, 0, 0]), ALLOW);
    assert!(plain.len() / 8 < 500, "{} instructions", plain.len() / 8);
}

/// Reads a profile as its words say, without trees or tables of ranges.
fn naive(profile: &LinuxSeccomp, number: u32, args: [u64; 6]) -> u32 {
    let value = |action, errno: Option<u32>| match action {
        oci_spec::runtime::LinuxSeccompAction::ScmpActAllow => ALLOW,
        oci_spec::runtime::LinuxSeccompAction::ScmpActErrno => ERRNO | errno.unwrap_or(1),
        _ => 0x0003_0000,
    };
    let default = value(profile.default_action(), profile.default_errno_ret());
    let holds = |a: &oci_spec::runtime::LinuxSeccompArg| {
        let (arg, v) = (args[a.index()], a.value());
        match a.op() {
            Op::ScmpCmpEq => arg == v,
            Op::ScmpCmpNe => arg != v,
            Op::ScmpCmpLt => arg < v,
            Op::ScmpCmpLe => arg <= v,
            Op::ScmpCmpGe => arg >= v,
            Op::ScmpCmpGt => arg > v,
            Op::ScmpCmpMaskedEq => arg & v == a.value_two().unwrap_or(0),
        }
    };
    let calls = || profile.syscalls().iter().flatten();
    let matching = |call: &&oci_spec::runtime::LinuxSyscall| call.names().iter().any(|n| x86_64(n) == number);
    let relevant = || calls().filter(matching).filter(|c| value(c.action(), c.errno_ret()) != default);
    let empty = |c: &&oci_spec::runtime::LinuxSyscall| c.args().as_ref().is_none_or(|a| a.is_empty());
    if let Some(call) = relevant().find(empty) {
        return value(call.action(), call.errno_ret());
    }
    for call in relevant() {
        let args = call.args().as_deref().unwrap();
        let repeated = args.iter().enumerate().any(|(n, a)| args[..n].iter().any(|b| b.index() == a.index()));
        if if repeated { args.iter().any(holds) } else { args.iter().all(holds) } {
            return value(call.action(), call.errno_ret());
        }
    }
    let highest = calls().flat_map(|c| c.names()).map(|n| x86_64(n)).max();
    if default != ALLOW && highest.is_some_and(|h| number > h) && number != u32::MAX { ENOSYS } else { default }
}

const NAMES: [&str; 12] = [
    "read",
    "write",
    "open",
    "close",
    "stat",
    "clone",
    "socket",
    "personality",
    "openat2",
    "clone3",
    "mseal",
    "keyctl",
];

fn interesting() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(2),
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        Just(1 << 32),
        Just((1 << 32) + 1),
        Just(7 << 32 | 5),
        any::<u64>()
    ]
}

fn actions() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("SCMP_ACT_ALLOW"), Just("SCMP_ACT_ERRNO"), Just("SCMP_ACT_TRAP")]
}

fn arguments() -> impl Strategy<Value = Value> {
    let operators = prop_oneof![
        Just("SCMP_CMP_NE"),
        Just("SCMP_CMP_LT"),
        Just("SCMP_CMP_LE"),
        Just("SCMP_CMP_EQ"),
        Just("SCMP_CMP_GE"),
        Just("SCMP_CMP_GT"),
        Just("SCMP_CMP_MASKED_EQ")
    ];
    (0..3u32, interesting(), interesting(), operators)
        .prop_map(|(index, value, second, op)| json!({ "index": index, "value": value, "valueTwo": second, "op": op }))
}

fn profiles() -> impl Strategy<Value = Value> {
    let rule = (
        prop::collection::vec(prop::sample::select(&NAMES[..]), 1..4),
        actions(),
        prop::option::of(1..100u32),
        prop::collection::vec(arguments(), 0..4),
    )
        .prop_map(|(names, action, errno, args)| {
            let mut rule = json!({ "names": names, "action": action, "args": args });
            if let Some(errno) = errno {
                rule["errnoRet"] = json!(errno);
            }
            rule
        });
    (actions(), prop::collection::vec(rule, 0..8))
        .prop_map(|(default, rules)| json!({ "defaultAction": default, "syscalls": rules }))
}

proptest! {
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn programs_say_what_their_rules_say(
        value in profiles(),
        calls in prop::collection::vec(
            (prop_oneof![prop::sample::select(&NAMES[..]).prop_map(x86_64), 0..600u32, Just(u32::MAX)],
                [interesting(), interesting(), interesting()]), 40),
    ) {
        let profile = profile(value);
        let program = compile(&profile).unwrap().program;
        for (number, [a, b, c]) in calls {
            let args = [a, b, c, 0, 0, 0];
            prop_assert_eq!(run(&program, X86_64, number, args), naive(&profile, number, args), "call {} {:?}", number, args);
        }
    }
}
