//! Errors of the child: what was being done, in the words that a person gets to read.

use std::io;

use rustix::io::Errno;

use super::status::{Notice, Stage};

/// The result of a step of the child.
pub(super) type Step<T> = Result<T, Notice>;

/// Turns a failed call into a [`Notice`].
pub(super) trait Context<T> {
    fn at(self, stage: Stage, detail: impl FnOnce() -> String) -> Step<T>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn at(self, stage: Stage, detail: impl FnOnce() -> String) -> Step<T> {
        self.map_err(|e| Notice { stage, errno: e.raw_os_error(), detail: detail() })
    }
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, stage: Stage, detail: impl FnOnce() -> String) -> Step<T> {
        self.map_err(|e| Notice { stage, errno: e.raw_os_error().unwrap_or(0), detail: detail() })
    }
}

/// A refusal that no system call is the reason of.
pub(super) fn refuse<T>(stage: Stage, detail: impl Into<String>) -> Step<T> {
    Err(Notice { stage, errno: 0, detail: detail.into() })
}

/// Bytes for a message.
pub(super) fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
