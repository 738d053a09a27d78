//! `exec`: one process more in a running container.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use oci_spec::runtime::{Capabilities, Capability, Process};

use super::descriptors::Preserved;
use super::record::Root;
use super::{Result, begin, control, foreground, subgroup};
use crate::runtime::cgroup::Entry;
use crate::runtime::compile::{self, HostFacts};
use crate::runtime::execute::{Attached, run_on};
use crate::runtime::plan::{CgroupEntry, Plan};
use crate::runtime::resctrl::Resctrl;

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
    /// Send a descriptor of the process to this Unix socket
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Give it so many more descriptors of the caller, from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// With this SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Under this AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// No program may give it more privileges
    #[arg(long)]
    no_new_privs: bool,
    /// One capability more (CAP_NET_ADMIN)
    #[arg(long, short, value_name = "NAME", value_parser = parse_capability)]
    cap: Vec<Capability>,
    /// In this cgroup below the container's, which must exist; CONTROLLERS are for cgroup v1
    #[arg(long, value_name = "[CONTROLLERS:]PATH")]
    cgroup: Vec<String>,
    /// Also if the container is paused; it goes on when that is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// The container's id, and the command; nothing of that is taken for an option
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_names = ["ID", "COMMAND"])]
    words: Vec<String>,
}

fn parse_capability(text: &str) -> std::result::Result<Capability, String> {
    serde_json::from_value(text.into()).map_err(|_| format!("unknown capability {text:?}"))
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
    let preserved = Preserved::of(args.preserve_fds, false)?;
    let Some((id, command)) = args.words.split_first() else { bail!("the container's id is missing") };
    if id.starts_with('-') {
        bail!("flag provided but not defined: {id}");
    }
    let record = root.load(id)?;
    let Some((target, _)) = record.process() else { bail!("cannot exec in a stopped container: {id}") };
    let cgroup = control::cgroup(&record)?;
    if cgroup.is_none() && record.cgroup.is_some() {
        bail!("the cgroup of {id} is gone");
    }
    if !args.ignore_paused && cgroup.as_ref().is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false)) {
        bail!("cannot exec in a paused container (use --ignore-paused to override): {id}");
    }
    let process = process(args, command, record.spec.process().as_ref())?;
    begin::check_console(process.terminal(), args.console_socket.as_deref(), !args.detach)?;
    let signals = if args.detach { None } else { Some(foreground::Signals::hold()?) };
    run_on(&compile::initial_cpus(&process)?).context("process.execCPUAffinity.initial: set the CPU affinity")?;
    let (facts, _) = begin::facts(cgroup.as_ref(), record.keyring.clone(), record.bundle.clone())?;
    let resctrl = match begin::intel_rdt(&record.spec) {
        Some(asked) => Resctrl::of_host()?.tasks(asked, &record.id)?,
        None => Vec::new(),
    };
    let facts = HostFacts { id: record.id.clone(), running: Some(record.pid), resctrl, ..facts };
    let launch = |entry: Option<Entry>| {
        let (entry, directory) = entry.map_or((CgroupEntry::None, None), begin::way_in);
        let facts = HostFacts { cgroup: entry, into_cgroup: directory.is_some(), ..facts.clone() };
        let (header, plan) = compile::process(&record.spec, &process, &facts)?;
        let fds = Attached {
            cgroup_dir: directory.as_ref().map(AsFd::as_fd),
            target: Some(target.as_fd()),
            preserved: preserved.count,
            ..Attached::default()
        };
        let attendance = begin::Attendance { socket: args.console_socket.as_deref(), hooks: None };
        begin::start(&header, &Plan::Exec(Box::new(plan)), fds, &attendance)
    };
    let begun = match &cgroup {
        None if args.cgroup.is_empty() => launch(None)?,
        None => bail!("--cgroup: the container has no cgroup of its own"),
        Some(cgroup) => match launch(Some(subgroup::entry(cgroup, &args.cgroup)?)) {
            Err(error) if args.cgroup.is_empty() && is_busy(&error) => {
                launch(Some(subgroup::of_process(cgroup, record.pid)?))?
            }
            other => other?,
        },
    };
    begin::tell(&begun, args.pid_file.as_deref(), args.pidfd_socket.as_deref())?;
    match signals {
        Some(signals) => foreground::attend(&begun, &signals),
        None => Ok(0),
    }
}

/// clone3(2) cannot put a process into a cgroup whose controllers are handed down.
fn is_busy(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    cause == Some(libc::EBUSY)
}

/// The container's own process with what the arguments change.
fn process(args: &ExecArgs, command: &[String], own: Option<&Process>) -> Result<Process> {
    if let Some(path) = &args.process {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let (process, warnings) =
            compile::read_process(&text).with_context(|| format!("{} is no OCI process", path.display()))?;
        begin::warn(&warnings);
        return Ok(process);
    }
    let Some(own) = own else { bail!("the container has no process to take the settings from; use --process") };
    if command.is_empty() {
        bail!("process args cannot be empty: a command or --process is needed");
    }
    let mut process = own.clone();
    process.set_args(Some(command.to_vec())).set_terminal(Some(args.tty));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    process.env_mut().get_or_insert_default().extend(args.env.iter().cloned());
    if let Some((uid, gid)) = args.user {
        // Without a group it keeps the container's.
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if !args.cap.is_empty() {
        // Never inheritable: a program that has file capabilities would get more by that than was meant.
        let mut sets = process.capabilities().clone().unwrap_or_default();
        let with = |set: &Option<Capabilities>| {
            let own = set.iter().flatten().copied();
            Some(own.chain(args.cap.iter().copied()).collect::<Capabilities>())
        };
        let (bounding, effective, permitted) = (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        process.set_capabilities(Some(sets));
    }
    process.user_mut().additional_gids_mut().get_or_insert_default().extend(&args.additional_gids);
    Ok(process)
}
