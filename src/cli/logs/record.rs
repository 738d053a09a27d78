//! One record of a CRI log file.

/// Where the container wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Stream {
    Stdout,
    Stderr,
}

/// A line, or a part of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Record {
    /// RFC 3339, as it stands in the file.
    pub(in crate::cli) time: String,
    pub(in crate::cli) stream: Stream,
    /// False where the line goes on in the next record.
    pub(in crate::cli) whole: bool,
    pub(in crate::cli) content: Vec<u8>,
}

impl Record {
    /// Parses a line of the file, without its newline. What is no record is shown whole rather than lost.
    pub(super) fn parse(line: &[u8]) -> Self {
        Self::parse_strictly(line).unwrap_or_else(|| Self {
            time: String::new(),
            stream: Stream::Stdout,
            whole: true,
            content: line.to_vec(),
        })
    }

    fn parse_strictly(line: &[u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = String::from_utf8(parts.next()?.to_vec()).ok()?;
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // The tag may have further words after a colon; the first is the one that counts.
        let whole = match parts.next()?.split(|byte| *byte == b':').next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { time, stream, whole, content: parts.next().unwrap_or_default().to_vec() })
    }
}
