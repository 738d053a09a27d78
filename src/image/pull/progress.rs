//! How far a pull is. Counters that are read when somebody wants to know; nothing is sent.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::image::digest::Digest;

/// What is being done with a layer, or with the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Others are before it.
    Waiting,
    /// It arrives, and is unpacked while it does.
    Fetching,
    /// All of it is here; the rest is unpacked, verified and synced.
    Finishing,
    Done,
    /// The store had it.
    Exists,
}

impl Phase {
    fn from_raw(raw: u8) -> Self {
        [Self::Waiting, Self::Fetching, Self::Finishing, Self::Done, Self::Exists][usize::from(raw).min(4)]
    }
}

/// A layer as a progress bar shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProgress {
    /// Of the blob.
    pub digest: Digest,
    /// Of the compressed bytes.
    pub bytes: u64,
    pub total: u64,
    pub phase: Phase,
}

/// Counters of one layer's transfer, which several pulls may share.
#[derive(Debug, Default)]
pub(super) struct Counters {
    bytes: AtomicU64,
    phase: AtomicU8,
}

impl Counters {
    pub(super) fn exists() -> Arc<Self> {
        let counters = Self::default();
        counters.enter(Phase::Exists);
        Arc::new(counters)
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }
}

/// A pull's progress. Clones show the same pull.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    inner: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    layers: Vec<(Digest, u64, Arc<Counters>)>,
    committing: bool,
    done: bool,
}

impl Progress {
    /// Each layer now, the base first; empty while the manifest is not known.
    pub fn layers_now(&self) -> Vec<LayerProgress> {
        let state = self.state();
        state
            .layers
            .iter()
            .map(|(digest, total, counters)| {
                let phase = Phase::from_raw(counters.phase.load(Ordering::Relaxed));
                let bytes = match phase {
                    Phase::Done | Phase::Exists => *total,
                    _ => counters.bytes.load(Ordering::Relaxed).min(*total),
                };
                LayerProgress { digest: digest.clone(), bytes, total: *total, phase }
            })
            .collect()
    }

    /// The whole: bytes that are here, bytes in all, and what is being done.
    pub fn total(&self) -> (u64, u64, Phase) {
        let layers = self.layers_now();
        let (committing, done) = {
            let state = self.state();
            (state.committing, state.done)
        };
        let phase = match (done, committing, layers.iter().any(|layer| layer.phase != Phase::Waiting)) {
            (true, ..) => Phase::Done,
            (_, true, _) => Phase::Finishing,
            (_, _, true) => Phase::Fetching,
            _ => Phase::Waiting,
        };
        (layers.iter().map(|layer| layer.bytes).sum(), layers.iter().map(|layer| layer.total).sum(), phase)
    }

    pub(super) fn layers(&self, layers: impl Iterator<Item = (Digest, u64)>) {
        self.state().layers = layers.map(|(digest, total)| (digest, total, Arc::default())).collect();
    }

    /// Shows a transfer's counters for a layer.
    pub(super) fn attach(&self, digest: &Digest, counters: &Arc<Counters>) {
        let mut state = self.state();
        for layer in state.layers.iter_mut().filter(|(known, ..)| known == digest) {
            layer.2 = counters.clone();
        }
    }

    pub(super) fn committing(&self) {
        self.state().committing = true;
    }

    pub(super) fn done(&self) {
        self.state().done = true;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
