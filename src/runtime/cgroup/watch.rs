//! For those who show what a cgroup has and what happens to it: the text of its files, and a descriptor that becomes
//! readable when memory runs out.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::group::Cgroup;
use super::host::{Controllers, Version};
use super::{CgroupError, Result};

impl Cgroup {
    /// The content of a control file; `None` where the host has no such controller or kernel no such file.
    pub fn text(&self, controller: Controllers, file: &str) -> Result<Option<String>> {
        let Some(dir) = self.host.dir_of(controller, &self.path) else { return Ok(None) };
        match dir.try_read(file) {
            Ok(text) => Ok(Some(text)),
            Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::NODEV) => Ok(None),
            Err(source) => Err(CgroupError::Read { file: dir.path(file), source }),
        }
    }

    /// Becomes readable when memory ran out in the cgroup, and when it is removed; on v2 also at other events of its
    /// memory, so that [`Self::oom_kills`] has to tell. Read it to be told of the next one. It does not block.
    pub fn watch_oom(&self) -> Result<OwnedFd> {
        let dir = self.dir_of(Controllers::MEMORY)?;
        let name = if self.host.version() == Version::V2 { "memory.events" } else { "memory.oom_control" };
        let failed = |source| CgroupError::Read { file: dir.path(name), source };
        let file = dir.open(name).map_err(failed)?;
        match self.host.version() {
            Version::V2 => {
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let watch = inotify::init(flags).map_err(failed)?;
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::DELETE_SELF;
                inotify::add_watch(&watch, path, events).map_err(failed)?;
                Ok(watch)
            }
            Version::V1 => {
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
                dir.write("cgroup.event_control", &format!("{} {}", event.as_raw_fd(), file.as_raw_fd()))?;
                Ok(event)
            }
        }
    }
}
