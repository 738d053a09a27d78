//! Transfers of layers, shared by all pulls that want the same one.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::future::FutureExt;
use futures_util::stream::StreamExt;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::progress::{Counters, Phase, Progress};
use super::{LayerError, Source};
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::store::{Ingest, Lease, Store, StoreError};
use crate::image::unpack::{self, Expected, Limits};

/// All transfers under way. Clones are the same.
#[derive(Clone, Debug)]
pub struct Transfers {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    limits: Limits,
    places: Arc<Semaphore>,
    /// By diff id. Only those who wait keep a transfer alive.
    running: Mutex<HashMap<Digest, Weak<Transfer>>>,
    /// Memory was used since it was given back.
    untidy: AtomicBool,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfers").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// One layer on its way. Stopped when the last who wants it lets go.
struct Transfer {
    outcome: watch::Receiver<Option<Outcome>>,
    counters: Arc<Counters>,
    task: AbortHandle,
}

/// The lease keeps the layer for those who have not taken their own yet.
type Outcome = Result<Arc<Lease>, LayerError>;

impl Drop for Transfer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Transfers {
    pub(super) fn new(store: Store, limits: Limits, parallel: usize) -> Self {
        let places = Arc::new(Semaphore::new(parallel.max(1)));
        Self {
            inner: Arc::new(Inner { store, limits, places, running: Mutex::default(), untidy: AtomicBool::new(false) }),
        }
    }

    /// Returns when the layer is in the store.
    pub(super) async fn get(
        &self,
        source: &Arc<dyn Source>,
        layer: &Descriptor,
        diff_id: &Digest,
        progress: &Progress,
    ) -> Result<Lease, LayerError> {
        loop {
            if let Ok(lease) = self.inner.store.lease_layers(std::slice::from_ref(diff_id)) {
                progress.attach(&layer.digest, &Counters::exists());
                return Ok(lease);
            }
            let (transfer, own) = self.join(source, layer, diff_id);
            progress.attach(&layer.digest, &transfer.counters);
            let outcome = transfer.wait().await;
            self.inner.forget(diff_id, &transfer);
            match outcome {
                Ok(_shared) => match self.inner.store.lease_layers(std::slice::from_ref(diff_id)) {
                    Ok(lease) => return Ok(lease),
                    Err(error) => return Err(LayerError::Store(Arc::new(error))),
                },
                Err(error) if own => return Err(error),
                // Someone else's credentials, mirror or luck. Ours may be better.
                Err(_) => {}
            }
        }
    }

    /// Gives memory back if there were transfers and none is under way.
    pub(super) async fn rest(&self) {
        let idle = self.inner.running().values().all(|transfer| transfer.strong_count() == 0);
        if idle && self.inner.untidy.swap(false, Ordering::Relaxed) {
            // Only if the runtime is going down it is not done.
            tokio::task::spawn_blocking(unpack::trim_memory).await.ok();
        }
    }

    /// The transfer of a layer, and whether it was begun by this call.
    fn join(&self, source: &Arc<dyn Source>, layer: &Descriptor, diff_id: &Digest) -> (Arc<Transfer>, bool) {
        let mut running = self.inner.running();
        if let Some(transfer) = running.get(diff_id).and_then(Weak::upgrade) {
            return (transfer, false);
        }
        let (sender, outcome) = watch::channel(None);
        let counters = Arc::<Counters>::default();
        let job = Job {
            inner: self.inner.clone(),
            source: source.clone(),
            layer: layer.clone(),
            diff_id: diff_id.clone(),
            counters: counters.clone(),
        };
        // Its turn is taken here and now: callers come with the largest layer first.
        let mut turn = Box::pin(self.inner.places.clone().acquire_owned());
        let early = (&mut turn).now_or_never();
        let task = tokio::spawn(async move {
            let place = match early {
                Some(place) => place,
                None => turn.await,
            };
            let outcome = match place {
                Ok(_place) => job.run().await,
                Err(_) => Err(LayerError::Interrupted),
            };
            sender.send_replace(Some(outcome.map(Arc::new)));
        });
        let transfer = Arc::new(Transfer { outcome, counters, task: task.abort_handle() });
        running.retain(|_, transfer| transfer.strong_count() > 0);
        running.insert(diff_id.clone(), Arc::downgrade(&transfer));
        (transfer, true)
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, HashMap<Digest, Weak<Transfer>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a transfer that has ended out of the table.
    fn forget(&self, diff_id: &Digest, transfer: &Arc<Transfer>) {
        let mut running = self.running();
        if running.get(diff_id).is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(transfer))) {
            running.remove(diff_id);
        }
    }
}

impl Transfer {
    async fn wait(&self) -> Outcome {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(LayerError::Interrupted)),
            Err(_) => Err(LayerError::Interrupted),
        }
    }
}

/// The work of one transfer.
struct Job {
    inner: Arc<Inner>,
    source: Arc<dyn Source>,
    layer: Descriptor,
    diff_id: Digest,
    counters: Arc<Counters>,
}

impl Job {
    async fn run(&self) -> Result<Lease, LayerError> {
        self.counters.enter(Phase::Fetching);
        self.inner.untidy.store(true, Ordering::Relaxed);
        let ingest = self.inner.store.begin_layer(&self.diff_id).map_err(store)?;
        let dir = ingest.dir().map_err(store)?;
        let expected =
            Expected { digest: self.layer.digest.clone(), size: self.layer.len(), diff_id: self.diff_id.clone() };
        let mut stream = self.source.blob(&self.layer).await.map_err(|error| LayerError::Source(error.into()))?;
        let mut job = unpack::start(dir, expected, self.inner.limits.clone(), ingest)
            .map_err(|error| LayerError::Unpack(Arc::new(unpack::UnpackError::io("start a thread", error))))?;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| LayerError::Source(error.into()))?;
            self.counters.add(chunk.len() as u64);
            job.push(chunk).await.map_err(unpacking)?;
        }
        drop(stream);
        self.counters.enter(Phase::Finishing);
        let (unpacked, ingest): (_, Ingest) = job.finish().await.map_err(unpacking)?;
        let committed = tokio::task::spawn_blocking(move || ingest.commit(&unpacked)).await;
        let lease = committed.map_err(|_| LayerError::Interrupted)?.map_err(store)?;
        self.counters.enter(Phase::Done);
        Ok(lease)
    }
}

fn store(error: StoreError) -> LayerError {
    LayerError::Store(Arc::new(error))
}

fn unpacking(error: unpack::UnpackError) -> LayerError {
    LayerError::Unpack(Arc::new(error))
}
