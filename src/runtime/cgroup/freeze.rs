//! Stopping all processes of a cgroup at once, and letting them go on. A failure never leaves them stopped.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, pread};

use super::group::Cgroup;
use super::host::{Controllers, Version};
use super::{CgroupError, Result, parse};

/// How long processes may take to stop: one that waits for a disk stops only then.
const PATIENCE: Duration = Duration::from_secs(2);

impl Cgroup {
    /// Stops every process in this cgroup and below; returns when all have stopped. If they do not within two
    /// seconds, they are thawed and the error is [`CgroupError::FreezeTimeout`].
    pub fn freeze(&self) -> Result<()> {
        let frozen = match self.host.version() {
            Version::V1 => self.freeze_v1(),
            Version::V2 => self.freeze_v2(),
        };
        match frozen {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.thaw()?;
                let waited_ms = PATIENCE.as_millis() as u64;
                Err(CgroupError::FreezeTimeout { path: self.path.to_string(), waited_ms })
            }
            Err(error) => {
                let _ = self.thaw(); // the first error is the one to tell
                Err(error)
            }
        }
    }

    /// Lets the processes go on. Harmless when they are not frozen.
    pub fn thaw(&self) -> Result<()> {
        let dir = self.dir_of(Controllers::FREEZER)?;
        match self.host.version() {
            Version::V1 => dir.write("freezer.state", "THAWED"),
            Version::V2 => dir.write("cgroup.freeze", "0"),
        }
    }

    /// Whether the processes are stopped, or are about to be.
    pub fn is_frozen(&self) -> Result<bool> {
        let dir = self.dir_of(Controllers::FREEZER)?;
        match self.host.version() {
            Version::V1 => Ok(dir.read("freezer.state")? != "THAWED"),
            Version::V2 => Ok(dir.read("cgroup.freeze")? == "1"),
        }
    }

    /// The state is set again at each look: a process that was being forked at the first time can have been missed.
    fn freeze_v1(&self) -> Result<bool> {
        let dir = self.dir_of(Controllers::FREEZER)?;
        let start = Instant::now();
        let mut pause = Duration::from_micros(50);
        loop {
            dir.write("freezer.state", "FROZEN")?;
            if dir.read("freezer.state")? == "FROZEN" {
                return Ok(true);
            }
            if start.elapsed() >= PATIENCE {
                return Ok(false);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// The kernel tells by `cgroup.events` when all have stopped.
    fn freeze_v2(&self) -> Result<bool> {
        let dir = self.dir_of(Controllers::FREEZER)?;
        let failed = |source| CgroupError::Read { file: dir.path("cgroup.events"), source };
        let events = dir.open("cgroup.events").map_err(failed)?;
        dir.write("cgroup.freeze", "1")?;
        let start = Instant::now();
        let mut buffer = [0u8; 256];
        loop {
            let len = pread(&events, &mut buffer[..], 0).map_err(failed)?;
            if parse::value_of(&buffer[..len], b"frozen") == Some(1) {
                return Ok(true);
            }
            let Some(left) = PATIENCE.checked_sub(start.elapsed()) else { return Ok(false) };
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(source) => return Err(failed(source)),
            }
        }
    }
}
