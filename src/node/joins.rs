//! One operation a key at a time, joined by whoever asks for the same: the answer to a retry after a deadline.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::error::Result;

type Slot<V> = Arc<OnceCell<Result<V>>>;

/// Operations in flight, by what they are about.
#[derive(Debug)]
pub struct Joins<K, V> {
    slots: Mutex<HashMap<K, Slot<V>>>,
}

impl<K, V> Default for Joins<K, V> {
    fn default() -> Self {
        Self { slots: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Joins<K, V> {
    /// Runs `operation`, or waits for the one of the same key that runs already and gives its result. A caller that
    /// goes away while it runs the operation leaves it to the next one that waits; to let it finish, spawn it.
    pub async fn run<F: Future<Output = Result<V>>>(&self, key: K, operation: impl FnOnce() -> F) -> Result<V> {
        let slot = self.lock().entry(key.clone()).or_default().clone();
        let result = slot.get_or_init(operation).await.clone();
        let mut slots = self.lock();
        if slots.get(&key).is_some_and(|current| Arc::ptr_eq(current, &slot)) {
            slots.remove(&key);
        }
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, Slot<V>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::node::error::NodeError;

    #[tokio::test]
    async fn those_who_ask_for_the_same_get_one_result() {
        let joins = Joins::<&str, u32>::default();
        let runs = AtomicU32::new(0);
        let operation = || async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(runs.fetch_add(1, Ordering::SeqCst))
        };
        let (one, two, other) =
            tokio::join!(joins.run("a", operation), joins.run("a", operation), joins.run("b", operation));
        assert_eq!(one.unwrap(), two.unwrap());
        other.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        assert!(joins.lock().is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_shared_and_then_forgotten() {
        let joins = Joins::<&str, u32>::default();
        let failed = joins.run("a", || async { Err(NodeError::invalid("no")) }).await;
        assert_eq!(failed.unwrap_err().message, "no");
        assert_eq!(joins.run("a", || async { Ok(7) }).await.unwrap(), 7);
    }
}
