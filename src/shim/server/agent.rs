//! The connection to the agent: one at a time, the newest.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{REQUESTS, Server, Token};
use crate::shim::protocol::{
    Capabilities, Event, Failure, FailureKind, Hello, Io, PodFdKinds, Reply, Request, ToAgent, VERSION,
};
use crate::shim::sys::Pages;
use crate::shim::wire::{self, Fds};

/// Bytes of the longest message that the shim sends.
const LONGEST: usize = 4096;

#[derive(Debug)]
pub(super) struct Agent {
    socket: OwnedFd,
    /// Its side is full: nothing more is read or sent until there is room.
    blocked: bool,
    /// Where messages to it are written.
    buffer: Pages,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Yes,
    /// There is no room now.
    Later,
    /// There is nobody any more.
    Broken,
}

/// How a request is answered, if it is not refused.
pub(super) enum Answer {
    Reply(Reply<'static>),
    /// Later, when the table says so.
    Later,
    /// It has been sent.
    Sent,
}

pub(super) type Answered<'p> = Result<Answer, Failure<'p>>;

/// A request that makes no sense, or cannot be met as things are.
pub(super) fn refuse(kind: FailureKind, message: &str) -> Failure<'_> {
    Failure { kind, errno: 0, message }
}

/// A system call that failed, and at what.
pub(super) fn failed<'p, E: Into<std::io::Error>>(message: &'p str) -> impl FnOnce(E) -> Failure<'p> {
    move |error| Failure { kind: FailureKind::System, errno: error.into().raw_os_error().unwrap_or(0), message }
}

impl Agent {
    pub fn trim(&mut self) {
        self.buffer.trim();
    }

    fn send(&mut self, message: &ToAgent<'_>, fds: &[BorrowedFd<'_>]) -> Sent {
        match postcard::to_slice(message, &mut self.buffer) {
            Ok(packet) => send_packet(&self.socket, packet, fds),
            // No message is that long: ids are short, and the texts of failures are cut.
            Err(_) => Sent::Broken,
        }
    }

    fn has_room(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&now)), Ok(1..))
    }
}

fn send_packet(socket: &OwnedFd, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Sent {
    match wire::send(socket, packet, fds) {
        Ok(()) => Sent::Yes,
        Err(Errno::AGAIN) => Sent::Later,
        Err(_) => Sent::Broken,
    }
}

impl Server {
    /// Somebody wants to be the agent.
    #[inline(never)]
    pub(super) fn on_listener(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(rustix::stdio::stdin(), flags) else { return };
        // The socket's directory is root's alone; this is for the day on which it is not.
        let trusted = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root());
        let Ok(buffer) = Pages::new(LONGEST) else { return };
        if !trusted || self.watch(socket.as_fd(), Token::Agent).is_err() {
            return;
        }
        self.disconnect();
        self.agent = Some(Agent { socket, blocked: false, buffer });
        self.greet();
    }

    fn greet(&mut self) {
        let me = rustix::process::getpid();
        let Ok(pidfd) = pidfd_open(me, PidfdFlags::empty()) else { return self.hang_up() };
        let hello = Hello {
            version: VERSION,
            capabilities: Capabilities::all().bits(),
            pid: me.as_raw_nonzero().get() as u32,
            configured: self.pod.is_some(),
            init_died: self.pod.as_ref().is_some_and(|pod| pod.init_died().is_some()),
        };
        self.send(&ToAgent::Hello(hello), &[pidfd.as_fd()]);
    }

    /// The agent is dead, or as good as dead.
    pub(super) fn hang_up(&mut self) {
        self.disconnect();
        // It has not said what to be; the next agent may not even know of this process.
        self.ending |= self.pod.is_none();
    }

    /// Ends the connection. What the agent had still to be told it will find in the list, if it comes back.
    fn disconnect(&mut self) {
        let Some(agent) = self.agent.take() else { return };
        self.unwatch(agent.socket.as_fd());
        for index in 0..self.table.len() {
            let Some(slot) = self.table.get_mut(index) else { continue };
            slot.request = 0;
            slot.due = Default::default();
            if slot.console.is_some() {
                // The terminal of an exec that nobody can be given any more.
                slot.console = None;
            }
            if slot.failure.is_some() && slot.exit.is_some() {
                self.discard(index);
            }
        }
    }

    #[inline(never)]
    pub(super) fn on_agent(&mut self, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.unblock();
        }
        let Some(mut buffer) = self.packet.take() else { return };
        for _ in 0..REQUESTS {
            let Some(agent) = &self.agent else { break };
            if agent.blocked {
                break;
            }
            if !agent.has_room() {
                // So that each request that is read can also be answered.
                self.block();
                break;
            }
            match wire::receive(&agent.socket, &mut buffer) {
                Ok((length, fds)) if length > 0 => self.on_packet(&buffer[..length], fds),
                Err(Errno::AGAIN) => break,
                _ => self.hang_up(),
            }
        }
        self.packet = Some(buffer);
    }

    fn on_packet(&mut self, packet: &[u8], fds: Fds) {
        let Ok((number, rest)) = postcard::take_from_bytes::<u32>(packet) else { return self.hang_up() };
        let answered = match postcard::take_from_bytes::<Request<'_>>(rest) {
            Ok((request, _)) => self.on_request(number, request, fds),
            Err(_) => Err(refuse(FailureKind::Invalid, "this shim does not know such a request")),
        };
        match answered {
            Ok(Answer::Reply(reply)) => self.send(&ToAgent::Reply(number, reply), &[]),
            Ok(Answer::Later | Answer::Sent) => {}
            Err(failure) => self.send(&ToAgent::Reply(number, Reply::Failed(cut(failure))), &[]),
        }
    }

    fn on_request<'p>(&mut self, number: u32, request: Request<'p>, mut fds: Fds) -> Answered<'p> {
        match request {
            Request::Setup(setup) => self.set_up(&setup, fds),
            Request::Spawn(spawn) => self.spawn(number, &spawn, fds),
            Request::Signal { id, signal } => self.signal(id, signal),
            Request::ReopenLog { id } => {
                let log = fds.take().ok_or(refuse(FailureKind::Invalid, "no log came along"))?;
                let slot = self.slot(id)?;
                if slot.drained() {
                    return Err(refuse(FailureKind::NotRunning, "it prints nothing any more"));
                }
                slot.log = Some(log);
                Ok(Answer::Reply(Reply::Done))
            }
            Request::List { from } => self.list(number, from as usize),
            Request::Forget { id } => self.forget(id),
            Request::PodFds => self.pod_fds(number),
            Request::PidFd { id } => self.pidfd(number, id),
            Request::CloseStdin { id } => {
                self.slot(id)?.stdin = None;
                Ok(Answer::Reply(Reply::Done))
            }
            Request::Resize { id, rows, columns } => self.resize(id, rows, columns),
            Request::Shutdown => self.shut_down(),
            Request::Make(make) => self.make(number, &make, fds),
        }
    }

    fn signal<'p>(&mut self, id: &str, signal: i32) -> Answered<'p> {
        let slot = self.slot(id)?;
        let pidfd = slot.pidfd.as_ref().or(slot.maker.as_ref().map(|maker| &maker.pidfd));
        let pidfd = pidfd.ok_or(refuse(FailureKind::NotRunning, "it has ended"))?;
        // A container may well use real-time signals, which have no names.
        let signal = Signal::from_named_raw(signal)
            .or_else(|| crate::shim::sys::real_time_signal(signal))
            .ok_or(refuse(FailureKind::Invalid, "there is no such signal"))?;
        match pidfd_send_signal(pidfd, signal) {
            Ok(()) => Ok(Answer::Reply(Reply::Done)),
            // Dead, but not yet reaped by this loop.
            Err(Errno::SRCH) => Err(refuse(FailureKind::NotRunning, "it has ended")),
            Err(e) => Err(failed("send the signal")(e)),
        }
    }

    fn resize<'p>(&mut self, id: &str, rows: u16, columns: u16) -> Answered<'p> {
        let slot = self.slot(id)?;
        let terminal = match (slot.io, &slot.stdout) {
            (Io::Terminal, Some(stream)) => stream.as_fd(),
            _ => return Err(refuse(FailureKind::Invalid, "it has no terminal here")),
        };
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size).map_err(failed("set the size of its terminal"))?;
        Ok(Answer::Reply(Reply::Done))
    }

    fn forget<'p>(&mut self, id: &str) -> Answered<'p> {
        let index = self.table.find(id).ok_or(NOT_FOUND)?;
        if self.table.get(index).is_some_and(|slot| slot.exit.is_none()) {
            return Err(refuse(FailureKind::Busy, "it has not ended"));
        }
        self.erase_record(index);
        self.discard(index);
        Ok(Answer::Reply(Reply::Done))
    }

    /// As many as fit into one packet.
    fn list<'p>(&mut self, number: u32, from: usize) -> Answered<'p> {
        // The entries first, behind where the head will be: it says how many there are.
        const HEAD: usize = 32;
        let Some(agent) = &mut self.agent else { return Ok(Answer::Sent) };
        let buffer = &mut agent.buffer;
        let (mut used, mut count, mut next) = (HEAD, 0, None);
        for index in from..self.table.len() {
            let Some(slot) = self.table.get(index) else { continue };
            match postcard::to_slice(&slot.describe(), &mut buffer[used..]) {
                Ok(entry) => {
                    used += entry.len();
                    count += 1;
                }
                Err(_) => {
                    next = Some(index as u32);
                    break;
                }
            }
        }
        let mut head = [0; HEAD];
        let reply = ToAgent::Reply(number, Reply::Processes { count, next });
        let head = postcard::to_slice(&reply, &mut head).map_err(|_| refuse(FailureKind::TooMany, "the list"))?;
        let start = HEAD - head.len();
        buffer[start..HEAD].copy_from_slice(head);
        let sent = send_packet(&agent.socket, &buffer[start..used], &[]);
        self.must(sent);
        Ok(Answer::Sent)
    }

    fn pod_fds<'p>(&mut self, number: u32) -> Answered<'p> {
        let open = |path| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let net = open("/proc/self/ns/net").map_err(failed("open the network namespace"))?;
        let ipc = open("/proc/self/ns/ipc").map_err(failed("open the IPC namespace"))?;
        let uts = open("/proc/self/ns/uts").map_err(failed("open the UTS namespace"))?;
        let mut kinds = PodFdKinds::NET | PodFdKinds::IPC | PodFdKinds::UTS;
        let mut fds = [net.as_fd(); 5];
        let mut count = 3;
        (fds[1], fds[2]) = (ipc.as_fd(), uts.as_fd());
        if let Some(pod) = &self.pod {
            for (kind, fd) in [(PodFdKinds::PID, pod.init_pidfd()), (PodFdKinds::SHM, pod.shm())] {
                if let Some(fd) = fd {
                    kinds |= kind;
                    fds[count] = fd;
                    count += 1;
                }
            }
        }
        if let Some(agent) = &mut self.agent {
            let message = ToAgent::Reply(number, Reply::PodFds(kinds.bits()));
            let sent = agent.send(&message, &fds[..count]);
            self.must(sent);
        }
        Ok(Answer::Sent)
    }

    fn pidfd<'p>(&mut self, number: u32, id: &str) -> Answered<'p> {
        let index = self.table.find(id).ok_or(NOT_FOUND)?;
        let pidfd = self.table.get(index).and_then(|slot| slot.pidfd.as_ref());
        let pidfd = pidfd.ok_or(refuse(FailureKind::NotRunning, "it has ended"))?;
        if let Some(agent) = &mut self.agent {
            let sent = agent.send(&ToAgent::Reply(number, Reply::PidFd), &[pidfd.as_fd()]);
            self.must(sent);
        }
        Ok(Answer::Sent)
    }

    fn shut_down<'p>(&mut self) -> Answered<'p> {
        if self.table.iter().any(|slot| slot.exit.is_none()) {
            return Err(refuse(FailureKind::Busy, "a container or exec runs"));
        }
        self.ending = true;
        Ok(Answer::Reply(Reply::Done))
    }

    pub(super) fn slot<'p>(&mut self, id: &str) -> Result<&mut super::table::Slot, Failure<'p>> {
        let index = self.table.find(id).ok_or(NOT_FOUND)?;
        self.table.get_mut(index).ok_or(NOT_FOUND)
    }

    /// Tells the agent what the table has for it, as far as it takes it.
    #[inline(never)]
    pub(super) fn flush(&mut self) {
        if !self.due {
            return;
        }
        self.due = false;
        self.flush_init();
        for index in 0..self.table.len() {
            if !self.flush_slot(index) {
                self.due = true;
                return;
            }
        }
    }

    fn flush_init(&mut self) {
        let Some(status) = self.pod.as_mut().and_then(|pod| pod.take_due_death()) else { return };
        self.send(&ToAgent::Event(Event::PodInitDied { status }), &[]);
    }

    /// False: there was no room for all of it.
    fn flush_slot(&mut self, index: usize) -> bool {
        let (Some(agent), Some(slot)) = (&mut self.agent, self.table.get(index)) else { return true };
        if agent.blocked {
            return false;
        }
        if let (Some(notice), Some(_)) = (&slot.failure, slot.exit) {
            let failure =
                Failure { kind: FailureKind::Start(notice.stage), errno: notice.errno, message: &notice.detail };
            let sent = agent.send(&ToAgent::Reply(slot.request, Reply::Failed(cut(failure))), &[]);
            if sent == Sent::Yes {
                self.discard(index);
            }
            return self.after(sent);
        }
        if slot.due.started {
            let reply = Reply::Started { pid: slot.pid as u32, started_at: slot.started_at };
            let sent =
                agent.send(&ToAgent::Reply(slot.request, reply), slot.console.as_ref().map(AsFd::as_fd).as_slice());
            if sent == Sent::Yes
                && let Some(slot) = self.table.get_mut(index)
            {
                slot.due.started = false;
                slot.request = 0;
                slot.console = None;
            }
            if !self.after(sent) {
                return false;
            }
        }
        let (Some(agent), Some(slot)) = (&mut self.agent, self.table.get(index)) else { return true };
        if slot.due.exited
            && let Some(status) = slot.exit
        {
            let (id, exec) = (slot.id.as_str(), slot.is_exec());
            let event = Event::Exited { id, exec, status, finished_at: slot.finished_at, drained: slot.drained() };
            let sent = agent.send(&ToAgent::Event(event), &[]);
            if sent == Sent::Yes
                && let Some(slot) = self.table.get_mut(index)
            {
                slot.due.exited = false;
            }
            return self.after(sent);
        }
        true
    }

    pub(super) fn send(&mut self, message: &ToAgent<'_>, fds: &[BorrowedFd<'_>]) {
        if let Some(agent) = &mut self.agent {
            let sent = agent.send(message, fds);
            self.must(sent);
        }
    }

    /// For what cannot wait: there was room when the request was read, so an agent that has none now is not one.
    fn must(&mut self, sent: Sent) {
        if sent != Sent::Yes {
            self.hang_up();
        }
    }

    /// What follows from it. False: not sent yet.
    fn after(&mut self, sent: Sent) -> bool {
        match sent {
            Sent::Yes => true,
            Sent::Later => {
                self.block();
                false
            }
            Sent::Broken => {
                self.hang_up();
                true
            }
        }
    }

    fn block(&mut self) {
        self.set_blocked(true, EventFlags::OUT);
    }

    fn unblock(&mut self) {
        self.set_blocked(false, EventFlags::IN);
        self.due = true;
    }

    fn set_blocked(&mut self, blocked: bool, interest: EventFlags) {
        let Some(agent) = &mut self.agent else { return };
        agent.blocked = blocked;
        if epoll::modify(&self.epoll, &agent.socket, Token::Agent.pack(), interest).is_err() {
            self.hang_up();
        }
    }
}

const NOT_FOUND: Failure<'static> =
    Failure { kind: FailureKind::NotFound, errno: 0, message: "no container or exec of this pod has this id" };

/// The text of a failure may come from a request, and be as long as one.
fn cut(mut failure: Failure<'_>) -> Failure<'_> {
    let mut end = failure.message.len().min(LONGEST / 2);
    while !failure.message.is_char_boundary(end) {
        end -= 1;
    }
    failure.message = &failure.message[..end];
    failure
}
