//! Decisions taken from bytes: those of a fuzzer, or of proptest.

/// The bytes that are left. When there are none, every decision is the first of its choices.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One number of `0..count`.
    pub fn below(&mut self, count: usize) -> usize {
        let wide = if count > 256 { usize::from(self.next()) << 8 } else { 0 };
        (wide | usize::from(self.next())) % count.max(1)
    }

    pub fn pick<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        &choices[self.below(choices.len())]
    }

    pub fn flip(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.next()))
    }

    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
