//! What a process is made of when its file system is there: ids, capabilities, limits, filter, program.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchown, fstat};
use rustix::io::Errno;
use rustix::process::{fchdir, getcwd, umask};
use rustix::termios::isatty;

use super::context::{Context, Step, refuse, show};
use super::devices::is_null;
use super::hooks;
use super::listener;
use super::lsm::Labels;
use super::passwd::home_of;
use super::program::{Program, c_string};
use super::status::{Notice, Reporter, Stage};
use super::tree::Tree;
use crate::runtime::plan::{CapabilitySets, HooksPlan, ProcessPlan, Rlimit, SeccompPlan};
use crate::runtime::sys::process as sys;

/// What the executor itself still needs at this point.
#[derive(Debug)]
pub(super) struct Last<'a> {
    pub tree: Tree,
    /// Used up by [`become_program`].
    pub labels: Labels,
    pub gate: Option<BorrowedFd<'a>>,
    pub reporter: &'a Reporter,
    /// Of a container that may have hooks.
    pub hooks: Option<&'a HooksPlan>,
    /// The user namespace denies setgroups(2).
    pub groups_fixed: bool,
    /// Descriptors from here on are closed before the program runs.
    pub first_closed: u32,
}

/// Becomes the program, or says why not.
pub(super) fn become_program(mut plan: ProcessPlan, mut last: Last<'_>) -> Step<Infallible> {
    if plan.default_home {
        let home = home_of(&last.tree, plan.uid);
        plan.env.push([b"HOME=", home.as_slice()].concat());
    }
    let program = Program::new(&plan)?;
    own_streams(&last.tree, plan.uid)?;
    set_limits(&plan.rlimits, last.reporter)?;
    set_scheduling(&plan)?;
    std::mem::take(&mut last.labels).apply()?;
    if plan.no_new_privileges {
        sys::set_no_new_privileges().at(Stage::Capabilities, || "set no_new_privs".into())?;
    }
    let entered = enter_directory(&last.tree, &plan.cwd);
    // Without no_new_privs a filter takes CAP_SYS_ADMIN, which may be gone later; with it the filter comes last, so
    // that it need not allow what is done from here on.
    let mut seccomp = plan.seccomp.take();
    if !plan.no_new_privileges {
        load_filter(seccomp.take(), last.reporter)?;
    }
    change_user(&plan, &last)?;
    confirm_directory(&last.tree, &plan.cwd, entered)?;
    umask(Mode::from_raw_mode(plan.umask));
    if plan.die_with_parent {
        // Only now: a change of credentials takes it back.
        sys::set_parent_death_signal().at(Stage::User, || "ask to be killed with the parent".into())?;
    }
    if seccomp.as_ref().is_some_and(|seccomp| seccomp.listener.is_some()) {
        // While whoever makes the container still is there to take the listener from here.
        load_filter(seccomp.take(), last.reporter)?;
    }
    wait_at_gate(&program, &last)?;
    if let Some(hooks) = last.hooks {
        hooks::before_program(hooks, &plan.env, seccomp.as_ref())?;
    }
    sys::unblock_signals();
    // Closed with all others, so it must not be closed by its owner.
    std::mem::forget(last.tree);
    sys::close_from(last.first_closed).at(Stage::Execute, || "close what the program must not have".into())?;
    load_filter(seccomp, last.reporter)?;
    Err(program.execute())
}

/// A program that is not root must be able to open its own standard streams again (/dev/stdout). Files and
/// devices of the caller stay as they are. The host's null device becomes the container's.
fn own_streams(tree: &Tree, uid: u32) -> Step<()> {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for (number, stream) in streams.into_iter().enumerate() {
        let Ok(stat) = fstat(stream) else { continue };
        if is_null(&stat) {
            // Without one of its own, or with something in its place, the container keeps the host's.
            if let Ok(own) = null_device(tree) {
                sys::dup_onto(own.as_fd(), number as i32, false).at(Stage::User, || "use /dev/null".into())?;
            }
            continue;
        }
        let ours = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo | FileType::Socket => true,
            FileType::CharacterDevice => isatty(stream),
            _ => false,
        };
        if !ours || stat.st_uid == uid {
            continue;
        }
        match fchown(stream, Some(Uid::from_raw(uid)), None::<Gid>) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS | Errno::NOTSUP) => {}
            Err(e) => return Err(e).at(Stage::User, || "give the standard streams to the user".into()),
        }
    }
    Ok(())
}

/// The container's null device. It is looked at before it is opened, since opening is what some devices act on.
fn null_device(tree: &Tree) -> Result<OwnedFd, Errno> {
    let genuine = |fd: &OwnedFd| if is_null(&fstat(fd)?) { Ok(()) } else { Err(Errno::NODEV) };
    genuine(&tree.open_plain(b"/dev/null", OFlags::PATH)?)?;
    let opened = tree.open_plain(b"/dev/null", OFlags::RDWR | OFlags::NOCTTY)?;
    genuine(&opened)?;
    Ok(opened)
}

/// A limit above what this machine lets us set is set as high as it goes, with a warning.
fn set_limits(limits: &[Rlimit], reporter: &Reporter) -> Step<()> {
    for limit in limits {
        let name = || format!("set rlimit {}", limit.resource);
        let Err(error) = sys::set_rlimit(limit.resource, limit.soft, limit.hard) else { continue };
        if error.raw_os_error() != Some(libc::EPERM) {
            return Err(error).at(Stage::Rlimit, name);
        }
        let most = sys::hard_limit(limit.resource).at(Stage::Rlimit, name)?.min(limit.hard);
        let soft = limit.soft.min(most);
        sys::set_rlimit(limit.resource, soft, most).at(Stage::Rlimit, name)?;
        let detail = format!(
            "rlimit {} of {} (hard {}) is lowered to {soft} (hard {most}), as CAP_SYS_RESOURCE is missing",
            limit.resource, limit.soft, limit.hard
        );
        // Without the errno: engines take "operation not permitted" for the reason of another failure.
        reporter.warning(Notice { stage: Stage::Rlimit, errno: 0, detail });
    }
    Ok(())
}

/// Scheduler, CPUs, memory, input and output priority, and execution domain: while there still are the capabilities for them.
fn set_scheduling(plan: &ProcessPlan) -> Step<()> {
    if let Some(scheduler) = plan.scheduler {
        sys::set_scheduler(scheduler).at(Stage::Scheduling, || "process.scheduler: set the scheduler".into())?;
    }
    if let Some(value) = plan.io_priority {
        sys::set_io_priority(value).at(Stage::Scheduling, || "process.ioPriority: set the I/O priority".into())?;
    }
    if let Some(value) = plan.personality {
        sys::set_personality(value).at(Stage::Scheduling, || "linux.personality: set the personality".into())?;
    }
    if let Some(policy) = &plan.memory_policy {
        sys::set_memory_policy(policy.mode, &policy.nodes)
            .at(Stage::Scheduling, || "linux.memoryPolicy: set the memory policy".into())?;
    }
    if !plan.cpus.is_empty() {
        sys::set_affinity(&plan.cpus)
            .at(Stage::Scheduling, || "process.execCPUAffinity.final: set the CPU affinity".into())?;
    }
    Ok(())
}

fn load_filter(seccomp: Option<SeccompPlan>, reporter: &Reporter) -> Step<()> {
    let Some(seccomp) = seccomp else { return Ok(()) };
    let load = || sys::load_seccomp(&seccomp.program, seccomp.flags);
    match &seccomp.listener {
        Some(plan) => listener::load(plan, reporter, load),
        None => load().map(drop).at(Stage::Seccomp, || "load the seccomp filter".into()),
    }
}

/// The user may not be allowed where root is, or only the user may (a network file system): so it is tried before and
/// after the change of user.
fn enter_directory(tree: &Tree, cwd: &[u8]) -> Result<(), Errno> {
    // Links of /proc, which lead to whatever a descriptor is open on, are not followed.
    let directory = tree.open(cwd, OFlags::PATH | OFlags::DIRECTORY)?;
    fchdir(directory)
}

fn confirm_directory(tree: &Tree, cwd: &[u8], entered: Result<(), Errno>) -> Step<()> {
    let name = || format!("chdir to cwd ({:?}) set in config.json", show(cwd));
    match entered {
        Err(Errno::ACCESS | Errno::PERM) => enter_directory(tree, cwd).at(Stage::WorkingDirectory, name)?,
        other => other.at(Stage::WorkingDirectory, name)?,
    }
    let text = "the working directory is outside of the container's file system";
    match getcwd(Vec::new()) {
        Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
        Ok(_) | Err(Errno::NOENT) => refuse(Stage::WorkingDirectory, text),
        // The path above it cannot be searched by this user, or the filter has no getcwd; it was resolved beneath the root
        // all the same.
        Err(Errno::ACCESS | Errno::PERM | Errno::NOSYS) => Ok(()),
        Err(e) => Err(e).at(Stage::WorkingDirectory, name),
    }
}

fn change_user(plan: &ProcessPlan, last: &Last<'_>) -> Step<()> {
    let user = |what: &'static str| move || what.to_owned();
    let sets = attainable(plan.capabilities, last.reporter)?;
    for capability in (0..64).filter(|n| plan.capabilities.bounding >> n & 1 == 0) {
        match sys::drop_bounding(capability) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            result => result.at(Stage::Capabilities, || format!("drop capability {capability}"))?,
        }
    }
    sys::keep_capabilities(true).at(Stage::Capabilities, user("keep capabilities"))?;
    set_groups(&plan.groups, last)?;
    sys::set_gid(plan.gid).at(Stage::User, || format!("set gid {}", plan.gid))?;
    sys::set_uid(plan.uid).at(Stage::User, || format!("set uid {}", plan.uid))?;
    sys::keep_capabilities(false).at(Stage::Capabilities, user("keep capabilities"))?;
    // Leaving root makes a process dumpable or not as it likes; ours stays closed until it executes.
    sys::set_undumpable().at(Stage::User, user("close the process to others"))?;
    sys::set_capabilities(sets).at(Stage::Capabilities, user("set capabilities"))?;
    sys::clear_ambient().at(Stage::Capabilities, user("clear ambient capabilities"))?;
    for capability in (0..64).filter(|n| sets.ambient >> n & 1 == 1) {
        sys::raise_ambient(capability).at(Stage::Capabilities, || format!("raise ambient capability {capability}"))?;
    }
    Ok(())
}

/// Where a user namespace was made by a plain user, nobody in it can have other groups than that user has.
fn set_groups(groups: &[u32], last: &Last<'_>) -> Step<()> {
    let result = sys::set_groups(groups);
    if last.groups_fixed && matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EPERM)) {
        if !groups.is_empty() {
            let detail = "the additional groups are left out, as this user namespace does not allow any".to_owned();
            last.reporter.warning(Notice { stage: Stage::User, errno: libc::EPERM, detail });
        }
        return Ok(());
    }
    result.at(Stage::User, || "set the supplementary groups".into())
}

/// What cannot be had here is left out, with a warning, as the specification asks.
fn attainable(wanted: CapabilitySets, reporter: &Reporter) -> Step<CapabilitySets> {
    let have = sys::permitted_capabilities().at(Stage::Capabilities, || "read own capabilities".into())?;
    let all = wanted.effective | wanted.permitted | wanted.inheritable | wanted.ambient;
    let missing = all & !have;
    if missing != 0 {
        let numbers: Vec<String> = (0..64).filter(|n| missing >> n & 1 == 1).map(|n| n.to_string()).collect();
        let detail = format!("capabilities that this machine does not grant are left out: {}", numbers.join(", "));
        reporter.warning(Notice { stage: Stage::Capabilities, errno: 0, detail });
    }
    let permitted = wanted.permitted & have;
    let inheritable = wanted.inheritable & have;
    Ok(CapabilitySets {
        bounding: wanted.bounding,
        effective: wanted.effective & permitted,
        inheritable,
        permitted,
        ambient: wanted.ambient & permitted & inheritable,
    })
}

/// Where a container is created first and started later: says that all is ready, and waits for one byte.
fn wait_at_gate(program: &Program, last: &Last<'_>) -> Step<()> {
    let Some(gate) = last.gate else { return Ok(()) };
    program.check()?;
    last.reporter.ready();
    let mut byte = [0u8];
    loop {
        match rustix::io::read(gate.as_fd(), &mut byte) {
            Ok(1) => return Ok(()),
            Ok(_) => return refuse(Stage::Gate, "the container was never started"),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).at(Stage::Gate, || "wait for the start".into()),
        }
    }
}

/// The working directory must exist before the root may become read-only.
pub(super) fn make_directory(tree: &Tree, cwd: &[u8]) -> Step<()> {
    // A link of /proc is no directory to make; entering it is refused later, with its own message.
    match tree.directory(cwd) {
        Ok(_) | Err(Errno::LOOP) => Ok(()),
        Err(e) => Err(e).at(Stage::WorkingDirectory, || format!("make the working directory {}", show(cwd))),
    }
}

/// Sets how readily the OOM killer takes this process. Where it may not be lowered it stays, with a warning.
pub(super) fn set_oom_score(score: Option<i32>, reporter: &Reporter) -> Step<()> {
    let Some(score) = score else { return Ok(()) };
    let name = || format!("set oom_score_adj to {score}");
    let file = rustix::fs::open("/proc/self/oom_score_adj", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .at(Stage::OomScoreAdj, name)?;
    match rustix::io::write(&file, score.to_string().as_bytes()) {
        Ok(_) => Ok(()),
        Err(Errno::ACCESS | Errno::PERM) => {
            let mut now = [0u8; 16];
            let n = rustix::io::pread(&file, &mut now, 0).unwrap_or(0);
            let now = show(now[..n].trim_ascii());
            let detail = format!("oom_score_adj stays {now} instead of {score}, as CAP_SYS_RESOURCE is missing");
            reporter.warning(Notice { stage: Stage::OomScoreAdj, errno: 0, detail });
            Ok(())
        }
        Err(e) => Err(e).at(Stage::OomScoreAdj, name),
    }
}

/// Enters the session keyring of that name. A kernel without keyrings, or a full quota, is no reason to fail.
pub(super) fn join_keyring(name: Option<&[u8]>, reporter: &Reporter) -> Step<()> {
    let Some(name) = name else { return Ok(()) };
    let text: CString = c_string(name, Stage::Keyring)?;
    let Err(error) = sys::join_session_keyring(&text) else { return Ok(()) };
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Ok(()),
        Some(errno @ (libc::EDQUOT | libc::EACCES | libc::EPERM)) => {
            let detail = format!("session keyring {} is not entered; the caller's is kept", show(name));
            let errno = if errno == libc::EDQUOT { errno } else { 0 };
            reporter.warning(Notice { stage: Stage::Keyring, errno, detail });
            Ok(())
        }
        _ => Err(error).at(Stage::Keyring, || format!("enter session keyring {}", show(name))),
    }
}
