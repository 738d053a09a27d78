//! Processes that programs of the host make: the containers and execs of an external OCI runtime.
//!
//! The programs run in the shim's namespaces, one after the other. What they leave behind when they exit is the shim's
//! child, for it is their subreaper, and from then on like any process that it has started itself. A process may end before
//! the program that made it: its end waits for that ([`Stray`]).

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, pidfd_open, pidfd_send_signal, waitid,
};

use super::agent::{Answer, Answered, failed, refuse};
use super::pod::set_oom_score_adj;
use super::reap::exit_status;
use super::spawn::Streams;
use super::table::{Id, Slot};
use super::{Server, Token, now};
use crate::runtime::execute::{Notice, Stage, Stdio3, spawn_host_program};
use crate::shim::protocol::{ExitStatus, FailureKind, Io, Make, MakeFds, decode_program};
use crate::shim::wire::{self, Fds};

/// What the programs find in their environment.
const ENVIRONMENT: [&str; 1] = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
/// Bytes of what a program printed that are told when it fails.
const LAST_WORDS: usize = 512;
/// Bytes of all command lines together.
const MOST_WORDS: u64 = 64 << 10;

/// Ends that are kept at most; more orphans than that end in a moment only where something is very wrong.
const MOST_STRAYS: usize = 1024;

/// The end of a child of which nobody knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stray {
    pid: i32,
    status: ExitStatus,
    ended_at: u64,
}

/// The making of one process.
#[derive(Debug)]
pub(super) struct Maker {
    /// The program that runs now, the `program`th.
    pub pid: i32,
    pub pidfd: OwnedFd,
    program: usize,
    /// How many there are.
    count: usize,
    programs: OwnedFd,
    directory: OwnedFd,
    /// The name of a file, kept as an id is.
    pid_file: Id,
    oom_score_adj: Option<i16>,
    console: Option<OwnedFd>,
}

impl Maker {
    /// How many bytes of command lines there are.
    fn length(programs: BorrowedFd<'_>) -> u64 {
        rustix::fs::fstat(programs).map_or(0, |stat| stat.st_size.unsigned_abs())
    }

    /// The process that the program has left its number of.
    fn made(&self) -> rustix::io::Result<Pid> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = openat(&self.directory, self.pid_file.as_str(), flags, Mode::empty())?;
        let mut text = [0; 16];
        let n = rustix::io::read(file, &mut text)?;
        let number = std::str::from_utf8(&text[..n]).ok().and_then(|text| text.trim_end().parse().ok());
        number.and_then(Pid::from_raw).ok_or(Errno::INVAL)
    }
}

/// A program of a list, forked.
fn run(
    programs: BorrowedFd<'_>,
    index: usize,
    io: Stdio3<'_>,
    directory: BorrowedFd<'_>,
    oom_score_adj: Option<i16>,
) -> std::io::Result<(i32, OwnedFd)> {
    // In the child: this process itself never allocates for it.
    let words = || {
        set_oom_score_adj(oom_score_adj);
        let mut bytes = vec![0; Maker::length(programs).min(MOST_WORDS) as usize];
        let n = rustix::io::pread(programs, &mut bytes[..], 0).ok()?;
        decode_program(&bytes[..n], index).map(|word| CString::new(word).ok()).collect()
    };
    spawn_host_program(words, &ENVIRONMENT, io, directory)
}

impl Server {
    /// Runs the first program. The answer comes when the last one is done, or one has failed.
    pub(super) fn make<'p>(&mut self, number: u32, make: &Make<'p>, mut fds: Fds) -> Answered<'p> {
        let invalid = |what| refuse(FailureKind::Invalid, what);
        if self.pod.is_none() {
            return Err(invalid("the shim has not had its setup"));
        }
        let id = Id::new(make.id).ok_or(invalid("this is not an id"))?;
        let pid_file = Id::new(make.pid_file).ok_or(invalid("this is not the name of a file for the pid"))?;
        if self.table.find(make.id).is_some() {
            return Err(refuse(FailureKind::Exists, "the pod has a container or exec of this id"));
        }
        let kinds = MakeFds::from_bits_retain(make.fds);
        if !MakeFds::all().contains(kinds) || fds.len() != kinds.bits().count_ones() as usize {
            return Err(invalid("descriptors are not what the request says"));
        }
        let mut take = |kind| if kinds.contains(kind) { fds.take() } else { None };
        let programs = take(MakeFds::PROGRAMS).ok_or(invalid("no programs came along"))?;
        let directory = take(MakeFds::DIRECTORY).ok_or(invalid("no directory came along"))?;
        let log = take(MakeFds::LOG);
        let passed = [take(MakeFds::STDIN), take(MakeFds::STDOUT), take(MakeFds::STDERR)];
        let console = take(MakeFds::CONSOLE);
        if Maker::length(programs.as_fd()) > MOST_WORDS {
            return Err(invalid("the command lines are longer than 64 KiB"));
        }
        self.pidfd_of(make.target)?;
        let streams = Streams::new(make.io, passed)?;
        let Some(index) = self.table.vacancy() else {
            return Err(refuse(FailureKind::TooMany, "the pod has too many containers and execs"));
        };
        let io = streams.given(self.null.as_fd());
        let (pid, pidfd) =
            run(programs.as_fd(), 0, io, directory.as_fd(), make.oom_score_adj).map_err(failed("fork"))?;

        let target = Id::new(make.target).unwrap_or(Id::NONE);
        let mut slot = Slot::new(id, target, None, make.io, number);
        let count = usize::from(make.programs);
        let oom_score_adj = make.oom_score_adj;
        let maker = Maker { pid, pidfd, program: 0, count, programs, directory, pid_file, oom_score_adj, console };
        slot.maker = Some(Box::new(maker));
        slot.log = log;
        slot.stdin = streams.kept_stdin;
        slot.stdout = streams.kept_stdout;
        slot.stderr = streams.kept_stderr;
        self.table.put(index, slot);
        Ok(Answer::Later)
    }

    /// A child has died, but is not reaped. True if it was a program that makes something; it is reaped then.
    pub(super) fn on_maker(&mut self, pid: Pid) -> bool {
        let Some(index) = self.table.find_maker(pid.as_raw_nonzero().get()) else { return false };
        match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => {
                self.program_ended(index, exit_status(status));
                true
            }
            _ => false,
        }
    }

    /// Some child of which nobody knows has ended. What is made may well end before the program that made it, and before
    /// that has said which process it is.
    pub(super) fn keep_stray(&mut self, pid: i32, status: ExitStatus) {
        if !self.table.any_unmade() {
            self.strays = Vec::new();
        } else if self.strays.len() < MOST_STRAYS {
            self.strays.push(Stray { pid, status, ended_at: now() });
        }
    }

    fn program_ended(&mut self, index: usize, status: ExitStatus) {
        let Some(slot) = self.table.get(index) else { return };
        let Some(program) = slot.maker.as_ref().map(|maker| maker.program) else { return };
        if status != ExitStatus::Code(0) {
            if slot.pid == 0 {
                // It may have made something all the same, which then goes with it. If not, there is nothing to be done.
                let _ = self.take_on(index);
            }
            let Some(slot) = self.table.get(index) else { return };
            let words = if program == 0 { last_words(slot) } else { String::new() };
            let colon = if words.is_empty() { "" } else { ": " };
            return self.not_made(index, 0, format!("the program that makes it ended with {status}{colon}{words}"));
        }
        if slot.pid == 0
            && let Err((errno, detail)) = self.take_on(index)
        {
            return self.not_made(index, errno.raw_os_error(), detail.to_owned());
        }
        match self.next_program(index) {
            Ok(true) => {}
            Ok(false) => self.is_made(index),
            Err(cause) => self.not_made(index, cause.raw_os_error().unwrap_or(0), "fork".to_owned()),
        }
    }

    /// Takes the process that was made for the slot's own. It may be dead already, but it is not reaped.
    fn take_on(&mut self, index: usize) -> Result<(), (Errno, &'static str)> {
        let Some(slot) = self.table.get_mut(index) else { return Ok(()) };
        let Some(maker) = &slot.maker else { return Ok(()) };
        let pid = maker.made().map_err(|errno| (errno, "read the process id that the program left"))?;
        let console = maker.console.as_ref().and_then(|listener| receive_console(listener.as_fd()));
        if console.is_none() && matches!(slot.io, Io::Terminal | Io::TerminalPassed) {
            return Err((Errno::NOMSG, "receive the terminal of the process that was made"));
        }
        let number = pid.as_raw_nonzero().get();
        if let Some(at) = self.strays.iter().position(|stray| stray.pid == number) {
            let stray = self.strays.swap_remove(at);
            (slot.exit, slot.finished_at) = (Some(stray.status), stray.ended_at);
        } else {
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| (e, "open the process that was made"))?;
            // Only of a child can the end be learnt.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            waitid(WaitId::PidFd(pidfd.as_fd()), look).map_err(|e| (e, "wait for the process that was made"))?;
            slot.pidfd = Some(pidfd);
        }
        slot.pid = number;
        if let Some(console) = console {
            self.on_console(index, console);
        }
        if !self.table.any_unmade() {
            self.strays = Vec::new();
        }
        Ok(())
    }

    /// False: there is no other.
    fn next_program(&mut self, index: usize) -> std::io::Result<bool> {
        let null = self.null.as_fd();
        let Some(maker) = self.table.get_mut(index).and_then(|slot| slot.maker.as_mut()) else { return Ok(false) };
        let next = maker.program + 1;
        if next >= maker.count {
            return Ok(false);
        }
        let io = Stdio3 { stdin: null, stdout: null, stderr: null };
        (maker.pid, maker.pidfd) = run(maker.programs.as_fd(), next, io, maker.directory.as_fd(), maker.oom_score_adj)?;
        maker.program = next;
        Ok(true)
    }

    fn is_made(&mut self, index: usize) {
        let Some(slot) = self.table.get_mut(index) else { return };
        slot.maker = None;
        slot.started_at = if slot.exit.is_some() { slot.finished_at } else { now() };
        slot.due.started = slot.request != 0;
        self.due = true;
        if let Some(slot) = self.table.get(index) {
            let streams = [(&slot.stdout, Token::Stdout(index)), (&slot.stderr, Token::Stderr(index))];
            for (stream, token) in streams {
                // A terminal is watched already. One that cannot be is a matter of memory: then it is read at the end.
                if let Some(stream) = stream {
                    let _ = rustix::io::ioctl_fionbio(stream, true).and_then(|()| self.watch(stream.as_fd(), token));
                }
            }
        }
        if self.table.get(index).is_some_and(|slot| slot.exit.is_some()) {
            self.conclude(index);
        }
    }

    /// Answered when all of it is dead.
    fn not_made(&mut self, index: usize, errno: i32, detail: String) {
        let Some(slot) = self.table.get_mut(index) else { return };
        slot.maker = None;
        slot.failure = Some(Box::new(Notice { stage: Stage::Execute, errno, detail }));
        match &slot.pidfd {
            // Its end is on its way.
            Some(pidfd) if pidfd_send_signal(pidfd, Signal::KILL).is_ok() => {}
            _ => {
                slot.exit = slot.exit.or(Some(ExitStatus::Code(255)));
                self.conclude(index);
            }
        }
    }
}

/// What a program that failed has printed on its standard error, if that is a pipe of the shim.
fn last_words(slot: &Slot) -> String {
    let Some(stream) = &slot.stderr else { return String::new() };
    let mut words = [0; LAST_WORDS];
    let n = rustix::io::ioctl_fionbio(stream, true).and_then(|()| rustix::io::read(stream, &mut words[..]));
    String::from_utf8_lossy(&words[..n.unwrap_or(0)]).trim().to_owned()
}

/// The terminal that a runtime has sent: it did so before it said that the process is there.
fn receive_console(listener: BorrowedFd<'_>) -> Option<OwnedFd> {
    rustix::io::ioctl_fionbio(listener, true).ok()?;
    let socket = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
    let mut name = [0; 256];
    let (_, mut fds) = wire::receive(&socket, &mut name).ok()?;
    fds.take()
}
