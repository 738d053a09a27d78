//! Packets with descriptors over a `SOCK_SEQPACKET` socket, for both ends.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::protocol::MAX_FDS;

/// The descriptors that came with one packet, taken in their order.
#[derive(Debug, Default)]
pub struct Fds {
    list: [Option<OwnedFd>; MAX_FDS],
    next: usize,
}

impl Fds {
    /// The next one.
    pub fn take(&mut self) -> Option<OwnedFd> {
        let fd = self.list.get_mut(self.next)?.take();
        self.next += 1;
        fd
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        self.list.iter().flatten().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sends one packet without waiting.
pub fn send(socket: impl AsFd, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(packet)], &mut control, flags)).map(drop)
}

/// Receives one packet without waiting: its length, and its descriptors. 0: the other end is closed.
///
/// A packet that did not fit, or descriptors that did not, are an error (`EMSGSIZE`): nothing is ever cut silently.
pub fn receive(socket: impl AsFd, packet: &mut [u8]) -> Result<(usize, Fds), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(packet)], &mut control, flags))?;
    let mut fds = Fds::default();
    let mut cut = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let mut places = fds.list.iter_mut();
    for fd in rights.flatten() {
        match places.next() {
            Some(place) => *place = Some(fd),
            None => cut = true,
        }
    }
    if cut { Err(Errno::MSGSIZE) } else { Ok((received.bytes, fds)) }
}
