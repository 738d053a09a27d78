//! A connection: its handshake, calls with their answers, signals.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
};

use super::wire::{Kind, MAX, Message};
use super::{Address, DbusError, Result, Value};

/// A method call.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub body: Vec<Value>,
}

/// A connection to a bus, or to a peer without one.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    address: String,
    /// Without a bus between, messages have no destination.
    direct: bool,
    serial: u32,
    received: Vec<u8>,
    signals: VecDeque<Message>,
    patience: Duration,
}

impl Connection {
    /// Connects to a bus and introduces itself. Every wait of this connection ends after `patience`.
    pub fn to_bus(address: &Address, patience: Duration) -> Result<Self> {
        let mut connection = Self::open(address, false, patience)?;
        connection.call(Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            body: Vec::new(),
        })?;
        Ok(connection)
    }

    /// Connects to a peer that speaks the protocol by itself.
    pub fn to_peer(address: &Address, patience: Duration) -> Result<Self> {
        Self::open(address, true, patience)
    }

    fn open(address: &Address, direct: bool, patience: Duration) -> Result<Self> {
        let name = address.to_string();
        let failed = |cause| DbusError::Connect { address: name.clone(), cause };
        let to = match address {
            Address::Path(path) => SocketAddrUnix::new(path.as_path()),
            Address::Abstract(name) => SocketAddrUnix::new_abstract_name(name),
        };
        let to = to.map_err(failed)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
        let deadline = Instant::now() + patience;
        loop {
            match connect(&socket, &to) {
                Ok(()) => break,
                // Its queue is full.
                Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Err(Errno::INTR) => {}
                Err(cause) => return Err(failed(cause)),
            }
        }
        let mut connection =
            Self { socket, address: name, direct, serial: 0, received: Vec::new(), signals: VecDeque::new(), patience };
        connection.authenticate()?;
        Ok(connection)
    }

    /// The kernel tells the other side who we are: no name is claimed, for in a user namespace it would be another.
    fn authenticate(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        self.send_all(b"\0AUTH EXTERNAL\r\nDATA\r\n", deadline, "the greeting")?;
        loop {
            let line = self.line(deadline)?;
            if line.starts_with("OK") {
                return self.send_all(b"BEGIN\r\n", deadline, "the greeting");
            }
            if !line.starts_with("DATA") {
                return Err(DbusError::Refused { address: self.address.clone(), answer: line });
            }
        }
    }

    /// A line of the greeting.
    fn line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            if let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.received.len() > 4096 {
                return Err(self.garbled("a greeting that is too long"));
            }
            self.receive(deadline, "the greeting")?;
        }
    }

    /// Calls a method and waits for its answer. Signals that come meanwhile are kept.
    pub fn call(&mut self, call: Call<'_>) -> Result<Vec<Value>> {
        let deadline = Instant::now() + self.patience;
        self.serial += 1;
        let mut message = Message::new(Kind::Call, self.serial);
        if !self.direct {
            message.destination = call.destination.to_owned();
        }
        message.path = call.path.to_owned();
        message.interface = call.interface.to_owned();
        message.member = call.member.to_owned();
        message.body = call.body;
        let serial = message.serial;
        self.send_all(&message.encode(), deadline, call.member)?;
        loop {
            let answer = self.next_message(deadline, call.member)?;
            match answer.kind {
                Kind::Return if answer.reply_to == Some(serial) => return Ok(answer.body),
                Kind::Error if answer.reply_to == Some(serial) => {
                    let message = answer.body.first().and_then(Value::as_str).unwrap_or("no reason given").to_owned();
                    return Err(DbusError::Answer { member: call.member.to_owned(), name: answer.error, message });
                }
                Kind::Signal => self.signals.push_back(answer),
                _ => {} // calls of us, and answers to what is no longer waited for
            }
        }
    }

    /// The next signal, of those kept at first; an error once `deadline` has passed.
    pub fn signal(&mut self, deadline: Instant, what: &str) -> Result<Message> {
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(signal);
            }
            let message = self.next_message(deadline, what)?;
            if message.kind == Kind::Signal {
                return Ok(message);
            }
        }
    }

    fn next_message(&mut self, deadline: Instant, what: &str) -> Result<Message> {
        loop {
            match Message::decode(&self.received) {
                Ok(Some((message, len))) => {
                    self.received.drain(..len);
                    return Ok(message);
                }
                Ok(None) if self.received.len() > 3 * MAX => return Err(self.garbled("a message that is too long")),
                Ok(None) => self.receive(deadline, what)?,
                Err(what) => return Err(self.garbled(what)),
            }
        }
    }

    fn receive(&mut self, deadline: Instant, what: &str) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => return Err(self.broken(Errno::CONNRESET)),
                Ok((len, _)) => {
                    self.received.extend(&buffer[..len]);
                    return Ok(());
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline, what)?,
                Err(Errno::INTR) => {}
                Err(cause) => return Err(self.broken(cause)),
            }
        }
    }

    fn send_all(&self, mut bytes: &[u8], deadline: Instant, what: &str) -> Result<()> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(len) => bytes = &bytes[len..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline, what)?,
                Err(Errno::INTR) => {}
                Err(cause) => return Err(self.broken(cause)),
            }
        }
        Ok(())
    }

    fn wait(&self, for_what: PollFlags, deadline: Instant, what: &str) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let (what, address, waited) = (what.to_owned(), self.address.clone(), self.patience);
            return Err(DbusError::Silent { what, address, waited });
        }
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.socket, for_what)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(cause) => Err(self.broken(cause)),
        }
    }

    fn broken(&self, cause: Errno) -> DbusError {
        DbusError::Broken { address: self.address.clone(), cause }
    }

    fn garbled(&self, what: &'static str) -> DbusError {
        DbusError::Garbled { address: self.address.clone(), what }
    }
}
