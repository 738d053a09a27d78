//! What several integration tests share. Each test file takes what it needs.
#![allow(dead_code, clippy::unwrap_used)] // No test file uses all of it; and all of it is test code.

pub mod agent;
pub mod image;
pub mod kubelet;
pub mod registry;
pub mod rig;
