//! Debian's engines with this runtime in the place of runc: containerd (by ctr and by its CRI), Podman, Buildah.
//!
//! Each test has a mount and a network namespace of its own, in which /run and what the engines keep are theirs alone,
//! and an image made of busybox; no registry is asked. A test whose engine is not installed says so and passes.

#![allow(clippy::unwrap_used)] // It is all test code.

mod buildah;
#[path = "../support/bundle.rs"]
mod bundle;
mod containerd;
mod cri;
mod place;
mod podman;
