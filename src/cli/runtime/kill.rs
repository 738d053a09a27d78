//! `kill`: a signal for a container.

use std::os::fd::AsFd;

use anyhow::{Context, bail};
use clap::Args;
use oci_spec::runtime::LinuxNamespaceType;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::record::{Record, Root, Status};
use super::{Result, control};
use crate::runtime::cgroup::Cgroup;
use crate::runtime::execute::send_signal;

#[derive(Debug, Args)]
pub(super) struct KillArgs {
    /// To all of its processes
    #[arg(long, short)]
    all: bool,
    id: String,
    /// A name, with or without SIG, or a number
    #[arg(default_value = "TERM")]
    signal: String,
}

pub(super) fn kill(root: &Root, args: &KillArgs) -> Result<()> {
    let record = root.load(&args.id)?;
    let signal = parse_signal(&args.signal)?;
    // Where its first process is not the init of a PID namespace, the others outlive it: SIGKILL is meant for them too.
    let all = args.all || (signal == libc::SIGKILL && !has_own_pid_namespace(&record));
    let cgroup = control::cgroup(&record)?;
    if all && let Some(cgroup) = &cgroup {
        let found = !cgroup.is_empty()?;
        if found || args.all {
            return to_all(cgroup, signal);
        }
    }
    if args.all {
        return Ok(()); // a stopped one has none
    }
    let Some((process, _)) = record.process() else { bail!("container not running: {}", args.id) };
    send_signal(process.as_fd(), signal).with_context(|| format!("send signal {signal} to {}", args.id))?;
    // On cgroup v1 a frozen process dies only when it thaws.
    if signal == libc::SIGKILL
        && let Some(cgroup) = cgroup
        && record.status() == Status::Paused
    {
        cgroup.thaw()?;
    }
    Ok(())
}

fn has_own_pid_namespace(record: &Record) -> bool {
    let listed = record.spec.linux().iter().filter_map(|linux| linux.namespaces().as_ref()).flatten();
    let mut pid = listed.filter(|namespace| namespace.typ() == LinuxNamespaceType::Pid);
    pid.any(|namespace| namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty()))
}

fn to_all(cgroup: &Cgroup, signal: i32) -> Result<()> {
    if signal == libc::SIGKILL {
        return Ok(cgroup.kill()?);
    }
    for pid in cgroup.pids()?.into_iter().filter_map(Pid::from_raw) {
        // It may have ended meanwhile.
        if let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) {
            let _ = send_signal(process.as_fd(), signal);
        }
    }
    Ok(())
}

/// "9", "KILL", "SIGKILL", "RTMIN+3", "RTMAX-1". 0 only asks whether it is there.
pub(super) fn parse_signal(text: &str) -> Result<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |from: i32, text: &str, sign: i32| text.parse::<u8>().ok().map(|n| from + sign * i32::from(n));
    let number = if let Ok(number) = upper.parse::<i32>() {
        Some(number)
    } else if name == "RTMIN" {
        Some(libc::SIGRTMIN())
    } else if name == "RTMAX" {
        Some(libc::SIGRTMAX())
    } else if let Some(text) = name.strip_prefix("RTMIN+") {
        offset(libc::SIGRTMIN(), text, 1)
    } else if let Some(text) = name.strip_prefix("RTMAX-") {
        offset(libc::SIGRTMAX(), text, -1)
    } else {
        format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
    };
    match number {
        Some(number @ 0..=64) => Ok(number),
        _ => bail!("unknown signal {text:?}"),
    }
}
