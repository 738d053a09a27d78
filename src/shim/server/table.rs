//! The containers and execs of the pod.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::make::Maker;
use crate::runtime::execute::Notice;
use crate::shim::log::Stream;
use crate::shim::protocol::{ExitStatus, Io, MAX_ID, Process, ProcessState, valid_id};
use crate::shim::sys::Reserve;

/// How many there may be at a time: a limit against an agent gone wild.
const MOST: usize = 4096;

/// An id, in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id {
    bytes: [u8; MAX_ID],
    length: u8,
}

impl Id {
    /// No id at all.
    pub const NONE: Self = Self { bytes: [0; MAX_ID], length: 0 };

    pub fn new(id: &str) -> Option<Self> {
        if !valid_id(id) {
            return None;
        }
        let mut bytes = [0; MAX_ID];
        bytes[..id.len()].copy_from_slice(id.as_bytes());
        Some(Self { bytes, length: id.len() as u8 })
    }

    pub fn as_str(&self) -> &str {
        // Only ever made from a str.
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

/// What the agent is still to be told about a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// The answer to the request that started it: that it runs.
    pub started: bool,
    /// That it ended.
    pub exited: bool,
}

/// One container or exec.
#[derive(Debug)]
pub(super) struct Slot {
    pub id: Id,
    /// The container, for an exec.
    pub target: Id,
    pub pid: i32,
    /// Until it is reaped.
    pub pidfd: Option<OwnedFd>,
    /// While it is on its way to its program.
    pub status: Option<OwnedFd>,
    /// While programs of the host make it.
    pub maker: Option<Box<Maker>>,
    /// The request that started it, until that is answered; 0: nobody waits.
    pub request: u32,
    /// Why it did not come to run its program. It is answered, and the slot given up, when the process is reaped.
    pub failure: Option<Box<Notice>>,
    pub io: Io,
    /// With a terminal the other end of it: for the agent, or for the log.
    pub console: Option<OwnedFd>,
    pub stdin: Option<OwnedFd>,
    pub log: Option<OwnedFd>,
    pub stdout: Option<Stream>,
    pub stderr: Option<Stream>,
    /// Nanoseconds since 1970; 0: not yet.
    pub started_at: u64,
    pub finished_at: u64,
    pub exit: Option<ExitStatus>,
    pub due: Due,
    /// Its exit is in a file.
    pub recorded: bool,
}

impl Slot {
    /// Without a pid, as long as there is no process yet.
    pub fn new(id: Id, target: Id, process: Option<(i32, OwnedFd)>, io: Io, request: u32) -> Self {
        let (pid, pidfd) = process.map_or((0, None), |(pid, pidfd)| (pid, Some(pidfd)));
        Self {
            id,
            target,
            pid,
            pidfd,
            status: None,
            maker: None,
            request,
            failure: None,
            io,
            console: None,
            stdin: None,
            log: None,
            stdout: None,
            stderr: None,
            started_at: 0,
            finished_at: 0,
            exit: None,
            due: Due::default(),
            recorded: false,
        }
    }

    pub fn is_exec(&self) -> bool {
        self.target.length > 0
    }

    pub fn state(&self) -> ProcessState {
        match (self.exit, self.started_at) {
            // What makes it has still to say what to make of that.
            _ if self.maker.is_some() => ProcessState::Starting,
            (Some(_), _) => ProcessState::Exited,
            (None, 0) => ProcessState::Starting,
            (None, _) => ProcessState::Running,
        }
    }

    /// Its output was read to the end.
    pub fn drained(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// The pidfd of a process that runs its program.
    pub fn running(&self) -> Option<BorrowedFd<'_>> {
        match self.state() {
            ProcessState::Running => self.pidfd.as_ref().map(AsFd::as_fd),
            _ => None,
        }
    }

    pub fn describe(&self) -> Process<'_> {
        Process {
            id: self.id.as_str(),
            target: self.target.as_str(),
            pid: self.pid as u32,
            state: self.state(),
            started_at: self.started_at,
            finished_at: self.finished_at,
            status: self.exit,
            drained: self.drained(),
        }
    }
}

/// All of them. An index stays with its slot for the life of it.
#[derive(Debug)]
pub(super) struct Table {
    slots: Reserve<Option<Slot>>,
}

impl Table {
    pub fn new() -> io::Result<Self> {
        Ok(Self { slots: Reserve::new(MOST)? })
    }

    /// Where the next one can go. `None`: too many.
    pub fn vacancy(&mut self) -> Option<usize> {
        if let Some(free) = self.slots.iter().position(Option::is_none) {
            return Some(free);
        }
        self.slots.push(None).ok().map(|()| self.slots.len() - 1)
    }

    pub fn put(&mut self, index: usize, slot: Slot) {
        self.slots[index] = Some(slot);
    }

    pub fn get(&self, index: usize) -> Option<&Slot> {
        self.slots.get(index)?.as_ref()
    }

    pub fn get_mut(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index)?.as_mut()
    }

    /// Takes one out, and the free room at the end of the table with it.
    pub fn remove(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = None;
        }
        while let Some(None) = self.slots.last() {
            self.slots.pop();
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().flatten()
    }

    pub fn find(&self, id: &str) -> Option<usize> {
        self.index_of(|slot| slot.id.as_str() == id)
    }

    /// The one whose process has this number. It has been reaped by nobody yet, so the number is its own.
    pub fn find_pid(&self, pid: i32) -> Option<usize> {
        self.index_of(|slot| slot.pid == pid && slot.exit.is_none() && slot.pidfd.is_some())
    }

    /// The one that this process of the host makes.
    pub fn find_maker(&self, pid: i32) -> Option<usize> {
        self.index_of(|slot| slot.maker.as_ref().is_some_and(|maker| maker.pid == pid))
    }

    /// Whether anything is being made that has no process yet.
    pub fn any_unmade(&self) -> bool {
        self.iter().any(|slot| slot.maker.is_some() && slot.pid == 0)
    }

    fn index_of(&self, wanted: impl Fn(&Slot) -> bool) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(&wanted))
    }
}
