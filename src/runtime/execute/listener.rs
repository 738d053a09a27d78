//! System calls that an agent decides on: from the filter's listener in the child to the agent's socket.
//!
//! The child cannot send the listener itself, as its own filter may have the very call wait for the agent that it is
//! sending it to. So it says where it is, by write(2), and its parent takes it from there.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, send, sendmsg, socket_with, sockopt,
};
use rustix::process::{ForeignRawFd, PidfdGetfdFlags, pidfd_getfd};

use super::context::{Context, Step, refuse, show};
use super::status::{Listener, Notice, Reporter, Stage, go_on};
use crate::runtime::plan::ListenerPlan;

/// How long an agent may take to have room for a connection and a message.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// The longest path in a socket's address.
const ADDRESS: usize = 107;
/// The longest plan that is read back from a child.
const MOST: u64 = 16 << 20;

/// The child's side: loads the filter, and waits until its listener is where it belongs.
pub(super) fn load(
    plan: &ListenerPlan,
    reporter: &Reporter,
    load: impl FnOnce() -> io::Result<Option<OwnedFd>>,
) -> Step<()> {
    let failed = || "load the seccomp filter".to_owned();
    let file = memfd_create("listener", MemfdFlags::CLOEXEC).at(Stage::Seccomp, failed)?;
    let bytes = postcard::to_allocvec(plan).map_err(io::Error::other).at(Stage::Seccomp, failed)?;
    let mut left = bytes.as_slice();
    while !left.is_empty() {
        left = &left[rustix::io::write(&file, left).at(Stage::Seccomp, failed)?..];
    }
    let Some(listener) = load().at(Stage::Seccomp, failed)? else {
        return refuse(Stage::Seccomp, "the seccomp filter has no listener");
    };
    let report = Listener { descriptor: listener.as_raw_fd(), plan: file.as_raw_fd() };
    match reporter.listener(report).at(Stage::Seccomp, || "wait for the seccomp agent".into())? {
        true => Ok(()),
        false => refuse(Stage::Seccomp, "nobody handed the seccomp listener over"),
    }
}

/// Takes the listener of the filter that `process` has, hands it to its agent, and lets the child go on. For the parent,
/// at [`Report::Listener`](super::Report::Listener). It waits for an agent that is busy, but no longer than some seconds.
pub fn hand_over(listener: Listener, pid: i32, process: BorrowedFd<'_>, status: BorrowedFd<'_>) -> Result<(), Notice> {
    let take = |number: i32| pidfd_getfd(process, number as ForeignRawFd, PidfdGetfdFlags::empty());
    let taken = || "take the seccomp listener from the process".to_owned();
    let descriptor = take(listener.descriptor).at(Stage::Seccomp, taken)?;
    let plan = read_plan(take(listener.plan).at(Stage::Seccomp, taken)?).at(Stage::Seccomp, taken)?;
    let message = plan.message.join(pid.to_string().as_bytes());
    let name = || format!("send the seccomp listener to the agent at {}", show(&plan.path));
    tell(&plan.path, &message, descriptor.as_fd()).at(Stage::Seccomp, name)?;
    go_on(status).at(Stage::Seccomp, || "let the process go on".into())
}

/// The file is the child's: what is in it is not to be relied on for its size.
fn read_plan(file: OwnedFd) -> io::Result<ListenerPlan> {
    let size = rustix::fs::fstat(&file)?.st_size as u64;
    if size > MOST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; size as usize];
    let read = rustix::io::pread(&file, &mut bytes, 0)?;
    postcard::from_bytes(&bytes[..read]).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The descriptor goes with the first bytes, and no other does.
fn tell(path: &[u8], message: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
    if path.len() <= ADDRESS {
        connect(&socket, &SocketAddrUnix::new(path)?)?;
    } else {
        // Through its directory, however deep that is.
        let slash = path.iter().rposition(|&b| b == b'/').unwrap_or_default();
        let directory = open(&path[..slash + 1], OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let through = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), &path[slash + 1..]].concat();
        connect(&socket, &SocketAddrUnix::new(through)?)?;
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [descriptor];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = sendmsg(&socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL)?;
    let mut left = &message[sent..];
    while !left.is_empty() {
        left = &left[send(&socket, left, SendFlags::NOSIGNAL)?..];
    }
    Ok(())
}
