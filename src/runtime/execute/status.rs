//! What a child says on its way: small frames over a SEQPACKET socket.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// The longest frame; details are cut to fit.
const FRAME: usize = 1024;
const DETAIL: usize = 768;

/// What the child was at when something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// Reading the plan itself.
    Plan,
    Cgroup,
    Namespace,
    Keyring,
    Hostname,
    Root,
    Mount,
    Device,
    Console,
    Sysctl,
    MaskedPath,
    ReadonlyPath,
    WorkingDirectory,
    User,
    Capabilities,
    Rlimit,
    Scheduling,
    OomScoreAdj,
    Seccomp,
    /// A hook failed.
    Hook,
    /// Waiting for the start of what was created.
    Gate,
    /// `args[0]` is not there, or may not be executed; execve failed.
    Execute,
    /// AppArmor and SELinux.
    Security,
}

/// One finding: what was being done, to what, and what the kernel said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub stage: Stage,
    /// 0 when it was no system call that failed.
    pub errno: i32,
    /// The object and the step, ready for an error message, without the errno's text.
    pub detail: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        if self.errno != 0 {
            let text = io::Error::from_raw_os_error(self.errno).to_string();
            // std adds " (os error N)"; the number helps nobody.
            write!(f, ": {}", text.split(" (os error").next().unwrap_or(&text).to_lowercase())?;
        }
        Ok(())
    }
}

impl std::error::Error for Notice {}

/// What [`read_status`] got.
#[derive(Debug)]
pub enum Report {
    /// The master of the container's terminal.
    Console(OwnedFd),
    /// Something was done otherwise than asked for, because this machine does not allow it; the start goes on.
    Warning(Notice),
    /// The file system is made, and the child waits before it enters it: run the hooks of the runtime's namespaces, and
    /// then [`go_on`], or kill it.
    Hooks,
    /// The process that was spawned was a stager, and has made another child of its parent, which is what was asked for:
    /// take this pid and pidfd in the place of its own. The stager exits at once, with 0.
    Init { pid: i32, pidfd: OwnedFd },
    /// A filter with a listener is in force, and the child waits: [`hand_over`](super::hand_over) it, or kill the child.
    Listener(Listener),
    /// Everything is made; the child waits at [`Attached::gate`](super::Attached::gate).
    Ready,
    /// The child gave up; it exits with 255 at once.
    Failure(Notice),
    /// End of file: the program was executed, or the child was killed ([`super::never_executed`]).
    End,
}

/// Where a child has the listener of its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The numbers of two of the child's descriptors: the listener, and a file with the
    /// [`ListenerPlan`](crate::runtime::plan::ListenerPlan).
    pub(super) descriptor: i32,
    pub(super) plan: i32,
}

#[derive(Serialize, Deserialize)]
enum Frame {
    Console,
    Init,
    Warning(Notice),
    Hooks,
    Listener(Listener),
    Ready,
    Failure(Notice),
}

/// Reads what a child wrote to [`Attached::answer`](super::Attached::answer): why it did not become its program, or, at
/// the end of file, nothing. With a non-blocking descriptor the error is `WouldBlock` as long as neither is so.
pub fn read_answer(answer: BorrowedFd<'_>) -> io::Result<Option<Notice>> {
    let mut bytes = [0u8; FRAME];
    let read = loop {
        match rustix::io::read(answer, &mut bytes) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    match postcard::from_bytes(&bytes[..read]) {
        _ if read == 0 => Ok(None),
        Ok(notice) => Ok(Some(notice)),
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "what the container's init answers cannot be read")),
    }
}

/// The child's side of [`read_answer`]. Shorter than what a pipe takes in one piece.
pub(super) fn answer_failure(answer: BorrowedFd<'_>, notice: Notice) {
    let mut bytes = [0u8; FRAME];
    if let Ok(bytes) = postcard::to_slice(&cut(notice), &mut bytes) {
        // Nothing is to be done if it cannot be told.
        let _ = rustix::io::write(answer, bytes);
    }
}

/// Lets a child go on that waits.
pub fn go_on(status: BorrowedFd<'_>) -> io::Result<()> {
    rustix::net::send(status, b"go", SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Reads the next report. With a non-blocking socket the error is `WouldBlock` when there is none yet.
pub fn read_status(status: BorrowedFd<'_>) -> io::Result<Report> {
    let mut bytes = [0u8; FRAME];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let buffer = &mut [io::IoSliceMut::new(&mut bytes)];
        match recvmsg(status, buffer, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // The child died with frames of ours unread: the same as an end.
            Err(Errno::CONNRESET) => return Ok(Report::End),
            other => break other?,
        }
    };
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a status frame {why}"));
    if received.bytes == 0 {
        return Ok(Report::End);
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(bad("is too long"));
    }
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match postcard::from_bytes(&bytes[..received.bytes]).map_err(|_| bad("cannot be read"))? {
        Frame::Console => fd.map(Report::Console).ok_or_else(|| bad("brings no console")),
        Frame::Init => {
            let pidfd = fd.ok_or_else(|| bad("brings no process"))?;
            Ok(Report::Init { pid: pid_of(pidfd.as_fd())?, pidfd })
        }
        Frame::Warning(notice) => Ok(Report::Warning(notice)),
        Frame::Hooks => Ok(Report::Hooks),
        Frame::Listener(listener) => Ok(Report::Listener(listener)),
        Frame::Ready => Ok(Report::Ready),
        Frame::Failure(notice) => Ok(Report::Failure(notice)),
    }
}

/// The process id behind a pidfd, as this process's /proc counts.
pub(super) fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    use std::os::fd::AsRawFd;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// The child's end.
#[derive(Debug)]
pub(super) struct Reporter {
    pub socket: OwnedFd,
}

impl Reporter {
    /// Nobody may be left to hear it; then nothing is to be done about that.
    fn send(&self, frame: &Frame, fd: Option<BorrowedFd<'_>>) {
        let mut bytes = [0u8; FRAME];
        let Ok(bytes) = postcard::to_slice(frame, &mut bytes) else { return };
        let Some(fd) = fd else {
            // By write(2), which every seccomp filter allows that a program can live with.
            let _ = rustix::io::write(&self.socket, bytes);
            return;
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let _ = sendmsg(self.socket.as_fd(), &[io::IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL);
    }

    pub fn console(&self, master: BorrowedFd<'_>) {
        self.send(&Frame::Console, Some(master));
    }

    pub fn init(&self, pidfd: BorrowedFd<'_>) {
        self.send(&Frame::Init, Some(pidfd));
    }

    pub fn warning(&self, notice: Notice) {
        self.send(&Frame::Warning(cut(notice)), None);
    }

    /// Lets the parent run its hooks. False: the parent is gone.
    pub fn hooks(&self) -> Result<bool, Errno> {
        self.send(&Frame::Hooks, None);
        self.wait()
    }

    /// Lets the parent take the listener. False: it is gone.
    pub fn listener(&self, listener: Listener) -> Result<bool, Errno> {
        self.send(&Frame::Listener(listener), None);
        self.wait()
    }

    /// Until the parent says [`go_on`], or is gone.
    fn wait(&self) -> Result<bool, Errno> {
        let mut word = [0u8; 2];
        loop {
            match rustix::io::read(&self.socket, &mut word) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(false),
                other => return other.map(|n| n != 0),
            }
        }
    }

    pub fn ready(&self) {
        self.send(&Frame::Ready, None);
    }

    pub fn failure(&self, notice: Notice) {
        self.send(&Frame::Failure(cut(notice)), None);
    }
}

fn cut(mut notice: Notice) -> Notice {
    if notice.detail.len() > DETAIL {
        let mut end = DETAIL;
        while !notice.detail.is_char_boundary(end) {
            end -= 1;
        }
        notice.detail.truncate(end);
    }
    notice
}
