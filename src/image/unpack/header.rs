//! One 512-byte tar header: V7, ustar, star and GNU.
//!
//! The reading of sloppy fields follows Go's `archive/tar`, for that is what layers are made and checked with. Where it
//! guesses (numbers with stray bytes, wrong checksums) this refuses.

use super::error::TarError;

/// Bytes of a header, and what data is padded to.
pub(crate) const BLOCK: usize = 512;

/// What an entry is, by its type flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    /// `0`, `7` or the NUL of old archives.
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// GNU's `S`: the map of the data is in this header and blocks after it.
    GnuSparse,
    /// `x`: PAX records for the next entry.
    PaxLocal,
    /// `g`: PAX records for all that follows. Ignored, as containerd and Docker do.
    PaxGlobal,
    /// `L`
    GnuLongName,
    /// `K`
    GnuLongLink,
}

impl Flag {
    /// Types whose size field counts for nothing.
    pub(crate) fn has_no_data(self) -> bool {
        matches!(
            self,
            Self::HardLink | Self::Symlink | Self::CharDevice | Self::BlockDevice | Self::Directory | Self::Fifo
        )
    }
}

/// Which fields follow the common ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header block whose checksum was right.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    block: &'a [u8; BLOCK],
    format: Format,
}

impl<'a> Header<'a> {
    /// Checks the sum. `offset` is that of the block, for errors.
    pub(crate) fn parse(block: &'a [u8; BLOCK], offset: u64) -> Result<Self, TarError> {
        let bad = |reason| TarError::Header { offset, reason };
        let sum = number(&block[148..156]).ok_or_else(|| bad("the checksum field is no number"))?;
        let rest = || block[..148].iter().chain(&block[156..]);
        let unsigned: i64 = rest().map(|byte| i64::from(*byte)).sum::<i64>() + 8 * 32;
        // Some old writers added the bytes as signed ones.
        let signed: i64 = rest().map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + 8 * 32;
        if sum != unsigned && sum != signed {
            return Err(bad("the checksum is wrong"));
        }
        let format = match (&block[257..263], &block[263..265]) {
            (b"ustar\0", _) if &block[508..512] == b"tar\0" => Format::Star,
            (b"ustar\0", _) => Format::Ustar,
            (b"ustar ", b" \0") => Format::Gnu,
            _ => Format::V7,
        };
        Ok(Self { block, format })
    }

    /// The type, and whether the flag is the NUL of old archives (a name with a slash at the end is a directory then).
    pub(crate) fn flag(&self, offset: u64) -> Result<(Flag, bool), TarError> {
        let flag = match self.block[156] {
            0 => return Ok((Flag::Regular, true)),
            b'0' | b'7' => Flag::Regular,
            b'1' => Flag::HardLink,
            b'2' => Flag::Symlink,
            b'3' => Flag::CharDevice,
            b'4' => Flag::BlockDevice,
            b'5' => Flag::Directory,
            b'6' => Flag::Fifo,
            b'S' => Flag::GnuSparse,
            b'x' => Flag::PaxLocal,
            b'g' => Flag::PaxGlobal,
            b'L' => Flag::GnuLongName,
            b'K' => Flag::GnuLongLink,
            other => return Err(TarError::Type { offset, flag: other }),
        };
        Ok((flag, false))
    }

    /// The path of the header itself, with the prefix that its format has.
    pub(crate) fn path(&self, into: &mut Vec<u8>) {
        into.clear();
        let prefix = match self.format {
            Format::Ustar => text(&self.block[345..500]),
            Format::Star => text(&self.block[345..476]),
            Format::V7 | Format::Gnu => b"",
        };
        if !prefix.is_empty() {
            into.extend_from_slice(prefix);
            into.push(b'/');
        }
        into.extend_from_slice(text(&self.block[..100]));
    }

    pub(crate) fn link(&self) -> &'a [u8] {
        text(&self.block[157..257])
    }

    pub(crate) fn mode(&self, offset: u64) -> Result<i64, TarError> {
        self.field(100..108, offset, "the mode is no number")
    }

    pub(crate) fn uid(&self, offset: u64) -> Result<i64, TarError> {
        self.field(108..116, offset, "the owner is no number")
    }

    pub(crate) fn gid(&self, offset: u64) -> Result<i64, TarError> {
        self.field(116..124, offset, "the group is no number")
    }

    /// Bytes of data. Never negative.
    pub(crate) fn size(&self, offset: u64) -> Result<u64, TarError> {
        let size = self.field(124..136, offset, "the size is no number")?;
        u64::try_from(size).map_err(|_| TarError::Header { offset, reason: "the size is negative" })
    }

    pub(crate) fn mtime(&self, offset: u64) -> Result<i64, TarError> {
        self.field(136..148, offset, "the time is no number")
    }

    /// Major and minor of a device.
    pub(crate) fn device(&self, offset: u64) -> Result<(i64, i64), TarError> {
        if self.format == Format::V7 {
            return Ok((0, 0));
        }
        let major = self.field(329..337, offset, "the device number is no number")?;
        Ok((major, self.field(337..345, offset, "the device number is no number")?))
    }

    /// GNU sparse: the entries in the header, whether blocks of more follow, and the file's real size.
    pub(crate) fn gnu_sparse(&self, offset: u64) -> Result<(&'a [u8], bool, u64), TarError> {
        if self.format != Format::Gnu {
            return Err(TarError::Header { offset, reason: "a sparse file needs the GNU format" });
        }
        let real = self.field(483..495, offset, "the real size is no number")?;
        let real = u64::try_from(real).map_err(|_| TarError::Header { offset, reason: "the real size is negative" })?;
        Ok((&self.block[386..482], self.block[482] != 0, real))
    }

    fn field(&self, range: std::ops::Range<usize>, offset: u64, reason: &'static str) -> Result<i64, TarError> {
        number(&self.block[range]).ok_or(TarError::Header { offset, reason })
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    match field.iter().position(|byte| *byte == 0) {
        Some(end) => &field[..end],
        None => field,
    }
}

/// Octal digits between spaces and NULs, or base 256 where the first bit is set. A blank field is 0.
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| matches!(byte, 0 | b' ');
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    if !digits[end..].iter().all(blank) {
        // Go cuts at the NUL; what is behind one is of no account. A space within is an error.
        let rest = &digits[end..];
        let nul = rest.iter().position(|byte| *byte == 0)?;
        if !rest[..nul].iter().all(blank) {
            return None;
        }
    }
    digits[..end].iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Two's complement, big end first; the first bit of the first byte is the mark, the second is the sign.
fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let invert = if negative { 0xff } else { 0 };
    let mut value: u64 = 0;
    for (at, byte) in field.iter().enumerate() {
        let byte = (byte ^ invert) & if at == 0 { 0x7f } else { 0xff };
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok()?;
    Some(if negative { !value } else { value })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn reads_numbers_as_writers_write_them() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"644 \0\0\0\0", 0o644),
            (b"   644 \0", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"77777777777 ", 0o77777777777),
            (b"77777777", 0o77777777),
            (b"12\0garb", 0o12),
            (b"\x80\0\0\0\0\0\0\x01\0\0\0\0", 1 << 32),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", -1),
            (b"\xff\xff\xff\xff\xff\xff\xff\x00", -256),
        ] {
            assert_eq!(number(field), Some(value), "{field:?}");
        }
        for field in [
            &b"0000648\0"[..],
            b"-1\0\0\0\0\0\0",
            b"1 2\0\0\0\0\0",
            b"0x12\0\0\0\0",
            b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x80\x01\0\0\0\0\0\0\0\0\0\0",
            b"777777777777777777777777",
        ] {
            assert_eq!(number(field), None, "{field:?}");
        }
    }
}
