//! The small process that stays with each pod, its protocol, and the client that the node uses.
//!
//! The shim is the parent and subreaper of a pod's containers and execs, holds the pod's namespaces, pumps its logs
//! and keeps its exit codes. It outlives the agent, so nothing that a container needs while it runs is in the agent.
//! It has one thread and one epoll loop ([`server`]), speaks [`protocol`] with one agent at a time, and starts
//! processes with [`crate::runtime::execute`]; whatever needs thought was decided by the agent before.

pub mod protocol;
pub mod server;
pub mod text;
pub mod wire;

mod log;
mod sys;

#[cfg(feature = "agent")]
pub mod client;
