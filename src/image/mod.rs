//! OCI image-spec: references, manifests, layers, the store.
//!
//! | module | what it is |
//! |---|---|
//! | [`reference`], [`digest`] | names of images and of content |
//! | [`media`], [`manifest`], [`config`], [`platform`] | the documents, and which image of an index fits this machine |
//! | [`unpack`] | a layer's stream to a directory: inflate, verify, untar |
//! | [`store`] | images and unpacked layers on disk, leases, garbage |
//! | [`pull`] | from a [`pull::Source`] into the store |
//! | [`rootfs`] | the merged view of an image: users in it, directories copied out of it |
//!
//! Nothing here knows of registries: what fetches is behind [`pull::Source`].

pub mod config;
pub mod digest;
pub mod manifest;
pub mod media;
pub mod platform;
pub mod pull;
pub mod reference;
pub mod rootfs;
pub mod store;
pub mod unpack;
pub mod users;

#[cfg(test)]
pub(crate) mod test_layers;

use serde::{Deserialize, Deserializer};

/// `null` as what a missing field is.
pub(crate) fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
