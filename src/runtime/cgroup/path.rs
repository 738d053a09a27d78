//! Names of cgroups.

use std::fmt;

use super::{CgroupError, Result};

/// An absolute path inside the cgroup hierarchies, such as `/kubepods/burstable/pod1/c1`.
///
/// It has no empty, `.` or `..` component, so that joined to a mount point it stays below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Takes `path`, which must be absolute and free of `.`, `..` and control characters. Repeated and trailing
    /// slashes are dropped; `/` is the root itself.
    pub fn new(path: &str) -> Result<Self> {
        let refuse = |reason| Err(CgroupError::Path { path: path.to_owned(), reason });
        if !path.starts_with('/') {
            return refuse("it must begin with '/'");
        }
        if path.len() > 4000 {
            return refuse("it is too long");
        }
        let mut clean = String::with_capacity(path.len());
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if part == "." || part == ".." {
                return refuse("it has a component '.' or '..'");
            }
            if part.len() > 255 {
                return refuse("a component is longer than 255 bytes");
            }
            if part.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
                return refuse("it has a control character");
            }
            clean.push('/');
            clean.push_str(part);
        }
        if clean.is_empty() {
            clean.push('/');
        }
        Ok(Self(clean))
    }

    /// The cgroup `name` directly below this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        if name.is_empty() || name.contains('/') {
            return Err(CgroupError::Path { path: name.to_owned(), reason: "a name is one component and not empty" });
        }
        Self::new(&format!("{}/{name}", self.0))
    }

    /// The cgroup above; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.rfind('/').unwrap_or(0);
        Some(Self(if cut == 0 { "/".to_owned() } else { self.0[..cut].to_owned() }))
    }

    /// Whether this is the root of the hierarchies.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The absolute path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path below a mount point, without the leading slash; empty for the root.
    pub(super) fn relative(&self) -> &str {
        &self.0[1..]
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
