//! Staying with a process until it ends: signals in, exit code out, and between two terminals what is typed and shown.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::Result;
use crate::runtime::execute::send_signal;

/// Sends a terminal's master to whoever listens, with its name as the message.
pub(super) fn send_console(path: &Path, master: &OwnedFd) -> Result<()> {
    let name = || format!("send the terminal to {}", path.display());
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).with_context(name)?;
    connect(&socket, &SocketAddrUnix::new(path).with_context(name)?).with_context(name)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [master.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(&socket, &[std::io::IoSlice::new(b"/dev/ptmx")], &mut ancillary, SendFlags::NOSIGNAL).with_context(name)?;
    Ok(())
}

/// The caller's terminal, raw as long as this lives.
struct Raw(Termios);

impl Raw {
    fn new() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return None;
        }
        let before = tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Waits for the end of a child. Signals of the caller are handed on to it; with a terminal so is what is typed.
pub(super) fn attend(pid: i32, pidfd: BorrowedFd<'_>, console: Option<&OwnedFd>) -> Result<u8> {
    let mut signals = SigSet::all();
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT] {
        signals.remove(fault);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None).context("hold signals")?;
    let signals =
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("read signals")?;
    let raw = console.and_then(|_| Raw::new());
    if let Some(master) = console {
        copy_size(master);
    }
    let mut typed = console.is_some();
    loop {
        let mut fds = vec![PollFd::from_borrowed_fd(pidfd, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        if let Some(master) = console {
            fds.push(PollFd::new(master, PollFlags::IN));
            if typed {
                fds.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
            }
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other.context("wait for the container")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if let Some(master) = console {
            if ready[2] {
                copy(master.as_fd(), rustix::stdio::stdout());
            }
            if ready.get(3) == Some(&true) {
                typed = copy(rustix::stdio::stdin(), master.as_fd());
            }
        }
        if ready[1] {
            hand_on(&signals, pidfd, console)?;
        }
        if ready[0] {
            break;
        }
    }
    // What is still in the terminal.
    while console.is_some_and(|master| copy(master.as_fd(), rustix::stdio::stdout())) {}
    drop(raw);
    let (_, status) =
        waitpid(Pid::from_raw(pid), WaitOptions::empty()).context("reap the container")?.context("no end")?;
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => 1,
    })
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
    if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
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
