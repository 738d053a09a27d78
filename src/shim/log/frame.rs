//! Where lines begin and end.

/// Bytes of the longest line that is written as one record, the line's end not counted.
pub const LINE_MAX: usize = 16_384;

/// Whether a record ends its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Full = b'F' as isize,
    Partial = b'P' as isize,
}

/// How [`split`] is to take its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    /// That many bytes at the start were seen before and have no line's end.
    pub seen: usize,
    /// Nothing comes after these bytes.
    pub end: bool,
    /// Lines end in CR LF, since a terminal makes it so.
    pub terminal: bool,
}

/// Calls `record` for each line, and returns how many bytes that was. What is left is a line whose end is not there, at
/// most [`LINE_MAX`] bytes: it belongs before what is read next.
pub(super) fn split(data: &[u8], rules: Rules, mut record: impl FnMut(Tag, &[u8])) -> usize {
    let mut rest = data;
    let mut seen = rules.seen;
    while let Some(found) = newline(&rest[seen..]) {
        let (mut line, after) = (&rest[..seen + found], &rest[seen + found + 1..]);
        seen = 0;
        rest = after;
        if rules.terminal {
            line = line.strip_suffix(b"\r").unwrap_or(line);
        }
        while line.len() > LINE_MAX {
            let (part, more) = line.split_at(LINE_MAX);
            record(Tag::Partial, part);
            line = more;
        }
        record(Tag::Full, line);
    }
    // Exactly LINE_MAX bytes may still turn out to be a whole line.
    while rest.len() > LINE_MAX {
        let (part, more) = rest.split_at(LINE_MAX);
        record(Tag::Partial, part);
        rest = more;
    }
    if rules.end && !rest.is_empty() {
        record(Tag::Partial, rest);
        rest = &[];
    }
    data.len() - rest.len()
}

/// The place of the first line feed. A word at a time: on lines of a hundred bytes this is what the pump spends its own
/// time with.
fn newline(bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        // A byte that is zero after this was a line feed; the lowest one that the trick marks is right.
        let word = u64::from_le_bytes(*word) ^ (LOW * b'\n' as u64);
        let marks = word.wrapping_sub(LOW) & !word & HIGH;
        if marks != 0 {
            return Some(i * 8 + marks.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|&b| b == b'\n').map(|at| words.len() * 8 + at)
}

#[cfg(test)]
mod tests;
