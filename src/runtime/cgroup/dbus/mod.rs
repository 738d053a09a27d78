//! A small D-Bus client: method calls and signals over a Unix socket, in the calling thread.
//!
//! It exists beside the libraries for this because the command line must stay a process with one thread (it forks the
//! container), because nothing here may ever wait without an end, and because systemd needs four of its methods. A
//! connection is made for one errand and dropped.

mod address;
mod connection;
mod value;
pub(super) mod wire;

pub use address::Address;
pub use connection::{Call, Connection};
pub use value::Value;

use std::time::Duration;

/// Why a bus did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DbusError {
    /// An address that names no socket of this machine.
    #[error("D-Bus address {0:?} names no Unix socket")]
    Address(String),
    /// Nobody listens.
    #[error("cannot connect to the bus at {address}: {cause}")]
    Connect { address: String, cause: rustix::io::Errno },
    /// The bus does not accept this user.
    #[error("the bus at {address} refuses this user: {answer:?}")]
    Refused { address: String, answer: String },
    /// The connection broke.
    #[error("the bus at {address} broke the connection off: {cause}")]
    Broken { address: String, cause: rustix::io::Errno },
    /// No answer.
    #[error("{what} was not answered within {} s over the bus at {address}", .waited.as_secs_f32())]
    Silent { what: String, address: String, waited: Duration },
    /// What came is no D-Bus.
    #[error("the bus at {address} sent what is no message: {what}")]
    Garbled { address: String, what: &'static str },
    /// The other side answered with an error; `name` is one of D-Bus, such as `org.freedesktop.systemd1.NoSuchUnit`.
    #[error("{member}: {message} ({name})")]
    Answer { member: String, name: String, message: String },
}

impl DbusError {
    /// The error's D-Bus name, where the other side answered with one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Answer { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// A result of this room.
pub type Result<T, E = DbusError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests;
