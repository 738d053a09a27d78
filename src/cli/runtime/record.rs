//! What is kept of a container between two calls: a directory with one file, and the gate of a created one.

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::Result;
use super::begin::GATE;
use super::cgroup::Unit;
use crate::runtime::cgroup::{Cgroup, CgroupError, CgroupPath, Host};

/// As runc has it.
const MAX_ID: usize = 1024;

/// The directory of all containers.
#[derive(Debug)]
pub(super) struct Root(PathBuf);

/// What [`Record`]s of this program say in `version`. A later one may say what is not understood here.
pub(super) const VERSION: u32 = 1;

/// A container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub version: u32,
    pub id: String,
    pub pid: i32,
    /// When it was started, in ticks since boot: tells it from a later process with the same number.
    pub started: u64,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    pub cgroup: Option<String>,
    /// The unit of systemd that the cgroup belongs to.
    #[serde(default)]
    pub unit: Option<Unit>,
    pub keyring: Option<String>,
    pub spec: Spec,
    /// What its init waits at, as long as it was not started.
    #[serde(skip)]
    pub gate: PathBuf,
}

/// What can be read of any record.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What must go when a container is to go: all that a broken record has to tell.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Remains {
    pid: i32,
    started: u64,
    cgroup: Option<String>,
    unit: Option<Unit>,
}

/// No other verb changes the container as long as this lives.
#[derive(Debug)]
pub(super) struct Lock {
    /// The container's directory.
    directory: OwnedFd,
}

impl Drop for Lock {
    /// Not only closed: a child on its way may still have a copy.
    fn drop(&mut self) {
        let _ = flock(&self.directory, FlockOperation::Unlock);
    }
}

/// The values of `status` in the specification's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
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

    /// The FIFO that a created container waits at, gone once it was started.
    pub fn gate(&self, id: &str) -> PathBuf {
        self.directory(id).join(GATE)
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

    /// The container, once no other verb is at it. One that is still being made does not exist.
    pub fn lock(&self, id: &str) -> Result<(Lock, Record)> {
        self.load(id)?;
        let lock = self.lock_directory(id)?;
        Ok((lock, self.load(id)?))
    }

    /// Waits until no other verb is at this container, or what was begun of it.
    pub fn lock_directory(&self, id: &str) -> Result<Lock> {
        check_id(id)?;
        let path = self.directory(id);
        loop {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match rustix::fs::open(&path, flags, Mode::empty()) {
                Err(Errno::NOENT) => bail!("container {id:?} does not exist"),
                other => other.with_context(|| format!("open {}", path.display()))?,
            };
            retry_on_intr(|| flock(&directory, FlockOperation::LockExclusive))
                .with_context(|| format!("lock {}", path.display()))?;
            // Who had it before may have removed it, and another may have made it anew.
            let (held, now) = (rustix::fs::fstat(&directory)?, rustix::fs::lstat(&path));
            if now.is_ok_and(|now| (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino)) {
                return Ok(Lock { directory });
            }
        }
    }

    /// The ids of all containers, sorted. None where there is no root.
    pub fn ids(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.0) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| format!("read {}", self.0.display()))?,
        };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        // One that is being made has no record yet.
        let mut ids: Vec<String> =
            names.filter(|name| check_id(name).is_ok() && self.directory(name).join("state.json").exists()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// What a record that cannot be understood still tells.
    pub fn salvage(&self, id: &str) -> Remains {
        let text = fs::read(self.directory(id).join("state.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub fn load(&self, id: &str) -> Result<Record> {
        check_id(id)?;
        let path = self.directory(id).join("state.json");
        let text = match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => bail!("container {id:?} does not exist"),
            other => other.with_context(|| format!("read {}", path.display()))?,
        };
        let not_understood = || format!("{} cannot be understood", path.display());
        let Versioned { version } = serde_json::from_slice(&text).with_context(not_understood)?;
        if version != VERSION {
            bail!("{}: version {version} is that of another program, not {VERSION}", not_understood());
        }
        let record: Record = serde_json::from_slice(&text).with_context(not_understood)?;
        Ok(Record { gate: self.gate(id), ..record })
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

impl Remains {
    /// Its first process, if that is still the one and not a zombie.
    pub fn process(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(self.pid)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Asked while the descriptor holds the process: from here on the number cannot become another's.
        let (state, started) = stat(self.pid)?;
        (started == self.started && !matches!(state, 'Z' | 'X')).then_some(pidfd)
    }

    /// Its cgroup, if that is still there.
    pub fn cgroup(&self) -> Result<Option<Cgroup>> {
        let Some(path) = &self.cgroup else { return Ok(None) };
        match Host::detect()?.open(&CgroupPath::new(path)?) {
            Err(CgroupError::Gone { .. }) => Ok(None),
            other => {
                let cgroup = other?;
                Ok(Some(match &self.unit {
                    Some(unit) => cgroup.with_scope(unit.scope()),
                    None => cgroup,
                }))
            }
        }
    }

    /// Makes systemd forget the unit of a cgroup that went with its last process.
    pub fn forget_unit(&self) -> Result<()> {
        self.unit.as_ref().map_or(Ok(()), |unit| Ok(unit.scope().stop()?))
    }
}

impl Record {
    pub fn remains(&self) -> Remains {
        let (cgroup, unit) = (self.cgroup.clone(), self.unit.clone());
        Remains { pid: self.pid, started: self.started, cgroup, unit }
    }

    /// Its process, if that is still the one; with it goes whether it was started.
    pub fn process(&self) -> Option<(OwnedFd, Status)> {
        let pidfd = self.remains().process()?;
        let created = self.gate.try_exists().unwrap_or(false);
        Some((pidfd, if created { Status::Created } else { Status::Running }))
    }

    pub fn status(&self) -> Status {
        let Some((_, status)) = self.process() else { return Status::Stopped };
        if self.is_frozen() { Status::Paused } else { status }
    }

    /// Whether its processes are stopped. Where that cannot be told they are not.
    pub fn is_frozen(&self) -> bool {
        self.remains().cgroup().ok().flatten().is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
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
