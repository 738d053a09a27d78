//! What can go wrong between the agent and a shim.

use std::io;

use thiserror::Error;

use crate::runtime::execute::Stage;
use crate::shim::protocol::FailureKind;

/// A request to a shim that had no effect.
#[derive(Debug, Error)]
pub enum ShimError {
    /// The agent's own side of it failed.
    #[error("shim of pod {pod}: cannot {what}: {source}")]
    Io {
        pod: String,
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// The shim is gone, or another agent has taken its connection.
    #[error("shim of pod {pod}: the connection has ended")]
    Gone { pod: String },
    /// The shim said no.
    #[error("shim of pod {pod}: {subject}: {}", said(*kind, *errno, message))]
    Refused {
        pod: String,
        /// The container or exec, or the request.
        subject: String,
        kind: FailureKind,
        /// 0 if no system call failed.
        errno: i32,
        message: String,
    },
    /// It speaks another language than this agent.
    #[error("shim of pod {pod}: {what}")]
    Protocol { pod: String, what: String },
}

impl ShimError {
    /// What kind of refusal it was, if it was one.
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            Self::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// For a process that did not come to run its program: what it was at.
    pub fn start_stage(&self) -> Option<Stage> {
        match self.kind()? {
            FailureKind::Start(stage) => Some(stage),
            _ => None,
        }
    }
}

/// The shim's words with the system's behind them.
fn said(kind: FailureKind, errno: i32, message: &str) -> String {
    let mut text = if message.is_empty() { format!("{kind:?}") } else { message.to_owned() };
    if errno != 0 {
        let system = io::Error::from_raw_os_error(errno).to_string();
        // std adds " (os error N)"; the number helps nobody.
        text.push_str(": ");
        text.push_str(&system.split(" (os error").next().unwrap_or(&system).to_lowercase());
    }
    text
}
