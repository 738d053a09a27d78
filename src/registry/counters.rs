//! What the client counts, for telemetry to read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Running totals since the start of the process. Read them with [`Counters::snapshot`].
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    failures: AtomicU64,
    retries: AtomicU64,
    resumes: AtomicU64,
    fallbacks: AtomicU64,
    tokens: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
}

/// The totals at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterSnapshot {
    /// HTTP requests sent, of every kind (redirects and token requests too).
    pub requests: u64,
    /// Requests that got no answer, or one with an error status other than the 401 that begins a log-in.
    pub failures: u64,
    /// Requests tried again on the same host.
    pub retries: u64,
    /// Blob downloads continued after a broken or stalled connection.
    pub resumes: u64,
    /// Requests that went on to the next host of a registry.
    pub fallbacks: u64,
    /// Tokens fetched.
    pub tokens: u64,
    /// Bytes of blobs and manifests received.
    pub bytes_received: u64,
    /// Bytes of blobs and manifests sent.
    pub bytes_sent: u64,
}

macro_rules! counted {
    ($($name:ident => $add:ident),* $(,)?) => {
        impl Counters {
            $(pub(crate) fn $add(&self, n: u64) {
                self.$name.fetch_add(n, Ordering::Relaxed);
            })*

            pub fn snapshot(&self) -> CounterSnapshot {
                CounterSnapshot { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counted!(
    requests => add_requests,
    failures => add_failures,
    retries => add_retries,
    resumes => add_resumes,
    fallbacks => add_fallbacks,
    tokens => add_tokens,
    bytes_received => add_bytes_received,
    bytes_sent => add_bytes_sent,
);
