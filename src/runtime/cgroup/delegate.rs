//! A cgroup whose container may make cgroups below it.

use std::path::Path;

use rustix::fs::{AtFlags, Uid, chownat};
use rustix::io::Errno;

use super::{Cgroup, CgroupError, Result};

/// The files that this kernel says may be given away.
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// Before 4.15 it does not say.
const USUAL: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

impl Cgroup {
    /// Gives the directory to a user, and of its files those that do not let it out of its limits. Version 2 only: on
    /// version 1 a cgroup cannot be given away safely, and is not.
    pub fn delegate(&self, owner: u32) -> Result<()> {
        let Some(directory) = self.directory() else { return Ok(()) };
        let owner = Some(Uid::from_raw(owner));
        let failed =
            |file: &str, source| CgroupError::Owner { file: Path::new(self.path().as_str()).join(file), source };
        chownat(directory, "", owner, None, AtFlags::EMPTY_PATH).map_err(|source| failed("", source))?;
        let list = std::fs::read_to_string(LIST).unwrap_or_else(|_| USUAL.to_owned());
        for file in list.lines().map(str::trim).filter(|name| !name.is_empty() && !name.contains('/')) {
            match chownat(directory, file, owner, None, AtFlags::SYMLINK_NOFOLLOW) {
                // One of a controller that this cgroup does not have.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(source) => return Err(failed(file, source)),
            }
        }
        Ok(())
    }
}
