//! Netlink: messages packed by hand, sent over blocking sockets of our own. What is said in them is the business of
//! those above: the pod network, and the runtime for the network devices of a container.
//!
//! A request (anything but a dump) is carried out by the kernel while `send` runs, so its answers are in the socket
//! when `send` returns; nothing here ever waits for one. A socket belongs for its whole life to the network namespace
//! of the thread that opened it, wherever it is used later.

mod link;
mod message;
mod sys;
#[cfg(test)]
mod tests;

pub use link::link_message;
pub use message::{Attributes, Batch, Header, Open, attributes, u16_of, u32_of, u64_of};

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// Why the kernel refused a request.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel's answer, with its own explanation where it gave one.
    #[error("{what}: {error}{}{message}", if message.is_empty() { "" } else { ": " })]
    Refused { what: &'static str, error: io::Error, message: String },
    /// No answer, or one that makes no sense; never seen from a sane kernel.
    #[error("{what}: the kernel's answer is malformed")]
    Malformed { what: &'static str },
}

impl NetlinkError {
    /// The error number of the kernel's answer.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket(error) | Self::Refused { error, .. } => error.raw_os_error(),
            Self::Malformed { .. } => None,
        }
    }

    /// Whether the kernel said that the object is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL))
    }
}

/// Room for one datagram. The kernel cuts dumps to what a reader offers, but never below its own page-sized unit.
const BUFFER: usize = 16 * 1024;

/// One netlink socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket of a protocol (`None` is NETLINK_ROUTE, whose number is 0), subscribed to the multicast groups of
    /// the mask.
    pub fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        // Explanations in words and short acknowledgements: without them (kernels before 4.12) all works the same.
        let _ = sys::enable(fd.as_fd(), libc::NETLINK_EXT_ACK);
        let _ = sys::enable(fd.as_fd(), libc::NETLINK_CAP_ACK);
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends a batch and reads what the kernel has to say of it. The first refusal is the result. `answer` sees
    /// each message that is neither an acknowledgement nor an error.
    pub fn transact(
        &mut self,
        what: &'static str,
        batch: &mut Batch,
        mut answer: impl FnMut(Header, &[u8]),
    ) -> Result<(), NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        self.sequence = batch.number(first);
        send(&self.fd, batch.bytes(), SendFlags::empty()).map_err(io::Error::from)?;
        let mut buffer = [0; BUFFER];
        let mut refusal = None;
        let mut acknowledged = false;
        loop {
            let length = match recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(NetlinkError::Socket(error.into())),
            };
            for (header, payload) in message::messages(&buffer[..length]) {
                if header.sequence.wrapping_sub(first) > self.sequence.wrapping_sub(first) {
                    continue;
                }
                if header.kind != message::ERROR {
                    answer(header, payload);
                    continue;
                }
                match message::refusal(header, payload) {
                    None => acknowledged = true,
                    Some((code, message)) if refusal.is_none() => {
                        refusal =
                            Some(NetlinkError::Refused { what, error: io::Error::from_raw_os_error(code), message });
                    }
                    Some(_) => {}
                }
            }
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None if acknowledged => Ok(()),
            None => Err(NetlinkError::Malformed { what }),
        }
    }

    /// Sends one dump request and hands each message of the answer to `each`.
    pub fn dump(
        &mut self,
        what: &'static str,
        batch: &mut Batch,
        mut each: impl FnMut(Header, &[u8]),
    ) -> Result<(), NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        self.sequence = batch.number(first);
        send(&self.fd, batch.bytes(), SendFlags::empty()).map_err(io::Error::from)?;
        let mut buffer = [0; BUFFER];
        loop {
            let length = match recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(NetlinkError::Socket(error.into())),
            };
            for (header, payload) in message::messages(&buffer[..length]) {
                if header.sequence != first {
                    continue;
                }
                match header.kind {
                    message::DONE => return Ok(()),
                    message::ERROR => {
                        let Some((code, message)) = message::refusal(header, payload) else { return Ok(()) };
                        let error = io::Error::from_raw_os_error(code);
                        return Err(NetlinkError::Refused { what, error, message });
                    }
                    _ => each(header, payload),
                }
            }
        }
    }

    /// Hands over every notification that waits in the socket; true when some were lost because nobody read in time.
    pub fn drain(&mut self, mut each: impl FnMut(Header, &[u8])) -> Result<bool, NetlinkError> {
        let mut buffer = [0; BUFFER];
        let mut lost = false;
        loop {
            match recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    message::messages(&buffer[..length]).for_each(|(header, payload)| each(header, payload));
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(lost),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::NOBUFS) => lost = true,
                Err(error) => return Err(NetlinkError::Socket(error.into())),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
