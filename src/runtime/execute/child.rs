//! The child of the fork. It never returns into the caller: it executes its program or exits.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{setsid, umask};
use rustix::system::{setdomainname, sethostname};

use super::context::{Context, Step, refuse, show};
use super::process::{Last, become_program, join_keyring, make_directory, set_oom_score};
use super::status::{Reporter, Stage, answer_failure};
use super::tree::Tree;
use super::{Attached, Stdio3, console, devices, hide, hooks, mounts, netdev, root};
use crate::runtime::plan::{CgroupEntry, ExecPlan, JoinNamespace, LaunchPlan, Plan};
use crate::runtime::sys::process as sys;

/// Where [`settle`] puts what stays open.
const REPORTER: i32 = 3;
/// Open to the end, as the reporter is.
const ANSWER: i32 = 4;
const TARGET: i32 = 5;
const GATE: i32 = 6;
const SHM: i32 = 7;
const FREE: u32 = 8;
/// A number above all of these, for the time of moving.
const ASIDE: i32 = 10;

/// Carries the plan out; a failure is reported and ends the process with 255.
pub(super) fn run(plan: BorrowedFd<'_>, io: Stdio3<'_>, fds: Attached<'_>, reports: OwnedFd) -> ! {
    let early = Reporter { socket: reports };
    // Nothing here panics; if it did all the same, the parent's code must not run twice.
    let settled = catch_unwind(|| prepare(plan, io, fds, &early));
    let (plan, fds) = match settled {
        Ok(Ok(settled)) => settled,
        Ok(Err(notice)) => {
            early.failure(notice);
            sys::exit_now(255)
        }
        Err(_) => sys::exit_now(255),
    };
    // `early` and what else was open are closed by now, under their feet.
    std::mem::forget(early);
    let result = catch_unwind(AssertUnwindSafe(|| match plan {
        Plan::Launch(plan) => launch(*plan, &fds),
        Plan::Exec(plan) => exec(*plan, &fds),
    }));
    if let Ok(Err(notice)) = result {
        if let Some(answer) = &fds.answer {
            answer_failure(answer.as_fd(), notice.clone());
        }
        fds.reporter.failure(notice);
    }
    sys::exit_now(255)
}

/// The descriptors that the child keeps.
struct Fds {
    reporter: Reporter,
    target: Option<OwnedFd>,
    gate: Option<OwnedFd>,
    shm: Option<OwnedFd>,
    answer: Option<OwnedFd>,
}

fn prepare(plan: BorrowedFd<'_>, io: Stdio3<'_>, fds: Attached<'_>, reports: &Reporter) -> Step<(Plan, Fds)> {
    sys::set_undumpable().at(Stage::Plan, || "close the process to others".into())?;
    sys::reset_signal_actions();
    umask(Mode::empty());
    let bytes = read_plan(plan).at(Stage::Plan, || "read the plan".into())?;
    let plan = Plan::decode(&bytes).map_err(|e| super::Notice {
        stage: Stage::Plan,
        errno: 0,
        detail: format!("decode the plan: {e}"),
    })?;
    let fds = settle(io, fds, reports).at(Stage::Plan, || "arrange descriptors".into())?;
    Ok((plan, fds))
}

/// The whole memfd, whatever its offset: several children may read the same one.
fn read_plan(plan: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; rustix::fs::fstat(plan)?.st_size as usize];
    let mut at = 0;
    while at < bytes.len() {
        match rustix::io::pread(plan, &mut bytes[at..], at as u64)? {
            0 => break,
            n => at += n,
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}

/// Standard streams to 0, 1, 2, what else is needed to fixed numbers, and everything that came with the fork closed.
fn settle(io: Stdio3<'_>, fds: Attached<'_>, reports: &Reporter) -> std::io::Result<Fds> {
    let aside = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, ASIDE);
    let streams = [aside(io.stdin)?, aside(io.stdout)?, aside(io.stderr)?];
    let reporter = aside(reports.socket.as_fd())?;
    let target = fds.target.map(aside).transpose()?;
    let gate = fds.gate.map(aside).transpose()?;
    let shm = fds.shm.map(aside).transpose()?;
    let answer = fds.answer.map(aside).transpose()?;
    for (number, stream) in streams.iter().enumerate() {
        sys::dup_onto(stream.as_fd(), number as i32, false)?;
    }
    let place = |fd: &OwnedFd, number| sys::dup_onto(fd.as_fd(), number, true).map(|()| sys::own(number));
    let settled = Fds {
        reporter: Reporter { socket: place(&reporter, REPORTER)? },
        target: target.as_ref().map(|fd| place(fd, TARGET)).transpose()?,
        gate: gate.as_ref().map(|fd| place(fd, GATE)).transpose()?,
        shm: shm.as_ref().map(|fd| place(fd, SHM)).transpose()?,
        answer: answer.as_ref().map(|fd| place(fd, ANSWER)).transpose()?,
    };
    drop((streams, reporter, target, gate, shm, answer));
    sys::close_from(FREE)?;
    Ok(settled)
}

fn launch(plan: LaunchPlan, fds: &Fds) -> Step<Infallible> {
    let reporter = &fds.reporter;
    enter_cgroups(&plan.cgroup)?;
    if plan.new_cgroup_namespace {
        sys::unshare_namespaces(libc::CLONE_NEWCGROUP as u32)
            .at(Stage::Namespace, || "make a cgroup namespace".into())?;
    }
    let host_network = if plan.net_devices.is_empty() { None } else { Some(netdev::Host::open()?) };
    join_namespaces(&plan.join)?;
    if let Some(host) = host_network {
        host.move_devices(&plan.net_devices, plan.new_network_namespace)?;
    }
    new_session()?;
    join_keyring(plan.process.keyring.as_deref(), reporter)?;
    set_oom_score(plan.process.oom_score_adj, reporter)?;
    if let Some(name) = &plan.hostname {
        sethostname(name).at(Stage::Hostname, || format!("set the hostname to {}", show(name)))?;
    }
    if let Some(name) = &plan.domainname {
        setdomainname(name).at(Stage::Hostname, || format!("set the domainname to {}", show(name)))?;
    }

    // With the host in reach: sources are opened, while binds still are peers of the host's mounts.
    hide::write_sysctls(&plan.sysctls)?;
    let trees = mounts::prepare(&plan.mounts, fds.shm.as_ref().map(AsFd::as_fd))?;
    let bound = devices::prepare(&plan.devices)?;
    let covers = if plan.masked.is_empty() { None } else { Some(hide::Covers::prepare()?) };
    root::isolate(plan.root.host_propagation)?;
    let tree = root::prepare(&plan.root)?;
    // Hooks find a file system that is whole, and the host still in reach; without any, nothing is done within reach.
    let pauses = plan.hooks.pause || !plan.hooks.create_container.is_empty();
    let tree = if pauses { tree } else { root::enter(tree)? };

    // From here on every path is the container's.
    mounts::attach_all(&tree, &plan.mounts, trees)?;
    devices::make(&tree, &plan.devices, bound)?;
    for (path, target) in &plan.symlinks {
        mounts::symlink(&tree, path, target, Stage::Device)?;
    }
    let tree = if pauses {
        hooks::before_entering(&plan.hooks, reporter)?;
        root::enter(tree)?
    } else {
        tree
    };
    if let Some(terminal) = plan.process.terminal {
        console::set_up(&tree, terminal, plan.bind_console, reporter)?;
    }
    make_directory(&tree, &plan.process.cwd)?;
    for path in &plan.readonly {
        hide::make_readonly(&tree, path)?;
    }
    if let Some(mut covers) = covers {
        plan.masked.iter().try_for_each(|path| covers.mask(&tree, path))?;
    }
    for (path, flags) in &plan.late_changes {
        mounts::change_at(&tree, path, flags)?;
    }
    root::finish(&plan.root, &tree)?;
    let gate = fds.gate.as_ref().map(AsFd::as_fd);
    let last = Last { tree, gate, reporter, hooks: Some(&plan.hooks), first_closed: TARGET as u32 };
    become_program(plan.process, last)
}

fn exec(plan: ExecPlan, fds: &Fds) -> Step<Infallible> {
    let reporter = &fds.reporter;
    let Some(target) = &fds.target else { return refuse(Stage::Namespace, "an exec needs a target, and got none") };
    enter_cgroups(&plan.cgroup)?;
    set_oom_score(plan.process.oom_score_adj, reporter)?;
    if plan.namespaces != 0 {
        sys::setns(target.as_fd(), plan.namespaces)
            .at(Stage::Namespace, || "enter the namespaces of the container; it may have ended".into())?;
    }
    new_session()?;
    join_keyring(plan.process.keyring.as_deref(), reporter)?;
    let tree = Tree::of_process().at(Stage::Root, || "open the root of the container".into())?;
    if let Some(terminal) = plan.process.terminal {
        console::set_up(&tree, terminal, false, reporter)?;
    }
    let last = Last { tree, gate: None, reporter, hooks: None, first_closed: TARGET as u32 };
    become_program(plan.process, last)
}

fn enter_cgroups(entry: &CgroupEntry) -> Step<()> {
    let CgroupEntry::V1 { tasks } = entry else { return Ok(()) };
    for path in tasks {
        let name = || format!("enter the cgroup of {}", show(path));
        let file = open(path.as_slice(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).at(Stage::Cgroup, name)?;
        rustix::io::write(&file, b"0").at(Stage::Cgroup, name)?;
    }
    Ok(())
}

/// All are opened before the first is entered: the paths of the others may be out of reach then.
fn join_namespaces(namespaces: &[JoinNamespace]) -> Step<()> {
    let opened = namespaces
        .iter()
        .map(|namespace| {
            open(namespace.path.as_slice(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .at(Stage::Namespace, || format!("open the namespace {}", show(&namespace.path)))
        })
        .collect::<Step<Vec<_>>>()?;
    for (namespace, fd) in namespaces.iter().zip(opened) {
        sys::setns(fd.as_fd(), namespace.kind)
            .at(Stage::Namespace, || format!("enter the namespace {}", show(&namespace.path)))?;
    }
    Ok(())
}

fn new_session() -> Step<()> {
    match setsid() {
        // Already the leader of one.
        Ok(_) | Err(Errno::PERM) => Ok(()),
        Err(e) => Err(e).at(Stage::Console, || "start a session".into()),
    }
}
