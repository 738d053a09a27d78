//! CRI's messages to the node's types and back.
//!
//! Requests are checked on the way in: every function of the first half yields the domain's value or the name of the
//! field that can never be right. Replies cannot fail.

pub mod container;
pub mod filter;
pub mod image;
pub mod pod;
pub mod resources;
pub mod security;
pub mod signal;
pub mod stats;
pub mod status;

use crate::node::types;

use super::v1;
use super::validate::{Checked, Invalid};

/// The value of an enum's field, `what` in the error.
fn known<T: TryFrom<i32>>(value: i32, what: &str) -> Checked<T> {
    T::try_from(value).map_err(|_| Invalid::new(format!("{value} is no {what} that this runtime knows")))
}

/// A time in whole seconds that must not be negative; 0 is none.
pub fn seconds(value: i64) -> Checked<u64> {
    u64::try_from(value).map_err(|_| Invalid::new(format!("{value} seconds is negative")))
}

fn id_mapping(m: v1::IdMapping) -> Checked<types::IdMapping> {
    if m.length == 0 {
        return Err(Invalid::of("length", "is 0"));
    }
    if m.host_id.checked_add(m.length - 1).is_none() || m.container_id.checked_add(m.length - 1).is_none() {
        return Err(Invalid::of("length", format!("{} leads beyond the last id", m.length)));
    }
    Ok(types::IdMapping { host_id: m.host_id, container_id: m.container_id, length: m.length })
}

fn id_mapping_view(m: &types::IdMapping) -> v1::IdMapping {
    v1::IdMapping { host_id: m.host_id, container_id: m.container_id, length: m.length }
}
