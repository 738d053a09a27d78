//! How long each RPC took and how it ended, told to whoever keeps the figures.

use std::future::Future;
use std::time::{Duration, Instant};

use tonic::{Code, Request, Response, Status};

/// Keeps the figures of the RPCs.
pub trait Observer: Send + Sync + 'static {
    /// One call of `rpc` (its name without service) ended with `code`. A call that its client gave up counts as
    /// `Cancelled`, or as `DeadlineExceeded` when its time was over; the operation behind it may still run.
    fn observed(&self, rpc: &'static str, code: Code, elapsed: Duration);
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn observed(&self, _: &'static str, _: Code, _: Duration) {}
}

/// Runs `answer` and reports how it ended, also when the future is dropped before its end.
pub(super) async fn observe<T>(
    observer: &dyn Observer,
    rpc: &'static str,
    deadline: Option<Duration>,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<Response<T>, Status> {
    let mut call = Call { observer, rpc, deadline, begun: Instant::now(), ended: false };
    let result = answer.await;
    call.end(result.as_ref().err());
    result.map(Response::new)
}

/// One call under way.
struct Call<'a> {
    observer: &'a dyn Observer,
    rpc: &'static str,
    deadline: Option<Duration>,
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
        if self.ended {
            return;
        }
        let elapsed = self.begun.elapsed();
        // tonic's clock for the deadline began a little before ours.
        let late = self.deadline.is_some_and(|limit| elapsed + Duration::from_millis(2) >= limit);
        let code = if late { Code::DeadlineExceeded } else { Code::Cancelled };
        self.observer.observed(self.rpc, code, elapsed);
        tracing::info!(rpc = self.rpc, ?elapsed, ?code, "the client gave the call up");
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
