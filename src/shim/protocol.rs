//! What the agent and the shim of a pod say to each other over a `SOCK_SEQPACKET` socket.
//!
//! One packet is one message, at most [`MAX_MESSAGE`] bytes, encoded with postcard; descriptors travel beside it
//! (`SCM_RIGHTS`), at most [`MAX_FDS`]. Everything that is decoded borrows from the packet, so the shim allocates
//! nothing for it.
//!
//! - agent to shim: `u32` request number, then [`Request`];
//! - shim to agent: [`ToAgent`]: first [`Hello`], then replies (with the number of their request) and events.
//!
//! A shim outlives agents, so a new agent meets old shims. The rules for that: a variant is never changed, moved or
//! removed, new ones come at the end and have a bit in [`Capabilities`], and bytes after a decoded message are ignored.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::runtime::execute::Stage;
use crate::runtime::plan::SpawnHeader;
use crate::shim::text::Text;

/// Version of this protocol, in [`Hello::version`]. It changes only if the rules above have to be broken.
pub const VERSION: u16 = 1;
/// Bytes of the longest message, in either direction.
pub const MAX_MESSAGE: usize = 8192;
/// Descriptors that come with one message at most.
pub const MAX_FDS: usize = 16;
/// Bytes of the longest id of a container or exec.
pub const MAX_ID: usize = 64;
/// The socket's name in the pod's directory below `<state>`.
pub const SOCKET_NAME: &str = "shim.sock";
/// What is added to an id to name its exit record in the state directory.
pub const EXIT_SUFFIX: &str = ".exit";

bitflags::bitflags! {
    /// What a shim can do, in [`Hello::capabilities`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Capabilities: u32 {
        /// All of version 1.
        const BASE = 1;
        /// [`Request::Make`].
        const MAKE = 2;
    }

    /// What [`Setup`] asks for, in [`Setup::flags`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SetupFlags: u32 {
        /// A new IPC namespace.
        const NEW_IPC = 1;
        /// A new UTS namespace; [`Setup::hostname`] is set in it.
        const NEW_UTS = 2;
        /// A PID namespace for the pod, held by an init that only reaps.
        const POD_PID = 4;
        /// A tmpfs for /dev/shm (64 MiB) that is mounted nowhere, for kernels that can clone such a mount (6.15).
        const NEW_SHM = 8;
    }

    /// The descriptors that come with [`Setup`], in this order; [`Setup::cgroups`] more come after them.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SetupFds: u32 {
        /// The directory in which exit records are kept.
        const STATE = 1;
        /// The network namespace to enter; without it the host's is kept.
        const NET = 2;
        /// An IPC namespace to enter.
        const IPC = 4;
        /// A UTS namespace to enter.
        const UTS = 8;
        /// A mount to clone for each container's /dev/shm.
        const SHM = 16;
    }

    /// The descriptors that come with [`Spawn`], in this order.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SpawnFds: u32 {
        /// The memfd with the encoded plan. Required.
        const PLAN = 1;
        /// The cgroup v2 directory of [`SpawnHeader::into_cgroup`].
        const CGROUP = 2;
        /// The log file, opened for appending. Without it a pumped output is drained and dropped.
        const LOG = 4;
        /// For [`Io::Passed`]; /dev/null in the place of each that does not come.
        const STDIN = 8;
        const STDOUT = 16;
        const STDERR = 32;
    }

    /// The descriptors that come with [`Make`], in this order.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MakeFds: u32 {
        /// The memfd with the programs, as [`encode_programs`] makes it. Required.
        const PROGRAMS = 1;
        /// The directory in which the programs run and leave [`Make::pid_file`]. Required.
        const DIRECTORY = 2;
        /// As in [`SpawnFds`].
        const LOG = 4;
        const STDIN = 8;
        const STDOUT = 16;
        const STDERR = 32;
        /// A listening Unix socket over which the other end of the terminal comes, for [`Io::Terminal`] and
        /// [`Io::TerminalPassed`].
        const CONSOLE = 64;
    }

    /// The descriptors of [`Reply::PodFds`], in this order.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct PodFdKinds: u32 {
        /// Network, IPC and UTS namespace that the shim is in (the host's, if it was not told otherwise).
        const NET = 1;
        const IPC = 2;
        const UTS = 4;
        /// The pod's PID namespace, if it has one.
        const PID = 8;
        /// The mount for /dev/shm, if there is one.
        const SHM = 16;
    }
}

/// What the agent asks for. Each request gets one reply; they are carried out in order, but the reply of a
/// [`Spawn`] comes when the program runs, and others may overtake it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// The first request to a new shim, once.
    Setup(#[serde(borrow)] Setup<'a>),
    /// A container or an exec.
    Spawn(#[serde(borrow)] Spawn<'a>),
    /// Sends a signal to the process of a container or exec.
    Signal { id: &'a str, signal: i32 },
    /// Takes the descriptor that comes along as the container's log from now on.
    ReopenLog { id: &'a str },
    /// The containers and execs from the index `from`: [`Reply::Processes`].
    List { from: u32 },
    /// Drops what is known of an ended container or exec, and its exit record.
    Forget { id: &'a str },
    /// Asks for the pod's namespaces: [`Reply::PodFds`].
    PodFds,
    /// Asks for the pidfd of a container or exec: [`Reply::PidFd`].
    PidFd { id: &'a str },
    /// Closes the write end of a container's stdin pipe.
    CloseStdin { id: &'a str },
    /// Sets the size of a container's terminal.
    Resize { id: &'a str, rows: u16, columns: u16 },
    /// Ends the shim. Refused while a container or exec runs.
    Shutdown,
    /// A container or exec that programs of the host make.
    Make(#[serde(borrow)] Make<'a>),
}

/// What the shim becomes. Descriptors: [`SetupFds`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup<'a> {
    /// [`SetupFlags`].
    pub flags: u32,
    /// [`SetupFds`].
    pub fds: u32,
    /// How many descriptors of `tasks` or `cgroup.procs` files come last: the shim writes `0` to each.
    pub cgroups: u8,
    /// Set if [`SetupFlags::NEW_UTS`].
    pub hostname: &'a str,
    /// As [`encode_sysctls`] makes it.
    pub sysctls: &'a [u8],
    /// For the shim and the pod's init. Clamped to what is permitted.
    pub oom_score_adj: Option<i16>,
}

/// A process to start. Descriptors: [`SpawnFds`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn<'a> {
    /// Unique among the pod's containers and execs: 1 to [`MAX_ID`] of letters, digits, `-`, `_`, `.`, not first a dot.
    pub id: &'a str,
    /// The container for an exec; empty for a container.
    pub target: &'a str,
    /// The container whose PID namespace [`SpawnHeader::join_pid_namespace`] means; if empty, the pod's is meant.
    pub pid_of: &'a str,
    pub header: SpawnHeader,
    pub io: Io,
    /// [`SpawnFds`].
    pub fds: u32,
    /// The plan has a [`MountSource::Attached`](crate::runtime::plan::MountSource): a clone of the pod's /dev/shm.
    pub shm: bool,
}

/// A process that other programs make, as OCI runtimes do: they run in the shim's namespaces one after the other, the
/// first with the standard streams that the process is to have. When it is done, the process whose number it left in a file
/// is the shim's child, for the shim is their subreaper. When all are done the answer is [`Reply::Started`]. If one fails,
/// what there is of the process is killed, and the answer says what the first one printed on its standard error, where that
/// is a pipe of the shim. [`Request::Signal`] reaches the running program while there is no process yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Make<'a> {
    /// As in [`Spawn`].
    pub id: &'a str,
    /// As in [`Spawn`].
    pub target: &'a str,
    pub io: Io,
    /// [`MakeFds`].
    pub fds: u32,
    /// How many programs there are.
    pub programs: u8,
    /// What the programs run with, and the process inherits unless they give it another. Clamped to what is permitted.
    pub oom_score_adj: Option<i16>,
    /// A name in the directory that comes along, at most [`MAX_ID`] bytes.
    pub pid_file: &'a str,
}

/// Where a process's standard streams lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Io {
    /// stdout and stderr to the log, by way of the shim.
    Pump {
        /// stdin is a pipe whose other end the shim keeps; else /dev/null.
        stdin: bool,
    },
    /// To the descriptors that come along.
    #[default]
    Passed,
    /// A terminal whose output the shim writes to the log.
    Terminal,
    /// A terminal whose other end comes back with [`Reply::Started`].
    TerminalPassed,
}

/// A message to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent<'a> {
    /// The first one of each connection; a pidfd of the shim comes along.
    Hello(Hello),
    /// The answer to the request of this number.
    Reply(u32, #[serde(borrow)] Reply<'a>),
    /// Something happened.
    Event(#[serde(borrow)] Event<'a>),
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the shim.
    pub version: u16,
    /// [`Capabilities`].
    pub capabilities: u32,
    /// Its process id.
    pub pid: u32,
    /// It has had its [`Setup`].
    pub configured: bool,
    /// The pod had an init for its PID namespace, and it died.
    pub init_died: bool,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply<'a> {
    Done,
    /// To [`Request::Setup`]: the process id of the pod's init, or 0, and the `oom_score_adj` that was reached.
    Configured {
        init: u32,
        oom_score_adj: i16,
    },
    /// To [`Request::Spawn`]: the program runs. With [`Io::TerminalPassed`] the terminal comes along.
    Started {
        pid: u32,
        /// Nanoseconds since 1970.
        started_at: u64,
    },
    /// To [`Request::List`]: `count` times [`Process`] follows in the packet.
    Processes {
        count: u32,
        /// Where to go on, unless that was all.
        next: Option<u32>,
    },
    /// [`PodFdKinds`] that come along.
    PodFds(u32),
    PidFd,
    /// The request had no effect.
    Failed(#[serde(borrow)] Failure<'a>),
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure<'a> {
    pub kind: FailureKind,
    /// The system's error number, or 0.
    pub errno: i32,
    /// What was being done, to what; without the text of `errno`.
    pub message: &'a str,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request makes no sense.
    Invalid,
    /// No container or exec has this id.
    NotFound,
    /// One has it already.
    Exists,
    /// It has ended, or has not started yet.
    NotRunning,
    /// It still runs, so this cannot be done.
    Busy,
    /// The table is full.
    TooMany,
    /// A system call failed in the shim.
    System,
    /// The process did not come to run its program; this is what it was at.
    Start(Stage),
}

/// What happened without a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event<'a> {
    /// A container or exec ended. It is kept until [`Request::Forget`].
    Exited {
        id: &'a str,
        /// It was an exec.
        exec: bool,
        status: ExitStatus,
        /// Nanoseconds since 1970.
        finished_at: u64,
        /// Its log is complete. If not, some process it left behind still holds its output.
        drained: bool,
    },
    /// The init of the pod's PID namespace died, and with it all containers.
    PodInitDied { status: ExitStatus },
    /// Something about the start of `id` was done otherwise than asked for, as this machine does not allow it.
    Warning { id: &'a str, stage: Stage, errno: i32, message: &'a str },
}

/// One container or exec in the answer to [`Request::List`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process<'a> {
    pub id: &'a str,
    /// The container, for an exec; else empty.
    pub target: &'a str,
    /// In the shim's PID namespace.
    pub pid: u32,
    pub state: ProcessState,
    /// Nanoseconds since 1970; 0 while it starts.
    pub started_at: u64,
    /// Nanoseconds since 1970; 0 while it runs.
    pub finished_at: u64,
    /// Once it has ended.
    pub status: Option<ExitStatus>,
    /// Its output was read to the end.
    pub drained: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessState {
    /// Forked, but not yet its program.
    Starting,
    Running,
    Exited,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// `exit(n)`.
    Code(u8),
    /// Killed by this signal.
    Signal(u8),
}

impl ExitStatus {
    /// The way shells and kubelets count: the code, or 128 and the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => i32::from(code),
            Self::Signal(signal) => 128 + i32::from(signal),
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// True if `id` can name a container or exec.
pub fn valid_id(id: &str) -> bool {
    let bytes = id.as_bytes();
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=MAX_ID).contains(&bytes.len()) && bytes[0] != b'.' && bytes.iter().all(allowed)
}

/// Joins sysctls for [`Setup::sysctls`]: path below /proc/sys with slashes, NUL, value, NUL.
/// `None` if one of them contains a NUL byte.
pub fn encode_sysctls<'a>(sysctls: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for (path, value) in sysctls {
        if path.contains('\0') || value.contains('\0') {
            return None;
        }
        for part in [path, value] {
            bytes.extend_from_slice(part.as_bytes());
            bytes.push(0);
        }
    }
    Some(bytes)
}

/// The pairs that [`encode_sysctls`] joined.
pub fn decode_sysctls(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut parts = bytes.split(|&b| b == 0);
    std::iter::from_fn(move || {
        let path = parts.next().filter(|path| !path.is_empty())?;
        Some((path, parts.next()?))
    })
}

/// Joins command lines for [`Make`]: each word and a NUL, and a NUL more behind the last word of each. The first word is a
/// path. `None` if a word is empty or has a NUL byte, or a program no words.
pub fn encode_programs(programs: &[Vec<Vec<u8>>]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for words in programs {
        if words.is_empty() || words.iter().any(|word| word.is_empty() || word.contains(&0)) {
            return None;
        }
        for word in words {
            bytes.extend_from_slice(word);
            bytes.push(0);
        }
        bytes.push(0);
    }
    Some(bytes)
}

/// The words of the program of this index; none if there is no such program.
pub fn decode_program(bytes: &[u8], index: usize) -> impl Iterator<Item = &[u8]> {
    let ends = bytes.split(|&b| b == 0).scan(0, |program, word| {
        let at = *program;
        *program += usize::from(word.is_empty());
        Some((at, word))
    });
    ends.filter(move |(at, word)| *at == index && !word.is_empty()).map(|(_, word)| word)
}

/// What a shim leaves in `<id>.exit` of its state directory for an agent that was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitRecord {
    pub status: ExitStatus,
    /// Nanoseconds since 1970; 0 if it never ran its program.
    pub started_at: u64,
    /// Nanoseconds since 1970.
    pub finished_at: u64,
}

impl ExitRecord {
    /// Reads the one line of the file: `code|signal N started N finished N`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let status = match (words.next()?, words.next()?.parse().ok()?) {
            ("code", code) => ExitStatus::Code(code),
            ("signal", signal) => ExitStatus::Signal(signal),
            _ => return None,
        };
        let mut number = |name: &str| (words.next()? == name).then(|| words.next()?.parse().ok()).flatten();
        Some(Self { status, started_at: number("started")?, finished_at: number("finished")? })
    }

    /// The line that [`parse`](Self::parse) reads.
    pub fn line(self) -> Text<96> {
        let (word, number) = match self.status {
            ExitStatus::Code(code) => ("code ", code),
            ExitStatus::Signal(signal) => ("signal ", signal),
        };
        let mut line = Text::new();
        line.add(word).number(number.into());
        line.add(" started ").number(self.started_at);
        line.add(" finished ").number(self.finished_at).add("\n");
        line
    }
}

#[cfg(test)]
mod tests;
