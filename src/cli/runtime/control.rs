//! `start`, `state`, `kill` and `delete`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Result;
use super::record::{Record, Root, Status};
use crate::runtime::cgroup::{Cgroup, CgroupError, CgroupPath, Host};
use crate::runtime::execute::send_signal;

/// How long a killed container may take to be gone, and a started one to run.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn start(root: &Root, id: &str) -> Result<()> {
    let record = root.load(id)?;
    let Some((pidfd, Status::Created)) = record.process() else {
        bail!("cannot start a container that is not created: {id:?} is {}", record.status().name());
    };
    let path = root.directory(id).join("start");
    let gate = rustix::fs::open(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("container {id:?} does not wait at {}", path.display()))?;
    rustix::io::write(&gate, b"s").with_context(|| format!("write {}", path.display()))?;
    // It is a matter of microseconds; what may take longer is loading a program from a slow disk.
    let deadline = Instant::now() + PATIENCE;
    while record.status() == Status::Created {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("container {id:?} does not get as far as its program");
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: 200_000 };
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&pause));
    }
    // Whoever starts it a second time finds it running, by its process.
    let _ = std::fs::remove_file(path);
    Ok(())
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
        let _ = pidfd_send_signal(pidfd.as_fd(), Signal::KILL);
        let pause = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&pause)).context("wait for its end")?;
    }
    if let Some(cgroup) = cgroup(&record)? {
        // What it left behind in a PID namespace that is not its own.
        cgroup.kill()?;
        cgroup.wait_empty(PATIENCE)?;
        cgroup.remove()?;
    }
    root.forget(id)
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
