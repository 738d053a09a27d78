//! Where a bus listens, as `DBUS_SYSTEM_BUS_ADDRESS` and the like say it.

use std::path::PathBuf;

use super::{DbusError, Result};

/// A Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Path(PathBuf),
    /// One in the abstract namespace.
    Abstract(Vec<u8>),
}

impl Address {
    /// The first Unix socket in a D-Bus address (a list separated by `;`).
    pub fn parse(text: &str) -> Result<Self> {
        for entry in text.split(';') {
            let Some(options) = entry.strip_prefix("unix:") else { continue };
            for option in options.split(',') {
                match option.split_once('=') {
                    Some(("path", path)) => return Ok(Self::Path(bytes_to_path(unescape(path)))),
                    Some(("abstract", name)) => return Ok(Self::Abstract(unescape(name))),
                    _ => {}
                }
            }
        }
        Err(DbusError::Address(text.to_owned()))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
        }
    }
}

fn bytes_to_path(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// `%2f` and the like.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}
