//! The ends of processes.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::{WaitOptions, WaitStatus};

use super::{Server, TURN, Token, now};
use crate::runtime::execute::{Listener, Notice, Report, Stage, hand_over, read_status};
use crate::shim::log::{Stream, StreamName};
use crate::shim::protocol::{EXIT_SUFFIX, Event, ExitRecord, ExitStatus, Io, MAX_ID, ProcessState, ToAgent};
use crate::shim::sys;
use crate::shim::text::Text;

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
            if self.on_maker(pid) {
                continue;
            }
            // What it said before it died comes first, and is understood while there still is something to look at. A
            // process that nobody knows may be one that a stager has not been heard about yet.
            match self.table.find_pid(number) {
                Some(index) => self.on_status(index),
                None => self.hear_all(),
            }
            match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => self.ended(number, exit_status(status)),
                _ => return,
            }
        }
    }

    /// All that is on its way to its program has its say.
    fn hear_all(&mut self) {
        for index in 0..self.table.len() {
            self.on_status(index);
        }
    }

    /// A process has something to say on the way to its program.
    #[inline(never)]
    pub(super) fn on_status(&mut self, index: usize) {
        while let Some(status) = self.table.get(index).and_then(|slot| slot.status.as_ref()) {
            match read_status(status.as_fd()) {
                Ok(Report::Console(console)) => self.on_console(index, console),
                // The stager's own end is then nobody's.
                Ok(Report::Init { pid, pidfd }) => {
                    if let Some(slot) = self.table.get_mut(index) {
                        (slot.pid, slot.pidfd) = (pid, Some(pidfd));
                    }
                }
                Ok(Report::Warning(notice)) => self.warn(index, &notice),
                // Only a created container says so, and that is the command line's way, not a pod's.
                Ok(Report::Ready) => {}
                // So do only the bundles of an engine. The child ends when nobody answers.
                Ok(Report::Hooks) => {
                    let detail = "hooks are not run for the containers of a pod".to_owned();
                    self.on_failure(index, Notice { stage: Stage::Hook, errno: 0, detail });
                }
                Ok(Report::Listener(listener)) => self.on_seccomp(index, listener),
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

    /// The agent of the container's seccomp profile gets the listener. What cannot be handed over fails the start: the
    /// child ends when nobody answers.
    #[inline(never)]
    fn on_seccomp(&mut self, index: usize, listener: Listener) {
        let Some(slot) = self.table.get(index) else { return };
        let (Some(pidfd), Some(status)) = (&slot.pidfd, &slot.status) else { return };
        if let Err(notice) = hand_over(listener, slot.pid, pidfd.as_fd(), status.as_fd()) {
            self.on_failure(index, notice);
        }
    }

    pub(super) fn on_console(&mut self, index: usize, console: OwnedFd) {
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
        if never_executed(slot.pid) {
            // How it ended is known when it is reaped.
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
        let Some(index) = self.table.find_pid(pid) else { return self.keep_stray(pid, status) };
        let Some(slot) = self.table.get_mut(index) else { return };
        if slot.state() == ProcessState::Starting && slot.failure.is_none() && slot.maker.is_none() {
            slot.failure = Some(Box::new(ended_early(status)));
        }
        slot.exit = Some(status);
        slot.finished_at = now();
        slot.pidfd = None;
        slot.stdin = None;
        // Otherwise what makes it has still to say whether it was made at all.
        if slot.maker.is_none() {
            self.conclude(index);
        }
    }

    /// What follows when a process is known to have ended, and whether it ever ran its program.
    pub(super) fn conclude(&mut self, index: usize) {
        self.due = true;
        let tell = self.agent.is_some();
        let Some(slot) = self.table.get_mut(index) else { return };
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
        let record = ExitRecord { status, started_at: slot.started_at, finished_at: slot.finished_at };
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let name = record_name(slot.id.as_str());
        let written = rustix::fs::openat(pod.state(), name.as_str(), flags, Mode::RUSR | Mode::WUSR)
            .and_then(|file| rustix::io::write(file, record.line().as_str().as_bytes()));
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
            let name = record_name(slot.id.as_str());
            let _ = rustix::fs::unlinkat(pod.state(), name.as_str(), AtFlags::empty());
        }
    }
}

/// `<id>.exit`.
fn record_name(id: &str) -> Text<{ MAX_ID + EXIT_SUFFIX.len() }> {
    let mut name = Text::new();
    name.add(id).add(EXIT_SUFFIX);
    name
}

pub(super) fn exit_status(status: WaitStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code as u8),
        (None, signal) => ExitStatus::Signal(signal.unwrap_or(0) as u8),
    }
}

/// Whether a process, that may be dead but is not reaped, has not come to its program. Its status socket ends when the
/// program is executed, but also when it is killed before that: by the OOM killer, or by a kernel that kills whatever is
/// cloned into a cgroup that `cgroup.kill` was ever written to.
fn never_executed(pid: i32) -> bool {
    /// From include/linux/sched.h: forked but did not exec.
    const PF_FORKNOEXEC: u64 = 0x40;
    let mut path = Text::<32>::new();
    path.add("/proc/").number(pid as u64).add("/stat");
    let mut stat = [0; 256];
    let read = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(file, &mut stat));
    // The name in parentheses may hold anything; flags are the seventh field after it.
    let stat = &stat[..read.unwrap_or(0)];
    let fields = stat.iter().rposition(|&b| b == b')').and_then(|end| std::str::from_utf8(&stat[end + 1..]).ok());
    let flags = fields.and_then(|fields| fields.split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_FORKNOEXEC != 0)
}

fn ended_early(status: ExitStatus) -> Notice {
    Notice { stage: Stage::Execute, errno: 0, detail: format!("it ended ({status}) before its program ran") }
}
