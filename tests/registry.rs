//! The registry client against servers that behave, and servers that do not.
#![allow(clippy::unwrap_used)] // Outside of test functions too: all of it is test code.

#[path = "registry/auth.rs"]
mod auth;
#[path = "registry/common.rs"]
mod common;
#[path = "registry/hosts.rs"]
mod hosts;
#[path = "registry/pull.rs"]
mod pull;
#[path = "registry/push.rs"]
mod push;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/throughput.rs"]
mod throughput;
#[path = "registry/tls.rs"]
mod tls;
