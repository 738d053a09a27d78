//! Metrics and logs, usable from everywhere: this room knows none of the others.
//!
//! [`Metrics`] is made once and handed to whoever has something to count. [`http`] answers /metrics, /healthz and
//! /pulls. [`log`] sets up tracing. No label names an image, a pod or a container: those are without bound, and what
//! is asked of one pod comes through CRI.

pub mod http;
pub mod log;
mod metrics;
mod process;

#[cfg(test)]
mod tests;

pub use metrics::{Counts, Metrics};
