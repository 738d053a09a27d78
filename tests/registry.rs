//! The registry client against servers that behave, and servers that do not.
#![allow(clippy::unwrap_used)] // Outside of test functions too: all of it is test code.

#[path = "registry/common.rs"]
mod common;
#[path = "registry/pull.rs"]
mod pull;
#[path = "registry/server.rs"]
mod server;
