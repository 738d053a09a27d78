//! Staying with a process until it ends: signals in, exit code out, and between two terminals what is typed and shown.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::Result;
use super::begin::Begun;
use crate::runtime::execute::send_signal;

/// What a terminal takes for the end of its input.
const END_OF_INPUT: &[u8] = b"\x04";

/// When a terminal that nobody in the container has open is looked at again: somebody may have opened it.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// The caller's terminal: whichever of its streams is one.
fn terminal() -> Option<BorrowedFd<'static>> {
    [stdin(), stdout(), stderr()].into_iter().find(|stream| isatty(*stream))
}

/// The caller's terminal, raw as long as this lives.
struct Raw(BorrowedFd<'static>, Termios);

impl Raw {
    fn new() -> Option<Self> {
        let terminal = terminal()?;
        let before = tcgetattr(terminal).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Now, &raw).ok()?;
        Some(Self(terminal, before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(self.0, OptionalActions::Now, &self.1);
    }
}

/// The signals of this process, held and read one by one.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    pub fn hold() -> Result<Self> {
        let mut signals = SigSet::all();
        for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT] {
            signals.remove(fault);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None).context("hold signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&signals, flags).context("read signals")?))
    }
}

/// Waits for the end of a child. Signals of the caller are handed on to it; with a terminal so is what is typed.
pub(super) fn attend(begun: &Begun, signals: &Signals) -> Result<u8> {
    let (console, pidfd) = (begun.console.as_ref(), begun.spawned.pidfd.as_fd());
    let raw = console.and_then(|_| Raw::new());
    if let Some(master) = console {
        copy_size(master);
    }
    let mut typed = console.is_some();
    let mut closed = false;
    loop {
        let mut fds = vec![PollFd::from_borrowed_fd(pidfd, PollFlags::IN), PollFd::new(&signals.0, PollFlags::IN)];
        if let Some(master) = console {
            if !closed {
                fds.push(PollFd::new(master, PollFlags::IN));
            }
            if typed {
                fds.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
            }
        }
        match poll(&mut fds, closed.then_some(&AGAIN)) {
            Err(Errno::INTR) => continue,
            other => other.context("wait for the container")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut ready = ready.into_iter();
        let mut next = |wanted: bool| wanted && ready.next() == Some(true);
        let (ended, signalled) = (next(true), next(true));
        let (shows, types) = (next(console.is_some() && !closed), next(typed));
        if let Some(master) = console {
            closed = shows && !copy(master.as_fd(), stdout());
            if types && !copy(stdin(), master.as_fd()) {
                typed = false;
                let _ = rustix::io::write(master, END_OF_INPUT);
            }
        }
        if signalled {
            hand_on(&signals.0, pidfd, console)?;
        }
        if ended {
            break;
        }
    }
    // What is still in the terminal. Others may have it open for as long as they like.
    while console.is_some_and(|master| is_readable(master) && copy(master.as_fd(), stdout())) {}
    drop(raw);
    let (_, status) = waitpid(Pid::from_raw(begun.spawned.pid), WaitOptions::empty())
        .context("reap the container")?
        .context("no end")?;
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => 1,
    })
}

fn is_readable(master: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(master, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

fn hand_on(signals: &SignalFd, pidfd: BorrowedFd<'_>, console: Option<&OwnedFd>) -> Result<()> {
    while let Some(info) = signals.read_signal().context("read signals")? {
        match (info.ssi_signo as i32, console) {
            (libc::SIGCHLD | libc::SIGPIPE | libc::SIGTTOU | libc::SIGTTIN, _) => {}
            (libc::SIGWINCH, Some(master)) => copy_size(master),
            (number, _) => {
                // It may have ended meanwhile.
                let _ = send_signal(pidfd, number);
            }
        }
    }
    Ok(())
}

fn copy_size(master: &OwnedFd) {
    if let Some(Ok(size)) = terminal().map(tcgetwinsize) {
        let _ = tcsetwinsize(master, size);
    }
}

/// Moves what is there; false at the end.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 4096];
    let Ok(n @ 1..) = rustix::io::read(from, &mut buffer) else { return false };
    let mut left = &buffer[..n];
    while !left.is_empty() {
        match rustix::io::write(to, left) {
            Ok(n) => left = &left[n..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}
