//! Layers that nothing has any more.
//!
//! They are renamed into `ingest` at once, so that a pull that needs one makes it anew, and deleted by a thread of the
//! background: a layer may have a hundred thousand files.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use super::{Inner, State, Store};
use crate::image::digest::Digest;

impl Store {
    /// Deletes, in the background, all layers and documents that no image and no lease has. To be called once after a start,
    /// when leases were taken again.
    pub fn collect_garbage(&self) {
        let writer = self.inner.writer();
        self.inner.sweep_blobs();
        drop(writer);
        self.sweep_layers();
    }

    pub(super) fn sweep_layers(&self) {
        self.sweep(|_, _| true);
    }

    /// Only those that outlived their image because of a lease.
    pub(super) fn sweep_doomed(&self) {
        self.sweep(|state, diff_id| state.doomed.contains(diff_id));
    }

    fn sweep(&self, include: impl Fn(&State, &Digest) -> bool) {
        let mut state = self.inner.state();
        let used: HashSet<Digest> =
            state.images.values().flat_map(|image| image.layers.iter().map(|layer| layer.diff_id.clone())).collect();
        let free: Vec<Digest> = state
            .layers
            .keys()
            .filter(|diff_id| !used.contains(*diff_id) && !state.leases.contains_key(*diff_id))
            .filter(|diff_id| include(&state, diff_id))
            .cloned()
            .collect();
        let mut trash = Vec::new();
        for diff_id in free {
            match self.inner.trash_layer(&diff_id) {
                Ok(path) => trash.push(path),
                Err(error) => tracing::warn!(layer = %diff_id, %error, "cannot move an unused layer away"),
            }
            // Renamed or not, it is not to be used again.
            if let Some(info) = state.layers.remove(&diff_id) {
                state.layer_usage.bytes -= info.bytes;
                state.layer_usage.inodes -= info.inodes;
            }
            state.doomed.remove(&diff_id);
        }
        drop(state);
        delete_in_background(trash);
    }
}

impl Inner {
    fn trash_layer(&self, diff_id: &Digest) -> std::io::Result<PathBuf> {
        let to = self.ingest_dir().join(super::ingest::unique_name().map_err(std::io::Error::other)?);
        fs::rename(self.layer(diff_id), &to)?;
        Ok(to)
    }
}

/// Deletes trees that have no name any more.
pub(super) fn delete_in_background(trash: Vec<PathBuf>) {
    if trash.is_empty() {
        return;
    }
    let delete = move || {
        for path in trash {
            let removed = match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) => Err(error),
            };
            if let Err(error) = removed.or_else(gone) {
                tracing::warn!(path = %path.display(), %error, "cannot delete what is no longer used; the next start will try again");
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("image-trash".into()).spawn(delete) {
        tracing::warn!(%error, "cannot start a thread to delete unused layers; the next start will");
    }
}

fn gone(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
