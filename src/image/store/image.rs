//! One image, as it is known in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Lease;
use crate::image::config::ImageConfig;
use crate::image::digest::Digest;
use crate::image::reference::Reference;

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    pub diff_id: Digest,
    /// Of the blob that a registry has.
    pub digest: Digest,
    pub media_type: String,
    /// Bytes of that blob.
    pub size: u64,
}

/// An image in the store. A change of it makes a new value; who holds an old one keeps what it was.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of the config, the id everywhere.
    pub id: Digest,
    /// `name:tag`, complete.
    pub tags: Vec<String>,
    /// `name@digest`.
    pub repo_digests: Vec<String>,
    /// The base first.
    pub layers: Vec<ImageLayer>,
    /// Indexes and manifests that lead to it, the newest last; their bytes are [`super::Store::blob`].
    pub documents: Vec<Digest>,
    /// Bytes of its unpacked layers and its documents. Never 0.
    pub size: u64,
    /// Seconds since 1970 when it was pulled or last pulled again.
    pub pulled: i64,
    pub config: Arc<ImageConfig>,
    /// The kubelet is asked not to remove it.
    pub pinned: bool,
    /// What [`Image::lowers`] is made of.
    pub(super) lowers: Arc<[PathBuf]>,
}

impl Image {
    /// The lower directories of an overlay mount, the topmost first; at least one.
    ///
    /// Each is there once: of a layer that an image has several times, only the highest occurrence can be seen. Layers with
    /// nothing in them, and those under an opaque root, are left out.
    pub fn lowers(&self) -> Vec<PathBuf> {
        self.lowers.to_vec()
    }

    /// The same, borrowed.
    pub fn lower_dirs(&self) -> impl Iterator<Item = &Path> {
        self.lowers.iter().map(PathBuf::as_path)
    }

    /// The diff ids of its layers, the base first, for [`super::Store::lease_layers`].
    pub fn diff_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.diff_id.clone()).collect()
    }

    /// Tags and repo digests.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().chain(&self.repo_digests).map(String::as_str)
    }
}

/// What a pull or an import adds to the store. Its layers are there already, and leased.
#[derive(Debug)]
pub struct NewImage {
    /// The raw config; its digest is the image's id.
    pub config: Vec<u8>,
    pub layers: Vec<ImageLayer>,
    /// Raw indexes and manifests, the outermost first, with their digests.
    pub documents: Vec<(Digest, Vec<u8>)>,
    /// What it was asked for as.
    pub reference: Option<Reference>,
    /// Keeps the layers until the image's record does.
    pub lease: Lease,
}
