//! `start`, `state`, `pause`, `resume` and `delete`.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use super::Result;
use super::begin::{ANSWER, GATE};
use super::hooks::Hooks;
use super::record::{Record, Remains, Root, Status};
use crate::cli::output;
use crate::runtime::cgroup::Cgroup;
use crate::runtime::execute::read_answer;
use crate::runtime::resctrl::Resctrl;

/// How long a killed container may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn start(root: &Root, id: &str) -> Result<()> {
    let (lock, record) = root.lock(id)?;
    let pidfd = match record.process() {
        Some((pidfd, Status::Created)) => pidfd,
        Some(_) => bail!("cannot start an already running container: {id} is {}", record.status().name()),
        None => bail!("cannot start a container that has stopped: {id}"),
    };
    if record.spec.process().is_none() {
        bail!("cannot start container {id}: process is not set in its configuration");
    }
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
        Ok(()) => {
            drop(lock); // hooks may use other verbs
            run_poststart(root, &record)
        }
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
    Ok(output::json(&state)?)
}

/// Stops all of its processes.
pub(super) fn pause(root: &Root, id: &str) -> Result<()> {
    let (_lock, record) = root.lock(id)?;
    match record.status() {
        Status::Created | Status::Running => {}
        other => bail!("container not running: {id} is {}", other.name()),
    }
    let cgroup = cgroup(&record)?.with_context(|| format!("the cgroup of {id} is gone"))?;
    Ok(cgroup.freeze()?)
}

/// Lets them go on.
pub(super) fn resume(root: &Root, id: &str) -> Result<()> {
    let (_lock, record) = root.lock(id)?;
    if record.status() != Status::Paused {
        bail!("container not paused: {id} is {}", record.status().name());
    }
    let cgroup = cgroup(&record)?.with_context(|| format!("the cgroup of {id} is gone"))?;
    Ok(cgroup.thaw()?)
}

pub(super) fn delete(root: &Root, id: &str, force: bool) -> Result<()> {
    // Not in the middle of what another verb does to it. With no directory there is no lock, and no container.
    let _lock = match root.lock_directory(id) {
        Err(error) if force && !root.directory(id).exists() => return super::record::check_id(id).map_err(|_| error),
        other => other?,
    };
    match root.load(id) {
        Ok(record) => {
            let status = record.status();
            if matches!(status, Status::Running | Status::Paused) && !force {
                bail!("cannot delete container {id} that is not stopped: {}", status.name());
            }
            destroy(root, &record)
        }
        // What a broken record still tells; nothing, where the container never came to be.
        Err(_) if force => {
            end(&root.salvage(id))?;
            root.forget(id)
        }
        Err(error) => Err(error),
    }
}

/// After the container's end, for who waited for it and has the record still. Another may have deleted it meanwhile.
pub(super) fn clear_away(root: &Root, record: &Record) -> Result<()> {
    let Ok(_lock) = root.lock_directory(&record.id) else { return Ok(()) };
    destroy(root, record)
}

/// Kills what is left of a container, and removes all that was made for it; then come the hooks for that.
fn destroy(root: &Root, record: &Record) -> Result<()> {
    end(&record.remains())?;
    if let Some(asked) = super::begin::intel_rdt(&record.spec) {
        Resctrl::of_host()?.remove(asked, &record.id)?;
    }
    root.forget(&record.id)?;
    if let Ok(hooks) = Hooks::of(&record.spec, &record.id, &record.bundle) {
        hooks.poststop();
    }
    Ok(())
}

/// Kills the processes, also frozen ones, and removes the cgroup.
fn end(remains: &Remains) -> Result<()> {
    let cgroup = remains.cgroup()?;
    if let Some(pidfd) = remains.process() {
        let _ = pidfd_send_signal(pidfd.as_fd(), Signal::KILL);
        if let Some(cgroup) = &cgroup
            && cgroup.is_frozen().unwrap_or(false)
        {
            cgroup.thaw()?; // on v1 it would not die otherwise
        }
        let pause = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&pause)).context("wait for its end")?;
    }
    if let Some(cgroup) = cgroup {
        // What it left behind in a PID namespace that is not its own.
        cgroup.kill()?;
        cgroup.wait_empty(PATIENCE)?;
        cgroup.remove()?;
        return Ok(());
    }
    remains.forget_unit()
}

/// Its cgroup, if that is still there.
pub(super) fn cgroup(record: &Record) -> Result<Option<Cgroup>> {
    record.remains().cgroup()
}
