//! The agent's log: text for a terminal, JSON for a collector, on standard error.
//!
//! Whoever logs of a pod or a container sets the fields `pod` (namespace/name), `container` (name) and `id`, on the event
//! or on a span around the work; then one search finds everything about it.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Starts logging for the whole process. `level` is as in the configuration; `RUST_LOG`, where set, goes before it.
///
/// # Errors
/// `level` is not a filter.
pub fn init(level: &str, json: bool) -> Result<(), ParseError> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let filter: EnvFilter = directives.parse()?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // A second call is a test in the same process; the first one's settings stay.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        builder.with_target(false).with_ansi(stderr().is_terminal()).try_init()
    };
    Ok(())
}
