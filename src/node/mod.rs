//! The domain: pods and containers of this node.

#![forbid(unsafe_code)]

pub mod error;
pub mod spec;
pub mod types;
pub mod views;
