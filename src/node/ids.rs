//! Identifiers and times.

use std::time::{SystemTime, UNIX_EPOCH};

use super::error::NodeError;

/// A new id: 64 hexadecimal digits, the form that cAdvisor looks for in cgroup names.
pub fn new_id() -> Result<String, NodeError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|cause| NodeError::internal("random numbers for an id", cause))?;
    Ok(hex::encode(bytes))
}

/// Nanoseconds since the epoch.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
