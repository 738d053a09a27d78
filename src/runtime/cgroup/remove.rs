//! Removing cgroups, in every hierarchy, with what is below.

use std::time::Duration;

use rustix::io::Errno;

use super::group::Cgroup;
use super::io::Dir;
use super::systemd::Scope;
use super::{CgroupError, Result};

/// How often a busy cgroup is tried, with pauses of 1, 2, 4 … ms between: half a second in all. What has just been
/// killed needs a moment to be gone.
const TRIES: u32 = 10;

impl Cgroup {
    /// Removes the cgroup and those below from every hierarchy. What is not there is fine. While processes are in it,
    /// it waits for half a second; the error then names the directory.
    ///
    /// Of a scope, systemd is asked to stop the unit at first.
    pub fn remove(&self) -> Result<()> {
        let mut result = self.scope.as_ref().map_or(Ok(()), Scope::stop);
        for dir in self.host.dirs(&self.path) {
            if let Err(error) = remove_tree(dir) {
                result = Err(error);
            }
        }
        result
    }
}

impl Cgroup {
    /// Removes the cgroup where nothing is in it and nothing below it; elsewhere it stays. For a parent that others may
    /// use by now.
    pub fn remove_if_empty(&self) -> Result<()> {
        for dir in self.host.dirs(&self.path) {
            match dir.rmdir() {
                Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::BUSY | Errno::NOTEMPTY) => {}
                Err(_) if !dir.exists() => {}
                Err(source) => return Err(CgroupError::Remove { path: dir.path(""), source }),
            }
        }
        Ok(())
    }
}

/// Removes `dir` and what is below in one hierarchy.
pub(super) fn remove_tree(dir: Dir<'_>) -> Result<()> {
    if dir.relative.is_empty() {
        return Err(CgroupError::Path { path: "/".to_owned(), reason: "the root cannot be removed" });
    }
    let mut pause = Duration::from_millis(1);
    for attempt in 1.. {
        match try_remove(dir) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => break,
            Err(Errno::BUSY | Errno::INTR) if attempt < TRIES => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            // Some file systems say so of everything, also of what is not there.
            Err(_) if !dir.exists() => break,
            Err(source) => return Err(CgroupError::Remove { path: dir.path(""), source }),
        }
    }
    Ok(())
}

/// One try: the directory itself at first, for it seldom has any below.
fn try_remove(dir: Dir<'_>) -> Result<(), Errno> {
    match dir.rmdir() {
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        result => return result,
    }
    let children = dir.children()?;
    if children.is_empty() {
        return Err(Errno::BUSY);
    }
    for name in children {
        let relative = format!("{}/{name}", dir.relative);
        match try_remove(dir.sibling(&relative)) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(error) => return Err(error),
        }
    }
    dir.rmdir()
}
