//! The threads of one layer.
//!
//! ```text
//! Job::push ──Bytes──> inflate ──buffers──> hash both, read tar, write files
//!                         <──── emptied ────
//! ```
//!
//! Blobs that are not compressed skip the first thread's work but not the thread: it also forwards. Compressed chunks travel
//! on with what was inflated from them and are hashed by the second thread, which has time left. Nothing is copied but into
//! the page cache.

use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::apply::{Applied, apply};
use super::error::UnpackError;
use super::inflate::{Format, Inflater, MAGIC};
use super::reader::TarReader;
use super::sys::Buffer;
use super::{Expected, Limits};
use crate::image::digest::Hasher;

/// Bytes of a buffer between the threads: large enough that handing it over costs nothing, small enough for a cache.
const BUFFER: usize = 256 << 10;
/// Buffers of a layer.
const BUFFERS: usize = 16;
/// Chunks of the network that wait to be inflated.
const QUEUE: usize = 32;

/// A layer that was unpacked and verified. Its content is not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    pub applied: Applied,
    /// Bytes of the tar.
    pub tar_size: u64,
}

enum Input {
    Data(Bytes),
    End,
}

/// A layer being unpacked. Dropping it stops the work.
#[derive(Debug)]
pub struct Job<G> {
    input: mpsc::Sender<Input>,
    done: oneshot::Receiver<Result<(Unpacked, G), UnpackError>>,
    expected: u64,
    pushed: u64,
}

/// Starts to unpack into an empty directory. `guard` is what owns that; it comes back with the result, and is dropped after
/// the last write if there is none.
pub fn start<G: Send + 'static>(dir: OwnedFd, expected: Expected, limits: Limits, guard: G) -> io::Result<Job<G>> {
    let (input, from_network) = mpsc::channel(QUEUE);
    let (to_untar, pieces) = sync_channel(BUFFERS);
    let (recycle, emptied) = sync_channel(BUFFERS);
    let (result, done) = oneshot::channel();
    let size = expected.size;
    let inflate_limits = limits.clone();
    thread::Builder::new().name("layer-inflate".into()).spawn(move || {
        let mut stage =
            Inflate { input: from_network, output: to_untar, emptied, buffers: BUFFERS, limits: inflate_limits };
        if let Err(error) = stage.run() {
            // If the other side is gone, it has said why.
            stage.output.send(Piece::Failed(error)).ok();
        }
    })?;
    thread::Builder::new().name("layer-untar".into()).spawn(move || {
        let outcome = untar(Pipe::new(pieces, recycle, &expected), dir, &expected, &limits);
        // A cancelled job has no receiver; the guard goes with the value.
        result.send(outcome.map(|unpacked| (unpacked, guard))).ok();
    })?;
    Ok(Job { input, done, expected: size, pushed: 0 })
}

impl<G> Job<G> {
    /// Hands on a chunk of the blob. Waits while there is much to do.
    pub async fn push(&mut self, chunk: Bytes) -> Result<(), UnpackError> {
        self.pushed += chunk.len() as u64;
        if self.pushed > self.expected {
            return Err(UnpackError::Size { expected: self.expected, found: self.pushed });
        }
        if self.input.send(Input::Data(chunk)).await.is_ok() {
            return Ok(());
        }
        match (&mut self.done).await {
            Ok(Err(error)) => Err(error),
            _ => Err(UnpackError::Cancelled),
        }
    }

    /// Waits for the verified layer, after its last chunk.
    pub async fn finish(self) -> Result<(Unpacked, G), UnpackError> {
        let Self { input, done, expected, pushed } = self;
        if pushed != expected {
            return Err(UnpackError::Size { expected, found: pushed });
        }
        input.send(Input::End).await.ok();
        done.await.unwrap_or(Err(UnpackError::Cancelled))
    }
}

/// From the first thread to the second.
enum Piece {
    /// Inflated bytes, `buffer[..len]`, and the compressed chunks that were used up for them.
    Inflated {
        buffer: Buffer,
        len: usize,
        used: Vec<Bytes>,
    },
    /// Bytes that are the tar as they are.
    Plain(Bytes),
    End,
    Failed(UnpackError),
}

struct Inflate {
    input: mpsc::Receiver<Input>,
    output: SyncSender<Piece>,
    emptied: Receiver<Buffer>,
    /// Buffers that may still be made.
    buffers: usize,
    limits: Limits,
}

impl Inflate {
    fn run(&mut self) -> Result<(), UnpackError> {
        // The format is told by the first bytes, which could come one by one.
        let mut first: Vec<Bytes> = Vec::new();
        let mut start = Vec::with_capacity(MAGIC);
        let mut ended = false;
        while start.len() < MAGIC && !ended {
            match self.next()? {
                Some(chunk) => {
                    start.extend_from_slice(&chunk[..chunk.len().min(MAGIC - start.len())]);
                    first.push(chunk);
                }
                None => ended = true,
            }
        }
        match Format::detect(&start)? {
            Format::Plain => self.forward(first, ended),
            Format::Gzip => self.inflate(Inflater::gzip(), first, ended),
            Format::Zstd => self.inflate(Inflater::zstd()?, first, ended),
        }
    }

    fn forward(&mut self, first: Vec<Bytes>, ended: bool) -> Result<(), UnpackError> {
        let mut total = 0;
        for chunk in first {
            total += chunk.len() as u64;
            self.send(Piece::Plain(chunk))?;
        }
        if ended {
            return self.send(Piece::End);
        }
        while let Some(chunk) = self.next()? {
            total += chunk.len() as u64;
            self.limits.check_inflated(total, total)?;
            self.send(Piece::Plain(chunk))?;
        }
        self.send(Piece::End)
    }

    fn inflate(&mut self, mut inflater: Inflater, first: Vec<Bytes>, mut ended: bool) -> Result<(), UnpackError> {
        let mut waiting = first.into_iter();
        let mut chunk = Bytes::new();
        let mut at = 0;
        let mut used = Vec::new();
        let (mut read, mut written) = (0_u64, 0_u64);
        let (mut buffer, mut len) = (self.buffer()?, 0);
        loop {
            if at == chunk.len() && !ended {
                if !chunk.is_empty() {
                    used.push(std::mem::take(&mut chunk));
                }
                at = 0;
                match waiting.next() {
                    Some(next) => chunk = next,
                    None => match self.next()? {
                        Some(next) => chunk = next,
                        None => ended = true,
                    },
                }
                if chunk.is_empty() && !ended {
                    continue;
                }
            }
            let step = inflater.step(&chunk[at..], &mut buffer[len..])?;
            at += step.read;
            len += step.written;
            read += step.read as u64;
            written += step.written as u64;
            if len == buffer.len() {
                self.limits.check_inflated(read, written)?;
                self.send(Piece::Inflated { buffer, len, used: std::mem::take(&mut used) })?;
                (buffer, len) = (self.buffer()?, 0);
            } else if ended && step.read == 0 && step.written == 0 {
                break;
            } else if step.read == 0 && step.written == 0 && at < chunk.len() {
                return Err(UnpackError::Compression { kind: "compressed", reason: "it cannot be read on".into() });
            }
        }
        inflater.finish()?;
        self.limits.check_inflated(read, written)?;
        if !chunk.is_empty() {
            used.push(chunk);
        }
        self.send(Piece::Inflated { buffer, len, used })?;
        self.send(Piece::End)
    }

    /// The next chunk, or nothing at the blob's end.
    fn next(&mut self) -> Result<Option<Bytes>, UnpackError> {
        match self.input.blocking_recv() {
            Some(Input::Data(chunk)) => Ok(Some(chunk)),
            Some(Input::End) => Ok(None),
            None => Err(UnpackError::Cancelled),
        }
    }

    fn buffer(&mut self) -> Result<Buffer, UnpackError> {
        if let Ok(buffer) = self.emptied.try_recv() {
            return Ok(buffer);
        }
        if self.buffers > 0 {
            self.buffers -= 1;
            return Buffer::new(BUFFER).map_err(|error| UnpackError::io("get memory for a buffer", error));
        }
        self.emptied.recv().map_err(|_| UnpackError::Cancelled)
    }

    fn send(&self, piece: Piece) -> Result<(), UnpackError> {
        self.output.send(piece).map_err(|_| UnpackError::Cancelled)
    }
}

/// The second thread: everything after inflating.
fn untar(mut pipe: Pipe, dir: OwnedFd, expected: &Expected, limits: &Limits) -> Result<Unpacked, UnpackError> {
    // Files get exactly the modes of the layer: a umask of this thread alone.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)
        .map_err(|error| UnpackError::io("unshare the file mode mask", error))?;
    rustix::process::umask(rustix::fs::Mode::empty());
    limits.check_free(std::os::fd::AsFd::as_fd(&dir))?;
    let mut reader = TarReader::new(pipe);
    let applied = apply(&mut reader, dir, limits)?;
    // What follows the archive's end belongs to the blob too.
    pipe = reader.into_inner();
    loop {
        let len = pipe.fill_buf()?.len();
        if len == 0 {
            break;
        }
        pipe.consume(len);
    }
    let tar_size = pipe.verify(expected)?;
    Ok(Unpacked { applied, tar_size })
}

/// The pieces as one stream, hashed on the way.
struct Pipe {
    pieces: Receiver<Piece>,
    recycle: SyncSender<Buffer>,
    current: Option<Piece>,
    at: usize,
    ended: bool,
    blob: Hasher,
    /// None where the blob is the tar and one hash serves for both.
    tar: Option<Hasher>,
    /// Whether blob and tar are said to be the same bytes.
    same: bool,
    tar_size: u64,
}

impl Pipe {
    fn new(pieces: Receiver<Piece>, recycle: SyncSender<Buffer>, expected: &Expected) -> Self {
        Self {
            pieces,
            recycle,
            current: None,
            at: 0,
            ended: false,
            blob: expected.digest.algorithm().hasher(),
            tar: Some(expected.diff_id.algorithm().hasher()),
            same: expected.digest == expected.diff_id,
            tar_size: 0,
        }
    }

    /// Compares both digests, at the end. Returns the bytes of the tar.
    fn verify(self, expected: &Expected) -> Result<u64, UnpackError> {
        let blob = self.blob.finish();
        if blob != expected.digest {
            return Err(UnpackError::Digest { what: "the blob", expected: expected.digest.clone(), found: blob });
        }
        if let Some(tar) = self.tar {
            let tar = tar.finish();
            if tar != expected.diff_id {
                let what = "the uncompressed layer";
                return Err(UnpackError::Digest { what, expected: expected.diff_id.clone(), found: tar });
            }
        }
        Ok(self.tar_size)
    }

    fn unread_piece(&self) -> &[u8] {
        match &self.current {
            Some(Piece::Inflated { buffer, len, .. }) => &buffer[..*len],
            Some(Piece::Plain(chunk)) => chunk,
            _ => &[],
        }
    }

    /// Takes the next piece. False at the end.
    fn advance(&mut self) -> io::Result<bool> {
        if let Some(Piece::Inflated { buffer, .. }) = self.current.take() {
            // The first thread may have ended already.
            self.recycle.try_send(buffer).ok();
        }
        self.at = 0;
        match self.pieces.recv() {
            Ok(Piece::End) => {
                self.ended = true;
                return Ok(false);
            }
            Ok(Piece::Failed(error)) => {
                self.ended = true;
                return Err(error.into());
            }
            Ok(piece) => self.current = Some(piece),
            Err(_) => return Err(UnpackError::Cancelled.into()),
        }
        let bytes = match &self.current {
            Some(Piece::Inflated { buffer, len, used }) => {
                used.iter().for_each(|chunk| self.blob.update(chunk));
                &buffer[..*len]
            }
            Some(Piece::Plain(chunk)) => {
                self.blob.update(chunk);
                if self.same {
                    self.tar = None;
                }
                chunk
            }
            _ => &[][..],
        };
        if let Some(tar) = &mut self.tar {
            tar.update(bytes);
        }
        self.tar_size += bytes.len() as u64;
        Ok(true)
    }
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at >= self.unread_piece().len() && !self.ended {
            self.advance()?;
        }
        Ok(&self.unread_piece()[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let len = bytes.len().min(into.len());
        into[..len].copy_from_slice(&bytes[..len]);
        self.consume(len);
        Ok(len)
    }
}
