//! Filters of system calls: what the kernel makes of a compiled profile, and agents that decide on calls.

#![allow(clippy::unwrap_used)]

mod agent;
#[path = "../support/bundle.rs"]
mod bundle;
mod kernel;
mod notify;
mod sys;
