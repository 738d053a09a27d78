//! `exec`: one process more in a running container.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use oci_spec::runtime::Process;

use super::record::{Root, Status, write_whole};
use super::{Result, begin, foreground};
use crate::runtime::cgroup::{CgroupPath, Host};
use crate::runtime::compile::{self, HostFacts};
use crate::runtime::execute::{Attached, run_on};
use crate::runtime::plan::Plan;

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// The process as JSON, instead of a command
    #[arg(long, short, value_name = "FILE")]
    process: Option<PathBuf>,
    /// The working directory
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// One variable more
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// With a terminal
    #[arg(long, short)]
    tty: bool,
    /// As this user: numbers
    #[arg(long, short, value_name = "UID[:GID]", value_parser = parse_user)]
    user: Option<(u32, Option<u32>)>,
    /// Groups more
    #[arg(long, short = 'g', value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Do not wait for its end
    #[arg(long, short)]
    detach: bool,
    /// Write the process id there
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Send the terminal's master to this Unix socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Numbers only, each in full: a name or a part would be guessed at, and what is guessed here may be root.
pub(super) fn parse_user(text: &str) -> std::result::Result<(u32, Option<u32>), String> {
    let number = |part: &str| {
        let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match part.parse::<u32>() {
            Ok(id) if plain && id != u32::MAX => Ok(id),
            _ => Err(format!("{part:?} is no id from 0 to {}", u32::MAX - 1)),
        }
    };
    match text.split_once(':') {
        Some((user, group)) => Ok((number(user)?, Some(number(group)?))),
        None => Ok((number(text)?, None)),
    }
}

pub(super) fn exec(root: &Root, args: &ExecArgs) -> Result<u8> {
    let record = root.load(&args.id)?;
    let Some((target, Status::Running | Status::Created)) = record.process() else {
        bail!("cannot exec in a stopped container: {}", args.id);
    };
    let process = process(args, record.spec.process().as_ref())?;
    let attended = !args.detach;
    begin::check_console(process.terminal(), args.console_socket.as_deref(), attended)?;
    let path = record.cgroup.as_deref().context("the container has no cgroup")?;
    let cgroup = Host::detect()?.open(&CgroupPath::new(path)?)?;
    let (facts, entry) = begin::facts(&cgroup, record.keyring.clone(), record.bundle.clone())?;
    let facts = HostFacts { id: record.id.clone(), running: Some(record.pid), ..facts };
    let (header, plan) = compile::process(&record.spec, &process, &facts)?;
    let fds =
        Attached { cgroup_dir: entry.as_ref().map(AsFd::as_fd), target: Some(target.as_fd()), ..Attached::default() };
    run_on(&compile::initial_cpus(&process)?).context("process.execCPUAffinity.initial: set the CPU affinity")?;
    let attendance = begin::Attendance { socket: args.console_socket.as_deref(), hooks: None };
    let begun = begin::start(&header, &Plan::Exec(Box::new(plan)), fds, &attendance)?;
    if let Some(path) = &args.pid_file {
        write_whole(path, begun.spawned.pid.to_string().as_bytes())?;
    }
    if args.detach {
        return Ok(0);
    }
    foreground::attend(begun.spawned.pid, begun.spawned.pidfd.as_fd(), begun.console.as_ref())
}

/// The container's own process with what the arguments change.
fn process(args: &ExecArgs, own: Option<&Process>) -> Result<Process> {
    if let Some(path) = &args.process {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let (process, warnings) =
            compile::read_process(&text).with_context(|| format!("{} is no OCI process", path.display()))?;
        begin::warn(&warnings);
        return Ok(process);
    }
    let Some(own) = own else { bail!("the container has no process to take the settings from; use --process") };
    if args.command.is_empty() {
        bail!("a command or --process is needed");
    }
    let mut process = own.clone();
    process.set_args(Some(args.command.clone())).set_terminal(Some(args.tty));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    process.env_mut().get_or_insert_default().extend(args.env.iter().cloned());
    if let Some((uid, gid)) = args.user {
        process.user_mut().set_uid(uid).set_gid(gid.unwrap_or(0));
    }
    process.user_mut().additional_gids_mut().get_or_insert_default().extend(&args.additional_gids);
    Ok(process)
}
