//! What this machine offers: the hierarchies, their controllers, and the directories in them.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::devices::Rules;
use super::io::Dir;
use super::{CgroupError, CgroupPath, Result};

bitflags::bitflags! {
    /// Sets of controllers. Both versions use the same names here; `BLKIO` is called `io` on version 2.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Controllers: u32 {
        const CPU = 1;
        const CPUACCT = 1 << 1;
        const CPUSET = 1 << 2;
        const MEMORY = 1 << 3;
        const PIDS = 1 << 4;
        const BLKIO = 1 << 5;
        const HUGETLB = 1 << 6;
        const RDMA = 1 << 7;
        const MISC = 1 << 8;
        const DEVICES = 1 << 9;
        const FREEZER = 1 << 10;
        const NET_CLS = 1 << 11;
        const NET_PRIO = 1 << 12;
        const PERF_EVENT = 1 << 13;
        /// The hierarchy without a controller by which systemd tells units apart on version 1.
        const SYSTEMD = 1 << 14;
        const DMEM = 1 << 15;
    }
}

/// Names as they appear in mount options and in `cgroup.controllers`.
const NAMES: [(&str, Controllers); 17] = [
    ("cpu", Controllers::CPU),
    ("cpuacct", Controllers::CPUACCT),
    ("cpuset", Controllers::CPUSET),
    ("memory", Controllers::MEMORY),
    ("pids", Controllers::PIDS),
    ("io", Controllers::BLKIO),
    ("blkio", Controllers::BLKIO),
    ("hugetlb", Controllers::HUGETLB),
    ("rdma", Controllers::RDMA),
    ("misc", Controllers::MISC),
    ("devices", Controllers::DEVICES),
    ("freezer", Controllers::FREEZER),
    ("net_cls", Controllers::NET_CLS),
    ("net_prio", Controllers::NET_PRIO),
    ("perf_event", Controllers::PERF_EVENT),
    ("name=systemd", Controllers::SYSTEMD),
    ("dmem", Controllers::DMEM),
];

impl Controllers {
    /// What every v2 cgroup has without a controller.
    pub(super) const CORE_OF_V2: Self = Self::DEVICES.union(Self::FREEZER);
    /// What is handed down to the children of a v2 cgroup.
    const HANDED_DOWN: Self = Self::CPU
        .union(Self::CPUSET)
        .union(Self::MEMORY)
        .union(Self::PIDS)
        .union(Self::BLKIO)
        .union(Self::HUGETLB)
        .union(Self::RDMA)
        .union(Self::MISC);
    /// Where one of these is on version 1, containers live on version 1.
    const NEEDED: Self = Self::CPU.union(Self::MEMORY).union(Self::PIDS);

    pub(super) fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, controller)| *controller)
    }

    pub(super) fn from_words(text: &str) -> Self {
        text.split_ascii_whitespace().filter_map(Self::named).collect()
    }

    /// `+cpu +io`: what `cgroup.subtree_control` takes.
    fn to_enable(self) -> String {
        let mut text = String::new();
        for (name, controller) in NAMES {
            if self.contains(controller) && name != "blkio" {
                text.push_str(if text.is_empty() { "+" } else { " +" });
                text.push_str(name);
            }
        }
        text
    }
}

impl fmt::Display for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (name, controller) in NAMES {
            if self.contains(controller) && name != "blkio" {
                f.write_str(if first { "" } else { " " })?;
                f.write_str(name)?;
                first = false;
            }
        }
        Ok(())
    }
}

/// Which version containers live in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V1 { "v1" } else { "v2" })
    }
}

/// One mounted hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub root: OwnedFd,
    pub mount: PathBuf,
    pub controllers: Controllers,
}

/// The cgroups of this machine. Cloning is cheap; all clones share the descriptors of the hierarchies' roots.
#[derive(Clone, Debug)]
pub struct Host {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub version: Version,
    pub controllers: Controllers,
    pub hierarchies: Vec<Hierarchy>,
    /// v1: the v2 hierarchy beside the others in which systemd keeps track of processes.
    pub unified: Option<PathBuf>,
    pub write_flags: OFlags,
    /// Device programs that are loaded already, the last used at the end.
    pub programs: Mutex<VecDeque<(Rules, Arc<OwnedFd>)>>,
}

/// A line of mountinfo that is about cgroups.
struct Mount {
    point: PathBuf,
    whole: bool,
    v2: bool,
    controllers: Controllers,
}

impl Host {
    /// Finds the hierarchies of this machine.
    pub fn detect() -> Result<Self> {
        let read = |file: &str| {
            std::fs::read_to_string(file).map_err(|error| CgroupError::Read {
                file: file.into(),
                source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
            })
        };
        // Where systemd does not run, its hierarchy means nothing to anybody.
        let systemd = Path::new("/run/systemd/system").is_dir();
        Self::from_mountinfo(&read("/proc/self/mountinfo")?, systemd)
    }

    /// As [`Self::detect`], from a given mountinfo; `systemd`: whether it runs this machine.
    pub fn from_mountinfo(mountinfo: &str, systemd: bool) -> Result<Self> {
        let mut mounts: Vec<Mount> = mountinfo.lines().filter_map(parse_mount).collect();
        // Of several mounts of a hierarchy the one that shows all of it is the best.
        mounts.sort_by_key(|mount| !mount.whole);
        let on_v1: Controllers = mounts.iter().filter(|mount| !mount.v2).map(|mount| mount.controllers).collect();
        if !on_v1.intersects(Controllers::NEEDED) {
            let Some(mount) = mounts.iter().find(|mount| mount.v2) else {
                return Err(CgroupError::NoHierarchy("neither cgroup2 nor a v1 controller is mounted".to_owned()));
            };
            return Self::unified_at(&mount.point);
        }
        let unified = mounts.iter().find(|mount| systemd && mount.v2).map(|mount| mount.point.clone());
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut seen = if systemd { Controllers::empty() } else { Controllers::SYSTEMD };
        for mount in mounts.into_iter().filter(|mount| !mount.v2) {
            let new = mount.controllers - seen;
            if !new.is_empty() {
                seen |= new;
                hierarchies.push(Hierarchy {
                    root: open_root(&mount.point)?,
                    mount: mount.point,
                    controllers: mount.controllers,
                });
            }
        }
        let controllers = hierarchies.iter().map(|hierarchy| hierarchy.controllers).collect();
        let mut host = Self::new(Version::V1, controllers, hierarchies, OFlags::empty());
        if let Some(inner) = Arc::get_mut(&mut host.inner) {
            inner.unified = unified;
        }
        Ok(host)
    }

    /// A host whose unified hierarchy is the directory `root`, for a cgroup2 mount at another place than the usual.
    pub fn unified_at(root: &Path) -> Result<Self> {
        Self::unified_with(root, OFlags::empty())
    }

    /// With flags for opening files; a test gives `O_CREAT` and an ordinary directory.
    pub(super) fn unified_with(root: &Path, write_flags: OFlags) -> Result<Self> {
        let hierarchy = Hierarchy { root: open_root(root)?, mount: root.to_owned(), controllers: Controllers::all() };
        let mut host = Self::new(Version::V2, Controllers::empty(), vec![hierarchy], write_flags);
        let text = host.dir(0, "").read("cgroup.controllers")?;
        if let Some(inner) = Arc::get_mut(&mut host.inner) {
            inner.controllers = Controllers::from_words(&text) | Controllers::CORE_OF_V2;
        }
        Ok(host)
    }

    fn new(version: Version, controllers: Controllers, hierarchies: Vec<Hierarchy>, write_flags: OFlags) -> Self {
        let programs = Mutex::default();
        Self { inner: Arc::new(Inner { version, controllers, hierarchies, unified: None, write_flags, programs }) }
    }

    /// The version that containers live in.
    pub fn version(&self) -> Version {
        self.inner.version
    }

    /// The controllers that can be used. On v2 `DEVICES` and `FREEZER` are always among them.
    pub fn controllers(&self) -> Controllers {
        self.inner.controllers
    }

    /// Where the hierarchies are mounted.
    pub fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.inner.hierarchies.iter().map(|hierarchy| hierarchy.mount.as_path())
    }

    /// Whether a cgroup of this path exists, in any hierarchy.
    pub fn exists(&self, path: &CgroupPath) -> bool {
        self.dirs(path).any(|dir| dir.exists())
    }

    /// The names of the cgroups directly below `parent`, in any hierarchy, sorted. None if there is no `parent`.
    pub fn children(&self, parent: &CgroupPath) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for dir in self.dirs(parent) {
            match dir.children() {
                Ok(found) => names.extend(found),
                Err(Errno::NOENT | Errno::NODEV) => {}
                Err(source) => return Err(CgroupError::Read { file: dir.path(""), source }),
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    pub(super) fn dir<'a>(&'a self, hierarchy: usize, relative: &'a str) -> Dir<'a> {
        let Hierarchy { root, mount, .. } = &self.inner.hierarchies[hierarchy];
        Dir { root, mount, relative, write_flags: self.inner.write_flags }
    }

    /// The cgroup in every hierarchy.
    pub(super) fn dirs<'a>(&'a self, path: &'a CgroupPath) -> impl Iterator<Item = Dir<'a>> {
        (0..self.inner.hierarchies.len()).map(|index| self.dir(index, path.relative()))
    }

    /// The cgroup in the hierarchy of `controller`; the only one on v2.
    pub(super) fn dir_of<'a>(&'a self, controller: Controllers, path: &'a CgroupPath) -> Option<Dir<'a>> {
        let index = match self.inner.version {
            Version::V2 => 0,
            Version::V1 => {
                self.inner.hierarchies.iter().position(|hierarchy| hierarchy.controllers.contains(controller))?
            }
        };
        Some(self.dir(index, path.relative()))
    }

    /// Makes the directories above `path` in one hierarchy.
    pub(super) fn make_parents(&self, hierarchy: usize, path: &CgroupPath) -> Result<()> {
        let Some(parent) = path.parent().filter(|parent| !parent.is_root()) else { return Ok(()) };
        let dir = self.dir(hierarchy, parent.relative());
        let mut result = dir.mkdir();
        if result == Err(Errno::NOENT) {
            self.make_parents(hierarchy, &parent)?;
            result = dir.mkdir();
        }
        match result {
            Ok(()) => self.inherit_cpuset(hierarchy, &parent, false, false),
            Err(Errno::EXIST) => Ok(()),
            Err(source) => Err(CgroupError::Make { path: dir.path(""), source }),
        }
    }

    /// A v1 cpuset takes no process before it has cpus and memory nodes: gives a new one those of its parent.
    pub(super) fn inherit_cpuset(
        &self,
        hierarchy: usize,
        path: &CgroupPath,
        has_cpus: bool,
        has_mems: bool,
    ) -> Result<()> {
        let v1_cpuset = self.inner.version == Version::V1
            && self.inner.hierarchies[hierarchy].controllers.contains(Controllers::CPUSET);
        let Some(parent) = path.parent().filter(|_| v1_cpuset) else { return Ok(()) };
        for (file, given) in [("cpuset.cpus", has_cpus), ("cpuset.mems", has_mems)] {
            if !given {
                let value = self.cpuset_of(hierarchy, &parent, file)?;
                self.dir(hierarchy, path.relative()).write(file, &value)?;
            }
        }
        Ok(())
    }

    /// The value of a cpuset file; one that was never set gets that of its parent first.
    fn cpuset_of(&self, hierarchy: usize, path: &CgroupPath, file: &str) -> Result<String> {
        let dir = self.dir(hierarchy, path.relative());
        let value = dir.read(file)?;
        match path.parent() {
            Some(parent) if value.is_empty() => {
                let value = self.cpuset_of(hierarchy, &parent, file)?;
                dir.write(file, &value)?;
                Ok(value)
            }
            _ => Ok(value),
        }
    }

    /// v2: makes the controllers usable in the children of `parent`, all that the host has as far as possible, and
    /// those in `needed` for certain. No process is touched.
    pub(super) fn hand_down(&self, parent: &CgroupPath, needed: Controllers) -> Result<()> {
        const FILE: &str = "cgroup.subtree_control";
        let wanted = self.controllers() & Controllers::HANDED_DOWN;
        let enabled =
            |path: &CgroupPath| self.dir(0, path.relative()).read(FILE).map(|text| Controllers::from_words(&text));
        if enabled(parent)?.contains(wanted) {
            return Ok(());
        }
        let mut chain: Vec<CgroupPath> = std::iter::successors(Some(parent.clone()), CgroupPath::parent).collect();
        chain.reverse();
        let mut refused = (Errno::NODEV, parent.clone());
        for path in &chain {
            let dir = self.dir(0, path.relative());
            let offered = Controllers::from_words(&dir.read("cgroup.controllers")?);
            let missing = (wanted & offered) - enabled(path)?;
            if missing.is_empty() {
                continue;
            }
            match dir.try_write(FILE, &missing.to_enable()) {
                Ok(()) => continue,
                Err(Errno::BUSY) => {
                    // It has processes of its own. Some controllers could be enabled one by one, but then no process
                    // could enter the cgroups below: they would be threads' (cgroup-v2.rst, "Threads").
                    refused = (Errno::BUSY, path.clone());
                    continue;
                }
                Err(_) => {}
            }
            // All or nothing was nothing: one by one, and what fails counts only if it is needed.
            for controller in missing.iter() {
                if let Err(source) = dir.try_write(FILE, &controller.to_enable()) {
                    refused = (source, path.clone());
                }
            }
        }
        let lacking = (needed & Controllers::HANDED_DOWN) - enabled(parent)?;
        if lacking.is_empty() {
            return Ok(());
        }
        let (source, at) = refused;
        Err(CgroupError::Delegate { path: self.dir(0, at.relative()).path(""), controllers: lacking, source })
    }
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| CgroupError::Read { file: path.to_owned(), source })
}

/// `36 31 0:33 / /sys/fs/cgroup/devices rw,relatime shared:9 - cgroup cgroup rw,devices`
fn parse_mount(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut back = back.split(' ');
    let v2 = match back.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let controllers = back.nth(1)?.split(',').filter_map(Controllers::named).collect();
    let mut front = front.split(' ').skip(3);
    let whole = front.next()? == "/";
    Some(Mount { point: unescape(front.next()?).into(), whole, v2, controllers })
}

/// mountinfo writes blanks and backslashes as `\` and three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
