//! Descriptors that go into a container, and those that go to somebody who asked for them at a socket.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context, bail};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};

use super::Result;
use crate::runtime::execute::is_inherited;
use crate::runtime::plan::ProcessPlan;

/// More than any process may have open.
const MOST: u32 = 1 << 20;

/// What the program gets beside its standard streams, from 3 on: the sockets of an activation first, then those that
/// were asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Preserved {
    pub count: u32,
    /// So many of them are sockets of an activation (sd_listen_fds(3)).
    listening: u32,
}

impl Preserved {
    /// `asked` more than are listened at. Each must be open, and not by this program: what was passed on to it has no
    /// close-on-exec flag, and everything of its own has one.
    pub fn of(asked: u32, activation: bool) -> Result<Self> {
        let listening = if activation { listening() } else { 0 };
        let count = listening.checked_add(asked).filter(|&count| count < MOST);
        let Some(count) = count else { bail!("--preserve-fds: {asked} are more than there can be") };
        for (index, number) in (3 + listening..3 + count).enumerate() {
            if !is_inherited(number) {
                bail!("unable to stat preserved-fd {index} (of {asked}): descriptor {number} is not open");
            }
        }
        Ok(Self { count, listening })
    }

    /// Tells the program of the sockets. It is the first process of its PID namespace.
    pub fn announce(&self, process: &mut ProcessPlan) {
        if self.listening > 0 {
            process.env.retain(|entry| !entry.starts_with(b"LISTEN_FDS=") && !entry.starts_with(b"LISTEN_PID="));
            process.env.push(format!("LISTEN_FDS={}", self.listening).into_bytes());
            process.env.push(b"LISTEN_PID=1".to_vec());
        }
    }
}

/// How many sockets this process was activated with.
fn listening() -> u32 {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    // Those of another process (the parent's, whose environment is still ours) are none of our business.
    let ours = number("LISTEN_PID").is_none_or(|pid| pid == std::process::id());
    let count = number("LISTEN_FDS").filter(|&count| ours && count < MOST).unwrap_or(0);
    if (3..3 + count).all(is_inherited) { count } else { 0 }
}

/// Sends a descriptor to whoever listens at a Unix socket, with `name` as the message.
pub(super) fn send(path: &Path, what: &str, fd: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let failed = || format!("send the {what} to {}", path.display());
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).with_context(failed)?;
    connect(&socket, &SocketAddrUnix::new(path).with_context(failed)?).with_context(failed)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(&socket, &[std::io::IoSlice::new(name)], &mut ancillary, SendFlags::NOSIGNAL).with_context(failed)?;
    Ok(())
}
