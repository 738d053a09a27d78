//! The requests, one method each.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use super::connection::Packet;
use super::{ShimClient, ShimError};
use crate::runtime::plan::SpawnHeader;
use crate::shim::protocol::{
    Capabilities, ExitStatus, Failure, Io, Make, MakeFds, PodFdKinds, Process, ProcessState, Reply, Request, Setup,
    SetupFds, SetupFlags, Spawn, SpawnFds, ToAgent, encode_programs, encode_sysctls,
};

/// Where one of the pod's namespaces comes from.
#[derive(Clone, Copy, Debug, Default)]
pub enum NamespaceSource<'a> {
    /// The host's.
    #[default]
    Host,
    New,
    /// The one that this descriptor stands for.
    Enter(BorrowedFd<'a>),
}

/// Where /dev/shm of the pod's containers comes from.
#[derive(Clone, Copy, Debug, Default)]
pub enum ShmSource<'a> {
    /// The shim has nothing to do with it.
    #[default]
    None,
    /// A tmpfs of 64 MiB that the shim makes and mounts nowhere. Only if [`detached_mounts_can_be_cloned`].
    New,
    /// A mount of the host, opened with `O_PATH`.
    Mount(BorrowedFd<'a>),
}

/// What a new shim becomes.
#[derive(Clone, Copy, Debug)]
pub struct SetupRequest<'a> {
    /// The directory in which it keeps exit records.
    pub state: BorrowedFd<'a>,
    /// The network namespace; `None`: the host's.
    pub net: Option<BorrowedFd<'a>>,
    pub ipc: NamespaceSource<'a>,
    pub uts: NamespaceSource<'a>,
    /// Set if `uts` is new.
    pub hostname: &'a str,
    /// A PID namespace for the whole pod.
    pub pod_pid: bool,
    pub shm: ShmSource<'a>,
    /// Path below /proc/sys with slashes, and value. Those of namespaces that the pod has of its own only.
    pub sysctls: &'a [(&'a str, &'a str)],
    /// For the shim itself, clamped to what is permitted.
    pub oom_score_adj: Option<i16>,
    /// `tasks` or `cgroup.procs` files opened for writing: the shim enters these cgroups.
    pub cgroups: &'a [BorrowedFd<'a>],
}

/// What came of a [`SetupRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetupDone {
    /// The init of the pod's PID namespace, if it has one.
    pub init: Option<u32>,
    /// What was permitted.
    pub oom_score_adj: i16,
}

/// A container to start.
#[derive(Clone, Copy, Debug)]
pub struct StartRequest<'a> {
    pub id: &'a str,
    pub header: &'a SpawnHeader,
    /// The encoded plan.
    pub plan: &'a [u8],
    /// The cgroup v2 directory for [`SpawnHeader::into_cgroup`].
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The container of this pod whose PID namespace the header's `join_pid_namespace` means; `None`: the pod's.
    pub pid_of: Option<&'a str>,
    pub io: ContainerIo<'a>,
    /// The plan has a [`MountSource::Attached`](crate::runtime::plan::MountSource): the pod's /dev/shm.
    pub shm: bool,
}

/// Where a container's output goes. A log is a file opened with `O_APPEND`; without one the output is read and dropped.
#[derive(Clone, Copy, Debug)]
pub enum ContainerIo<'a> {
    Pipes {
        log: Option<BorrowedFd<'a>>,
        /// stdin is a pipe that the shim keeps open; else /dev/null.
        stdin: bool,
    },
    Terminal {
        log: Option<BorrowedFd<'a>>,
    },
}

/// A process more in a container.
#[derive(Clone, Copy, Debug)]
pub struct ExecRequest<'a> {
    /// Not that of any container or other exec of the pod.
    pub id: &'a str,
    /// The container.
    pub target: &'a str,
    pub header: &'a SpawnHeader,
    /// The encoded plan.
    pub plan: &'a [u8],
    /// The cgroup v2 directory for [`SpawnHeader::into_cgroup`].
    pub cgroup: Option<BorrowedFd<'a>>,
    pub io: ExecIo<'a>,
}

/// A container or exec that programs of the host make: see [`Make`].
#[derive(Clone, Copy, Debug)]
pub struct MakeRequest<'a> {
    pub id: &'a str,
    /// The container, for an exec.
    pub target: Option<&'a str>,
    /// Command lines; each begins with a path.
    pub programs: &'a [Vec<Vec<u8>>],
    /// The shim's own is very low, so what it runs needs one.
    pub oom_score_adj: Option<i16>,
    /// Where the programs run, and leave the process's number in `pid_file`.
    pub directory: BorrowedFd<'a>,
    pub pid_file: &'a str,
    /// The listening socket that the terminal is sent to, where `io` asks for one.
    pub console: Option<BorrowedFd<'a>>,
    pub io: MakeIo<'a>,
}

/// The standard streams of what is made.
#[derive(Clone, Copy, Debug)]
pub enum MakeIo<'a> {
    Container(ContainerIo<'a>),
    Exec(ExecIo<'a>),
}

/// The standard streams of an exec.
#[derive(Clone, Copy, Debug)]
pub enum ExecIo<'a> {
    /// /dev/null for each `None`.
    Fds { stdin: Option<BorrowedFd<'a>>, stdout: Option<BorrowedFd<'a>>, stderr: Option<BorrowedFd<'a>> },
    /// A terminal, that comes back in [`ExecStarted`].
    Terminal,
}

/// A container whose program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    pub pid: u32,
    /// Nanoseconds since 1970.
    pub started_at: u64,
}

/// An exec whose program runs.
#[derive(Debug)]
pub struct ExecStarted {
    pub pid: u32,
    /// Nanoseconds since 1970.
    pub started_at: u64,
    /// The terminal's other end, for [`ExecIo::Terminal`].
    pub terminal: Option<OwnedFd>,
}

/// A container or exec that the shim knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    pub id: String,
    /// The container, if it is an exec.
    pub target: Option<String>,
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

/// What the shim holds for the pod.
#[derive(Debug, Default)]
pub struct PodFds {
    /// Those that the shim is in; the host's if it was not told otherwise.
    pub net: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
    /// The pod's PID namespace, if it has one.
    pub pid: Option<OwnedFd>,
    /// The mount for /dev/shm, if there is one.
    pub shm: Option<OwnedFd>,
}

impl ShimClient {
    /// Tells a new shim what it is. Once.
    pub async fn setup(&self, request: SetupRequest<'_>) -> Result<SetupDone, ShimError> {
        let mut flags = SetupFlags::empty();
        let mut fds = FdList::with(SetupFds::STATE.bits(), request.state);
        fds.add(SetupFds::NET.bits(), request.net);
        fds.add(SetupFds::IPC.bits(), namespace(request.ipc, SetupFlags::NEW_IPC, &mut flags));
        fds.add(SetupFds::UTS.bits(), namespace(request.uts, SetupFlags::NEW_UTS, &mut flags));
        match request.shm {
            ShmSource::None => {}
            ShmSource::New => flags |= SetupFlags::NEW_SHM,
            ShmSource::Mount(fd) => fds.add(SetupFds::SHM.bits(), Some(fd)),
        }
        flags.set(SetupFlags::POD_PID, request.pod_pid);
        let sysctls = encode_sysctls(request.sysctls.iter().copied())
            .ok_or_else(|| self.protocol("a sysctl has a NUL byte".to_owned()))?;
        fds.list.extend(request.cgroups);
        let setup = Setup {
            flags: flags.bits(),
            fds: fds.kinds,
            cgroups: request.cgroups.len() as u8,
            hostname: request.hostname,
            sysctls: &sysctls,
            oom_score_adj: request.oom_score_adj,
        };
        let packet = self.connection.call(&Request::Setup(setup), &fds.list).await?;
        match self.reply(&packet, "setup")? {
            Reply::Configured { init, oom_score_adj } => {
                Ok(SetupDone { init: (init != 0).then_some(init), oom_score_adj })
            }
            other => Err(self.odd(&other)),
        }
    }

    /// Starts a container: returns when its program runs, or with the reason why it does not. A container that was
    /// refused is forgotten by the shim; nothing of it is left.
    pub async fn start(&self, request: StartRequest<'_>) -> Result<Started, ShimError> {
        let plan = self.plan(request.plan)?;
        let mut fds = FdList::with(SpawnFds::PLAN.bits(), plan.as_fd());
        fds.add(SpawnFds::CGROUP.bits(), request.cgroup);
        let io = match request.io {
            ContainerIo::Pipes { log, stdin } => {
                fds.add(SpawnFds::LOG.bits(), log);
                Io::Pump { stdin }
            }
            ContainerIo::Terminal { log } => {
                fds.add(SpawnFds::LOG.bits(), log);
                Io::Terminal
            }
        };
        let header = request.header.clone();
        let pid_of = request.pid_of.unwrap_or_default();
        let spawn = Spawn { id: request.id, target: "", pid_of, header, io, fds: fds.kinds, shm: request.shm };
        let started = self.spawn_process(spawn, &fds).await?;
        Ok(Started { pid: started.pid, started_at: started.started_at })
    }

    /// Runs a program in a container: returns when it runs, or with the reason why it does not.
    pub async fn exec(&self, request: ExecRequest<'_>) -> Result<ExecStarted, ShimError> {
        let plan = self.plan(request.plan)?;
        let mut fds = FdList::with(SpawnFds::PLAN.bits(), plan.as_fd());
        fds.add(SpawnFds::CGROUP.bits(), request.cgroup);
        let io = match request.io {
            ExecIo::Fds { stdin, stdout, stderr } => {
                fds.add(SpawnFds::STDIN.bits(), stdin);
                fds.add(SpawnFds::STDOUT.bits(), stdout);
                fds.add(SpawnFds::STDERR.bits(), stderr);
                Io::Passed
            }
            ExecIo::Terminal => Io::TerminalPassed,
        };
        let header = request.header.clone();
        let spawn =
            Spawn { id: request.id, target: request.target, pid_of: "", header, io, fds: fds.kinds, shm: false };
        self.spawn_process(spawn, &fds).await
    }

    /// Has programs of the host make a container or exec: returns when it runs, or with the reason why it does not.
    pub async fn make(&self, request: MakeRequest<'_>) -> Result<ExecStarted, ShimError> {
        if !self.capabilities().contains(Capabilities::MAKE) {
            return Err(self.protocol("it is of an older version, which runs no programs of the host".to_owned()));
        }
        let programs = encode_programs(request.programs)
            .ok_or_else(|| self.protocol("a command line has an empty word or a NUL byte".to_owned()))?;
        let programs = self.plan(&programs)?;
        let mut fds = FdList::with(MakeFds::PROGRAMS.bits(), programs.as_fd());
        fds.add(MakeFds::DIRECTORY.bits(), Some(request.directory));
        let io = match request.io {
            MakeIo::Container(ContainerIo::Pipes { log, stdin }) => {
                fds.add(MakeFds::LOG.bits(), log);
                Io::Pump { stdin }
            }
            MakeIo::Container(ContainerIo::Terminal { log }) => {
                fds.add(MakeFds::LOG.bits(), log);
                Io::Terminal
            }
            MakeIo::Exec(ExecIo::Fds { stdin, stdout, stderr }) => {
                fds.add(MakeFds::STDIN.bits(), stdin);
                fds.add(MakeFds::STDOUT.bits(), stdout);
                fds.add(MakeFds::STDERR.bits(), stderr);
                Io::Passed
            }
            MakeIo::Exec(ExecIo::Terminal) => Io::TerminalPassed,
        };
        fds.add(MakeFds::CONSOLE.bits(), request.console);
        let make = Make {
            id: request.id,
            target: request.target.unwrap_or_default(),
            io,
            fds: fds.kinds,
            programs: u8::try_from(request.programs.len()).unwrap_or(u8::MAX),
            oom_score_adj: request.oom_score_adj,
            pid_file: request.pid_file,
        };
        self.started(request.id, &Request::Make(make), &fds).await
    }

    /// Sends a signal to the process of a container or exec, and never to another that got its number.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<(), ShimError> {
        self.simple(id, &Request::Signal { id, signal }, &[]).await
    }

    /// Gives a container's log another file, opened with `O_APPEND`. Each line is whole in one of the two.
    pub async fn reopen_log(&self, id: &str, log: BorrowedFd<'_>) -> Result<(), ShimError> {
        self.simple(id, &Request::ReopenLog { id }, &[log]).await
    }

    /// All containers and execs that the shim has not been told to forget.
    pub async fn list(&self) -> Result<Vec<ProcessInfo>, ShimError> {
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            let packet = self.connection.call(&Request::List { from }, &[]).await?;
            let (reply, mut rest) = self.reply_and_rest(&packet, "list")?;
            let Reply::Processes { count, next } = reply else { return Err(self.odd(&reply)) };
            for _ in 0..count {
                let (process, after) = postcard::take_from_bytes::<Process<'_>>(rest)
                    .map_err(|e| self.protocol(format!("an entry of its list cannot be read: {e}")))?;
                all.push(process.into());
                rest = after;
            }
            match next {
                Some(next) => from = next,
                None => return Ok(all),
            }
        }
    }

    /// Says that the exit of a container or exec is known, so that the shim need not keep it.
    pub async fn forget(&self, id: &str) -> Result<(), ShimError> {
        self.simple(id, &Request::Forget { id }, &[]).await
    }

    /// The pod's namespaces and its /dev/shm.
    pub async fn pod_fds(&self) -> Result<PodFds, ShimError> {
        let mut packet = self.connection.call(&Request::PodFds, &[]).await?;
        let kinds = match self.reply(&packet, "namespaces")? {
            Reply::PodFds(kinds) => PodFdKinds::from_bits_truncate(kinds),
            other => return Err(self.odd(&other)),
        };
        let mut take = |kind| if kinds.contains(kind) { packet.fds.take() } else { None };
        Ok(PodFds {
            net: take(PodFdKinds::NET),
            ipc: take(PodFdKinds::IPC),
            uts: take(PodFdKinds::UTS),
            pid: take(PodFdKinds::PID),
            shm: take(PodFdKinds::SHM),
        })
    }

    /// The pidfd of a container or exec that runs.
    pub async fn pidfd(&self, id: &str) -> Result<OwnedFd, ShimError> {
        let mut packet = self.connection.call(&Request::PidFd { id }, &[]).await?;
        match self.reply(&packet, id)? {
            Reply::PidFd => {}
            other => return Err(self.odd(&other)),
        }
        packet.fds.take().ok_or_else(|| self.protocol(format!("no pidfd came for {id}")))
    }

    /// Ends the stdin of a container that was started with a pipe for it.
    pub async fn close_stdin(&self, id: &str) -> Result<(), ShimError> {
        self.simple(id, &Request::CloseStdin { id }, &[]).await
    }

    /// Sets the size of a container's terminal, in characters.
    pub async fn resize(&self, id: &str, rows: u16, columns: u16) -> Result<(), ShimError> {
        self.simple(id, &Request::Resize { id, rows, columns }, &[]).await
    }

    /// Ends the shim, once nothing runs any more, and waits until it is dead.
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        match self.simple("shutdown", &Request::Shutdown, &[]).await {
            // It may be dead before its answer is read.
            Ok(()) | Err(ShimError::Gone { .. }) => self.wait_death().await,
            Err(e) => Err(e),
        }
    }

    async fn spawn_process(&self, spawn: Spawn<'_>, fds: &FdList<'_>) -> Result<ExecStarted, ShimError> {
        self.started(spawn.id, &Request::Spawn(spawn), fds).await
    }

    async fn started(&self, id: &str, request: &Request<'_>, fds: &FdList<'_>) -> Result<ExecStarted, ShimError> {
        let mut packet = self.connection.call(request, &fds.list).await?;
        match self.reply(&packet, id)? {
            Reply::Started { pid, started_at } => Ok(ExecStarted { pid, started_at, terminal: packet.fds.take() }),
            other => Err(self.odd(&other)),
        }
    }

    async fn simple(&self, subject: &str, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), ShimError> {
        let packet = self.connection.call(request, fds).await?;
        match self.reply(&packet, subject)? {
            Reply::Done => Ok(()),
            other => Err(self.odd(&other)),
        }
    }

    fn plan(&self, plan: &[u8]) -> Result<OwnedFd, ShimError> {
        memfd(plan).map_err(|source| self.io("hand over a plan", source))
    }

    fn reply<'p>(&self, packet: &'p Packet, subject: &str) -> Result<Reply<'p>, ShimError> {
        Ok(self.reply_and_rest(packet, subject)?.0)
    }

    fn reply_and_rest<'p>(&self, packet: &'p Packet, subject: &str) -> Result<(Reply<'p>, &'p [u8]), ShimError> {
        match postcard::take_from_bytes(&packet.bytes) {
            Ok((ToAgent::Reply(_, Reply::Failed(failure)), _)) => Err(self.refused(failure, subject)),
            Ok((ToAgent::Reply(_, reply), rest)) => Ok((reply, rest)),
            _ => Err(self.protocol(format!("its answer about {subject} cannot be read"))),
        }
    }

    fn refused(&self, failure: Failure<'_>, subject: &str) -> ShimError {
        ShimError::Refused {
            pod: self.pod().to_string(),
            subject: subject.to_owned(),
            kind: failure.kind,
            errno: failure.errno,
            message: failure.message.to_owned(),
        }
    }

    fn odd(&self, reply: &Reply<'_>) -> ShimError {
        self.protocol(format!("an answer to another question came: {reply:?}"))
    }
}

/// Descriptors for a message, and the bits that say which they are. They are added in the order of their bits.
struct FdList<'a> {
    kinds: u32,
    list: Vec<BorrowedFd<'a>>,
}

impl<'a> FdList<'a> {
    fn with(kind: u32, fd: BorrowedFd<'a>) -> Self {
        Self { kinds: kind, list: vec![fd] }
    }

    fn add(&mut self, kind: u32, fd: Option<BorrowedFd<'a>>) {
        if let Some(fd) = fd {
            self.kinds |= kind;
            self.list.push(fd);
        }
    }
}

fn namespace<'a>(source: NamespaceSource<'a>, new: SetupFlags, flags: &mut SetupFlags) -> Option<BorrowedFd<'a>> {
    match source {
        NamespaceSource::Host => None,
        NamespaceSource::New => {
            *flags |= new;
            None
        }
        NamespaceSource::Enter(fd) => Some(fd),
    }
}

fn memfd(content: &[u8]) -> io::Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create("orlop-plan", MemfdFlags::CLOEXEC)?;
    let mut rest = content;
    while !rest.is_empty() {
        let n = rustix::io::retry_on_intr(|| rustix::io::write(&memfd, rest))?;
        rest = &rest[n..];
    }
    Ok(memfd)
}

impl From<Process<'_>> for ProcessInfo {
    fn from(process: Process<'_>) -> Self {
        Self {
            id: process.id.to_owned(),
            target: (!process.target.is_empty()).then(|| process.target.to_owned()),
            pid: process.pid,
            state: process.state,
            started_at: process.started_at,
            finished_at: process.finished_at,
            status: process.status,
            drained: process.drained,
        }
    }
}

/// Whether this kernel can clone a mount that is attached nowhere (since Linux 6.15), as [`ShmSource::New`] needs. Asked
/// once, when the agent starts; where it cannot, the agent mounts a tmpfs and uses [`ShmSource::Mount`].
pub fn detached_mounts_can_be_cloned() -> bool {
    let clone = || {
        let tmpfs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(tmpfs.as_fd())?;
        let mount = rustix::mount::fsmount(tmpfs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        rustix::mount::open_tree(&mount, "", flags)
    };
    clone().is_ok()
}
