//! Why the node refused or failed. `cri` maps [`ErrorKind`] to a gRPC code in one place.

use thiserror::Error;

use super::spec::SpecError;

/// What kind of failure it is, in the terms that a caller acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object does not exist.
    NotFound,
    /// The request can never succeed as it is.
    InvalidArgument,
    /// The object is in another state than the operation needs.
    FailedPrecondition,
    AlreadyExists,
    /// A limit of time that the caller set has passed.
    DeadlineExceeded,
    /// Something is not ready now; the same request may succeed later.
    Unavailable,
    ResourceExhausted,
    PermissionDenied,
    /// One of the errors that a kubelet knows by the first word of the text (`RegistryUnavailable`, …).
    Known,
    Internal,
}

/// An error of the node: its kind, and a message that names the object, the cause and the way out.
#[derive(Clone, Debug, Error)]
#[error("{message}")]
pub struct NodeError {
    pub kind: ErrorKind,
    pub message: String,
}

impl NodeError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(ErrorKind::NotFound, format!("{what} \"{id}\" not found"))
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    pub fn internal(what: impl std::fmt::Display, cause: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, format!("{what}: {cause}"))
    }
}

/// A configuration that is no spec is the caller's to mend.
impl From<SpecError> for NodeError {
    fn from(cause: SpecError) -> Self {
        match cause {
            SpecError::RecursiveReadOnly { .. } => Self::new(ErrorKind::Known, cause.to_string()),
            other => Self::invalid(other.to_string()),
        }
    }
}

/// What the node's operations return.
pub type Result<T> = std::result::Result<T, NodeError>;
