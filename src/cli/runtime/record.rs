//! What is kept of a container between two calls: a directory with one file, and the gate of a created one.

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use oci_spec::runtime::Spec;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::Result;
use crate::runtime::execute::never_executed;

/// As runc has it.
const MAX_ID: usize = 1024;

/// The directory of all containers.
#[derive(Debug)]
pub(super) struct Root(PathBuf);

/// A container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: String,
    pub pid: i32,
    /// When it was started, in ticks since boot: tells it from a later process with the same number.
    pub started: u64,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    pub cgroup: Option<String>,
    pub keyring: Option<String>,
    pub spec: Spec,
}

/// The values of `status` in the specification's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// Letters, digits and `_+-.`; what could be a path or an option is none.
pub(super) fn check_id(id: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id.len() > MAX_ID || !id.chars().all(plain) || id.starts_with(['-', '.']) {
        bail!("invalid container ID format: {id:?} (letters, digits, and \"_+-.\" after the first, at most {MAX_ID})");
    }
    Ok(())
}

impl Root {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn directory(&self, id: &str) -> PathBuf {
        self.0.join(id)
    }

    /// Reserves the id.
    pub fn reserve(&self, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).recursive(true).create(&self.0).with_context(|| format!("make {}", self.0.display()))?;
        let directory = self.directory(id);
        match builder.recursive(false).create(&directory) {
            Ok(()) => Ok(directory),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => bail!("container with given ID already exists: {id}"),
            Err(e) => Err(e).with_context(|| format!("make {}", directory.display())),
        }
    }

    pub fn load(&self, id: &str) -> Result<Record> {
        check_id(id)?;
        let path = self.directory(id).join("state.json");
        let text = match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => bail!("container {id:?} does not exist"),
            other => other.with_context(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&text).with_context(|| format!("{} cannot be understood", path.display()))
    }

    /// Written whole, then renamed: nobody reads half of it.
    pub fn save(&self, record: &Record) -> Result<()> {
        let directory = self.directory(&record.id);
        write_whole(&directory.join("state.json"), &serde_json::to_vec(record)?)
    }

    pub fn forget(&self, id: &str) -> Result<()> {
        let directory = self.directory(id);
        match fs::remove_dir_all(&directory) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).with_context(|| format!("remove {}", directory.display()))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&aside)?;
        file.write_all(content)?;
        fs::rename(&aside, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

impl Record {
    /// Its process, if that is still the one; the status goes with it.
    pub fn process(&self) -> Option<(OwnedFd, Status)> {
        let pid = Pid::from_raw(self.pid)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Asked while the descriptor holds the process: from here on the number cannot become another's.
        let (state, started) = stat(self.pid)?;
        if started != self.started || matches!(state, 'Z' | 'X') {
            return None;
        }
        let created = never_executed(self.pid).ok()?;
        Some((pidfd, if created { Status::Created } else { Status::Running }))
    }

    pub fn status(&self) -> Status {
        self.process().map_or(Status::Stopped, |(_, status)| status)
    }

    /// The state as the specification prints it.
    pub fn state(&self) -> serde_json::Value {
        let status = self.status();
        let none = HashMap::new();
        serde_json::json!({
            "ociVersion": self.spec.version(),
            "id": self.id,
            "pid": if status == Status::Stopped { 0 } else { self.pid },
            "status": status.name(),
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "annotations": self.spec.annotations().as_ref().unwrap_or(&none),
        })
    }
}

/// State and start time of a process.
pub(super) fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|&b| b == b')')?;
    let mut fields = std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}
