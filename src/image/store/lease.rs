//! What keeps layers in the store besides images: running containers and pulls.

use std::sync::Arc;

use super::{Image, Inner, Store, StoreError};
use crate::image::digest::Digest;

/// Keeps layers while it lives.
#[derive(Debug)]
pub struct Lease {
    inner: Arc<Inner>,
    layers: Vec<Digest>,
}

impl Store {
    /// Keeps an image's layers, whatever becomes of the image. Fails if it was removed and its layers with it.
    pub fn lease(&self, image: &Image) -> Result<Lease, StoreError> {
        self.lease_layers(&image.diff_ids())
    }

    /// Keeps layers by their diff ids: all of them, or it fails.
    pub fn lease_layers(&self, diff_ids: &[Digest]) -> Result<Lease, StoreError> {
        let mut state = self.inner.state();
        if let Some(missing) = diff_ids.iter().find(|diff_id| !state.layers.contains_key(*diff_id)) {
            return Err(StoreError::NoLayer(missing.clone()));
        }
        for diff_id in diff_ids {
            *state.leases.entry(diff_id.clone()).or_default() += 1;
        }
        Ok(Lease { inner: self.inner.clone(), layers: diff_ids.to_vec() })
    }

    /// A lease of nothing, to be [merged](Lease::merge) into.
    pub fn empty_lease(&self) -> Lease {
        Lease { inner: self.inner.clone(), layers: Vec::new() }
    }
}

impl Lease {
    /// What it keeps.
    pub fn layers(&self) -> &[Digest] {
        &self.layers
    }

    /// Takes over what another one keeps.
    pub fn merge(&mut self, mut other: Self) {
        self.layers.append(&mut other.layers);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.layers.is_empty() {
            return;
        }
        let mut state = self.inner.state();
        let mut freed = false;
        for diff_id in &self.layers {
            if let Some(count) = state.leases.get_mut(diff_id) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(diff_id);
                    freed |= state.doomed.contains(diff_id);
                }
            }
        }
        drop(state);
        if freed {
            Store { inner: self.inner.clone() }.sweep_doomed();
        }
    }
}
