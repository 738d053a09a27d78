//! Gzip (any number of members), zstd (any number of frames) or nothing.
//!
//! The first bytes decide, not the media type: registries carry layers with the wrong one, and the diff id tells in the end
//! whether what came out is right.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder as Zstd, InBuffer, Operation, OutBuffer};

use super::error::UnpackError;

/// Bytes that are needed to tell the format.
pub(super) const MAGIC: usize = 6;

/// A format of compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    Gzip,
    Zstd,
}

impl Format {
    /// By the first bytes of a layer, all of them if it has fewer than [`MAGIC`].
    pub(super) fn detect(start: &[u8]) -> Result<Self, UnpackError> {
        Ok(match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(UnpackError::Unsupported("xz")),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => return Err(UnpackError::Unsupported("bzip2")),
            [0x04, 0x22, 0x4d, 0x18, ..] => return Err(UnpackError::Unsupported("lz4")),
            _ => Self::Plain,
        })
    }
}

/// Inflates a stream piece by piece.
pub(super) enum Inflater {
    Gzip(Box<Gzip>),
    Zstd { decoder: Zstd<'static>, in_frame: bool },
}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) read: usize,
    pub(super) written: usize,
}

impl Inflater {
    pub(super) fn gzip() -> Self {
        Self::Gzip(Box::new(Gzip { inflate: Decompress::new_gzip(15), state: State::Member }))
    }

    pub(super) fn zstd() -> Result<Self, UnpackError> {
        let decoder = Zstd::new().map_err(|error| damaged("zstd", &error))?;
        Ok(Self::Zstd { decoder, in_frame: false })
    }

    /// Inflates from `input` to `output`; returns when one of them is used up, or earlier.
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, UnpackError> {
        match self {
            Self::Gzip(gzip) => gzip.step(input, output),
            // Called with nothing after a frame's end, the decoder would begin another one.
            Self::Zstd { in_frame: false, .. } if input.is_empty() => Ok(Step { read: 0, written: 0 }),
            Self::Zstd { decoder, in_frame } => {
                let mut source = InBuffer::around(input);
                let mut target = OutBuffer::around(output);
                let hint = decoder.run(&mut source, &mut target).map_err(|error| damaged("zstd", &error))?;
                // 0 at the end of a frame; the next call begins another one.
                *in_frame = hint != 0;
                Ok(Step { read: source.pos(), written: target.pos() })
            }
        }
    }

    /// Called at the end of the input, when nothing more comes out.
    pub(super) fn finish(&self) -> Result<(), UnpackError> {
        let (kind, complete) = match self {
            Self::Gzip(gzip) => ("gzip", !matches!(gzip.state, State::Member)),
            Self::Zstd { in_frame, .. } => ("zstd", !in_frame),
        };
        if complete { Ok(()) } else { Err(damaged(kind, &"it ends too early")) }
    }
}

pub(super) struct Gzip {
    inflate: Decompress,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Within a member.
    Member,
    /// After one: another may follow.
    Between,
    /// Zeros after the last one, which tapes and some tools leave.
    Padding,
}

impl Gzip {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, UnpackError> {
        match self.state {
            State::Padding => self.padding(input),
            State::Between => match input.first() {
                None => Ok(Step { read: 0, written: 0 }),
                Some(0) => {
                    self.state = State::Padding;
                    self.padding(input)
                }
                Some(_) => {
                    self.inflate = Decompress::new_gzip(15);
                    self.state = State::Member;
                    self.member(input, output)
                }
            },
            State::Member => self.member(input, output),
        }
    }

    fn member(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, UnpackError> {
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status =
            self.inflate.decompress(input, output, FlushDecompress::None).map_err(|error| damaged("gzip", &error))?;
        if status == Status::StreamEnd {
            self.state = State::Between;
        }
        let delta = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        Ok(Step {
            read: delta(self.inflate.total_in(), before_in),
            written: delta(self.inflate.total_out(), before_out),
        })
    }

    fn padding(&self, input: &[u8]) -> Result<Step, UnpackError> {
        if input.iter().any(|byte| *byte != 0) {
            return Err(damaged("gzip", &"something that is not gzip follows its end"));
        }
        Ok(Step { read: input.len(), written: 0 })
    }
}

fn damaged(kind: &'static str, reason: &dyn std::fmt::Display) -> UnpackError {
    UnpackError::Compression { kind, reason: reason.to_string() }
}

#[cfg(test)]
#[path = "inflate_tests.rs"]
mod tests;
