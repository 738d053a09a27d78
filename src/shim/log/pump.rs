//! From a pipe into the log file.
//!
//! All streams of a pod share one set of buffers, since the shim serves one at a time. Of a line whose end has not come
//! yet, its stream keeps the beginning in a page or more of its own, only as long as it has to.
//!
//! A container never waits for its log: what cannot be written (the disk is full) is dropped, record by whole record.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::SeekFrom;
use rustix::io::{Errno, retry_on_intr};
use rustix::time::{ClockId, clock_gettime};

use super::frame::{LINE_MAX, Rules, Tag, split};
use super::stamp::{self, STAMP};
use crate::shim::sys::Pages;

/// A pipe's content, normally.
const READ: usize = 64 * 1024;
/// Room for what a read becomes, with lines of a few dozen bytes, so that it is one write.
const WRITE: usize = 160 * 1024;
/// More than this is a burst.
const SMALL: usize = 2048;
/// Before the line: time, name, tag, and a space after each.
const PREFIX: usize = STAMP + 10;
const TAG: usize = PREFIX - 2;

/// Which of a container's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shim) enum StreamName {
    Stdout,
    Stderr,
}

/// One output of a container: the reading end, not blocking, and the beginning of a line.
#[derive(Debug)]
pub(in crate::shim) struct Stream {
    fd: OwnedFd,
    name: StreamName,
    terminal: bool,
    carry: Option<Carry>,
}

#[derive(Debug)]
struct Carry {
    pages: Pages,
    length: usize,
}

/// Why a pump stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shim) enum Pumped {
    /// Nothing more is there now.
    Empty,
    /// There may be more; others come first.
    More,
    /// Nothing comes any more.
    End,
}

/// The buffers that all streams share.
#[derive(Debug)]
pub(in crate::shim) struct Buffers {
    /// The beginning of a line, up to [`LINE_MAX`], then what is read.
    input: Pages,
    output: Pages,
    /// When (seconds since 1970) they were last used for much. 0: not since they were given back.
    big_at: i64,
}

impl Stream {
    pub fn new(fd: OwnedFd, name: StreamName, terminal: bool) -> Self {
        Self { fd, name, terminal, carry: None }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Buffers {
    pub fn new() -> io::Result<Self> {
        Ok(Self { input: Pages::new(LINE_MAX + READ)?, output: Pages::new(WRITE)?, big_at: 0 })
    }

    /// Gives the memory back until the next use.
    pub fn trim(&mut self) {
        self.input.trim();
        self.output.trim();
        self.big_at = 0;
    }

    /// A stream that always prints a little would keep what another once needed for a lot.
    fn trim_after_a_burst(&mut self, read: usize) {
        if read <= SMALL && self.big_at == 0 {
            return;
        }
        let now = clock_gettime(ClockId::Realtime).tv_sec;
        if read > SMALL {
            self.big_at = now;
        } else if self.big_at != 0 && now.abs_diff(self.big_at) > 1 {
            self.trim();
        }
    }

    /// Reads at most `reads` times 64 KiB and writes it to the log, or nowhere. With `to_the_end` a short read does not
    /// count as a sign that there is no more.
    pub fn pump(&mut self, stream: &mut Stream, log: Option<BorrowedFd<'_>>, reads: u32, to_the_end: bool) -> Pumped {
        let mut writer = Writer { log, buffer: &mut self.output, used: 0, prefix: [b' '; PREFIX] };
        let mut pending = stream.unpack(&mut self.input[..LINE_MAX]);
        let mut outcome = Pumped::More;
        let mut most = 0;
        for _ in 0..reads {
            let read = retry_on_intr(|| rustix::io::read(&stream.fd, &mut self.input[LINE_MAX..]));
            let n = match read {
                Ok(n) => n,
                Err(Errno::AGAIN) => {
                    outcome = Pumped::Empty;
                    break;
                }
                // EIO: a terminal that no process has open any more.
                Err(_) => 0,
            };
            most = most.max(n);
            if n == 0 {
                outcome = Pumped::End;
            }
            if log.is_some() {
                let (from, to) = (LINE_MAX - pending, LINE_MAX + n);
                let rules = Rules { seen: pending, end: n == 0, terminal: stream.terminal };
                writer.stamp(stream.name);
                let done = split(&self.input[from..to], rules, |tag, line| writer.record(tag, line));
                writer.flush();
                pending = to - from - done;
                self.input.copy_within(from + done..to, LINE_MAX - pending);
            }
            if n == 0 {
                break;
            }
            if n < READ && !to_the_end {
                outcome = Pumped::Empty;
                break;
            }
        }
        if stream.pack(&self.input[LINE_MAX - pending..LINE_MAX]).is_err() {
            // No memory: the line is written in parts then.
            writer.stamp(stream.name);
            writer.record(Tag::Partial, &self.input[LINE_MAX - pending..LINE_MAX]);
            writer.flush();
        }
        self.trim_after_a_burst(most);
        outcome
    }
}

impl Stream {
    /// Puts the beginning of a line at the end of `room`, and says how long it is.
    fn unpack(&self, room: &mut [u8]) -> usize {
        let Some(carry) = &self.carry else { return 0 };
        let at = room.len() - carry.length;
        room[at..].copy_from_slice(&carry.pages[..carry.length]);
        carry.length
    }

    /// Keeps the beginning of a line, at most [`LINE_MAX`] bytes.
    fn pack(&mut self, line: &[u8]) -> io::Result<()> {
        if line.is_empty() {
            self.carry = None;
            return Ok(());
        }
        let mut carry = match self.carry.take() {
            Some(carry) => carry,
            None => Carry { pages: Pages::new(LINE_MAX)?, length: 0 },
        };
        carry.pages[..line.len()].copy_from_slice(line);
        carry.length = line.len();
        self.carry = Some(carry);
        Ok(())
    }
}

/// Collects records, and writes them in one go.
struct Writer<'a> {
    log: Option<BorrowedFd<'a>>,
    buffer: &'a mut [u8],
    used: usize,
    prefix: [u8; PREFIX],
}

impl Writer<'_> {
    /// The records that follow are of now.
    fn stamp(&mut self, name: StreamName) {
        let now = clock_gettime(ClockId::Realtime);
        if let Some(place) = self.prefix.first_chunk_mut() {
            stamp::write(now.tv_sec as u64, now.tv_nsec as u32, place);
        }
        let name = match name {
            StreamName::Stdout => b"stdout",
            StreamName::Stderr => b"stderr",
        };
        self.prefix[STAMP + 1..STAMP + 7].copy_from_slice(name);
    }

    fn record(&mut self, tag: Tag, line: &[u8]) {
        let length = PREFIX + line.len() + 1;
        if self.used + length > self.buffer.len() {
            self.flush();
        }
        self.prefix[TAG] = tag as u8;
        let place = &mut self.buffer[self.used..self.used + length];
        place[..PREFIX].copy_from_slice(&self.prefix);
        place[PREFIX..length - 1].copy_from_slice(line);
        place[length - 1] = b'\n';
        self.used += length;
    }

    fn flush(&mut self) {
        if let Some(log) = self.log {
            write_records(log, &self.buffer[..self.used]);
        }
        self.used = 0;
    }
}

/// Writes all, or as many whole records as there is room for.
fn write_records(log: BorrowedFd<'_>, records: &[u8]) {
    let mut written = 0;
    while written < records.len() {
        match retry_on_intr(|| rustix::io::write(log, &records[written..])) {
            Ok(n) if n > 0 => written += n,
            _ => {
                let whole = records[..written].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
                cut(log, (written - whole) as u64);
                return;
            }
        }
    }
}

/// Takes the last bytes off the file, where the disk has filled up within a record. The file is appended to by this
/// process only, so its position is its end.
fn cut(log: BorrowedFd<'_>, bytes: u64) {
    if bytes > 0
        && let Ok(end) = rustix::fs::seek(log, SeekFrom::Current(0))
    {
        // If that fails, too, a reader sees one line that is cut short.
        let _ = rustix::fs::ftruncate(log, end.saturating_sub(bytes));
    }
}

#[cfg(test)]
mod tests;
