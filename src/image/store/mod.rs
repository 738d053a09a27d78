//! Images and unpacked layers on disk.
//!
//! ```text
//! <root>/lock                         held while a process has the store open
//! <root>/boot                         which boot wrote here last, and whether it ended well
//! <root>/images/<hex>.json            an image: names, layers, size
//! <root>/blobs/sha256/<hex>           manifests, indexes and configs as they came
//! <root>/layers/sha256/<hex>/diff/    a layer by its diff id: an overlay lower directory
//! <root>/layers/sha256/<hex>/layer.json
//! <root>/ingest/                      what is being written, and what is being deleted
//! ```
//!
//! Whatever has a name outside of `ingest` is complete: it is synced, then renamed, the image's record last. The power may
//! fail at any point; what is lost then is a pull, never the truth of a record. Layers do not depend on each other, so they
//! are shared by every image that has them and are unpacked in any order.
//!
//! A layer stays while an image or a [`Lease`] has it. Leases live in memory: who runs containers takes them again after a
//! start ([`Store::lease_layers`]) before calling [`Store::collect_garbage`].

mod image;
mod ingest;
mod lease;
mod open;
mod record;
mod sync;
mod trash;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::ConfigError;
use super::digest::Digest;
use super::reference::Reference;
use super::users::{UserDb, UserError};
use sync::SyncGate;

pub use image::{Image, ImageLayer, NewImage};
pub use ingest::Ingest;
pub use lease::Lease;
pub(crate) use open::scatter;
pub use open::{Dropped, OpenReport};

/// Hex digits from which on a shortened id is looked up.
const SHORTEST_ID: usize = 7;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("image store: cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("image store {0} is in use by another process")]
    InUse(PathBuf),
    #[error("image store: {path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("image store: layer {0} is not there")]
    NoLayer(Digest),
    #[error("image store: the config {id} cannot be used: {source}")]
    Config { id: Digest, source: ConfigError },
}

impl StoreError {
    fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }
}

/// What the store takes on its file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

/// The store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    root: PathBuf,
    /// Locked for as long as it is open.
    _lock: OwnedFd,
    state: Mutex<State>,
    /// Held by what writes or removes records and blobs.
    writer: Mutex<()>,
    sync: SyncGate,
    report: OpenReport,
    users: Mutex<HashMap<Digest, Arc<UserDb>>>,
}

#[derive(Debug, Default)]
struct State {
    images: HashMap<Digest, Arc<Image>>,
    /// Tags and repo digests to ids.
    names: HashMap<String, Digest>,
    layers: HashMap<Digest, LayerInfo>,
    leases: HashMap<Digest, usize>,
    /// Layers whose image was removed while they were leased: they go with the release of the last lease.
    doomed: HashSet<Digest>,
    layer_usage: Usage,
    /// Records and blobs.
    file_usage: Usage,
    pinned: Vec<String>,
}

/// `layer.json`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct LayerInfo {
    diff_id: Digest,
    /// On disk.
    bytes: u64,
    inodes: u64,
    /// Of the archive.
    entries: u64,
    /// Bytes of the archive.
    tar_size: u64,
    /// Nothing of the layers below is visible.
    opaque_root: bool,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // What is changed under the lock cannot panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn images_dir(&self) -> PathBuf {
        self.root.join("images")
    }

    fn record(&self, id: &Digest) -> PathBuf {
        self.images_dir().join(format!("{}.json", id.hex()))
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.algorithm().name()).join(diff_id.hex())
    }

    fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }
}

impl Store {
    /// Opens the store, making it where there is none. See [`OpenReport`] for what was found wrong and put right.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        open::open(root).map(|inner| Self { inner: Arc::new(inner) })
    }

    /// What opening found.
    pub fn report(&self) -> &OpenReport {
        &self.inner.report
    }

    /// Where the store is: the mount point's file system of `ImageFsInfo`.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// All images, in no order.
    pub fn images(&self) -> Vec<Arc<Image>> {
        self.inner.state().images.values().cloned().collect()
    }

    /// An image by its id.
    pub fn get(&self, id: &Digest) -> Option<Arc<Image>> {
        self.inner.state().images.get(id).cloned()
    }

    /// An image by anything that people and kubelets call it: a reference, an id, bare hex digits of an id or the first of
    /// them, as long as they are one image's only.
    pub fn find(&self, query: &str) -> Option<Arc<Image>> {
        let query = query.trim();
        let state = self.inner.state();
        if let Some(image) = query.parse().ok().and_then(|id: Digest| state.images.get(&id)) {
            return Some(image.clone());
        }
        let named = |name: &str| state.names.get(name).and_then(|id| state.images.get(id)).cloned();
        if let Some(image) = named(query) {
            return Some(image);
        }
        if let Ok(reference) = query.parse::<Reference>() {
            let name = match reference.digest() {
                // With both, the digest says which image it is.
                Some(digest) => reference.pinned_to(digest),
                None => reference.to_string(),
            };
            if let Some(image) = named(&name) {
                return Some(image);
            }
        }
        let hex = query.strip_prefix("sha256:").unwrap_or(query);
        if hex.len() < SHORTEST_ID || !hex.bytes().all(super::digest::is_lower_hex) {
            return None;
        }
        let mut found = state.images.values().filter(|image| image.id.hex().starts_with(hex));
        match (found.next(), found.next()) {
            (Some(image), None) => Some(image.clone()),
            _ => None,
        }
    }

    /// What layers, records and documents take. Kept up to date, nothing is walked.
    pub fn usage(&self) -> Usage {
        let state = self.inner.state();
        Usage {
            bytes: state.layer_usage.bytes + state.file_usage.bytes,
            inodes: state.layer_usage.inodes + state.file_usage.inodes,
        }
    }

    /// Which images a kubelet is told not to remove: names, where `*` stands for anything.
    pub fn set_pinned(&self, patterns: &[String]) {
        let mut state = self.inner.state();
        state.pinned = patterns.iter().map(|pattern| record::pinned_pattern(pattern)).collect();
        let State { images, pinned, .. } = &mut *state;
        for image in images.values_mut() {
            let now = record::fits_any(pinned, image);
            if image.pinned != now {
                *image = Arc::new(Image { pinned: now, ..Image::clone(image) });
            }
        }
    }

    /// The raw bytes of a manifest, index or config of an image.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.inner.blob(digest);
        let bytes = std::fs::read(&path).map_err(|error| StoreError::io("read", &path, error))?;
        if !digest.verifies(&bytes) {
            return Err(StoreError::Damaged {
                path,
                reason: "its content does not have the digest of its name".into(),
            });
        }
        Ok(bytes)
    }

    /// The users and groups that an image has, read once.
    pub fn users(&self, image: &Image) -> Result<Arc<UserDb>, UserError> {
        let cache = || self.inner.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(users) = cache().get(&image.id) {
            return Ok(users.clone());
        }
        let users = Arc::new(UserDb::load(image)?);
        if self.get(&image.id).is_some() {
            cache().insert(image.id.clone(), users.clone());
        }
        Ok(users)
    }
}

#[cfg(test)]
mod tests;
