//! The rate of a CPU counter, from readings that are made when somebody asks.

/// A reading shorter ago than this says nothing about the rate: the old rate is given again.
const RATE_SPAN: i64 = 100_000_000;

/// The last two readings of a CPU counter.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuRate {
    at: i64,
    usage: u64,
    nano_cores: Option<u64>,
}

impl CpuRate {
    /// Takes a reading and gives the rate since the one before.
    pub fn update(&mut self, at: i64, usage: u64) -> Option<u64> {
        let span = at - self.at;
        if self.at != 0 && span < RATE_SPAN {
            return self.nano_cores;
        }
        if self.at != 0 && usage >= self.usage {
            let rate = u128::from(usage - self.usage) * 1_000_000_000 / u128::from(span.unsigned_abs());
            self.nano_cores = u64::try_from(rate).ok();
        }
        (self.at, self.usage) = (at, usage);
        self.nano_cores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_some_time_apart() {
        let mut rate = CpuRate::default();
        let second = 1_000_000_000;
        assert_eq!(rate.update(second, 500), None);
        assert_eq!(rate.update(2 * second, 500 + 250_000_000), Some(250_000_000));
        // Too soon for a new rate.
        assert_eq!(rate.update(2 * second + 1, 900_000_000), Some(250_000_000));
        assert_eq!(rate.update(4 * second, 500 + 250_000_000), Some(0));
    }
}
