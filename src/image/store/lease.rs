//! What keeps layers in the store besides images: running containers and pulls.

use std::sync::Arc;

use super::{Image, Inner, State, Store, StoreError};
use crate::image::digest::Digest;

/// Keeps layers while it lives. See [`Lease::release`] for its end.
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
        lease(&self.inner, &mut self.inner.state(), diff_ids)
    }

    /// A lease of nothing, to be [merged](Lease::merge) into.
    pub fn empty_lease(&self) -> Lease {
        Lease { inner: self.inner.clone(), layers: Vec::new() }
    }
}

/// With the state locked: a layer that was just added is not to be swept before it is leased.
pub(super) fn lease(inner: &Arc<Inner>, state: &mut State, diff_ids: &[Digest]) -> Result<Lease, StoreError> {
    if let Some(missing) = diff_ids.iter().find(|diff_id| !state.layers.contains_key(*diff_id)) {
        return Err(StoreError::NoLayer(missing.clone()));
    }
    for diff_id in diff_ids {
        *state.leases.entry(diff_id.clone()).or_default() += 1;
    }
    Ok(Lease { inner: inner.clone(), layers: diff_ids.to_vec() })
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

    /// Gives the layers up, and deletes those (in the background) whose image was removed meanwhile.
    ///
    /// A lease that is only dropped deletes nothing: a program that ends drops its leases too, while the containers that
    /// they stand for run on. What is left over by that goes with the next removal of an image, or
    /// [`Store::collect_garbage`].
    pub fn release(self) {
        let store = Store { inner: self.inner.clone() };
        drop(self);
        store.sweep_doomed();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        for diff_id in &self.layers {
            if let Some(count) = state.leases.get_mut(diff_id) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(diff_id);
                }
            }
        }
    }
}
