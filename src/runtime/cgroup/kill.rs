//! Processes of a cgroup: who they are, and the end of them.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::group::Cgroup;
use super::host::{Controllers, Version};
use super::io::Dir;
use super::{CgroupError, Result};

/// In which hierarchy of v1 processes are looked for, the best first: freezing and looking agree in the first.
const WHERE: [Controllers; 5] =
    [Controllers::FREEZER, Controllers::PIDS, Controllers::DEVICES, Controllers::MEMORY, Controllers::CPU];

/// Passes over the processes before those that fork faster than they are killed are frozen.
const PASSES: usize = 5;

impl Cgroup {
    /// The processes in this cgroup and those below, as this process sees them, sorted. Zombies are not among them.
    pub fn pids(&self) -> Result<Vec<i32>> {
        pids_below(self.home()?)
    }

    /// Whether no process is in this cgroup and those below. A cgroup that is gone is empty.
    pub fn is_empty(&self) -> Result<bool> {
        self.pids().map(|pids| pids.is_empty())
    }

    /// Kills every process in this cgroup and below with SIGKILL; also one that is frozen. It does not wait for them
    /// to be gone, but when it returns no process is left that could still fork. No process may be started in the
    /// cgroup afterwards; a cgroup that is gone is no error.
    pub fn kill(&self) -> Result<()> {
        if self.host.version() == Version::V2 {
            self.killed.store(true, Ordering::Release);
            let dir = self.host.dir(0, self.path.relative());
            match dir.try_write("cgroup.kill", "1") {
                Ok(()) | Err(Errno::NODEV) => return Ok(()),
                Err(Errno::NOENT) if !dir.exists() => return Ok(()),
                Err(Errno::NOENT) => {} // before Linux 5.14
                Err(source) => return Err(dir.write_error("cgroup.kill", "1", source)),
            }
        }
        let killed = self.kill_one_by_one();
        // A frozen process dies when it thaws, whether we froze it or somebody else.
        match (killed, self.thaw()) {
            (Ok(()), Err(error)) if !error.is_gone() => Err(error),
            (killed, _) => killed,
        }
    }

    /// Waits until no process is left; the processes that are there at the end of `limit` are in the error.
    pub fn wait_empty(&self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            if start.elapsed() >= limit {
                return Err(CgroupError::Unkillable { path: self.path.to_string(), pids });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// A process with SIGKILL pending cannot fork: once a look shows only processes that have it, all have.
    fn kill_one_by_one(&self) -> Result<()> {
        let mut signalled = HashSet::new();
        for pass in 0..2 * PASSES {
            if pass == PASSES {
                // They fork faster than we look. Frozen they do not; the caller thaws.
                match self.freeze() {
                    Ok(()) | Err(CgroupError::FreezeTimeout { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            let pids = self.pids()?;
            let all_known = pids.iter().all(|pid| signalled.contains(pid));
            for pid in &pids {
                signalled.insert(*pid);
                if let Some(pid) = Pid::from_raw(*pid) {
                    match kill_process(pid, Signal::KILL) {
                        Ok(()) | Err(Errno::SRCH) => {}
                        Err(source) => {
                            let file = self.home()?.path("cgroup.procs");
                            return Err(CgroupError::Write { file, value: format!("SIGKILL {pid:?}"), source });
                        }
                    }
                }
            }
            if all_known {
                return Ok(());
            }
        }
        Err(CgroupError::Unkillable { path: self.path.to_string(), pids: self.pids()? })
    }

    /// The directory by which processes are found.
    pub(super) fn home(&self) -> Result<Dir<'_>> {
        WHERE.iter().find_map(|controller| self.host.dir_of(*controller, &self.path)).ok_or_else(|| {
            CgroupError::NoHierarchy(format!("none of the mounted controllers can list the processes of {}", self.path))
        })
    }
}

/// The processes of `dir` and of the cgroups below. One that is gone has none.
pub(super) fn pids_below(dir: Dir<'_>) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    collect(dir, &mut pids)?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn collect(dir: Dir<'_>, pids: &mut Vec<i32>) -> Result<()> {
    let fail = |source| match source {
        Errno::NOENT | Errno::NODEV => Ok(()),
        // A threaded cgroup lists threads only; its processes are listed further up.
        Errno::OPNOTSUPP => Ok(()),
        source => Err(CgroupError::Read { file: dir.path("cgroup.procs"), source }),
    };
    let file = match dir.open("cgroup.procs") {
        Ok(fd) => std::fs::File::from(fd),
        Err(source) => return fail(source),
    };
    for line in BufReader::new(file).lines() {
        match line {
            // 0 stands for a process outside of our pid namespace: not ours to kill.
            Ok(line) => pids.extend(line.trim().parse::<i32>().ok().filter(|pid| *pid > 0)),
            Err(error) => return fail(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
    for name in dir.children().unwrap_or_default() {
        let relative = if dir.relative.is_empty() { name } else { format!("{}/{name}", dir.relative) };
        collect(dir.sibling(&relative), pids)?;
    }
    Ok(())
}
