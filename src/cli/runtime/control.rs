//! `start`, `state`, `kill` and `delete`.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Result;
use super::begin::{ANSWER, GATE};
use super::hooks::Hooks;
use super::record::{Record, Root, Status};
use crate::runtime::cgroup::{Cgroup, CgroupError, CgroupPath, Host};
use crate::runtime::execute::{read_answer, send_signal};

/// How long a killed container may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn start(root: &Root, id: &str) -> Result<()> {
    let record = root.load(id)?;
    let Some((pidfd, Status::Created)) = record.process() else {
        bail!("cannot start a container that is not created: {id:?} is {}", record.status().name());
    };
    let open = |name: &str, flags| {
        let path = root.directory(id).join(name);
        rustix::fs::open(&path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("container {id:?} does not wait at {}", path.display()))
    };
    let answer = open(ANSWER, OFlags::RDONLY)?;
    let gate = open(GATE, OFlags::WRONLY)?;
    rustix::io::write(&gate, b"s").with_context(|| format!("start container {id:?}"))?;
    drop(gate);
    let started = await_start(&pidfd, &answer);
    // Whoever starts it a second time finds it running, by its process.
    let _ = std::fs::remove_file(root.directory(id).join(GATE));
    let _ = std::fs::remove_file(root.directory(id).join(ANSWER));
    match started {
        Ok(()) => run_poststart(root, &record),
        Err(error) => Err(undo(root, &record, error)),
    }
}

/// Waits until the program is executed, however long its hooks take, or its init says why it is not.
fn await_start(process: &OwnedFd, answer: &OwnedFd) -> Result<()> {
    loop {
        let mut fds = [PollFd::new(answer, PollFlags::IN), PollFd::new(process, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other.context("wait for the start")?,
        };
        match read_answer(answer.as_fd()) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Ok(None) => return Ok(()),
            Ok(Some(notice)) => bail!("unable to start container process: error during container init: {notice}"),
            Err(e) => return Err(e).context("read how the container fares"),
        }
    }
}

/// The hooks that are run when the program runs. If one fails, the container is no more.
pub(super) fn run_poststart(root: &Root, record: &Record) -> Result<()> {
    let hooks = Hooks::of(&record.spec, &record.id, &record.bundle)?;
    hooks.poststart(record.pid).map_err(|error| undo(root, record, error))
}

/// Ends a container whose start failed: its processes, its cgroup, its state. Returns the error that is to be told.
fn undo(root: &Root, record: &Record, error: anyhow::Error) -> anyhow::Error {
    match destroy(root, record) {
        Ok(()) => error,
        Err(more) => error.context(format!("and the container could not be removed ({more:#})")),
    }
}

pub(super) fn state(root: &Root, id: &str) -> Result<()> {
    let state = root.load(id)?.state();
    println!("{}", serde_json::to_string_pretty(&state)?);
    Ok(())
}

pub(super) fn kill(root: &Root, id: &str, signal: &str, all: bool) -> Result<()> {
    let record = root.load(id)?;
    let number = parse_signal(signal)?;
    if all {
        let Some(cgroup) = cgroup(&record)? else { return Ok(()) };
        if number == libc::SIGKILL {
            return Ok(cgroup.kill()?);
        }
        for pid in cgroup.pids()?.into_iter().filter_map(Pid::from_raw) {
            // It may have ended meanwhile.
            if let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) {
                let _ = send_signal(process.as_fd(), number);
            }
        }
        return Ok(());
    }
    let Some((process, _)) = record.process() else { bail!("container not running: {id}") };
    send_signal(process.as_fd(), number).with_context(|| format!("send signal {number} to {id}"))
}

pub(super) fn delete(root: &Root, id: &str, force: bool) -> Result<()> {
    let record = match root.load(id) {
        Ok(record) => record,
        // Nothing, or the beginnings of something.
        Err(_) if force && super::record::check_id(id).is_ok() => return root.forget(id),
        Err(error) => return Err(error),
    };
    if let Some((pidfd, status)) = record.process() {
        if status == Status::Running && !force {
            bail!("cannot delete container {id} that is not stopped: {}", status.name());
        }
        drop(pidfd);
    }
    destroy(root, &record)
}

/// Kills what is left of a container, and removes all that was made for it; then come the hooks for that.
fn destroy(root: &Root, record: &Record) -> Result<()> {
    if let Some((pidfd, _)) = record.process() {
        let _ = pidfd_send_signal(pidfd.as_fd(), Signal::KILL);
        let pause = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&pause)).context("wait for its end")?;
    }
    if let Some(cgroup) = cgroup(record)? {
        // What it left behind in a PID namespace that is not its own.
        cgroup.kill()?;
        cgroup.wait_empty(PATIENCE)?;
        cgroup.remove()?;
    }
    root.forget(&record.id)?;
    if let Ok(hooks) = Hooks::of(&record.spec, &record.id, &record.bundle) {
        hooks.poststop();
    }
    Ok(())
}

fn cgroup(record: &Record) -> Result<Option<Cgroup>> {
    let Some(path) = &record.cgroup else { return Ok(None) };
    match Host::detect()?.open(&CgroupPath::new(path)?) {
        Err(CgroupError::Gone { .. }) => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// "9", "KILL", "SIGKILL", "RTMIN+3".
pub(super) fn parse_signal(text: &str) -> Result<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Ok(number) = name.parse::<i32>() {
        Some(number)
    } else if let Some(offset) = name.strip_prefix("RTMIN+") {
        offset.parse::<i32>().ok().map(|n| libc::SIGRTMIN() + n)
    } else {
        format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
    };
    match number {
        Some(number @ 1..=64) => Ok(number),
        _ => bail!("unknown signal {text:?}"),
    }
}
