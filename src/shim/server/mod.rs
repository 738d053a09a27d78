//! The shim itself: one thread, one epoll loop.
//!
//! It listens on descriptor 0 for the agent, which comes and goes; whatever it keeps for the agent is in [`table`].
//! Nothing here waits: not for the agent, not for a container, not for its log. Nothing allocates, either, once the
//! table has room, but for what has gone wrong; and buffers go back to the kernel after a second without use.

mod agent;
mod make;
mod pod;
mod reap;
mod spawn;
mod table;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fs::{Mode, OFlags};

use super::log::{Buffers, Pumped};
use super::protocol::MAX_MESSAGE;
use super::sys::{self, Pages};
use agent::Agent;
use make::Stray;
use pod::Pod;
use table::Table;

/// How long the buffers may lie unused before their memory is given back.
const IDLE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How many buffers of a stream are pumped before others get their turn.
const TURN: u32 = 4;
/// How many requests are answered before others get their turn.
const REQUESTS: u32 = 16;

/// What a descriptor in the poller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Listener,
    Agent,
    Signals,
    /// The status socket of the process at this index.
    Status(usize),
    Stdout(usize),
    Stderr(usize),
}

impl Token {
    fn pack(self) -> EventData {
        let (kind, index) = match self {
            Self::Listener => (0, 0),
            Self::Agent => (1, 0),
            Self::Signals => (2, 0),
            Self::Status(index) => (3, index),
            Self::Stdout(index) => (4, index),
            Self::Stderr(index) => (5, index),
        };
        EventData::new_u64(kind << 32 | index as u64)
    }

    fn unpack(data: EventData) -> Option<Self> {
        let index = (data.u64() & u64::from(u32::MAX)) as usize;
        match data.u64() >> 32 {
            0 => Some(Self::Listener),
            1 => Some(Self::Agent),
            2 => Some(Self::Signals),
            3 => Some(Self::Status(index)),
            4 => Some(Self::Stdout(index)),
            5 => Some(Self::Stderr(index)),
            _ => None,
        }
    }
}

/// The shim's whole state.
#[derive(Debug)]
struct Server {
    epoll: OwnedFd,
    signals: OwnedFd,
    null: OwnedFd,
    agent: Option<Agent>,
    /// Since the setup.
    pod: Option<Pod>,
    table: Table,
    /// Children that nobody knows, that ended while something was being made: one of them may be what was made.
    strays: Vec<Stray>,
    buffers: Buffers,
    /// Where a request is read to; taken out while in use. Not on the stack, which never shrinks.
    packet: Option<Pages>,
    /// Buffers were used since they were last given back.
    used: bool,
    /// The agent may have something to be told.
    due: bool,
    /// The agent has asked for the end.
    ending: bool,
}

/// Becomes the shim of a pod, and returns when the agent ends it.
///
/// Descriptor 0 is a listening `SOCK_SEQPACKET` socket; all from 3 on are closed. Only the program calls this, at its
/// very beginning.
pub fn run() -> io::Result<()> {
    sys::close_inherited();
    rustix::thread::set_name(c"orlop-shim")?;
    // Its own session, so that no terminal reaches it. Fails only if it is the leader of its group already.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Server::new(sys::child_signals()?)?.serve()
}

impl Server {
    fn new(signals: OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let listener = rustix::stdio::stdin();
        rustix::io::ioctl_fionbio(listener, true)?;
        epoll::add(&epoll, listener, Token::Listener.pack(), EventFlags::IN)?;
        epoll::add(&epoll, &signals, Token::Signals.pack(), EventFlags::IN)?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self {
            epoll,
            signals,
            null,
            agent: None,
            pod: None,
            table: Table::new()?,
            strays: Vec::new(),
            buffers: Buffers::new()?,
            packet: Some(Pages::new(MAX_MESSAGE)?),
            used: false,
            due: false,
            ending: false,
        })
    }

    /// What it calls is not inlined: its own frame, which lies below all others for good, would be the sum of theirs, and
    /// each page of stack that was ever used stays.
    fn serve(&mut self) -> io::Result<()> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(u64::MAX) }; 16];
        while !self.ending {
            let timeout = self.used.then_some(&IDLE);
            let ready = match epoll::wait(&self.epoll, &mut events[..], timeout) {
                Ok(ready) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            if ready == 0 {
                self.trim();
                continue;
            }
            self.used = true;
            let mut reap = false;
            for event in &events[..ready] {
                // An event may be of a descriptor that an earlier one of this round has closed. That does no harm:
                // every read here finds nothing then.
                match Token::unpack(event.data) {
                    Some(Token::Listener) => self.on_listener(),
                    Some(Token::Agent) => self.on_agent(event.flags),
                    Some(Token::Signals) => reap = true,
                    Some(Token::Status(index)) => self.on_status(index),
                    Some(token @ (Token::Stdout(_) | Token::Stderr(_))) => {
                        self.pump(token, TURN, false);
                    }
                    None => {}
                }
            }
            if reap {
                self.reap();
            }
            self.flush();
        }
        Ok(())
    }

    fn trim(&mut self) {
        self.buffers.trim();
        if let Some(packet) = &mut self.packet {
            packet.trim();
        }
        if let Some(agent) = &mut self.agent {
            agent.trim();
        }
        self.used = false;
    }

    fn watch(&self, fd: BorrowedFd<'_>, token: Token) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, token.pack(), EventFlags::IN)
    }

    /// To be called before a watched descriptor is closed: a child that was just forked may still have a copy of it, and
    /// then closing it would not end its events.
    fn unwatch(&self, fd: BorrowedFd<'_>) {
        // Not watched: nothing to do.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Moves what one output of a container has into its log.
    #[inline(never)]
    fn pump(&mut self, token: Token, reads: u32, to_the_end: bool) -> Pumped {
        let (Token::Stdout(index) | Token::Stderr(index)) = token else { return Pumped::End };
        let Some(slot) = self.table.get_mut(index) else { return Pumped::End };
        let log = slot.log.as_ref().map(AsFd::as_fd);
        let place = if let Token::Stdout(_) = token { &mut slot.stdout } else { &mut slot.stderr };
        let Some(stream) = place else { return Pumped::End };
        let outcome = self.buffers.pump(stream, log, reads, to_the_end);
        if outcome == Pumped::End
            && let Some(stream) = place.take()
        {
            self.unwatch(stream.as_fd());
        }
        outcome
    }

    /// Lets go of all that belongs to a container or exec.
    fn discard(&mut self, index: usize) {
        if let Some(slot) = self.table.get(index) {
            let streams = [&slot.stdout, &slot.stderr].into_iter().flatten().map(AsFd::as_fd);
            for fd in streams.chain(slot.status.as_ref().map(AsFd::as_fd)) {
                self.unwatch(fd);
            }
        }
        self.table.remove(index);
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
