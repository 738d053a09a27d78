//! The agent's end: starts shims, finds those of an earlier agent again, asks, and hears what happens.
//!
//! A [`ShimClient`] is one connection to one shim. Requests may be made side by side; each costs one packet and one
//! wake-up each way. Between requests a connection is a socket and a few hundred bytes: packets are read into the
//! stack of the thread that finds them.
//!
//! Dropping a client leaves the shim and all it runs alone. What ends is the connection.

mod connection;
mod error;
mod requests;
mod sys;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::mpsc;

pub use crate::runtime::embedded::SmallProgram as ShimImage;
use crate::runtime::execute::Stage;
use crate::shim::protocol::{Capabilities, ExitStatus, Hello, SOCKET_NAME, ToAgent, VERSION};
use connection::{Connection, HELLO};
pub use error::ShimError;
pub use requests::{
    ContainerIo, ExecIo, ExecRequest, ExecStarted, MakeIo, MakeRequest, NamespaceSource, PodFds, ProcessInfo,
    SetupDone, SetupRequest, ShmSource, StartRequest, Started, detached_mounts_can_be_cloned,
};

/// Where a client tells what happens. One for all pods, or one for each: an event names its pod. It is unbounded, so
/// that a receiver may itself wait for a reply of the same shim; a shim sends an event only when a process ends.
pub type ShimEvents = mpsc::UnboundedSender<ShimEvent>;

/// Something that happened in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimEvent {
    /// The pod's id, as the client was given it.
    pub pod: Arc<str>,
    pub kind: ShimEventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShimEventKind {
    /// A container or exec ended. The shim keeps this until [`ShimClient::forget`].
    Exited {
        id: String,
        /// It was an exec.
        exec: bool,
        status: ExitStatus,
        /// Nanoseconds since 1970.
        finished_at: u64,
        /// Its log is complete; if not, a process it left behind still holds its output.
        drained: bool,
    },
    /// The init of the pod's PID namespace died; the exits of the containers follow.
    PodInitDied { status: ExitStatus },
    /// Something about the start of `id` was done otherwise than asked for, as this machine does not allow it.
    Warning { id: String, stage: Stage, errno: i32, message: String },
    /// The connection has ended; no other event comes from this client.
    Gone {
        /// The shim itself is dead. If not, it still runs and another connection has taken the place of this one.
        died: bool,
    },
}

/// A connection to the shim of one pod.
#[derive(Debug)]
pub struct ShimClient {
    connection: Arc<Connection>,
    hello: Option<Hello>,
}

impl ShimClient {
    /// Starts the shim of a pod and connects to it. Its socket is made in `dir`, the pod's directory below `<state>`
    /// (mode 0700); a socket that a dead shim left there is replaced. `log` takes what it has to say on its deathbed,
    /// normally nothing; `None`: /dev/null.
    ///
    /// This thread waits until the program is executed (half a millisecond). The new shim knows nothing yet:
    /// [`setup`](Self::setup) is to be called next, and can be called at once. Needs a tokio runtime.
    pub fn spawn(
        image: &ShimImage,
        pod: &str,
        dir: BorrowedFd<'_>,
        log: Option<BorrowedFd<'_>>,
        events: ShimEvents,
    ) -> Result<Self, ShimError> {
        let failed = |what| move |source: io::Error| ShimError::Io { pod: pod.to_owned(), what, source };
        let listener = listen(dir).map_err(failed("make the socket"))?;
        let socket = connect(dir).map_err(failed("connect"))?;
        let log = log.map(|fd| fd.try_clone_to_owned()).transpose().map_err(failed("use its log"))?;
        let output = log.as_ref().map(|fd| fd.try_clone()).transpose().map_err(failed("use its log"))?;
        // No pre_exec and nothing else that needs a fork: the standard library then uses posix_spawn, whose cost does
        // not grow with the agent.
        let child = Command::new(image.path())
            .arg0("orlop-shim")
            .arg(pod)
            .env_clear()
            .stdin(listener)
            .stdout(output.map_or_else(Stdio::null, Stdio::from))
            .stderr(log.map_or_else(Stdio::null, Stdio::from))
            .spawn()
            .map_err(failed("start it"))?;
        let pid = Pid::from_child(&child);
        // Nobody else reaps this child, so the number is still its own.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from).map_err(failed("watch it"))?;
        let connection =
            Connection::open(pod, socket, events, Some((pid, pidfd))).map_err(failed("watch its socket"))?;
        Ok(Self { connection, hello: None })
    }

    /// Connects to the shim that an earlier agent started. An [`ShimError::Io`] with `ConnectionRefused` or `NotFound`
    /// says that there is none any more. Another client of this shim, wherever it is, loses its connection.
    pub async fn connect(pod: &str, dir: BorrowedFd<'_>, events: ShimEvents) -> Result<Self, ShimError> {
        let failed = |what| move |source: io::Error| ShimError::Io { pod: pod.to_owned(), what, source };
        let socket = connect(dir).map_err(failed("connect"))?;
        let connection = Connection::open(pod, socket, events, None).map_err(failed("watch its socket"))?;
        let mut client = Self { connection, hello: None };
        let mut packet = client.connection.answer(HELLO).await?;
        let hello = match postcard::take_from_bytes(&packet.bytes) {
            Ok((ToAgent::Hello(hello), _)) => hello,
            _ => return Err(client.protocol("its first message is no greeting".to_owned())),
        };
        let pidfd = packet.fds.take().ok_or_else(|| client.protocol("its greeting brings no pidfd".to_owned()))?;
        if hello.version != VERSION {
            let what = format!("it speaks version {} of the protocol, this agent version {VERSION}", hello.version);
            return Err(client.protocol(what));
        }
        let pid = Pid::from_raw(hello.pid as i32).ok_or_else(|| client.protocol("it has no pid".to_owned()))?;
        client.connection.process_is(pid, pidfd);
        client.hello = Some(hello);
        Ok(client)
    }

    /// The pod that the client was made for.
    pub fn pod(&self) -> &Arc<str> {
        self.connection.pod()
    }

    /// The shim's process id.
    pub fn pid(&self) -> u32 {
        self.connection.process().map_or(0, |(pid, _)| pid.as_raw_nonzero().get() as u32)
    }

    /// A descriptor of the shim's process; readable when it is dead.
    pub fn process_fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection.process().map(|(_, pidfd)| pidfd.as_fd())
    }

    /// How the shim greeted. `None` for one that this client started itself: it is of this version.
    pub fn hello(&self) -> Option<Hello> {
        self.hello
    }

    /// What the shim can do.
    pub fn capabilities(&self) -> Capabilities {
        self.hello.map_or(Capabilities::all(), |hello| Capabilities::from_bits_retain(hello.capabilities))
    }

    /// True once the connection has ended: the shim is dead, or another client took its place.
    pub fn is_gone(&self) -> bool {
        self.connection.is_gone()
    }

    /// Ends the connection, as dropping the client does; nothing is told of it. The shim and all it runs go on.
    pub fn disconnect(&self) {
        self.connection.close();
    }

    /// Kills the shim, and with it, by their death signal, the processes that it started. An escape: the orderly end
    /// is [`shutdown`](Self::shutdown).
    pub fn kill(&self) -> Result<(), ShimError> {
        self.connection.kill().map_err(|source| self.io("kill it", source))
    }

    /// Waits until the shim is dead, and reaps it if this process started it.
    pub async fn wait_death(&self) -> Result<(), ShimError> {
        self.connection.wait_death().await.map_err(|source| self.io("wait for its death", source))
    }

    fn io(&self, what: &'static str, source: io::Error) -> ShimError {
        ShimError::Io { pod: self.pod().to_string(), what, source }
    }

    fn protocol(&self, what: String) -> ShimError {
        ShimError::Protocol { pod: self.pod().to_string(), what }
    }
}

impl Drop for ShimClient {
    fn drop(&mut self) {
        self.connection.close();
    }
}

/// A `SOCK_SEQPACKET` socket that listens at `shim.sock` in `dir`.
fn listen(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    match rustix::fs::unlinkat(dir, SOCKET_NAME, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let socket = seqpacket()?;
    rustix::net::bind(&socket, &address(dir)?)?;
    // Only one agent connects at a time; a few more are there for one that restarts quickly.
    rustix::net::listen(&socket, 8)?;
    Ok(socket)
}

fn connect(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    rustix::net::connect(&socket, &address(dir)?)?;
    Ok(socket)
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// By way of the descriptor: the path of a state directory may be longer than the 107 bytes of a socket's address.
fn address(dir: BorrowedFd<'_>) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd()))?)
}
