//! Numbers out of control files, by hand: statistics are read often.

/// From here on a v1 limit means "none": the kernel shows its own maximum rounded to pages.
const UNLIMITED: u64 = i64::MAX as u64 - (1 << 20);

/// The decimal number at the start of `text`, after blanks.
pub fn number(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let mut value = 0u64;
    let mut any = false;
    for byte in &text[start..] {
        if !byte.is_ascii_digit() {
            break;
        }
        any = true;
        value = value.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
    }
    any.then_some(value)
}

/// A limit: outer `None` when the text is none, inner `None` for "no limit".
pub fn limit(text: &[u8]) -> Option<Option<u64>> {
    if text.trim_ascii() == b"max" || text.trim_ascii().starts_with(b"-") {
        return Some(None);
    }
    number(text).map(|value| Some(value).filter(|value| *value < UNLIMITED))
}

/// Microseconds, as v2 counts time, in nanoseconds.
pub fn micros(value: u64) -> u64 {
    value.saturating_mul(1000)
}

/// The `key value` lines of a flat keyed file.
pub fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let space = line.iter().position(|byte| *byte == b' ')?;
        Some((&line[..space], number(&line[space + 1..])?))
    })
}

/// The value of `key` in a flat keyed file.
pub fn value_of(text: &[u8], key: &[u8]) -> Option<u64> {
    pairs(text).find(|(name, _)| *name == key).map(|(_, value)| value)
}

fn digit(byte: u8) -> u64 {
    if byte.is_ascii_digit() { u64::from(byte - b'0') } else { 0 }
}

/// A decimal with up to two digits after the point, times 100.
pub fn hundredths(text: &[u8]) -> Option<u64> {
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = number(parts.next()?)?;
    let fraction = match parts.next() {
        None | Some([]) => 0,
        Some([tenths]) => digit(*tenths) * 10,
        Some([tenths, rest, ..]) => digit(*tenths) * 10 + digit(*rest),
    };
    Some(whole.saturating_mul(100).saturating_add(fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_limits() {
        assert_eq!(number(b"  42\n"), Some(42));
        assert_eq!(number(b"x"), None);
        assert_eq!(number(b""), None);
        assert_eq!(limit(b"max\n"), Some(None));
        assert_eq!(limit(b"-1"), Some(None));
        assert_eq!(limit(b"9223372036854771712\n"), Some(None));
        assert_eq!(limit(b"4096\n"), Some(Some(4096)));
        assert_eq!(limit(b"what"), None);
        assert_eq!(hundredths(b"1.05"), Some(105));
        assert_eq!(hundredths(b"0.5"), Some(50));
        assert_eq!(hundredths(b"12"), Some(1200));
    }

    #[test]
    fn keyed_lines() {
        let text = b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(value_of(text, b"oom_kill"), Some(3));
        assert_eq!(value_of(text, b"oom"), None);
        assert_eq!(pairs(b"broken\na 1\nb x\n").count(), 1);
    }
}
