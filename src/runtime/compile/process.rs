//! The process: arguments, environment, user, capabilities, limits.

use std::os::unix::ffi::OsStrExt;

use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimit, PosixRlimitType, Process, Spec};

use super::{HostFacts, Result, absolute, invalid, scheduling, seccomp, unsupported, without_nul};
use crate::runtime::plan::{CapabilitySets, ProcessPlan, Rlimit, TerminalPlan};

/// Unless the specification says otherwise, as runc and crun have it.
const DEFAULT_UMASK: u32 = 0o022;

/// Names without `CAP_`, in the order of their numbers.
pub const CAPABILITY_NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Of a container, or of an exec in it; what is an exec's alone ([`scheduling::final_cpus`]) is left to the caller.
pub(super) fn process(spec: &Spec, process: Option<&Process>, host: &HostFacts) -> Result<ProcessPlan> {
    let Some(process) = process else {
        // It can be created all the same, and never started.
        return Ok(ProcessPlan { cwd: b"/".to_vec(), umask: DEFAULT_UMASK, ..ProcessPlan::default() });
    };
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return invalid("process.args", "names no program");
    }
    let args = args.iter().map(|a| without_nul("process.args", a.as_bytes())).collect::<Result<_>>()?;
    let listed = process.env().iter().flatten();
    let (env, default_home) = environment(listed.map(|e| e.as_bytes()))?;
    let user = process.user();
    let umask = user.umask().unwrap_or(DEFAULT_UMASK);
    if umask > 0o777 {
        return invalid("process.user.umask", format!("{umask:o} (octal) is more than 777"));
    }
    let score = process.oom_score_adj();
    if let Some(score) = score.filter(|s| !(-1000..=1000).contains(s)) {
        return invalid("process.oomScoreAdj", format!("{score} is not between -1000 and 1000"));
    }
    Ok(ProcessPlan {
        args,
        env,
        default_home,
        cwd: absolute("process.cwd", process.cwd().as_os_str().as_bytes())?,
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask,
        keyring: host.keyring.clone().map(String::into_bytes),
        capabilities: process.capabilities().as_ref().map(capabilities).unwrap_or_default(),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        resctrl: resctrl(spec, host)?,
        apparmor: apparmor(process, host)?,
        selinux: label("process.selinuxLabel", process.selinux_label(), host)?,
        rlimits: rlimits(process.rlimits().iter().flatten())?,
        oom_score_adj: score,
        scheduler: process.scheduler().as_ref().map(scheduling::scheduler).transpose()?,
        io_priority: process.io_priority().as_ref().map(scheduling::io_priority).transpose()?,
        personality: scheduling::personality(spec)?,
        memory_policy: scheduling::memory_policy(spec)?,
        cpus: Vec::new(),
        seccomp: seccomp::filter(spec, host)?,
        terminal: terminal(process)?,
        die_with_parent: false,
    })
}

/// The groups are made by whoever starts the container.
fn resctrl(spec: &Spec, host: &HostFacts) -> Result<Vec<Vec<u8>>> {
    if host.resctrl.is_empty() && spec.linux().as_ref().is_some_and(|l| l.intel_rdt().is_some()) {
        return unsupported("linux.intelRdt", "no group of resctrl was made for it");
    }
    host.resctrl.iter().map(|path| without_nul("linux.intelRdt", path.as_os_str().as_bytes())).collect()
}

/// The profile to enter. "unconfined" is what a process is anyway where there is no AppArmor.
fn apparmor(process: &Process, host: &HostFacts) -> Result<Option<Vec<u8>>> {
    let field = "process.apparmorProfile";
    let Some(profile) = process.apparmor_profile().as_deref().filter(|p| !p.is_empty()) else { return Ok(None) };
    if !host.security.apparmor {
        return if profile == "unconfined" { Ok(None) } else { unsupported(field, "no AppArmor on this host") };
    }
    one_line(field, profile).map(Some)
}

/// A label of SELinux.
pub(super) fn label(field: &str, label: &Option<String>, host: &HostFacts) -> Result<Option<Vec<u8>>> {
    let Some(label) = label.as_deref().filter(|l| !l.is_empty()) else { return Ok(None) };
    if !host.security.selinux {
        return unsupported(field, "no SELinux on this host");
    }
    one_line(field, label).map(Some)
}

fn one_line(field: &str, text: &str) -> Result<Vec<u8>> {
    match text.chars().find(|c| c.is_control()) {
        Some(bad) => invalid(field, format!("{text:?} contains {bad:?}")),
        None => Ok(text.as_bytes().to_vec()),
    }
}

/// Each name once, with its last value, in the order of first mention; and whether HOME is left to be looked up.
///
/// For callers too whose values are not UTF-8, which a specification in JSON cannot carry: the result goes into
/// [`ProcessPlan::env`] and [`ProcessPlan::default_home`].
pub fn environment<'a>(listed: impl Iterator<Item = &'a [u8]>) -> Result<(Vec<Vec<u8>>, bool)> {
    let mut env: Vec<Vec<u8>> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for entry in listed {
        let text = || String::from_utf8_lossy(entry).into_owned();
        let Some(equals) = entry.iter().position(|&b| b == b'=').filter(|&at| at > 0) else {
            return invalid("process.env", format!("{:?} has no name and value", text()));
        };
        let entry = without_nul("process.env", entry)?;
        match places.get(&entry[..equals]) {
            Some(&place) => env[place] = entry,
            None => {
                places.insert(entry[..equals].to_vec(), env.len());
                env.push(entry);
            }
        }
    }
    env.retain(|e| e != b"HOME=");
    let default_home = !env.iter().any(|e| e.starts_with(b"HOME="));
    Ok((env, default_home))
}

fn capabilities(sets: &LinuxCapabilities) -> CapabilitySets {
    let bits = |set: &Option<Capabilities>| {
        set.iter().flatten().fold(0, |bits, capability| {
            let name = capability.to_string();
            // The names of the type are those of the kernel; one that is newer than this list has no number here.
            CAPABILITY_NAMES.iter().position(|known| *known == name).map_or(bits, |n| bits | 1u64 << n)
        })
    };
    CapabilitySets {
        bounding: bits(sets.bounding()),
        effective: bits(sets.effective()),
        inheritable: bits(sets.inheritable()),
        permitted: bits(sets.permitted()),
        ambient: bits(sets.ambient()),
    }
}

fn rlimits<'a>(listed: impl Iterator<Item = &'a PosixRlimit>) -> Result<Vec<Rlimit>> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for limit in listed {
        let resource = resource(limit.typ());
        if limits.iter().any(|l| l.resource == resource) {
            return invalid("process.rlimits", format!("{} is there twice", limit.typ()));
        }
        if limit.soft() > limit.hard() {
            let reason = format!("{}: soft {} is above hard {}", limit.typ(), limit.soft(), limit.hard());
            return invalid("process.rlimits", reason);
        }
        limits.push(Rlimit { resource, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(limits)
}

/// Numbers of asm-generic/resource.h.
fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

fn terminal(process: &Process) -> Result<Option<TerminalPlan>> {
    if !process.terminal().unwrap_or(false) {
        return Ok(None);
    }
    let Some(size) = process.console_size() else { return Ok(Some(TerminalPlan::default())) };
    match (u16::try_from(size.height()), u16::try_from(size.width())) {
        (Ok(rows), Ok(columns)) => Ok(Some(TerminalPlan { rows, columns })),
        _ => invalid("process.consoleSize", "no terminal is larger than 65535 by 65535"),
    }
}
