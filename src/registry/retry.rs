//! Back-off: when a failed request is sent again.

use std::time::Duration;

use super::config::RetryConfig;
use super::counters::Counters;
use super::error::{Error, Retry};

/// Counts the attempts of one operation at one host and waits between them.
#[derive(Debug)]
pub(crate) struct Retrier {
    config: RetryConfig,
    /// Attempts that may still follow.
    left: u32,
    failures: u32,
}

impl Retrier {
    /// For at most this many attempts in all.
    pub(crate) fn new(config: &RetryConfig, attempts: u32) -> Self {
        Self { config: *config, left: attempts.saturating_sub(1), failures: 0 }
    }

    /// Waits as the error and the number of failures ask for; gives the error back if there is no sense in going on.
    pub(crate) async fn wait_after(&mut self, error: Error, counters: &Counters) -> Result<(), Error> {
        let wait = match error.retry() {
            Retry::No => return Err(error),
            Retry::After(time) if time > self.config.max_retry_after => return Err(error),
            Retry::After(time) => time + jitter(Duration::from_millis(100)),
            Retry::Backoff => self.backoff(),
        };
        if self.left == 0 {
            return Err(error);
        }
        self.left -= 1;
        self.failures += 1;
        counters.add_retries(1);
        tracing::debug!(%error, wait_ms = wait.as_millis() as u64, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Half of the doubled base is fixed, the other half is chance, so that many nodes do not come back as one.
    fn backoff(&self) -> Duration {
        let full = self.config.base.saturating_mul(1 << self.failures.min(16)).min(self.config.cap);
        full / 2 + jitter(full / 2)
    }
}

/// Some time between nothing and `most`.
fn jitter(most: Duration) -> Duration {
    // Without chance there is no jitter, which is no reason to fail.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::ErrorKind;

    #[test]
    fn waits_grow_and_end() {
        let config = RetryConfig::default();
        let mut retrier = Retrier::new(&config, 5);
        for failures in 0..20 {
            retrier.failures = failures;
            let full = config.base.saturating_mul(1 << failures.min(16)).min(config.cap);
            let wait = retrier.backoff();
            assert!(wait >= full / 2 && wait <= full, "{failures} {wait:?}");
        }
    }

    #[tokio::test]
    async fn attempts_are_counted() {
        let config = RetryConfig { base: Duration::from_millis(1), ..RetryConfig::default() };
        let counters = Counters::default();
        let passing = || Error::transport(ErrorKind::Unavailable, "broken");
        let mut retrier = Retrier::new(&config, 3);
        assert!(retrier.wait_after(passing(), &counters).await.is_ok());
        assert!(retrier.wait_after(passing(), &counters).await.is_ok());
        assert!(retrier.wait_after(passing(), &counters).await.is_err());
        assert_eq!(counters.snapshot().retries, 2);
        let lasting = Error::invalid("wrong digest");
        assert!(Retrier::new(&config, 3).wait_after(lasting, &counters).await.is_err());
        let long = passing().with_retry(Retry::After(Duration::from_secs(3600)));
        assert!(Retrier::new(&config, 3).wait_after(long, &counters).await.is_err());
    }
}
