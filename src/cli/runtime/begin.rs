//! `create` and `run`.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use oci_spec::runtime::{LinuxIntelRdt, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, mkfifoat};
use rustix::process::{Pid, Signal, WaitOptions, pidfd_send_signal, waitpid};

use super::cgroup::Unit;
use super::descriptors::Preserved;
use super::hooks::Hooks;
use super::record::{Record, Root, VERSION, stat, write_whole};
use super::rootless::Limits;
use super::{CreateArgs, Result, RunArgs, descriptors, foreground};
use crate::runtime::cgroup::{Cgroup, Entry, Version};
use crate::runtime::compile::{self, CgroupView, HostFacts, V1Hierarchy};
use crate::runtime::embedded::SmallProgram;
use crate::runtime::execute::{Attached, Report, Spawned, Stdio3, go_on, hand_over, read_status, spawn};
use crate::runtime::plan::{CgroupEntry, Plan, RootSource, SpawnHeader};
use crate::runtime::resctrl::{Groups, Resctrl};
use crate::runtime::security::SecurityModules;

/// The longest config.json that is read.
const MAX_SPEC: u64 = 16 << 20;

pub(super) fn create(root: &Root, limits: Limits, args: &CreateArgs) -> Result<()> {
    begin(root, limits, args, true, false).map(drop)
}

pub(super) fn run(root: &Root, limits: Limits, args: &RunArgs) -> Result<u8> {
    // From here on, since the container is to get those that come while it is made.
    let signals = if args.detach { None } else { Some(foreground::Signals::hold()?) };
    let (begun, record) = begin(root, limits, &args.create, false, !args.detach)?;
    super::control::run_poststart(root, &record)?;
    let Some(signals) = signals else { return Ok(0) };
    let code = foreground::attend(&begun, &signals)?;
    if !args.keep {
        super::control::clear_away(root, &record)?;
    }
    Ok(code)
}

/// A process on its way or there already.
#[derive(Debug)]
pub(super) struct Begun {
    pub spawned: Spawned,
    /// The master of its terminal, when the caller keeps it.
    pub console: Option<OwnedFd>,
}

/// Undoes a beginning that does not succeed.
struct Undo<'a> {
    root: &'a Root,
    id: &'a str,
    cgroup: Option<Cgroup>,
    resctrl: Groups,
    hooks: &'a Hooks,
    /// The child was made: it is gone now, and hooks may have been run for it.
    forked: bool,
    done: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // The error that led here is the one to tell.
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
        self.resctrl.undo();
        let _ = self.root.forget(self.id);
        if self.forked {
            self.hooks.poststop();
        }
    }
}

fn begin(root: &Root, limits: Limits, args: &CreateArgs, gated: bool, foreground: bool) -> Result<(Begun, Record)> {
    let preserved = Preserved::of(args.preserve_fds, true)?;
    let bundle = fs::canonicalize(&args.bundle).with_context(|| format!("bundle {}", args.bundle.display()))?;
    let spec = load_spec(&bundle.join("config.json"))?;
    limits.check(&spec)?;
    let rootfs = rootfs(&bundle, &spec)?;
    check_console(spec.process().as_ref().and_then(|p| p.terminal()), args.console_socket.as_deref(), foreground)?;
    let hooks = Hooks::of(&spec, &args.id, &bundle)?;
    let directory = root.reserve(&args.id)?;
    // Nobody removes it before it is whole.
    let _lock = root.lock_directory(&args.id)?;
    let mut undo = Undo {
        root,
        id: &args.id,
        cgroup: None,
        resctrl: Groups::default(),
        hooks: &hooks,
        forked: false,
        done: false,
    };
    if let Some(asked) = intel_rdt(&spec) {
        undo.resctrl = Resctrl::of_host()?.prepare(asked, &args.id)?;
    }
    let (cgroup, seed) = super::cgroup::make(&spec, &args.id, limits, args.systemd_cgroup)?;
    undo.cgroup = cgroup;
    let cgroup = undo.cgroup.as_ref();

    let keyring = (!args.no_new_keyring).then(|| format!("_ses.{}", args.id));
    let (facts, entry) = facts(cgroup, keyring.clone(), bundle.clone())?;
    let facts = HostFacts { id: args.id.clone(), host_namespaces: host_namespaces(&spec), ..facts };
    let facts = HostFacts { resctrl: undo.resctrl.tasks.clone(), ..facts };
    let facts = limits.complete(facts, &spec)?;
    let source = RootSource::Directory(rootfs.as_os_str().as_bytes().to_vec());
    let (header, mut plan) = compile::container(&spec, source, &facts)?;
    plan.root.no_pivot = args.no_pivot;
    preserved.announce(&mut plan.process);
    let gate = if gated { Some(make_gate(&directory, GATE)?) } else { None };
    let answer = if gated { Some(make_gate(&directory, ANSWER)?) } else { None };
    let pid_namespace = pid_namespace(&spec)?;
    let fds = Attached {
        cgroup_dir: entry.as_ref().map(AsFd::as_fd),
        pid_namespace: pid_namespace.as_ref().map(AsFd::as_fd),
        gate: gate.as_ref().map(AsFd::as_fd),
        answer: answer.as_ref().map(AsFd::as_fd),
        preserved: preserved.count,
        ..Attached::default()
    };
    let attendance = Attendance { socket: args.console_socket.as_deref(), hooks: Some(&hooks) };
    undo.forked = true;
    let begun = start(&header, &Plan::Launch(Box::new(plan)), fds, &attendance)?;
    drop(seed); // the container's init keeps the cgroup from here on
    match save(root, args, &begun, Saved { spec, bundle, rootfs, keyring, cgroup }) {
        Ok(record) => {
            undo.done = true;
            Ok((begun, record))
        }
        Err(error) => {
            abandon(&begun.spawned);
            Err(error)
        }
    }
}

struct Saved<'a> {
    spec: Spec,
    bundle: PathBuf,
    rootfs: PathBuf,
    keyring: Option<String>,
    cgroup: Option<&'a Cgroup>,
}

fn save(root: &Root, args: &CreateArgs, begun: &Begun, saved: Saved<'_>) -> Result<Record> {
    let pid = begun.spawned.pid;
    let (_, started) = stat(pid).with_context(|| format!("process {pid} is gone"))?;
    let record = Record {
        version: VERSION,
        id: args.id.clone(),
        pid,
        started,
        bundle: saved.bundle,
        rootfs: saved.rootfs,
        created: jiff::Timestamp::now().to_string(),
        cgroup: saved.cgroup.map(|cgroup| cgroup.path().as_str().to_owned()),
        unit: saved.cgroup.and_then(Unit::of),
        keyring: saved.keyring,
        spec: saved.spec,
        gate: root.gate(&args.id),
    };
    root.save(&record)?;
    tell(begun, args.pid_file.as_deref(), args.pidfd_socket.as_deref())?;
    Ok(record)
}

/// Tells of the process whoever asked to be told.
pub(super) fn tell(begun: &Begun, pid_file: Option<&Path>, pidfd_socket: Option<&Path>) -> Result<()> {
    if let Some(socket) = pidfd_socket {
        descriptors::send(socket, "process", begun.spawned.pidfd.as_fd(), b"pidfd")?;
    }
    match pid_file {
        Some(path) => write_whole(path, begun.spawned.pid.to_string().as_bytes()),
        None => Ok(()),
    }
}

fn load_spec(path: &Path) -> Result<Spec> {
    let name = || format!("{}", path.display());
    let size = fs::metadata(path).with_context(name)?.len();
    if size > MAX_SPEC {
        bail!("{} has {size} bytes; no more than {MAX_SPEC} are read", path.display());
    }
    let text = fs::read(path).with_context(name)?;
    let (spec, warnings) =
        compile::read_spec(&text).with_context(|| format!("{} is no OCI specification", path.display()))?;
    warn(&warnings);
    Ok(spec)
}

/// What is made in resctrl before the container, and goes after it.
pub(super) fn intel_rdt(spec: &Spec) -> Option<&LinuxIntelRdt> {
    spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref())
}

/// What is done otherwise than asked for, told to whoever called.
pub(super) fn warn(texts: &[String]) {
    texts.iter().for_each(|text| super::log::warning(text));
}

fn rootfs(bundle: &Path, spec: &Spec) -> Result<PathBuf> {
    let Some(root) = spec.root() else { bail!("root of the OCI specification is missing") };
    let path = bundle.join(root.path());
    fs::canonicalize(&path).with_context(|| format!("root file system {}", path.display()))
}

/// A terminal has a master, and somebody has to take it.
pub(super) fn check_console(terminal: Option<bool>, socket: Option<&Path>, foreground: bool) -> Result<()> {
    match (terminal.unwrap_or(false), socket) {
        (true, None) if !foreground => {
            bail!("cannot allocate tty if the container is detached without a console socket")
        }
        (false, Some(_)) => bail!("cannot use console socket if the container has no terminal"),
        _ => Ok(()),
    }
}

/// What the compiler is told of the host, and the directory for clone3.
pub(super) fn facts(
    cgroup: Option<&Cgroup>,
    keyring: Option<String>,
    bundle: PathBuf,
) -> Result<(HostFacts, Option<OwnedFd>)> {
    let security = SecurityModules::of_host();
    let Some(cgroup) = cgroup else {
        return Ok((HostFacts { keyring, bundle, security, ..super::rootless::shared_cgroups() }, None));
    };
    let (entry, directory) = way_in(cgroup.entry()?);
    let below = cgroup.path().as_str().trim_start_matches('/').to_owned();
    let mut mounts = cgroup.host().mounts().map(Path::to_path_buf);
    let cgroup_view = match cgroup.host().version() {
        Version::V2 => mounts.next().map_or(CgroupView::None, |mount| CgroupView::V2(mount.join(&below))),
        Version::V1 => CgroupView::V1(
            mounts
                .map(|mount| V1Hierarchy {
                    name: mount.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                    directory: mount.join(&below),
                })
                .collect(),
        ),
    };
    let into_cgroup = directory.is_some();
    let facts =
        HostFacts { cgroup: entry, into_cgroup, cgroup_view, keyring, bundle, security, ..HostFacts::default() };
    Ok((facts, directory))
}

/// The same for the plan, and the directory for clone3.
pub(super) fn way_in(entry: Entry) -> (CgroupEntry, Option<OwnedFd>) {
    match entry {
        Entry::V2(directory) => (CgroupEntry::V2, Some(directory)),
        Entry::V1(tasks) => {
            let tasks = tasks.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect();
            (CgroupEntry::V1 { tasks }, None)
        }
    }
}

/// In the state directory: what `start` writes to, and the container's init reads from.
pub(super) const GATE: &str = "start";
/// And back: what became of it.
pub(super) const ANSWER: &str = "answer";

fn make_gate(directory: &Path, name: &str) -> Result<OwnedFd> {
    let path = directory.join(name);
    mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).with_context(|| format!("make {}", path.display()))?;
    rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("open {}", path.display()))
}

/// Those that the specification names by a path which leads to a namespace of this process or of the machine's first.
fn host_namespaces(spec: &Spec) -> u32 {
    use std::os::unix::fs::MetadataExt;
    let same = |path: &Path, name: &str| {
        let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        let hosts = ["self", "1"].map(|process| identity(Path::new(&format!("/proc/{process}/ns/{name}"))));
        identity(path).is_some_and(|found| hosts.contains(&Some(found)))
    };
    let listed = spec.linux().iter().filter_map(|l| l.namespaces().as_ref()).flatten();
    let named = listed.filter_map(|namespace| Some((namespace.typ(), namespace.path().as_ref()?)));
    named.fold(0, |flags, (kind, path)| {
        let (flag, name) = match kind {
            LinuxNamespaceType::Network => (libc::CLONE_NEWNET, "net"),
            LinuxNamespaceType::Ipc => (libc::CLONE_NEWIPC, "ipc"),
            LinuxNamespaceType::Uts => (libc::CLONE_NEWUTS, "uts"),
            _ => return flags,
        };
        if same(path, name) { flags | flag as u32 } else { flags }
    })
}

fn pid_namespace(spec: &Spec) -> Result<Option<OwnedFd>> {
    let listed = spec.linux().iter().filter_map(|l| l.namespaces().as_ref()).flatten();
    let path = listed.filter(|n| n.typ() == LinuxNamespaceType::Pid).find_map(|n| n.path().as_ref());
    let Some(path) = path.filter(|p| !p.as_os_str().is_empty()) else { return Ok(None) };
    let open = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    open.map(Some).with_context(|| format!("open the namespace {}", path.display()))
}

/// What is done for a child on its way.
#[derive(Debug, Default)]
pub(super) struct Attendance<'a> {
    /// Takes its terminal, which comes back otherwise.
    pub socket: Option<&'a Path>,
    pub hooks: Option<&'a Hooks>,
}

/// Forks, and follows the child until it runs or waits at the gate.
pub(super) fn start(header: &SpawnHeader, plan: &Plan, fds: Attached<'_>, attend: &Attendance<'_>) -> Result<Begun> {
    let memfd = memfd_create("plan", MemfdFlags::CLOEXEC).context("make a memfd for the plan")?;
    let bytes = plan.encode().context("encode the plan")?;
    let mut left = bytes.as_slice();
    while !left.is_empty() {
        left = &left[rustix::io::write(&memfd, left).context("write the plan")?..];
    }
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let io = Stdio3 { stdin: stdin.as_fd(), stdout: stdout.as_fd(), stderr: stderr.as_fd() };
    let program = SmallProgram::new().context("make a copy of orlop-init in memory")?;
    let fds = Attached { init: Some(program.as_fd()), ..fds };
    let mut spawned = spawn(header, memfd.as_fd(), io, fds).context("fork the container")?;
    match follow(&mut spawned, attend) {
        Ok(console) => Ok(Begun { spawned, console }),
        Err(error) => {
            abandon(&spawned);
            Err(error)
        }
    }
}

fn follow(spawned: &mut Spawned, attend: &Attendance<'_>) -> Result<Option<OwnedFd>> {
    let mut console = None;
    loop {
        match read_status(spawned.status.as_fd()).context("read how the container fares")? {
            Report::Warning(notice) => super::log::warning(&notice.to_string()),
            Report::Failure(notice) => {
                bail!("unable to start container process: error during container init: {notice}");
            }
            Report::Init { pid, pidfd } => {
                let stager = std::mem::replace(&mut spawned.pid, pid);
                spawned.pidfd = pidfd;
                waitpid(Pid::from_raw(stager), WaitOptions::empty()).context("reap the stager")?;
            }
            Report::Console(master) => match attend.socket {
                Some(socket) => descriptors::send(socket, "terminal", master.as_fd(), b"/dev/ptmx")?,
                None => console = Some(master),
            },
            Report::Hooks => {
                if let Some(hooks) = attend.hooks {
                    hooks.before_entering(spawned.pid)?;
                }
                go_on(spawned.status.as_fd()).context("let the container's init go on")?;
            }
            Report::Listener(listener) => {
                hand_over(listener, spawned.pid, spawned.pidfd.as_fd(), spawned.status.as_fd())?;
            }
            Report::Ready | Report::End => return Ok(console),
        }
    }
}

/// Nothing is left of a process that was not to be.
fn abandon(spawned: &Spawned) {
    let _ = pidfd_send_signal(&spawned.pidfd, Signal::KILL);
    let _ = waitpid(Pid::from_raw(spawned.pid), WaitOptions::empty());
}
