//! The compiler of seccomp profiles against a reading of the profile in its own words.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};
use orlop::runtime::seccomp;
use serde_json::{Value, json};

use super::bytes::Bytes;

pub const X86_64: u32 = 0xc000_003e;
pub const KILL_PROCESS: u32 = 0x8000_0000;
pub const ALLOW: u32 = 0x7fff_0000;
pub const ERRNO: u32 = 0x0005_0000;
const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;

/// Some system calls, in the order of their numbers.
pub const CALLS: [(&str, i64); 12] = [
    ("read", libc::SYS_read),
    ("write", libc::SYS_write),
    ("ioctl", libc::SYS_ioctl),
    ("socket", libc::SYS_socket),
    ("clone", libc::SYS_clone),
    ("personality", libc::SYS_personality),
    ("prctl", libc::SYS_prctl),
    ("keyctl", libc::SYS_keyctl),
    ("unshare", libc::SYS_unshare),
    ("clone3", libc::SYS_clone3),
    ("openat2", libc::SYS_openat2),
    ("process_madvise", libc::SYS_process_madvise),
];

/// Numbers whose halves and neighbours are easily confused.
fn number(bytes: &mut Bytes<'_>) -> u64 {
    let interesting = [
        0,
        1,
        2,
        0xff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        1 << 32,
        (1 << 32) + 1,
        7 << 32 | 5,
        i64::MAX as u64,
        1 << 63,
        u64::MAX,
    ];
    match bytes.below(4) {
        0 => bytes.word(),
        _ => *bytes.pick(&interesting),
    }
}

fn condition(bytes: &mut Bytes<'_>) -> Value {
    const OPERATORS: [&str; 7] = [
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];
    json!({ "index": bytes.below(6), "value": number(bytes), "valueTwo": number(bytes), "op": *bytes.pick(&OPERATORS) })
}

/// A profile for x86_64.
pub fn profile(bytes: &mut Bytes<'_>) -> LinuxSeccomp {
    const ACTIONS: [&str; 6] =
        ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_TRAP", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG", "SCMP_ACT_KILL"];
    let default = *bytes.pick(&ACTIONS);
    let rules: Vec<Value> = (0..bytes.below(7))
        .map(|_| {
            let names: Vec<&str> = (0..1 + bytes.below(3)).map(|_| bytes.pick(&CALLS).0).collect();
            let conditions: Vec<Value> = (0..bytes.below(4)).map(|_| condition(bytes)).collect();
            let mut rule = json!({ "names": names, "action": *bytes.pick(&ACTIONS), "args": conditions });
            if bytes.flip() {
                rule["errnoRet"] = json!(1 + bytes.below(200));
            }
            rule
        })
        .collect();
    let mut profile = json!({ "defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules });
    if bytes.flip() {
        profile["defaultErrnoRet"] = json!(1 + bytes.below(200));
    }
    serde_json::from_value(profile).unwrap()
}

/// Calls to try a filter with.
pub fn calls(bytes: &mut Bytes<'_>) -> Vec<(u32, [u64; 6])> {
    (0..48)
        .map(|n| {
            let number = match n % 8 {
                7 => bytes.below(600) as u32,
                _ => bytes.pick(&CALLS).1 as u32,
            };
            (number, std::array::from_fn(|_| self::number(bytes)))
        })
        .collect()
}

/// Runs a filter as the kernel does.
pub fn run(program: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::with_capacity(64);
    data.extend(number.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend(0u64.to_ne_bytes());
    args.iter().for_each(|a| data.extend(a.to_ne_bytes()));
    let (mut at, mut a) = (0, 0u32);
    loop {
        let code: [u8; 8] = program[at * 8..at * 8 + 8].try_into().unwrap();
        let (operation, yes, no) = (u16::from_ne_bytes([code[0], code[1]]), usize::from(code[2]), usize::from(code[3]));
        let k = u32::from_ne_bytes([code[4], code[5], code[6], code[7]]);
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

pub fn action(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    match action {
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActErrno => ERRNO | errno.unwrap_or(libc::EPERM as u32),
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        _ => 0,
    }
}

pub fn holds(condition: &LinuxSeccompArg, args: [u64; 6]) -> bool {
    let (arg, value) = (args[condition.index()], condition.value());
    match condition.op() {
        LinuxSeccompOperator::ScmpCmpEq => arg == value,
        LinuxSeccompOperator::ScmpCmpNe => arg != value,
        LinuxSeccompOperator::ScmpCmpLt => arg < value,
        LinuxSeccompOperator::ScmpCmpLe => arg <= value,
        LinuxSeccompOperator::ScmpCmpGe => arg >= value,
        LinuxSeccompOperator::ScmpCmpGt => arg > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => arg & value == condition.value_two().unwrap_or(0),
    }
}

pub fn number_of(name: &str) -> u32 {
    CALLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number as u32).unwrap()
}

pub fn highest(profile: &LinuxSeccomp) -> Option<u32> {
    profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names).map(|name| number_of(name)).max()
}

/// What the profile's words say.
fn said(profile: &LinuxSeccomp, number: u32, args: [u64; 6]) -> u32 {
    let default = action(profile.default_action(), profile.default_errno_ret());
    let of = |call: &LinuxSyscall| action(call.action(), call.errno_ret());
    let rules = || {
        let all = profile.syscalls().iter().flatten();
        all.filter(|call| call.names().iter().any(|name| number_of(name) == number) && of(call) != default)
    };
    let conditions = |call: &LinuxSyscall| call.args().clone().unwrap_or_default();
    if let Some(call) = rules().find(|call| conditions(call).is_empty()) {
        return of(call);
    }
    for call in rules() {
        let conditions = conditions(call);
        let twice = (0..6).any(|index| conditions.iter().filter(|c| c.index() == index).count() > 1);
        let mut each = conditions.iter().map(|condition| holds(condition, args));
        if if twice { each.any(|holds| holds) } else { each.all(|holds| holds) } {
            return of(call);
        }
    }
    let refuses = !matches!(default & 0xffff_0000, ALLOW | 0x7ffc_0000);
    match highest(profile) {
        Some(highest) if refuses && number > highest => ENOSYS,
        _ => default,
    }
}

pub fn check(input: &[u8]) {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let mut bytes = Bytes(input);
    let profile = profile(&mut bytes);
    let program = seccomp::compile(&profile).unwrap().program;
    assert!(program.len() / 8 <= 4096);
    for (number, args) in calls(&mut bytes) {
        assert_eq!(run(&program, X86_64, number, args), said(&profile, number, args), "{profile:?}: {number} {args:?}");
        assert_eq!(run(&program, 0x4000_0003, number, args), KILL_PROCESS);
        assert_eq!(run(&program, X86_64, number | 0x4000_0000, args), KILL_PROCESS);
    }
}

/// Whether rules with different actions match the same call under conditions. Libseccomp sorts conditions for its own
/// ends, and does not promise which counts; with ours it is the first.
pub fn ambiguous(profile: &LinuxSeccomp, number: u32, args: [u64; 6]) -> bool {
    let default = action(profile.default_action(), profile.default_errno_ret());
    let of = |call: &LinuxSyscall| action(call.action(), call.errno_ret());
    let named = |call: &&LinuxSyscall| call.names().iter().any(|name| number_of(name) == number) && of(call) != default;
    let all: Vec<_> = profile.syscalls().iter().flatten().filter(named).collect();
    let matching = all.iter().filter(|call| {
        let conditions = call.args().clone().unwrap_or_default();
        let twice = (0..6).any(|index| conditions.iter().filter(|c| c.index() == index).count() > 1);
        let mut each = conditions.iter().map(|condition| holds(condition, args));
        conditions.is_empty() || if twice { each.any(|holds| holds) } else { each.all(|holds| holds) }
    });
    let mut actions: Vec<_> = matching.map(|call| of(call)).collect();
    actions.dedup();
    actions.len() > 1
}
