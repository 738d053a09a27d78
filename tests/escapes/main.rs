//! Ways out of a container, and ways to misuse an agent, that other runtimes had: each is tried here.
//!
//! A test has the number of the vulnerability it is about in its name; docs/threat-model.md lists them all, with what
//! stops them. Those about the runtime go through `orlop runtime`, those about the agent through its CRI socket. Where
//! the attack is a race, the test has a racer that changes the file system while containers start, and fails when no
//! race took place.

#![allow(clippy::unwrap_used)] // It is all test code.

#[path = "../support/bundle.rs"]
mod bundle;
#[path = "../support/mod.rs"]
mod support;

mod daemon;
mod descriptors;
mod hooks;
mod images;
mod leaky;
mod links;
mod names;
mod program;
mod race;
mod races;
mod rights;
mod sysctls;
