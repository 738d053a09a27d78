//! Operations that outlive the call that began them.
//!
//! A kubelet that gives up waiting must not leave a pod half made: what changes the node runs in a task of its own,
//! and the call only waits for it. At shutdown the server waits until the last of them is done.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tonic::Status;

/// The operations under way. Clones count together.
#[derive(Clone, Debug)]
pub struct Operations {
    count: Arc<watch::Sender<usize>>,
}

impl Default for Operations {
    fn default() -> Self {
        Self { count: Arc::new(watch::Sender::new(0)) }
    }
}

impl Operations {
    /// Runs `operation` to its end, whether or not the returned future is still there to see it.
    ///
    /// The operation begins with this call, not with the first poll.
    pub fn run<T, E>(
        &self,
        operation: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> impl Future<Output = Result<T, Status>>
    where
        T: Send + 'static,
        E: Into<Status> + Send + 'static,
    {
        let under_way = UnderWay::new(Arc::clone(&self.count));
        let task = tokio::spawn(async move {
            let _under_way = under_way;
            operation.await
        });
        async move {
            match task.await {
                Ok(result) => result.map_err(Into::into),
                Err(error) if error.is_panic() => {
                    Err(Status::internal("the operation ended by a defect; the log has the place"))
                }
                Err(_) => Err(Status::unavailable("the runtime is shutting down")),
            }
        }
    }

    /// How many run now.
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Returns when none runs.
    pub async fn idle(&self) {
        // The sender lives in self, so the only error, a closed channel, cannot happen.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// Counts one operation for as long as it lives.
struct UnderWay(Arc<watch::Sender<usize>>);

impl UnderWay {
    fn new(count: Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
#[path = "operations_tests.rs"]
mod tests;
