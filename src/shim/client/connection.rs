//! One connection: a socket, who waits for which answer, and the task that reads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::sys::watch;
use super::{ShimError, ShimEvent, ShimEventKind, ShimEvents};
use crate::shim::protocol::{Event, MAX_MESSAGE, Request, ToAgent};
use crate::shim::wire::{self, Fds};

/// The number under which the greeting is waited for.
pub(super) const HELLO: u32 = 0;
/// How long after its socket a shim's process may take to die before it counts as alive.
const DYING: Duration = Duration::from_secs(2);

/// A message of the shim as it came.
#[derive(Debug)]
pub(super) struct Packet {
    pub bytes: Vec<u8>,
    pub fds: Fds,
}

#[derive(Debug)]
pub(super) struct Connection {
    pod: Arc<str>,
    socket: AsyncFd<OwnedFd>,
    calls: Mutex<Calls>,
    process: OnceLock<(Pid, OwnedFd)>,
}

#[derive(Debug, Default)]
struct Calls {
    last: u32,
    /// Few at a time, so a list is enough.
    waiting: Vec<(u32, oneshot::Sender<Packet>)>,
    /// The greeting, if it came before anybody waited for it.
    hello: Option<Packet>,
    gone: bool,
    /// The client was dropped: nobody wants to hear anything more.
    closed: bool,
}

impl Connection {
    /// Takes over a connected socket and starts to read from it.
    pub fn open(
        pod: &str,
        socket: OwnedFd,
        events: ShimEvents,
        process: Option<(Pid, OwnedFd)>,
    ) -> io::Result<Arc<Self>> {
        let connection = Arc::new(Self {
            pod: pod.into(),
            socket: watch(socket, Interest::READABLE)?,
            calls: Mutex::default(),
            process: process.map_or_else(OnceLock::new, OnceLock::from),
        });
        tokio::spawn(Arc::clone(&connection).read(events));
        Ok(connection)
    }

    pub fn pod(&self) -> &Arc<str> {
        &self.pod
    }

    pub fn process(&self) -> Option<&(Pid, OwnedFd)> {
        self.process.get()
    }

    /// Who answers here, learnt from the greeting.
    pub fn process_is(&self, pid: Pid, pidfd: OwnedFd) {
        // The first one counts; it is set once.
        let _ = self.process.set((pid, pidfd));
    }

    pub fn is_gone(&self) -> bool {
        self.calls().gone
    }

    pub fn close(&self) {
        self.calls().closed = true;
        // Wakes the reader, which then ends.
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
    }

    pub fn kill(&self) -> io::Result<()> {
        match self.process.get().map(|(_, pidfd)| pidfd_send_signal(pidfd, Signal::KILL)) {
            Some(Ok(()) | Err(Errno::SRCH)) => Ok(()),
            Some(Err(e)) => Err(e.into()),
            None => Err(io::Error::other("its process is not known yet")),
        }
    }

    pub async fn wait_death(&self) -> io::Result<()> {
        let Some((_, pidfd)) = self.process.get() else { return Ok(()) };
        // Registered only for this wait: an idle pod has one descriptor in the poller, its socket.
        // And as a copy, for two may wait at the same time.
        let watched = watch(pidfd.try_clone()?, Interest::READABLE)?;
        watched.readable().await?.retain_ready();
        // Whoever comes first reaps it; and it is the child of this process only if this process started it.
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(_) | Err(Errno::CHILD) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends a request and waits for its answer.
    pub async fn call(&self, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> Result<Packet, ShimError> {
        let number = {
            let mut calls = self.calls();
            // 0 is the greeting's.
            calls.last = calls.last.wrapping_add(1).max(1);
            calls.last
        };
        let answer = self.expect(number)?;
        loop {
            match self.send(number, request, fds) {
                Ok(()) => break,
                Err(SendError::TooLong) => {
                    self.forget(number);
                    let what = format!("a request is longer than {MAX_MESSAGE} bytes");
                    return Err(ShimError::Protocol { pod: self.pod.to_string(), what });
                }
                Err(SendError::System(Errno::AGAIN)) => self.room().await.map_err(|_| self.gone())?,
                Err(SendError::System(Errno::PIPE | Errno::CONNRESET)) => return Err(self.gone()),
                Err(SendError::System(e)) => {
                    self.forget(number);
                    return Err(ShimError::Io { pod: self.pod.to_string(), what: "send to it", source: e.into() });
                }
            }
        }
        answer.await.map_err(|_| self.gone())
    }

    /// Waits for the answer with this number; for [`HELLO`] also if it is there already.
    pub async fn answer(&self, number: u32) -> Result<Packet, ShimError> {
        if number == HELLO
            && let Some(packet) = self.calls().hello.take()
        {
            return Ok(packet);
        }
        self.expect(number)?.await.map_err(|_| self.gone())
    }

    fn expect(&self, number: u32) -> Result<oneshot::Receiver<Packet>, ShimError> {
        let (sender, receiver) = oneshot::channel();
        let mut calls = self.calls();
        if calls.gone {
            return Err(self.gone());
        }
        if number == HELLO
            && let Some(packet) = calls.hello.take()
        {
            let _ = sender.send(packet);
        } else {
            calls.waiting.push((number, sender));
        }
        Ok(receiver)
    }

    fn forget(&self, number: u32) {
        self.calls().waiting.retain(|(waiting, _)| *waiting != number);
    }

    fn send(&self, number: u32, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), SendError> {
        let mut buffer = [0; MAX_MESSAGE];
        let packet = postcard::to_slice(&(number, request), &mut buffer).map_err(|_| SendError::TooLong)?;
        wire::send(self.socket.get_ref(), packet, fds).map_err(SendError::System)
    }

    /// Waits until the shim has read something. The socket is not watched for that all the time: it would wake the poller
    /// after each request.
    async fn room(&self) -> io::Result<()> {
        let watched = watch(self.socket.get_ref().try_clone()?, Interest::WRITABLE)?;
        watched.writable().await?.retain_ready();
        Ok(())
    }

    fn gone(&self) -> ShimError {
        ShimError::Gone { pod: self.pod.to_string() }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task of the connection: until its end.
    async fn read(self: Arc<Self>, events: ShimEvents) {
        while let Ok(mut ready) = self.socket.readable().await {
            match ready.try_io(|socket| Ok(self.take_packets(socket.get_ref(), &events)?)) {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_)) => break,
            }
        }
        let closed = {
            let mut calls = self.calls();
            calls.gone = true;
            calls.waiting = Vec::new();
            calls.closed
        };
        let died =
            matches!(tokio::time::timeout(DYING, self.wait_death()).await, Ok(Ok(()))) && self.process.get().is_some();
        if !closed {
            let _ = events.send(ShimEvent { pod: Arc::clone(&self.pod), kind: ShimEventKind::Gone { died } });
        }
    }

    /// Takes what is there, until the socket has no more: that, too, is an error (`EAGAIN`). `EPIPE`: its end.
    fn take_packets(&self, socket: &OwnedFd, events: &ShimEvents) -> Result<(), Errno> {
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            let (length, fds) = wire::receive(socket, &mut buffer)?;
            if length == 0 {
                return Err(Errno::PIPE);
            }
            let bytes = &buffer[..length];
            match postcard::take_from_bytes(bytes) {
                Ok((ToAgent::Hello(_), _)) => self.deliver(HELLO, Packet { bytes: bytes.to_vec(), fds }),
                Ok((ToAgent::Reply(number, _), _)) => self.deliver(number, Packet { bytes: bytes.to_vec(), fds }),
                Ok((ToAgent::Event(event), _)) => {
                    // The receiver ends with the agent; nobody is left to be told then.
                    let _ = events.send(ShimEvent { pod: Arc::clone(&self.pod), kind: event.into() });
                }
                // An event of a later version; a reply could not be one, for its request was understood.
                Err(_) => {}
            }
        }
    }

    fn deliver(&self, number: u32, packet: Packet) {
        let mut calls = self.calls();
        match calls.waiting.iter().position(|(waiting, _)| *waiting == number) {
            Some(at) => {
                let (_, sender) = calls.waiting.swap_remove(at);
                // Whoever asked may have given up meanwhile.
                let _ = sender.send(packet);
            }
            None if number == HELLO && self.process.get().is_none() => calls.hello = Some(packet),
            None => {}
        }
    }
}

enum SendError {
    TooLong,
    System(Errno),
}

impl From<Event<'_>> for ShimEventKind {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Exited { id, exec, status, finished_at, drained } => {
                Self::Exited { id: id.to_owned(), exec, status, finished_at, drained }
            }
            Event::PodInitDied { status } => Self::PodInitDied { status },
            Event::Warning { id, stage, errno, message } => {
                Self::Warning { id: id.to_owned(), stage, errno, message: message.to_owned() }
            }
        }
    }
}
