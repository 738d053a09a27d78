//! Every field of the runtime specification, looked at from inside of a container that the command line made from a
//! bundle. Needs root, and Debian's busybox-static.

#![allow(clippy::unwrap_used)]

#[path = "../support/bundle.rs"]
mod bundle;
mod devices;
mod mounts;
mod network;
mod process;
mod security;
mod system;
