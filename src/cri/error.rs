//! From why the node refused to what a gRPC client reads: the one place that chooses a code.
//!
//! Kubelets act on few codes: NotFound (an object went away between a list and a status), DeadlineExceeded (an exec
//! probe timed out), Unimplemented (fall back to another RPC). And on Unknown: only there do they look at the text for
//! one of the words that they know, so such errors carry the word first and this code.

use tonic::{Code, Status};

use crate::node::error::{ErrorKind, NodeError};

use super::validate::Invalid;

/// The code that a kind of failure travels as.
pub fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Known => Code::Unknown,
        ErrorKind::Internal => Code::Internal,
    }
}

/// A status travels in a header, and clients give up on headers beyond 8 KiB or so: longer messages are cut.
const MESSAGE_LIMIT: usize = 2048;

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Self {
        Status::new(code(error.kind), shortened(error.message))
    }
}

impl From<Invalid> for Status {
    fn from(error: Invalid) -> Self {
        Status::invalid_argument(shortened(error.to_string()))
    }
}

/// What an RPC answers that a later version brings.
pub fn unimplemented(rpc: &str) -> Status {
    Status::unimplemented(format!("{rpc} is not implemented by Orlop {}", env!("CARGO_PKG_VERSION")))
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_LIMIT {
        message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
        message.push('…');
    }
    message
}
