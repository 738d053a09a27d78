//! A tar stream, entry by entry, with no copy of its data.
//!
//! The next entry's header merges what came before it: PAX records go before GNU's long names, these before the header.
//! Global PAX headers are skipped, as containerd and Docker do. Data of types that have none is not skipped, whatever their
//! size field says; so does Go, and who disagrees on where the next header is can be shown another archive.

use std::io::BufRead;

use super::error::{TarError, UnpackError};
use super::header::{BLOCK, Flag, Header};
use super::pax::{Extra, decimal};
use super::sparse::{Map, Segment, Sparse};

/// Bytes of one PAX header or long name that are accepted.
const MAX_META: u64 = 1 << 20;
/// Parts of one sparse file that are accepted.
const MAX_SEGMENTS: usize = 1 << 16;

/// One thing that a layer makes. Paths are as in the archive, not yet looked at.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permissions with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// The data follows, see [`TarReader::data`].
    File {
        sparse: Option<Sparse>,
    },
    Directory,
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Reads the entries of a tar stream.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: R,
    /// Bytes read so far.
    offset: u64,
    /// Bytes of the current entry's data that are still to be read, and of the padding after them.
    remaining: u64,
    padding: u64,
    done: bool,
}

impl<R: BufRead> TarReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, offset: 0, remaining: 0, padding: 0, done: false }
    }

    /// The stream, which may have bytes left after the archive's end.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; what is left of the last one's data is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extra = Extra::default();
        let mut long = (None, None);
        loop {
            self.skip_rest()?;
            let offset = self.offset;
            let Some(block) = self.block()? else { return Ok(None) };
            let header = Header::parse(&block, offset)?;
            let (flag, old) = header.flag(offset)?;
            match flag {
                Flag::PaxLocal => {
                    let data = self.meta(header.size(offset)?)?;
                    extra.parse(&data, offset)?;
                }
                Flag::PaxGlobal => {
                    self.meta(header.size(offset)?)?;
                }
                Flag::GnuLongName => long.0 = Some(self.long(header.size(offset)?)?),
                Flag::GnuLongLink => long.1 = Some(self.long(header.size(offset)?)?),
                _ => return self.entry(&header, offset, (flag, old), extra, long).map(Some),
            }
        }
    }

    /// The next bytes of the current entry's data; empty at its end.
    pub(crate) fn data(&mut self) -> Result<&[u8], UnpackError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let buffer = self.input.fill_buf()?;
        if buffer.is_empty() {
            return Err(TarError::Truncated { offset: self.offset }.into());
        }
        let len = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        Ok(&buffer[..len])
    }

    /// Takes `len` bytes of what [`Self::data`] returned.
    pub(crate) fn advance(&mut self, len: usize) {
        debug_assert!(len as u64 <= self.remaining, "no more than data() returned");
        self.consume(len);
        self.remaining -= len as u64;
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        offset: u64,
        (flag, old): (Flag, bool),
        extra: Extra,
        long: (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> Result<Entry, UnpackError> {
        let bad = |reason| TarError::Header { offset, reason };
        let size = match extra.size {
            Some(size) => size,
            None => header.size(offset)?,
        };
        let mut path = Vec::new();
        match (extra.path, long.0) {
            (Some(pax), _) => path = pax,
            (None, Some(gnu)) => path = gnu,
            (None, None) => header.path(&mut path),
        }
        let link = || extra.link.clone().or(long.1.clone()).unwrap_or_else(|| header.link().to_vec());
        let flag = if old && path.ends_with(b"/") { Flag::Directory } else { flag };
        self.expect(if flag.has_no_data() { 0 } else { size });
        let device = || -> Result<(u32, u32), UnpackError> {
            let (major, minor) = header.device(offset)?;
            let part = |number: i64| u32::try_from(number).map_err(|_| bad("the device number is out of range"));
            Ok((part(major)?, part(minor)?))
        };
        let kind = match flag {
            Flag::Directory => Kind::Directory,
            Flag::HardLink => Kind::HardLink(link()),
            Flag::Symlink => Kind::Symlink(link()),
            Flag::CharDevice => device().map(|(major, minor)| Kind::CharDevice(major, minor))?,
            Flag::BlockDevice => device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            Flag::Fifo => Kind::Fifo,
            Flag::GnuSparse => {
                let sparse = self.gnu_sparse(header, offset, size)?;
                Kind::File { sparse: Some(sparse) }
            }
            _ if extra.sparse.seen => {
                let (sparse, name) = self.pax_sparse(extra.sparse, offset)?;
                if let Some(name) = name {
                    path = name;
                }
                Kind::File { sparse: Some(sparse) }
            }
            _ => Kind::File { sparse: None },
        };
        let id = |pax: Option<i64>, own: Result<i64, TarError>, reason| -> Result<u32, UnpackError> {
            let id = pax.map_or(own, Ok)?;
            // The highest value means "leave it as it is" to chown(2).
            u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| bad(reason).into())
        };
        Ok(Entry {
            path,
            kind,
            mode: u32::try_from(header.mode(offset)? & 0o7777).map_err(|_| bad("the mode is no number"))?,
            uid: id(extra.uid, header.uid(offset), "the owner is out of range")?,
            gid: id(extra.gid, header.gid(offset), "the group is out of range")?,
            mtime: match extra.mtime {
                Some(mtime) => mtime,
                None => (header.mtime(offset)?, 0),
            },
            xattrs: extra.xattrs,
        })
    }

    /// The map of GNU's own sparse format: four entries in the header, 21 in each block that follows.
    fn gnu_sparse(&mut self, header: &Header<'_>, offset: u64, size: u64) -> Result<Sparse, UnpackError> {
        let bad = |reason| TarError::Sparse { offset, reason };
        let (entries, mut more, real_size) = header.gnu_sparse(offset)?;
        let mut map = Map::new();
        let mut ended = gnu_segments(entries, &mut map).ok_or_else(|| bad("an entry is no number"))?;
        // The blocks of the map are not part of the data's size.
        while more {
            let mut block = [0; BLOCK];
            self.exact(&mut block)?;
            more = block[504] != 0;
            if !ended {
                ended = gnu_segments(&block[..504], &mut map).ok_or_else(|| bad("an entry is no number"))?;
            }
            if map.len() > MAX_SEGMENTS {
                return Err(bad("it has too many parts").into());
            }
        }
        Sparse::new(map, real_size, size).map_err(|reason| bad(reason).into())
    }

    /// The map of a PAX sparse file: from records (0.x), or decimal lines before the data (1.0). Also its real name.
    fn pax_sparse(
        &mut self,
        pax: super::pax::PaxSparse,
        offset: u64,
    ) -> Result<(Sparse, Option<Vec<u8>>), UnpackError> {
        let bad = |reason| TarError::Sparse { offset, reason };
        let real_size = pax.real_size.ok_or_else(|| bad("its real size is missing"))?;
        let map = match (pax.major.unwrap_or(0), pax.minor.unwrap_or(0)) {
            (0, _) => pax.map,
            (1, 0) => self.map_in_data(offset)?,
            _ => return Err(bad("its version is not known").into()),
        };
        if map.len() > MAX_SEGMENTS {
            return Err(bad("it has too many parts").into());
        }
        let sparse = Sparse::new(map, real_size, self.remaining).map_err(bad)?;
        Ok((sparse, pax.name))
    }

    fn map_in_data(&mut self, offset: u64) -> Result<Map, UnpackError> {
        let bad = |reason| UnpackError::from(TarError::Sparse { offset, reason });
        let mut block = [0; BLOCK];
        let mut at = BLOCK;
        let mut number = || -> Result<u64, UnpackError> {
            let mut digits = Vec::new();
            loop {
                if at == BLOCK {
                    self.remaining = self
                        .remaining
                        .checked_sub(BLOCK as u64)
                        .ok_or_else(|| bad("the map is longer than the data"))?;
                    self.exact(&mut block)?;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                if byte == b'\n' {
                    return decimal(&digits).ok_or_else(|| bad("the map has a line that is no number"));
                }
                if digits.len() > 20 {
                    return Err(bad("the map has a line that is no number"));
                }
                digits.push(byte);
            }
        };
        let count = usize::try_from(number()?).ok().filter(|count| *count <= MAX_SEGMENTS);
        let count = count.ok_or_else(|| bad("it has too many parts"))?;
        let mut map = Map::new();
        for _ in 0..count {
            map.push(Segment { offset: number()?, len: number()? });
        }
        Ok(map)
    }

    /// The next header block, or nothing at the archive's end: two blocks of zeros, or the stream's end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        if self.done || !self.exact_or_end(&mut block)? {
            self.done = true;
            return Ok(None);
        }
        if block.iter().any(|byte| *byte != 0) {
            return Ok(Some(block));
        }
        let offset = self.offset;
        self.done = true;
        if self.exact_or_end(&mut block)? && block.iter().any(|byte| *byte != 0) {
            return Err(TarError::Header { offset, reason: "a lone block of zeros comes before it" }.into());
        }
        Ok(None)
    }

    fn meta(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > MAX_META {
            return Err(TarError::MetaSize { offset: self.offset, size, limit: MAX_META }.into());
        }
        self.expect(size);
        let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        loop {
            let chunk = self.data()?;
            let len = chunk.len();
            if len == 0 {
                return Ok(data);
            }
            data.extend_from_slice(chunk);
            self.advance(len);
        }
    }

    /// A GNU long name ends at its first NUL.
    fn long(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let mut name = self.meta(size)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn expect(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_rest(&mut self) -> Result<(), UnpackError> {
        // Both parts one after the other: their sum could overflow.
        for mut left in [std::mem::take(&mut self.remaining), std::mem::take(&mut self.padding)] {
            while left > 0 {
                let buffer = self.input.fill_buf()?.len();
                if buffer == 0 {
                    return Err(TarError::Truncated { offset: self.offset }.into());
                }
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(buffer);
                self.consume(len);
                left -= len as u64;
            }
        }
        Ok(())
    }

    fn exact(&mut self, into: &mut [u8]) -> Result<(), UnpackError> {
        if self.exact_or_end(into)? { Ok(()) } else { Err(TarError::Truncated { offset: self.offset }.into()) }
    }

    /// False if the stream ends before the first byte.
    fn exact_or_end(&mut self, into: &mut [u8]) -> Result<bool, UnpackError> {
        let mut filled = 0;
        while filled < into.len() {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                if filled == 0 {
                    return Ok(false);
                }
                return Err(TarError::Truncated { offset: self.offset }.into());
            }
            let len = buffer.len().min(into.len() - filled);
            into[filled..filled + len].copy_from_slice(&buffer[..len]);
            self.consume(len);
            filled += len;
        }
        Ok(true)
    }

    fn consume(&mut self, len: usize) {
        self.input.consume(len);
        self.offset += len as u64;
    }
}

/// Adds pairs of 12-byte numbers to a map. True when a blank one ended it.
fn gnu_segments(mut entries: &[u8], map: &mut Map) -> Option<bool> {
    while let Some((entry, rest)) = entries.split_at_checked(24) {
        entries = rest;
        if entry.iter().all(|byte| *byte == 0) {
            return Some(true);
        }
        let part = |range| super::header::number(&entry[range]).and_then(|number| u64::try_from(number).ok());
        map.push(Segment { offset: part(0..12)?, len: part(12..24)? });
    }
    Some(false)
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
