//! The systemd driver: scopes that systemd makes for us, over D-Bus.
//!
//! systemd makes a scope only with a process in it, and takes it away when the last one is gone. So a scope begins with
//! a [`Seed`], a process that does nothing; the container's first process is cloned into the scope's cgroup as with
//! the other driver, and the seed goes. Nothing of the container is ever moved.
//!
//! What the limits have a unit's property for is told to systemd, or the next `daemon-reload` would undo it; then all
//! of them are written to the control files as well, for systemd rounds some and knows nothing of others.
//!
//! Everything here waits for another process, with an end to each wait, and belongs on a thread that may do so.

mod client;
mod gvariant;
mod properties;
mod scope;
mod unit;

pub use client::{Job, Systemd};
pub use gvariant::parse as parse_property;
pub use scope::{Scope, ScopeOptions, Seed};
pub use unit::{ScopeName, expand_slice, slice_of_path};

use super::dbus::{Connection, Value};

/// A property of a unit and its value.
pub type Property = Value;

#[cfg(test)]
mod tests;
