//! A layer on its way into the store.

use std::fs::{self, DirBuilder, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Inner, LayerInfo, Lease, Store, StoreError, lease, trash};
use crate::image::digest::Digest;
use crate::image::unpack::Unpacked;

/// A directory that is filled with a layer. Dropped, it is deleted.
#[derive(Debug)]
pub struct Ingest {
    inner: Arc<Inner>,
    diff_id: Digest,
    /// None once it was committed.
    path: Option<PathBuf>,
}

impl Store {
    /// A place to unpack a layer to.
    pub fn begin_layer(&self, diff_id: &Digest) -> Result<Ingest, StoreError> {
        let path = self.inner.ingest_dir().join(unique_name()?);
        let make = |path: &PathBuf, mode: u32| {
            DirBuilder::new().mode(mode).create(path).map_err(|error| StoreError::io("make", path, error))
        };
        make(&path, 0o700)?;
        let ingest = Ingest { inner: self.inner.clone(), diff_id: diff_id.clone(), path: Some(path.clone()) };
        let diff = path.join("diff");
        make(&diff, 0o755)?;
        // Whatever the umask is: it is the root of every container with this layer on top.
        fs::set_permissions(&diff, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(|error| StoreError::io("set the mode of", &diff, error))?;
        Ok(ingest)
    }
}

impl Ingest {
    /// The empty directory to unpack to.
    pub fn dir(&self) -> Result<OwnedFd, StoreError> {
        let path = self.path.clone().unwrap_or_default().join("diff");
        File::open(&path).map(OwnedFd::from).map_err(|error| StoreError::io("open", &path, error))
    }

    /// Syncs the layer and gives it its name. The lease keeps it until an image does. Blocks on the disk.
    pub fn commit(mut self, unpacked: &Unpacked) -> Result<Lease, StoreError> {
        let store = Store { inner: self.inner.clone() };
        if let Ok(lease) = store.lease_layers(std::slice::from_ref(&self.diff_id)) {
            // Another way led to the same layer. This copy goes.
            return Ok(lease);
        }
        let info = LayerInfo {
            diff_id: self.diff_id.clone(),
            bytes: unpacked.applied.bytes,
            inodes: unpacked.applied.inodes,
            entries: unpacked.applied.entries,
            tar_size: unpacked.tar_size,
            opaque_root: unpacked.applied.opaque_root,
        };
        let from = self.path.clone().unwrap_or_default();
        let about = from.join("layer.json");
        let text = serde_json::to_vec(&info).map_err(std::io::Error::other);
        text.and_then(|text| fs::write(&about, text)).map_err(|error| StoreError::io("write", &about, error))?;
        self.inner.sync.sync()?;
        let to = self.inner.layer(&self.diff_id);
        let parent = to.parent().unwrap_or(&self.inner.root);
        fs::create_dir_all(parent).map_err(|error| StoreError::io("make", parent, error))?;
        let mut state = self.inner.state();
        if !state.layers.contains_key(&self.diff_id) {
            fs::rename(&from, &to).map_err(|error| StoreError::io("name", &to, error))?;
            self.path = None;
            state.layer_usage.bytes += info.bytes;
            state.layer_usage.inodes += info.inodes;
            state.layers.insert(self.diff_id.clone(), info);
        }
        lease::lease(&self.inner, &mut state, std::slice::from_ref(&self.diff_id))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        trash::delete_in_background(self.path.take().into_iter().collect());
    }
}

/// A name in `ingest` that nothing has.
pub(super) fn unique_name() -> Result<String, StoreError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Damaged {
        path: PathBuf::from("ingest"),
        reason: format!("no random name can be made: {error}"),
    })?;
    Ok(hex::encode(bytes))
}
