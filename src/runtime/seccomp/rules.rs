//! A profile by architecture and number: what is to happen to each system call.

use std::collections::BTreeMap;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use super::table::SYSCALLS;
use super::{Result, SeccompError};

pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const LOG: u32 = 0x7ffc_0000;
pub(super) const ALLOW: u32 = 0x7fff_0000;

/// The bit that tells a call of x32 from one of x86_64.
pub(super) const X32_BIT: u32 = 0x4000_0000;
/// The largest errno that the kernel returns.
const MAX_ERRNO: u32 = 4095;

/// One comparison of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub index: u32,
    pub operator: LinuxSeccompOperator,
    pub value: u64,
    /// What the masked value is compared with.
    pub second: u64,
}

/// All conditions hold: the action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub conditions: Vec<Condition>,
    pub action: u32,
}

/// What happens to one system call: the first rule that matches, or else `otherwise`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub rules: Vec<Rule>,
    pub otherwise: u32,
}

/// The calls of one value of `AUDIT_ARCH_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Architecture {
    pub audit: u32,
    /// From this number on, what happens; the last range is open, and the first begins at 0.
    pub ranges: Vec<(u32, Decision)>,
}

/// The whole profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// The machine's own first.
    pub architectures: Vec<Architecture>,
}

/// A column of the table of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    X86_64 = 0,
    I386 = 1,
    X32 = 2,
    Aarch64 = 3,
    Arm = 4,
}

/// What `socketcall` of i386 dispatches by its first argument, from 1 on.
const SOCKETCALL: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

/// What `ipc` of i386 dispatches by the low half of its first argument.
const IPC: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

impl Rules {
    pub fn of(profile: &LinuxSeccomp) -> Result<Self> {
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        let columns = columns(profile.architectures().as_deref().unwrap_or_default());
        // x86_64 and x32 have one AUDIT_ARCH, and are told apart by a bit of the number.
        let mut architectures: Vec<Architecture> = Vec::new();
        for audit in [Column::X86_64, Column::Aarch64, Column::I386, Column::Arm] {
            let members: Vec<Column> = columns.iter().copied().filter(|c| c.audit() == audit.audit()).collect();
            if !members.is_empty() {
                architectures.push(architecture(profile, &members, default)?);
            }
        }
        architectures.sort_by_key(|a| a.audit != native().audit());
        Ok(Self { architectures })
    }
}

fn native() -> Column {
    if cfg!(target_arch = "aarch64") { Column::Aarch64 } else { Column::X86_64 }
}

/// The machine's own, and those listed that can occur beside it. Others never reach the filter.
fn columns(listed: &[Arch]) -> Vec<Column> {
    let mut columns = vec![native()];
    for arch in listed {
        let column = match arch {
            Arch::ScmpArchX86_64 => Column::X86_64,
            Arch::ScmpArchX86 => Column::I386,
            Arch::ScmpArchX32 => Column::X32,
            Arch::ScmpArchAarch64 => Column::Aarch64,
            Arch::ScmpArchArm => Column::Arm,
            _ => continue,
        };
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns
}

impl Column {
    /// `AUDIT_ARCH_*` of include/uapi/linux/audit.h.
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// What is added to the numbers of the table.
    fn base(self) -> u32 {
        if self == Self::X32 { X32_BIT } else { 0 }
    }

    fn number(self, name: &str) -> Option<u32> {
        let found = SYSCALLS.binary_search_by_key(&name, |(name, _)| name).ok()?;
        u32::try_from(SYSCALLS[found].1[self as usize]).ok().map(|n| n | self.base())
    }
}

fn architecture(profile: &LinuxSeccomp, members: &[Column], default: u32) -> Result<Architecture> {
    let plain = |action| Decision { rules: Vec::new(), otherwise: action };
    let mut ranges: Vec<(u32, Decision)> = Vec::new();
    let mut push = |start: u32, decision: Decision| match ranges.last_mut() {
        Some((_, last)) if *last == decision => {}
        Some((at, last)) if *at == start => *last = decision,
        _ => ranges.push((start, decision)),
    };
    for column in [Column::X86_64, Column::X32, Column::Aarch64, Column::I386, Column::Arm] {
        if column == Column::X32 && members.contains(&Column::X86_64) && !members.contains(&Column::X32) {
            // Not listed: as the call of any architecture that is not.
            push(X32_BIT, plain(KILL_PROCESS));
        }
        if !members.contains(&column) {
            continue;
        }
        let (decisions, highest) = decisions(profile, column, default)?;
        let mut next = column.base();
        push(next, plain(default));
        for (number, decision) in decisions {
            if number > next {
                push(next, plain(default));
            }
            push(number, decision);
            next = number + 1;
        }
        push(next, plain(default));
        if let Some(highest) = highest.filter(|_| refuses(default)) {
            // The profile is older than these: a program shall fall back to what it did before they came.
            push((highest + 1).max(next), plain(ERRNO | libc::ENOSYS as u32));
        }
    }
    // No call at all: what a tracer makes of one that it wants skipped.
    push(u32::MAX, plain(default));
    Ok(Architecture { audit: members[0].audit(), ranges })
}

/// Whether this default keeps programs from new system calls.
fn refuses(default: u32) -> bool {
    !matches!(default & 0xffff_0000, ALLOW | LOG | TRACE)
}

/// What the profile says of the calls of an architecture, and the highest number that it names.
fn decisions(profile: &LinuxSeccomp, column: Column, default: u32) -> Result<(BTreeMap<u32, Decision>, Option<u32>)> {
    let mut decisions: BTreeMap<u32, Decision> = BTreeMap::new();
    let mut covered = std::collections::BTreeSet::new();
    let mut highest = None;
    for call in profile.syscalls().iter().flatten() {
        let action = action(call.action(), call.errno_ret())?;
        let alternatives = alternatives(call)?;
        for name in call.names() {
            if let Some(number) = column.number(name) {
                highest = highest.max(Some(number));
            }
            if action == default {
                continue;
            }
            for (number, alternatives) in targets(column, name, &alternatives, action) {
                let decision =
                    decisions.entry(number).or_insert_with(|| Decision { rules: Vec::new(), otherwise: default });
                if covered.contains(&number) {
                    continue;
                }
                for conditions in alternatives {
                    if conditions.is_empty() {
                        covered.insert(number);
                        *decision = Decision { rules: Vec::new(), otherwise: action };
                        break;
                    }
                    decision.rules.push(Rule { conditions, action });
                }
            }
        }
    }
    Ok((decisions, highest))
}

/// The numbers that a name stands for: its own, and on i386 that of the call which it may go through instead.
fn targets(
    column: Column,
    name: &str,
    alternatives: &[Vec<Condition>],
    action: u32,
) -> Vec<(u32, Vec<Vec<Condition>>)> {
    let mut targets: Vec<_> = column.number(name).map(|n| (n, alternatives.to_vec())).into_iter().collect();
    let multiplexed = match column {
        Column::I386 => {
            let socket = SOCKETCALL.iter().position(|n| *n == name).map(|n| ("socketcall", n as u64 + 1, u64::MAX));
            socket.or_else(|| IPC.iter().find(|(n, _)| *n == name).map(|&(_, n)| ("ipc", n, 0xffff)))
        }
        _ => None,
    };
    let unconditional = alternatives.iter().any(Vec::is_empty);
    if let Some((call, value, mask)) = multiplexed {
        // The arguments proper are behind a pointer there. What is allowed under conditions cannot be allowed; what is
        // refused under conditions is refused.
        if unconditional || !matches!(action & 0xffff_0000, ALLOW | LOG) {
            let condition =
                Condition { index: 0, operator: LinuxSeccompOperator::ScmpCmpMaskedEq, value: mask, second: value };
            targets.extend(column.number(call).map(|n| (n, vec![vec![condition]])));
        }
    }
    targets
}

/// The sets of conditions of which one must hold.
fn alternatives(call: &LinuxSyscall) -> Result<Vec<Vec<Condition>>> {
    let args = call.args().as_deref().unwrap_or_default();
    let conditions = args.iter().map(condition).collect::<Result<Vec<_>>>()?;
    let mut seen = [false; 6];
    let repeated = conditions.iter().any(|c| std::mem::replace(&mut seen[c.index as usize], true));
    Ok(if repeated { conditions.into_iter().map(|c| vec![c]).collect() } else { vec![conditions] })
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition> {
    if arg.index() > 5 {
        return Err(SeccompError::Invalid(format!("a system call has no argument {}", arg.index())));
    }
    Ok(Condition {
        index: arg.index() as u32,
        operator: arg.op(),
        value: arg.value(),
        second: arg.value_two().unwrap_or(0),
    })
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno if errno <= MAX_ERRNO => ERRNO | errno,
        LinuxSeccompAction::ScmpActTrace if errno <= 0xffff => TRACE | errno,
        LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace => {
            return Err(SeccompError::Invalid(format!("errnoRet {errno} is no errno")));
        }
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActNotify => NOTIFY,
    })
}
