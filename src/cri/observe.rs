//! How long each RPC took and how it ended, told to whoever keeps the figures.

use std::future::Future;
use std::time::{Duration, Instant};

use tonic::{Code, Request, Response, Status};

use crate::telemetry::Metrics;

/// Keeps the figures of the RPCs.
pub trait Observer: Send + Sync + 'static {
    /// One call of `rpc` (its name without service) ended with `code`. One that its client gave up counts as
    /// `Cancelled`; the operation behind it, and behind a `DeadlineExceeded`, may still run.
    fn observed(&self, rpc: &'static str, code: Code, elapsed: Duration);
}

impl Observer for Metrics {
    fn observed(&self, rpc: &'static str, code: Code, elapsed: Duration) {
        let error = (code != Code::Ok).then(|| name(code));
        self.operation(rpc, elapsed, error);
        if rpc == "PullImage" {
            self.pull(elapsed, error);
        }
    }
}

/// A code as the gRPC specification writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn observed(&self, _: &'static str, _: Code, _: Duration) {}
}

/// How much earlier than the client's deadline a call is answered, so that the answer is ours: the transport's own is
/// Cancelled, which says that somebody changed his mind.
const EARLY: Duration = Duration::from_millis(2);

/// Runs `answer` within the time that the client gives, and reports how it ended, also when the future is dropped
/// before its end.
pub(super) async fn observe<T>(
    observer: &dyn Observer,
    rpc: &'static str,
    limit: Option<Duration>,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<Response<T>, Status> {
    let mut call = Call { observer, rpc, begun: Instant::now(), ended: false };
    let result = match limit {
        None => answer.await,
        Some(limit) => tokio::time::timeout(limit.saturating_sub(EARLY), answer).await.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!("{rpc}: the time that the client gave is over")))
        }),
    };
    call.end(result.as_ref().err());
    result.map(Response::new)
}

/// One call under way.
struct Call<'a> {
    observer: &'a dyn Observer,
    rpc: &'static str,
    begun: Instant,
    ended: bool,
}

impl Call<'_> {
    fn end(&mut self, error: Option<&Status>) {
        self.ended = true;
        let elapsed = self.begun.elapsed();
        let code = error.map_or(Code::Ok, Status::code);
        self.observer.observed(self.rpc, code, elapsed);
        let rpc = self.rpc;
        match error {
            None => tracing::trace!(rpc, ?elapsed, "answered"),
            // A kubelet meets these in its daily work; they are no news.
            Some(error) if matches!(code, Code::NotFound | Code::Unimplemented) => {
                tracing::debug!(rpc, ?elapsed, ?code, error = error.message(), "refused");
            }
            Some(error) => tracing::warn!(rpc, ?elapsed, ?code, error = error.message(), "failed"),
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let elapsed = self.begun.elapsed();
            self.observer.observed(self.rpc, Code::Cancelled, elapsed);
            tracing::info!(rpc = self.rpc, ?elapsed, "the client gave the call up");
        }
    }
}

/// The time that the client gives a call: `grpc-timeout`, digits and a unit. `None` when unset or malformed, as the
/// transport treats it.
pub(super) fn deadline<T>(request: &Request<T>) -> Option<Duration> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
