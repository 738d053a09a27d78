//! Makes the server deaf to `:authority`, which means nothing on a Unix socket.
//!
//! Many gRPC clients put the socket's path there. That is no authority (RFC 3986 has no `/` in one), and the HTTP/2
//! library resets such a stream before any of our code sees it. So the bytes are looked at on their way in: the value of
//! each literal `:authority` is overwritten with a host name of the same length. Nothing moves, nothing is buffered, and
//! nothing else is touched.
//!
//! That is safe for the header compression (RFC 7541), whose state both ends must share: a value that was
//! Huffman-coded becomes a plain one of as many bytes, and clients code only what becomes shorter by it. So our side
//! remembers no more bytes than the client does, its table forgets no entry before the client's, and as entries are
//! counted from the newest, each index means the same on both sides. Later requests that refer to the entry get the
//! harmless value.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Bytes that every client begins with (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Bytes before a frame's payload (RFC 9113, 4.1).
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY: u32 = 1;
/// What the value is overwritten with; any letter makes a host name.
const FILLER: u8 = b'x';

/// A connection on which `:authority` is always well formed.
#[derive(Debug)]
pub struct Deaf<S> {
    inner: S,
    frames: Frames,
}

impl<S> Deaf<S> {
    /// A server's side of a new connection.
    pub fn new(inner: S) -> Self {
        Self { inner, frames: Frames::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Deaf<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.inner).poll_read(cx, buf);
        this.frames.pass(&mut buf.filled_mut()[before..]);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Deaf<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for Deaf<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

/// Where in the stream of frames the next byte is.
#[derive(Debug)]
struct Frames {
    part: Part,
    block: Block,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    /// So many bytes that are none of ours, then a frame.
    Skip(usize),
    /// In a frame's header: what is there of it.
    Header { bytes: [u8; FRAME_HEADER], have: usize },
    /// The byte of a HEADERS frame that says how much padding ends it.
    PadLength { payload: usize, priority: bool, last: bool },
    /// The five bytes of a HEADERS frame that say its priority, then its fragment of a header block.
    Priority { left: usize, fragment: usize, padding: usize, last: bool },
    /// In a header block; `last` if the block ends with it.
    Fragment { left: usize, padding: usize, last: bool },
}

impl Default for Frames {
    fn default() -> Self {
        Self { part: Part::Skip(PREFACE), block: Block::default() }
    }
}

const FRAME: Part = Part::Header { bytes: [0; FRAME_HEADER], have: 0 };

impl Frames {
    /// Passes the next bytes of the stream, overwriting what must not be seen.
    fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = self.step(bytes);
            bytes = &mut bytes[taken..];
        }
    }

    /// Handles the beginning of `bytes`, which is not empty; how many it were, at least one.
    fn step(&mut self, bytes: &mut [u8]) -> usize {
        match self.part {
            Part::Skip(left) => {
                let n = left.min(bytes.len());
                self.part = if n == left { FRAME } else { Part::Skip(left - n) };
                n
            }
            Part::Header { bytes: mut header, have } => {
                let n = (FRAME_HEADER - have).min(bytes.len());
                header[have..have + n].copy_from_slice(&bytes[..n]);
                let whole = have + n == FRAME_HEADER;
                self.part = if whole { Self::payload(&header) } else { Part::Header { bytes: header, have: have + n } };
                n
            }
            Part::PadLength { payload, priority, last } => {
                let padding = usize::from(bytes[0]);
                let rest = payload.saturating_sub(1 + padding);
                self.part = Self::after_padding(rest, padding.min(payload - 1), priority, last);
                1
            }
            Part::Priority { left, fragment, padding, last } => {
                let n = left.min(bytes.len());
                self.part = if n == left {
                    Self::fragment(fragment, padding, last)
                } else {
                    Part::Priority { left: left - n, fragment, padding, last }
                };
                n
            }
            Part::Fragment { left, padding, last } => {
                let n = left.min(bytes.len());
                self.block.pass(&mut bytes[..n]);
                if n == left && last {
                    self.block = Block::default();
                }
                self.part = Self::fragment(left - n, padding, last);
                n
            }
        }
    }

    /// What follows a frame's header.
    fn payload(header: &[u8; FRAME_HEADER]) -> Part {
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let (kind, flags) = (header[3], header[4]);
        let last = flags & END_HEADERS != 0;
        let priority = flags & PRIORITY != 0;
        match kind {
            HEADERS if length > 0 && flags & PADDED != 0 => Part::PadLength { payload: length, priority, last },
            HEADERS => Self::after_padding(length, 0, priority, last),
            CONTINUATION => Self::fragment(length, 0, last),
            _ => Self::skip(length),
        }
    }

    fn after_padding(rest: usize, padding: usize, priority: bool, last: bool) -> Part {
        match priority {
            true if rest >= 5 => Part::Priority { left: 5, fragment: rest - 5, padding, last },
            _ => Self::fragment(rest, padding, last),
        }
    }

    fn fragment(left: usize, padding: usize, last: bool) -> Part {
        if left == 0 { Self::skip(padding) } else { Part::Fragment { left, padding, last } }
    }

    fn skip(left: usize) -> Part {
        if left == 0 { FRAME } else { Part::Skip(left) }
    }
}

/// Where in a header block the next byte is. Only lengths are read; what the client compressed stays so.
#[derive(Clone, Copy, Debug, Default)]
enum Block {
    /// At the beginning of a field.
    #[default]
    Field,
    /// In the continuation of an integer.
    Integer { value: u32, shift: u32, then: Then },
    /// At the length of a string.
    Length(Text),
    /// In a string.
    Text { left: u32, text: Text },
}

/// What an integer is for.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// An index or a table's size, and nothing after it.
    Field,
    /// The index of a literal's name.
    Name,
    /// A string's length.
    Text(Text),
}

#[derive(Clone, Copy, Debug)]
enum Text {
    Name,
    Value { overwrite: bool },
}

impl Block {
    fn pass(&mut self, mut bytes: &mut [u8]) {
        while let Some(first) = bytes.first_mut() {
            let mut taken = 1;
            *self = match *self {
                Block::Field => Self::field(*first),
                Block::Integer { value, shift, then } => {
                    // What does not fit is not valid either; the library refuses it.
                    let part = u32::from(*first & 0x7f).checked_shl(shift).unwrap_or(u32::MAX);
                    let value = value.saturating_add(part);
                    if *first & 0x80 != 0 { Block::Integer { value, shift: shift + 7, then } } else { then.with(value) }
                }
                Block::Length(text) => {
                    let prefix = *first & 0x7f;
                    if matches!(text, Text::Value { overwrite: true }) {
                        // No longer Huffman-coded.
                        *first = prefix;
                    }
                    Self::integer(prefix, 0x7f, Then::Text(text))
                }
                Block::Text { left, text } => {
                    taken = bytes.len().min(left as usize);
                    if matches!(text, Text::Value { overwrite: true }) {
                        bytes[..taken].fill(FILLER);
                    }
                    Self::text(left - taken as u32, text)
                }
            };
            bytes = &mut bytes[taken..];
        }
    }

    /// The first byte of a field says its form (RFC 7541, 6).
    fn field(first: u8) -> Self {
        match first {
            0x80.. => Self::integer(first & 0x7f, 0x7f, Then::Field),
            0x40.. => Self::integer(first & 0x3f, 0x3f, Then::Name),
            0x20.. => Self::integer(first & 0x1f, 0x1f, Then::Field),
            _ => Self::integer(first & 0x0f, 0x0f, Then::Name),
        }
    }

    fn integer(prefix: u8, mask: u8, then: Then) -> Self {
        let value = u32::from(prefix);
        if prefix == mask { Block::Integer { value, shift: 0, then } } else { then.with(value) }
    }

    fn text(left: u32, text: Text) -> Self {
        match text {
            _ if left > 0 => Block::Text { left, text },
            // A name that is spelled out is not in the static table, so it is not `:authority`: no client spells that.
            Text::Name => Block::Length(Text::Value { overwrite: false }),
            Text::Value { .. } => Block::Field,
        }
    }
}

impl Then {
    fn with(self, value: u32) -> Block {
        match self {
            Then::Field => Block::Field,
            Then::Name if value == 0 => Block::Length(Text::Name),
            Then::Name => Block::Length(Text::Value { overwrite: value == AUTHORITY }),
            Then::Text(text) => Block::text(value, text),
        }
    }
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
