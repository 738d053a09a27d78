//! Short texts in place: the shim builds names and numbers without `core::fmt` and the allocator, whose pages it would
//! not need for anything else.

/// A text of at most `N` bytes. What does not fit is cut; users choose `N` so that all fits.
#[derive(Clone, Copy, Debug)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Text<N> {
    pub fn new() -> Self {
        Self { bytes: [0; N], used: 0 }
    }

    pub fn add(&mut self, text: &str) -> &mut Self {
        let room = &mut self.bytes[self.used..];
        let mut n = text.len().min(room.len());
        while !text.is_char_boundary(n) {
            n -= 1;
        }
        room[..n].copy_from_slice(&text.as_bytes()[..n]);
        self.used += n;
        self
    }

    pub fn number(&mut self, mut number: u64) -> &mut Self {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        // Digits are text.
        self.add(std::str::from_utf8(&digits[at..]).unwrap_or_default())
    }

    pub fn as_str(&self) -> &str {
        // Made of whole characters only.
        std::str::from_utf8(&self.bytes[..self.used]).unwrap_or_default()
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers_are_joined() {
        let mut text = Text::<40>::new();
        text.add("a").number(0).add("-").number(u64::MAX);
        assert_eq!(text.as_str(), "a0-18446744073709551615");
    }

    #[test]
    fn what_does_not_fit_is_cut_at_a_character() {
        let mut text = Text::<4>::new();
        text.add("abc\u{e4}").add("d").add("e");
        assert_eq!(text.as_str(), "abcd");
    }
}
