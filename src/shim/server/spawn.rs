//! The beginnings of processes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use super::agent::{Answer, Answered, failed, refuse};
use super::table::{Id, Slot};
use super::{Server, Token};
use crate::runtime::execute::{self, Attached, Stdio3};
use crate::shim::log::{Stream, StreamName};
use crate::shim::protocol::{Failure, FailureKind, Io, Spawn, SpawnFds};
use crate::shim::wire::Fds;

/// The ends of a process's streams that it gets, and those that stay.
#[derive(Default)]
pub(super) struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub kept_stdin: Option<OwnedFd>,
    pub kept_stdout: Option<Stream>,
    pub kept_stderr: Option<Stream>,
}

impl Server {
    /// Forks a container or exec. The answer comes when its program runs, or it has failed and is reaped.
    pub(super) fn spawn<'p>(&mut self, number: u32, spawn: &Spawn<'p>, mut fds: Fds) -> Answered<'p> {
        let invalid = |what| refuse(FailureKind::Invalid, what);
        let pod = self.pod.as_ref().ok_or(invalid("the shim has not had its setup"))?;
        let id = Id::new(spawn.id).ok_or(invalid("this is not an id"))?;
        if self.table.find(spawn.id).is_some() {
            return Err(refuse(FailureKind::Exists, "the pod has a container or exec of this id"));
        }
        let kinds = SpawnFds::from_bits_retain(spawn.fds);
        if !SpawnFds::all().contains(kinds) || fds.len() != kinds.bits().count_ones() as usize {
            return Err(invalid("descriptors are not what the request says"));
        }
        let mut take = |kind| if kinds.contains(kind) { fds.take() } else { None };
        let plan = take(SpawnFds::PLAN).ok_or(invalid("no plan came along"))?;
        let (cgroup, log) = (take(SpawnFds::CGROUP), take(SpawnFds::LOG));
        let passed = [take(SpawnFds::STDIN), take(SpawnFds::STDOUT), take(SpawnFds::STDERR)];
        let streams = Streams::new(spawn.io, passed)?;

        let target = self.pidfd_of(spawn.target)?;
        let pid_of = self.pidfd_of(spawn.pid_of)?;
        let pid_namespace = if spawn.target.is_empty() { pid_of.or(pod.init_pidfd()) } else { None };
        if spawn.header.join_pid_namespace && target.or(pid_namespace).is_none() {
            return Err(refuse(FailureKind::NotRunning, "the pod has no PID namespace, or its init is dead"));
        }
        let shm = if spawn.shm { pod.clone_shm().map_err(failed("clone the mount of /dev/shm"))? } else { None };
        let stdio = streams.given(self.null.as_fd());
        let (cgroup_dir, shm) = (cgroup.as_ref().map(AsFd::as_fd), shm.as_ref().map(AsFd::as_fd));
        let attached = Attached { cgroup_dir, pid_namespace, target, shm, ..Attached::default() };
        let spawned = execute::spawn(&spawn.header, plan.as_fd(), stdio, attached).map_err(failed("fork"))?;

        let target = Id::new(spawn.target).unwrap_or(Id::NONE);
        let mut slot = Slot::new(id, target, Some((spawned.pid, spawned.pidfd)), spawn.io, number);
        slot.status = Some(spawned.status);
        slot.log = log;
        slot.stdin = streams.kept_stdin;
        slot.stdout = streams.kept_stdout;
        slot.stderr = streams.kept_stderr;
        self.adopt(slot)?;
        Ok(Answer::Later)
    }

    /// Takes a forked process into the table. If it cannot be watched over, it is killed.
    fn adopt<'p>(&mut self, slot: Slot) -> Result<(), Failure<'p>> {
        let kill = |slot: &Slot| {
            if let Some(pidfd) = &slot.pidfd {
                let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
            }
        };
        let Some(index) = self.table.vacancy() else {
            kill(&slot);
            return Err(refuse(FailureKind::TooMany, "the pod has too many containers and execs"));
        };
        let status = slot.status.as_ref().map(|fd| (fd.as_fd(), Token::Status(index)));
        let stdout = slot.stdout.as_ref().map(|stream| (stream.as_fd(), Token::Stdout(index)));
        let stderr = slot.stderr.as_ref().map(|stream| (stream.as_fd(), Token::Stderr(index)));
        for (fd, token) in [status, stdout, stderr].into_iter().flatten() {
            let watched = rustix::io::ioctl_fionbio(fd, true).and_then(|()| self.watch(fd, token));
            if let Err(e) = watched {
                kill(&slot);
                return Err(failed("watch the new process")(e));
            }
        }
        self.table.put(index, slot);
        Ok(())
    }

    /// The pidfd of a running container; `None` for no id.
    pub(super) fn pidfd_of<'p>(&self, id: &str) -> Result<Option<BorrowedFd<'_>>, Failure<'p>> {
        if id.is_empty() {
            return Ok(None);
        }
        let slot = self.table.find(id).and_then(|index| self.table.get(index));
        let slot = slot.ok_or(refuse(FailureKind::NotFound, "the container it belongs to is not there"))?;
        match slot.running() {
            Some(pidfd) => Ok(Some(pidfd)),
            None => Err(refuse(FailureKind::NotRunning, "the container it belongs to does not run")),
        }
    }
}

impl Streams {
    /// What the process gets; `null` for what it does not have.
    pub fn given<'a>(&'a self, null: BorrowedFd<'a>) -> Stdio3<'a> {
        Stdio3 {
            stdin: self.stdin.as_ref().map_or(null, AsFd::as_fd),
            stdout: self.stdout.as_ref().map_or(null, AsFd::as_fd),
            stderr: self.stderr.as_ref().map_or(null, AsFd::as_fd),
        }
    }

    pub fn new(io: Io, [stdin, stdout, stderr]: [Option<OwnedFd>; 3]) -> Result<Self, Failure<'static>> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(failed("make a pipe"));
        match io {
            Io::Passed => Ok(Self { stdin, stdout, stderr, ..Self::default() }),
            Io::Terminal | Io::TerminalPassed => Ok(Self::default()),
            Io::Pump { stdin } => {
                let mut streams = Self::default();
                if stdin {
                    let (read, write) = pipe()?;
                    (streams.stdin, streams.kept_stdin) = (Some(read), Some(write));
                }
                let (read, write) = pipe()?;
                streams.stdout = Some(write);
                streams.kept_stdout = Some(Stream::new(read, StreamName::Stdout, false));
                let (read, write) = pipe()?;
                streams.stderr = Some(write);
                streams.kept_stderr = Some(Stream::new(read, StreamName::Stderr, false));
                Ok(streams)
            }
        }
    }
}
