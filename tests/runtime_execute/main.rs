//! The executor with real namespaces, mounts and programs. Needs root, and Debian's busybox-static.

#![allow(clippy::unwrap_used)]

mod attributes;
mod cli;
mod filesystem;
mod support;
mod sys;
