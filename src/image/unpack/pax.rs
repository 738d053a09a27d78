//! PAX extended headers: `<length> <key>=<value>\n` records.

use super::error::TarError;
use super::sparse::{Map, Segment};

/// What PAX (and GNU long names) say of the next entry.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    /// Seconds, and nanoseconds from 0 to 999,999,999.
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: PaxSparse,
}

/// The GNU.sparse.* records, versions 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(crate) struct PaxSparse {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    pub(crate) map: Map,
    /// An offset of 0.0 whose length has not come yet.
    offset: Option<u64>,
    pub(crate) seen: bool,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Extra {
    /// Adds the records of one `x` header.
    pub(crate) fn parse(&mut self, mut data: &[u8], offset: u64) -> Result<(), TarError> {
        while !data.is_empty() {
            let (key, value, rest) = record(data).ok_or(TarError::Pax { offset, reason: "a record is malformed" })?;
            data = rest;
            self.take(key, value, offset)?;
        }
        if self.sparse.offset.is_some() {
            return Err(TarError::Sparse { offset, reason: "an offset has no length" });
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8], offset: u64) -> Result<(), TarError> {
        let bad = |reason| TarError::Pax { offset, reason };
        if let Some(name) = key.strip_prefix(XATTR) {
            // Values may hold any byte; names cannot hold NUL, and an empty one is none.
            if name.is_empty() || name.contains(&0) {
                return Err(bad("an extended attribute's name is empty or has a NUL"));
            }
            self.xattrs.retain(|(known, _)| known != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        match key {
            b"path" | b"linkpath" | b"GNU.sparse.name" if value.contains(&0) => return Err(bad("a path has a NUL")),
            // An empty value takes an earlier record back.
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = optional(value, decimal).ok_or_else(|| bad("the size is no number"))?,
            b"uid" => self.uid = optional(value, id).ok_or_else(|| bad("the owner is no number"))?,
            b"gid" => self.gid = optional(value, id).ok_or_else(|| bad("the group is no number"))?,
            b"mtime" => self.mtime = optional(value, time).ok_or_else(|| bad("the time is no number"))?,
            // Unknown records mean nothing here: atime, ctime, comment, uname, vendors'.
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    let taken = self.sparse.take(key, value);
                    taken.ok_or(TarError::Sparse { offset, reason: "a record is malformed" })?;
                }
            }
        }
        Ok(())
    }
}

impl PaxSparse {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.seen = true;
        match key {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"realsize" | b"size" => self.real_size = Some(decimal(value)?),
            // Two offsets with no length between them.
            b"offset" if self.offset.is_some() => return None,
            b"offset" => self.offset = Some(decimal(value)?),
            b"numbytes" => {
                let offset = self.offset.take()?;
                self.map.push(Segment { offset, len: decimal(value)? });
            }
            b"map" => {
                self.map.clear();
                let mut numbers = value.split(|byte| *byte == b',').filter(|number| !number.is_empty());
                while let Some(offset) = numbers.next() {
                    self.map.push(Segment { offset: decimal(offset)?, len: decimal(numbers.next()?)? });
                }
            }
            // numblocks, and what later versions may add.
            _ => {}
        }
        Some(())
    }
}

/// One record: key, value, and what follows it.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&data[..space])?).ok()?;
    if len < space + 2 || len > data.len() || data[len - 1] != b'\n' {
        return None;
    }
    let body = &data[space + 1..len - 1];
    let equals = body.iter().position(|byte| *byte == b'=')?;
    if equals == 0 {
        return None;
    }
    Some((&body[..equals], &body[equals + 1..], &data[len..]))
}

/// `None` for what is wrong, `Some(None)` for an empty value.
#[expect(clippy::option_option, reason = "three outcomes, used within this file only")]
fn optional<T>(value: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() { Some(None) } else { parse(value).map(Some) }
}

/// Decimal digits and nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn id(text: &[u8]) -> Option<i64> {
    i64::try_from(decimal(text)?).ok()
}

/// `[-]seconds[.fraction]`, rounded down to nanoseconds.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanos = 0_u32;
    for at in 0..9 {
        nanos = nanos * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0'));
    }
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(data: &[u8]) -> Result<Extra, TarError> {
        let mut extra = Extra::default();
        extra.parse(data, 0).map(|()| extra)
    }

    #[test]
    fn reads_records() {
        let extra = parse(
            b"12 path=a/b\n14 linkpath=c\n12 size=123\n8 uid=7\n21 mtime=1.000000001\n30 SCHILY.xattr.user.a=x\ny=z\0\n\
              12 path=new\n",
        );
        let extra = extra.unwrap();
        assert_eq!(extra.path.as_deref(), Some(&b"new"[..]));
        assert_eq!(extra.link.as_deref(), Some(&b"c"[..]));
        assert_eq!((extra.size, extra.uid, extra.mtime), (Some(123), Some(7), Some((1, 1))));
        assert_eq!(extra.xattrs, [(b"user.a".to_vec(), b"x\ny=z\0".to_vec())]);
        assert_eq!(parse(b"12 path=a/b\n8 path=\n").unwrap().path, None);
        assert_eq!(time(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(time(b"3.1234567891"), Some((3, 123_456_789)));
    }

    #[test]
    fn refuses_malformed_records() {
        for bad in [
            &b"12 path=a/b"[..],
            b"13 path=a/b\n",
            b"11 path=a/b\n",
            b"99999999999999999999999 path=a\n",
            b"0 a=b\n",
            b"-5 a=b\n",
            b" a=b\n",
            b"5 =b\n",
            b"6 abc\n",
            b"10 path=\0\n",
            b"11 size=-1\n",
            b"29 size=99999999999999999999\n",
            b"18 SCHILY.xattr.=x\n",
            b"12 mtime=1.x\n",
            b"24 GNU.sparse.offset=12\n",
            b"22 GNU.sparse.map=1,2,3\n",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
