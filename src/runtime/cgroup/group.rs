//! One cgroup: making it with its limits, and the way in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;

use super::devices::Rules;
use super::host::{Controllers, Host, Version};
use super::io::Dir;
use super::settings::{self, Current, Otherwise, Setting};
use super::stats::Files;
use super::systemd::Scope;
use super::{CgroupError, CgroupPath, Result, bpf, parse, sys};

/// How [`Host::create`] goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// What a cgroup that is there already means.
    pub existing: OnExisting,
    /// Drops limits on huge pages where the host lacks that controller. Kubelets send a limit of 0 for every page
    /// size, so this is the default.
    pub tolerate_missing_hugetlb: bool,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self { existing: OnExisting::Replace, tolerate_missing_hugetlb: true }
    }
}

/// What to do with a cgroup that exists when it is to be made. One with processes in it is always refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExisting {
    /// An empty one is a leftover: it is removed and made anew.
    #[default]
    Replace,
    /// An empty one is used as it is, and gets the limits.
    Adopt,
    /// An error.
    Refuse,
}

/// The way into a cgroup, for the child that goes in by itself.
#[derive(Debug)]
pub enum Entry {
    /// The directory, for `clone3` with `CLONE_INTO_CGROUP`.
    V2(OwnedFd),
    /// The `tasks` file of every hierarchy; the single-threaded child writes `0` to each.
    V1(Vec<PathBuf>),
}

/// A cgroup of this machine. It is not removed when this value goes: see [`Cgroup::remove`].
#[derive(Debug)]
pub struct Cgroup {
    pub(super) host: Host,
    pub(super) path: CgroupPath,
    /// v2: the directory.
    pub(super) directory: Option<OwnedFd>,
    pub(super) killed: AtomicBool,
    pub(super) files: OnceLock<Files>,
    /// The unit of systemd that it belongs to.
    pub(super) scope: Option<Scope>,
}

impl Host {
    /// Makes the cgroup `path` in every hierarchy and sets the limits while it is empty. On failure nothing that was
    /// made stays, but for missing parents.
    ///
    /// Device rules (`resources.devices`): `None` restricts nothing; a list is applied upon "nothing is allowed", so
    /// the caller adds [`default_device_rules`](super::default_device_rules).
    pub fn create(&self, path: &CgroupPath, resources: &LinuxResources, options: CreateOptions) -> Result<Cgroup> {
        if path.is_root() {
            return Err(CgroupError::Path { path: path.to_string(), reason: "the root is there already" });
        }
        let tolerate = options.tolerate_missing_hugetlb;
        let settings = settings::plan(self, resources, &Current::fresh(), tolerate)?;
        let rules = resources.devices().as_deref().map(Rules::parse).transpose()?;
        let needed = settings.iter().map(|setting| setting.controller).collect();
        let sets = |file: &str| settings.iter().any(|setting| setting.file == file);
        let (has_cpus, has_mems) = (sets("cpuset.cpus"), sets("cpuset.mems"));
        let mut made = Made { host: self, path, at: Vec::new(), keep: false };
        for index in 0..self.inner.hierarchies.len() {
            if self.make(index, path, options.existing, needed)? {
                made.at.push(index);
                self.inherit_cpuset(index, path, has_cpus, has_mems)?;
            }
        }
        let group = Cgroup::at(self, path)?;
        let fresh = made.at.len() == self.inner.hierarchies.len();
        if !fresh && group.is_frozen().unwrap_or(false) {
            let reason = "it is frozen, and whatever starts in it would stand still".to_owned();
            return Err(CgroupError::InUse { path: path.to_string(), reason });
        }
        let settings = if fresh { settings } else { settings::plan(self, resources, &group.current()?, tolerate)? };
        group.apply(&settings)?;
        if let Some(rules) = rules {
            group.set_devices(&rules, fresh)?;
        }
        made.keep = true;
        Ok(group)
    }

    /// The cgroup above those of a pod's containers. One that is there (the kubelet's) is left as it is and only
    /// completed in hierarchies that lack it; otherwise it is made with `resources`. Tells whether it was made.
    pub fn create_parent(&self, path: &CgroupPath, resources: &LinuxResources) -> Result<(Cgroup, bool)> {
        if path.is_root() {
            return Ok((Cgroup::at(self, path)?, false));
        }
        if !self.exists(path) {
            let options = CreateOptions { existing: OnExisting::Adopt, ..CreateOptions::default() };
            return Ok((self.create(path, resources, options)?, true));
        }
        self.complete(path)?;
        Ok((Cgroup::at(self, path)?, false))
    }

    /// Makes a cgroup that others made in those hierarchies that lack it.
    pub(super) fn complete(&self, path: &CgroupPath) -> Result<()> {
        for index in 0..self.inner.hierarchies.len() {
            let dir = self.dir(index, path.relative());
            if self.version() == Version::V1 && !dir.exists() {
                self.make(index, path, OnExisting::Adopt, Controllers::empty())?;
                self.inherit_cpuset(index, path, false, false)?;
            }
        }
        Ok(())
    }

    /// A cgroup that is there, after a restart of the agent. On v1 one hierarchy that has it is enough, so that what
    /// is left of a half-removed one can be removed.
    pub fn open(&self, path: &CgroupPath) -> Result<Cgroup> {
        if !self.exists(path) {
            return Err(CgroupError::Gone { path: path.to_string() });
        }
        Cgroup::at(self, path)
    }

    /// Makes one directory; tells whether it is new.
    fn make(&self, index: usize, path: &CgroupPath, existing: OnExisting, needed: Controllers) -> Result<bool> {
        let dir = self.dir(index, path.relative());
        let v2_parent = path.parent().filter(|_| self.version() == Version::V2);
        let mut result = dir.mkdir();
        if result == Err(Errno::NOENT) {
            self.make_parents(index, path)?;
            result = dir.mkdir();
        }
        if result == Err(Errno::EXIST) {
            let in_use = |reason: String| CgroupError::InUse { path: path.to_string(), reason };
            if existing == OnExisting::Refuse {
                return Err(in_use("it exists already".to_owned()));
            }
            let pids = super::kill::pids_below(dir)?;
            if !pids.is_empty() {
                return Err(in_use(format!("it exists and has the processes {pids:?}")));
            }
            if existing == OnExisting::Adopt {
                if let Some(parent) = v2_parent {
                    self.hand_down(&parent, needed)?;
                }
                return Ok(false);
            }
            super::remove::remove_tree(dir)?;
            result = dir.mkdir();
        }
        result.map_err(|source| CgroupError::Make { path: dir.path(""), source })?;
        if let Some(parent) = v2_parent
            && let Err(error) = self.hand_down(&parent, needed)
        {
            let _ = dir.rmdir(); // empty and ours; the first error is the one to tell
            return Err(error);
        }
        Ok(true)
    }
}

/// Directories that go again unless all went well.
struct Made<'a> {
    host: &'a Host,
    path: &'a CgroupPath,
    at: Vec<usize>,
    keep: bool,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if !self.keep {
            for index in &self.at {
                let _ = self.host.dir(*index, self.path.relative()).rmdir(); // the first error is the one to tell
            }
        }
    }
}

impl Cgroup {
    pub(super) fn at(host: &Host, path: &CgroupPath) -> Result<Self> {
        let directory = match host.version() {
            Version::V1 => None,
            Version::V2 => {
                let dir = host.dir(0, path.relative());
                Some(dir.open_dir().map_err(|source| match source {
                    Errno::NOENT => CgroupError::Gone { path: path.to_string() },
                    _ => CgroupError::Read { file: dir.path(""), source },
                })?)
            }
        };
        let (host, path) = (host.clone(), path.clone());
        let (killed, files) = (AtomicBool::new(false), OnceLock::new());
        Ok(Self { host, path, directory, killed, files, scope: None })
    }

    /// Says that it belongs to a unit of systemd, which is then told of changes, and asked to remove it.
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// The unit of systemd that it belongs to.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// Its path in the hierarchies.
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// The host that it belongs to.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The directory on v2.
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.directory.as_ref().map(AsFd::as_fd)
    }

    /// The way in. Refused on v2 once [`Self::kill`] was used: some kernels kill what is cloned into such a cgroup.
    pub fn entry(&self) -> Result<Entry> {
        let Some(directory) = &self.directory else {
            let mut tasks: Vec<PathBuf> = self.host.dirs(&self.path).map(|dir| dir.path("tasks")).collect();
            // systemd looks for a scope's processes in the hierarchy of version 2 that it has beside the others.
            if let (Some(_), Some(unified)) = (&self.scope, &self.host.inner.unified) {
                let procs = unified.join(self.path.relative()).join("cgroup.procs");
                tasks.extend(procs.exists().then_some(procs));
            }
            return Ok(Entry::V1(tasks));
        };
        if self.killed.load(Ordering::Acquire) {
            return Err(CgroupError::Spent { path: self.path.to_string() });
        }
        let copy = directory.try_clone().map_err(|error| CgroupError::Read {
            file: self.host.dir(0, self.path.relative()).path(""),
            source: Errno::from_io_error(&error).unwrap_or(Errno::MFILE),
        })?;
        Ok(Entry::V2(copy))
    }

    /// v2: the file through which a process enters by writing `0` to it, for one that is there already.
    pub fn door(&self) -> Result<OwnedFd> {
        let dir = self.host.dir(0, self.path.relative());
        dir.open_write("cgroup.procs").map_err(|source| dir.write_error("cgroup.procs", "0", source))
    }

    /// How many processes the OOM killer has killed in this cgroup and those below since it was made.
    pub fn oom_kills(&self) -> Result<u64> {
        let dir = self.dir_of(Controllers::MEMORY)?;
        match self.host.version() {
            Version::V2 => Ok(parse::value_of(dir.read("memory.events")?.as_bytes(), b"oom_kill").unwrap_or(0)),
            Version::V1 => oom_kills_below(dir),
        }
    }

    /// The cgroup in the hierarchy of a controller that must be there.
    pub(super) fn dir_of(&self, controller: Controllers) -> Result<Dir<'_>> {
        self.host.dir_of(controller, &self.path).ok_or_else(|| CgroupError::MissingController {
            field: self.path.to_string(),
            controller: controller.to_string(),
            version: self.host.version(),
        })
    }

    /// Writes settings; those that the kernel refuses for what another one has yet to change are tried again.
    pub(super) fn apply(&self, settings: &[Setting]) -> Result<()> {
        let mut later = Vec::new();
        for setting in settings {
            if !self.put(setting, true)? {
                later.push(setting);
            }
        }
        for setting in later {
            self.put(setting, false)?;
        }
        Ok(())
    }

    /// Writes one setting; false if it is to be tried later.
    fn put(&self, setting: &Setting, may_wait: bool) -> Result<bool> {
        let dir = self.dir_of(setting.controller)?;
        let source = match dir.try_write(&setting.file, &setting.value) {
            Ok(()) => return Ok(true),
            Err(source) => source,
        };
        match (&setting.otherwise, source) {
            (Otherwise::FineIfMissing, Errno::NOENT) if dir.exists() => Ok(true),
            (Otherwise::Instead { file, value }, Errno::NOENT) => dir.write(file, value).map(|()| true),
            (Otherwise::TryLater, Errno::INVAL) if may_wait => Ok(false),
            (_, Errno::BUSY) if setting.file.starts_with("memory.") => {
                let usage = dir.read_limit("memory.usage_in_bytes").ok().flatten().unwrap_or(0);
                let limit = parse::number(setting.value.as_bytes()).unwrap_or(0);
                Err(CgroupError::LimitBelowUsage { path: dir.path(""), limit, usage })
            }
            (_, Errno::NODEV) => Err(CgroupError::Gone { path: self.path.to_string() }),
            (_, Errno::NOENT) if !dir.exists() => Err(CgroupError::Gone { path: self.path.to_string() }),
            (_, Errno::NOENT) if let Some(controller) = self.lacks(setting) => Err(CgroupError::MissingController {
                field: format!("{} ({})", setting.field, setting.file),
                controller,
                version: Version::V2,
            }),
            _ => Err(dir.write_error(&setting.file, &setting.value, source)),
        }
    }

    /// v2: the controller of a setting, if this cgroup was not given it; whoever made those above may have kept it.
    fn lacks(&self, setting: &Setting) -> Option<String> {
        if self.host.version() == Version::V1 {
            return None;
        }
        let text = self.host.dir(0, self.path.relative()).try_read("cgroup.controllers").ok()?;
        let name = setting.file.split('.').next().filter(|name| *name != "cgroup")?;
        text.split_ascii_whitespace().all(|word| word != name).then(|| name.to_owned())
    }

    /// Puts the device rules in force. `fresh`: nothing restricts the cgroup yet.
    pub(super) fn set_devices(&self, rules: &Rules, fresh: bool) -> Result<()> {
        match &self.directory {
            Some(directory) => self.attach_program(directory.as_fd(), rules, fresh),
            None => self.write_device_lists(rules, fresh),
        }
    }

    fn write_device_lists(&self, rules: &Rules, fresh: bool) -> Result<()> {
        let wanted = rules.exceptions()?;
        if fresh && wanted.default_allow && wanted.list.is_empty() {
            return Ok(()); // as much as the parent has, and more cannot be had
        }
        let dir = self.dir_of(Controllers::DEVICES)?;
        let steps = match fresh {
            true => wanted.steps(),
            false => match super::devices::Exceptions::parse_list(&dir.read("devices.list")?) {
                Some(now) => now.steps_to(&wanted),
                None => wanted.steps(),
            },
        };
        let mut open: Option<(&str, OwnedFd)> = None;
        for (file, line) in steps {
            let fd = match &open {
                Some((name, fd)) if *name == file => fd,
                _ => {
                    let fd = dir.open_write(file).map_err(|source| dir.write_error(file, &line, source))?;
                    &open.insert((file, fd)).1
                }
            };
            super::io::write_all_at_once(fd, &line).map_err(|source| dir.write_error(file, &line, source))?;
        }
        Ok(())
    }

    /// The new program is attached beside the old ones, then those go: at no moment is more allowed than before or
    /// after.
    fn attach_program(&self, directory: BorrowedFd<'_>, rules: &Rules, fresh: bool) -> Result<()> {
        let failed = |step| move |source| CgroupError::Bpf { path: self.path.to_string(), step, source };
        let old = if fresh { Vec::new() } else { sys::attached(directory).map_err(failed("query"))? };
        if !rules.allow_everything() {
            // One program cannot be attached to a cgroup twice, and the kept one can be there already.
            let program = if fresh { self.host.program(rules) } else { load(rules).map(Arc::new) };
            let program = program.map_err(failed("load"))?;
            sys::attach(directory, &*program).map_err(failed("attach"))?;
        }
        for program in old {
            match sys::detach(directory, &program) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(source) => return Err(failed("detach")(source)),
            }
        }
        Ok(())
    }
}

impl Host {
    /// The loaded program for `rules`: most containers of a node have the same.
    fn program(&self, rules: &Rules) -> Result<Arc<OwnedFd>, Errno> {
        const KEPT: usize = 16;
        let mut programs = self.inner.programs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(at) = programs.iter().position(|(known, _)| known == rules) {
            let last = programs.len() - 1;
            programs.swap(at, last);
            return Ok(programs[last].1.clone());
        }
        let program = Arc::new(load(rules)?);
        if programs.len() == KEPT {
            programs.pop_front();
        }
        programs.push_back((rules.clone(), program.clone()));
        Ok(program)
    }
}

fn load(rules: &Rules) -> Result<OwnedFd, Errno> {
    sys::load(&bpf::compile(rules))
}

/// v1 counts each cgroup by itself.
fn oom_kills_below(dir: Dir<'_>) -> Result<u64> {
    let mut sum = parse::value_of(dir.read("memory.oom_control")?.as_bytes(), b"oom_kill").unwrap_or(0);
    for name in dir.children().unwrap_or_default() {
        let relative = format!("{}/{name}", dir.relative);
        sum += oom_kills_below(dir.sibling(&relative)).unwrap_or(0);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests;
