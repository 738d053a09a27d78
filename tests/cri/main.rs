//! The wire from end to end: the real server on a real socket, the generated client, and a node that only remembers
//! what it was asked.

#![allow(clippy::unwrap_used, clippy::large_enum_variant)]

mod calls;
mod contract;
mod fake;
mod harness;
mod interop;
mod messages;
mod replies;
mod round_trip;
mod sample;
mod wrong_containers;
mod wrong_input;
mod wrong_pods;
