//! The ends of processes.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, WaitStatus, waitid};

use super::{Server, TURN, Token, now};
use crate::runtime::execute::{Notice, Report, Stage, never_executed, read_status};
use crate::shim::log::{Stream, StreamName};
use crate::shim::protocol::{EXIT_SUFFIX, Event, ExitRecord, ExitStatus, Io, MAX_ID, ProcessState, ToAgent};
use crate::shim::sys;

impl Server {
    /// Some child ended, perhaps several: those of the table, the pod's init, and orphans of containers without a PID
    /// namespace of their own, that nobody wants to know of.
    #[inline(never)]
    pub(super) fn reap(&mut self) {
        // Only to make it unreadable: one signal, and there is never more than one, may stand for many children.
        let mut signals = [0; size_of::<libc::signalfd_siginfo>()];
        let _ = rustix::io::read(&self.signals, &mut signals);
        while let Some(pid) = sys::dead_child() {
            let number = pid.as_raw_nonzero().get();
            // What it said before it died comes first, and is understood while there still is something to look at.
            if let Some(index) = self.table.find_pid(number) {
                self.on_status(index);
            }
            match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => self.ended(number, exit_status(status)),
                _ => return,
            }
        }
    }

    /// A process has something to say on the way to its program.
    #[inline(never)]
    pub(super) fn on_status(&mut self, index: usize) {
        while let Some(status) = self.table.get(index).and_then(|slot| slot.status.as_ref()) {
            match read_status(status.as_fd()) {
                Ok(Report::Console(console)) => self.on_console(index, console),
                Ok(Report::Warning(notice)) => self.warn(index, &notice),
                // Only a created container says so, and that is the command line's way, not a pod's.
                Ok(Report::Ready) => {}
                Ok(Report::Failure(notice)) => self.on_failure(index, notice),
                Ok(Report::End) => self.on_started(index),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    let detail = "its report on the start cannot be read".to_owned();
                    self.on_failure(
                        index,
                        Notice { stage: Stage::Execute, errno: e.raw_os_error().unwrap_or(0), detail },
                    );
                }
            }
        }
    }

    fn on_console(&mut self, index: usize, console: std::os::fd::OwnedFd) {
        let Some(slot) = self.table.get_mut(index) else { return };
        if slot.io != Io::Terminal {
            slot.console = Some(console);
            return;
        }
        // A failure to watch it means no memory; the container then waits when its terminal is full, but runs.
        let _ = rustix::io::ioctl_fionbio(&console, true);
        let stream = Stream::new(console, StreamName::Stdout, true);
        slot.stdout = Some(stream);
        if let Some(stream) = self.table.get(index).and_then(|slot| slot.stdout.as_ref()) {
            let _ = self.watch(stream.as_fd(), Token::Stdout(index));
        }
    }

    fn warn(&mut self, index: usize, notice: &Notice) {
        let Some(slot) = self.table.get(index) else { return };
        let id = slot.id;
        let (stage, errno, message) = (notice.stage, notice.errno, notice.detail.as_str());
        self.send(&ToAgent::Event(Event::Warning { id: id.as_str(), stage, errno, message }), &[]);
    }

    /// The process gave up and is about to exit; the agent is told when it has.
    fn on_failure(&mut self, index: usize, notice: Notice) {
        self.end_status(index);
        if let Some(slot) = self.table.get_mut(index) {
            slot.failure = Some(Box::new(notice));
        }
    }

    fn on_started(&mut self, index: usize) {
        self.end_status(index);
        let Some(slot) = self.table.get_mut(index) else { return };
        if let Some(signal) = slot.pidfd.as_ref().and_then(|pidfd| killed_by(pidfd.as_fd()))
            && never_executed(slot.pid).unwrap_or(false)
        {
            slot.failure = Some(Box::new(killed_early(signal)));
            return;
        }
        slot.started_at = now();
        slot.due.started = slot.request != 0;
        self.due = true;
    }

    fn end_status(&mut self, index: usize) {
        if let Some(status) = self.table.get_mut(index).and_then(|slot| slot.status.take()) {
            self.unwatch(status.as_fd());
        }
    }

    fn ended(&mut self, pid: i32, status: ExitStatus) {
        self.due = true;
        let tell = self.agent.is_some();
        if self.pod.as_mut().is_some_and(|pod| pod.ended(pid, status, tell)) {
            return;
        }
        let Some(index) = self.table.find_pid(pid) else { return };
        let Some(slot) = self.table.get_mut(index) else { return };
        if slot.state() == ProcessState::Starting && slot.failure.is_none() {
            // Its status never ended, so some process that it left behind holds it.
            slot.failure = Some(Box::new(ended_early(status)));
        }
        slot.exit = Some(status);
        slot.finished_at = now();
        slot.pidfd = None;
        slot.stdin = None;
        if slot.failure.is_some() {
            if slot.request == 0 {
                self.discard(index);
            }
            return;
        }
        slot.due.exited = tell;
        // All that it printed is there now; what a process that it left behind prints goes on to the log, but its end
        // is not waited for. One turn is more than a pipe holds.
        for token in [Token::Stdout(index), Token::Stderr(index)] {
            self.pump(token, TURN, true);
        }
        self.record(index);
    }

    /// Leaves the exit in a file, so that it outlives this process: of every container, and of an exec if there is nobody
    /// to be told.
    fn record(&mut self, index: usize) {
        let (Some(slot), Some(pod)) = (self.table.get(index), &self.pod) else { return };
        let Some(status) = slot.exit.filter(|_| !slot.is_exec() || self.agent.is_none()) else { return };
        let mut text = [0; 96];
        let record = ExitRecord { status, started_at: slot.started_at, finished_at: slot.finished_at };
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let written = with_record_name(slot.id.as_str(), |name| {
            let file = rustix::fs::openat(pod.state(), name, flags, Mode::RUSR | Mode::WUSR)?;
            rustix::io::write(file, record.write(&mut text))
        });
        // Without it the exit is still in the table.
        if written.is_ok()
            && let Some(slot) = self.table.get_mut(index)
        {
            slot.recorded = true;
        }
    }

    pub(super) fn erase_record(&mut self, index: usize) {
        let (Some(slot), Some(pod)) = (self.table.get(index), &self.pod) else { return };
        if slot.recorded {
            // The directory goes with the pod.
            let _ =
                with_record_name(slot.id.as_str(), |name| rustix::fs::unlinkat(pod.state(), name, AtFlags::empty()));
        }
    }
}

/// `<id>.exit`, without an allocation.
fn with_record_name<T>(id: &str, use_it: impl FnOnce(&[u8]) -> T) -> T {
    let mut name = [0; MAX_ID + EXIT_SUFFIX.len()];
    name[..id.len()].copy_from_slice(id.as_bytes());
    let length = id.len() + EXIT_SUFFIX.len();
    name[id.len()..length].copy_from_slice(EXIT_SUFFIX.as_bytes());
    use_it(&name[..length])
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code as u8),
        (None, signal) => ExitStatus::Signal(signal.unwrap_or(0) as u8),
    }
}

/// The signal that killed a process that is dead but not yet reaped.
fn killed_by(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::PidFd(pidfd), options).ok().flatten().as_ref().and_then(WaitIdStatus::terminating_signal)
}

fn killed_early(signal: i32) -> Notice {
    Notice {
        stage: Stage::Execute,
        errno: 0,
        detail: format!("it was killed by signal {signal} before its program ran"),
    }
}

fn ended_early(status: ExitStatus) -> Notice {
    Notice { stage: Stage::Execute, errno: 0, detail: format!("it ended ({status}) before its program ran") }
}
