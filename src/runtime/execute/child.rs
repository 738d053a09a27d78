//! The child of the fork. It never returns into the caller: it executes its program or exits.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{setsid, umask};
use rustix::system::{setdomainname, sethostname};

use super::context::{Context, Step, refuse, show};
use super::lsm::Labels;
use super::process::{Last, become_program, join_keyring, make_directory, set_oom_score};
use super::status::{Reporter, Stage, answer_failure};
use super::tree::Tree;
use super::{Attached, Stdio3, console, devices, hide, hooks, idmap, mounts, namespaces, netdev, root, stager};
use crate::runtime::plan::{CgroupEntry, ExecPlan, LaunchPlan, Plan};
use crate::runtime::sys::process as sys;

/// Descriptors that [`settle`] puts at fixed numbers: so many above the last one that the program is to have.
const REPORTER: u32 = 0;
/// Open to the end, as the reporter is.
const ANSWER: u32 = 1;
const TARGET: u32 = 2;
const GATE: u32 = 3;
const SHM: u32 = 4;
const PLAN: u32 = 5;
const FREE: u32 = 6;
/// A distance above all of these, for the time of moving.
const ASIDE: u32 = 16;

/// What [`init`] calls itself, and is called with.
pub const INIT: &CStr = c"orlop-init";

/// Carries the plan out, or executes the program that does; a failure is reported and ends the process with 255.
pub(super) fn run(plan: BorrowedFd<'_>, io: Stdio3<'_>, fds: Attached<'_>, reports: OwnedFd) -> ! {
    let first = 3 + fds.preserved;
    // A copy that arranging the others does not touch. With no descriptor left there is nobody to tell.
    let Ok(socket) = fcntl_dupfd_cloexec(&reports, (first + ASIDE) as i32) else { sys::exit_now(255) };
    let early = Reporter { socket };
    // Nothing here panics; if it did all the same, the parent's code must not run twice.
    let settled = catch_unwind(|| {
        sys::set_undumpable().at(Stage::Plan, || "close the process to others".into())?;
        let program = settle(plan, io, fds, &early, first).at(Stage::Plan, || "arrange descriptors".into())?;
        match program {
            Some(program) => Err(execute_init(&program, fds.preserved)).at(Stage::Plan, || "execute orlop-init".into()),
            None => Ok(()),
        }
    });
    match settled {
        Ok(Ok(())) => {}
        Ok(Err(notice)) => {
            early.failure(notice);
            sys::exit_now(255)
        }
        Err(_) => sys::exit_now(255),
    }
    // These and what else was open are closed by now, under their feet.
    std::mem::forget((early, reports));
    carry_out(first)
}

/// All that `orlop-init` does: the other half of [`run`], in a program that is small, and no file of the host.
///
/// `preserved` is its argument, the number of descriptors from 3 on that the container's program gets.
pub fn init(preserved: Option<&OsStr>) -> ! {
    // An execution opens a process to those who may trace it. Until here it held nothing but what is about to be read.
    if sys::set_undumpable().is_err() {
        sys::exit_now(255);
    }
    // The kernel calls it by the number of the descriptor that it was executed from.
    let _ = rustix::thread::set_name(INIT);
    let preserved = preserved.map_or(Some(0), |text| text.to_str()?.parse().ok());
    let Some(first) = preserved.and_then(|n: u32| n.checked_add(3)).filter(|&n| n < 1 << 20) else {
        sys::exit_now(255)
    };
    if sys::close_on_exec_from(first).is_err() {
        sys::exit_now(255);
    }
    carry_out(first)
}

fn execute_init(program: &OwnedFd, preserved: u32) -> std::io::Error {
    let mut args = vec![INIT.to_owned()];
    if preserved > 0 {
        let number = CString::new(preserved.to_string());
        args.extend(number);
    }
    let (args, env) = (sys::CStringArray::new(args), sys::CStringArray::new(Vec::new()));
    sys::execute_descriptor(program.as_fd(), &args, &env)
}

/// With every descriptor in its place.
fn carry_out(first: u32) -> ! {
    let own = |number: u32| sys::is_open(first + number).then(|| sys::own((first + number) as i32));
    let (Some(socket), Some(plan)) = (own(REPORTER), own(PLAN)) else { sys::exit_now(255) };
    let fds = Fds {
        reporter: Reporter { socket },
        first_closed: first + TARGET,
        answer: own(ANSWER),
        target: own(TARGET),
        gate: own(GATE),
        shm: own(SHM),
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        sys::reset_signal_actions();
        umask(Mode::empty());
        match decode(plan)? {
            Plan::Launch(plan) => launch(*plan, &fds),
            Plan::Exec(plan) => exec(*plan, &fds),
        }
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
    /// All from here on are closed before the program is executed.
    first_closed: u32,
    target: Option<OwnedFd>,
    gate: Option<OwnedFd>,
    shm: Option<OwnedFd>,
    answer: Option<OwnedFd>,
}

fn decode(plan: OwnedFd) -> Step<Plan> {
    let bytes = read_plan(plan.as_fd()).at(Stage::Plan, || "read the plan".into())?;
    Plan::decode(&bytes).map_err(|e| super::Notice {
        stage: Stage::Plan,
        errno: 0,
        detail: format!("decode the plan: {e}"),
    })
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

/// Standard streams to 0, 1, 2, what else is needed to the numbers from `first` on, and everything that came with the
/// fork closed. Between the two is what the program is to have, and stays as it is. Returns the program to execute.
fn settle(
    plan: BorrowedFd<'_>,
    io: Stdio3<'_>,
    fds: Attached<'_>,
    reports: &Reporter,
    first: u32,
) -> std::io::Result<Option<OwnedFd>> {
    let aside = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, (first + ASIDE) as i32);
    let streams = [aside(io.stdin)?, aside(io.stdout)?, aside(io.stderr)?];
    let moved = [
        (ANSWER, fds.answer.map(aside).transpose()?),
        (TARGET, fds.target.map(aside).transpose()?),
        (GATE, fds.gate.map(aside).transpose()?),
        (SHM, fds.shm.map(aside).transpose()?),
        (PLAN, Some(aside(plan)?)),
    ];
    let program = fds.init.map(aside).transpose()?;
    for (number, stream) in streams.iter().enumerate() {
        sys::dup_onto(stream.as_fd(), number as i32, false)?;
    }
    // What is to be executed must find them open.
    let close_on_exec = program.is_none();
    sys::close_range(first + REPORTER, first + FREE - 1)?;
    sys::dup_onto(reports.socket.as_fd(), (first + REPORTER) as i32, close_on_exec)?;
    for (number, fd) in &moved {
        if let Some(fd) = fd {
            sys::dup_onto(fd.as_fd(), (first + number) as i32, close_on_exec)?;
        }
    }
    if let Some(program) = program {
        // All that is above closes when it is executed, whatever flags it came with.
        sys::close_on_exec_from(first + FREE)?;
        return Ok(Some(program));
    }
    // Their owners must not do it once more.
    std::mem::forget((streams, moved));
    sys::close_from(first + FREE)?;
    Ok(None)
}

fn launch(plan: LaunchPlan, fds: &Fds) -> Step<Infallible> {
    let reporter = &fds.reporter;
    let procfs = Labels::procfs(&plan.process)?;
    enter_cgroups(&plan.cgroup)?;
    write_task_files(&plan.process.resctrl)?;
    set_oom_score(plan.process.oom_score_adj, reporter)?;
    let shm = fds.shm.as_ref().map(AsFd::as_fd);
    let opened = match &plan.user {
        Some(user) => stager::launch(&plan, user, shm, reporter)?,
        None => {
            if plan.new_cgroup_namespace {
                sys::unshare_namespaces(libc::CLONE_NEWCGROUP as u32)
                    .at(Stage::Namespace, || "make a cgroup namespace".into())?;
            }
            let host_network = netdev::Host::of(&plan.net_devices)?;
            namespaces::join(namespaces::open_all(&plan.join)?, false)?;
            if let Some(host) = host_network {
                host.move_devices(&plan.net_devices, plan.new_network_namespace)?;
            }
            if let Some(time) = &plan.time {
                namespaces::new_time(time)?;
            }
            None
        }
    };
    let labels = Labels::open(&plan.process, procfs)?;
    let groups_fixed = idmap::groups_are_fixed(idmap::own_directory()?.as_fd());
    new_session()?;
    join_keyring(plan.process.keyring.as_deref(), reporter)?;
    if let Some(name) = &plan.hostname {
        sethostname(name).at(Stage::Hostname, || format!("set the hostname to {}", show(name)))?;
    }
    if let Some(name) = &plan.domainname {
        setdomainname(name).at(Stage::Hostname, || format!("set the domainname to {}", show(name)))?;
    }

    // With the host in reach: sources are opened, while binds still are peers of the host's mounts.
    hide::write_sysctls(&plan.sysctls)?;
    let mut sources = match opened {
        Some(sources) => sources,
        None => stager::Sources::open(&plan, mounts::Which::All, shm, &mut idmap::Namespaces::default())?,
    };
    mounts::make_filesystems(&plan.mounts, &mut sources.trees)?;
    root::isolate(plan.root.host_propagation)?;
    mounts::mount_the_old_way(&plan.mounts, &mut sources.trees)?;
    let tree = root::prepare(&plan.root, sources.root)?;
    // Hooks find a file system that is whole, and the host still in reach; without any, nothing is done within reach.
    let pauses = plan.hooks.pause || !plan.hooks.create_container.is_empty();
    let mut tree = if pauses { tree } else { root::enter(&plan.root, tree)? };

    // From here on every path is the container's.
    mounts::attach_all(&mut tree, &plan.mounts, sources.trees)?;
    devices::make(&tree, &plan.devices, sources.bound)?;
    for (path, target) in &plan.symlinks {
        mounts::symlink(&tree, path, target, Stage::Device)?;
    }
    let tree = if pauses {
        hooks::before_entering(&plan.hooks, reporter)?;
        root::enter(&plan.root, tree)?
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
    if let Some(mut covers) = sources.covers {
        plan.masked.iter().try_for_each(|path| covers.mask(&tree, path))?;
    }
    for (path, flags) in &plan.late_changes {
        mounts::change_at(&tree, path, flags)?;
    }
    root::finish(&plan.root, &tree)?;
    let gate = fds.gate.as_ref().map(AsFd::as_fd);
    let hooks = Some(&plan.hooks);
    let last = Last { tree, labels, gate, reporter, hooks, groups_fixed, first_closed: fds.first_closed };
    become_program(plan.process, last)
}

fn exec(plan: ExecPlan, fds: &Fds) -> Step<Infallible> {
    let reporter = &fds.reporter;
    let Some(target) = &fds.target else { return refuse(Stage::Namespace, "an exec needs a target, and got none") };
    let procfs = Labels::procfs(&plan.process)?;
    enter_cgroups(&plan.cgroup)?;
    write_task_files(&plan.process.resctrl)?;
    set_oom_score(plan.process.oom_score_adj, reporter)?;
    let own = idmap::own_directory()?;
    let groups_fixed = if plan.namespaces & libc::CLONE_NEWUSER as u32 != 0 {
        stager::exec(&plan, target.as_fd(), reporter)?;
        idmap::groups_are_fixed(own.as_fd())
    } else {
        let fixed = idmap::groups_are_fixed(own.as_fd());
        if plan.namespaces != 0 {
            sys::setns(target.as_fd(), plan.namespaces)
                .at(Stage::Namespace, || "enter the namespaces of the container; it may have ended".into())?;
        }
        fixed
    };
    drop(own);
    if plan.namespaces & (libc::CLONE_NEWUSER | libc::CLONE_NEWPID) as u32 == libc::CLONE_NEWPID as u32 {
        stager::appear(reporter)?;
    }
    let labels = Labels::open(&plan.process, procfs)?;
    new_session()?;
    join_keyring(plan.process.keyring.as_deref(), reporter)?;
    let tree = Tree::of_process().at(Stage::Root, || "open the root of the container".into())?;
    if let Some(terminal) = plan.process.terminal {
        console::set_up(&tree, terminal, false, reporter)?;
    }
    let last = Last { tree, labels, gate: None, reporter, hooks: None, groups_fixed, first_closed: fds.first_closed };
    become_program(plan.process, last)
}

fn enter_cgroups(entry: &CgroupEntry) -> Step<()> {
    match entry {
        CgroupEntry::V1 { tasks } => write_task_files(tasks),
        CgroupEntry::V2 | CgroupEntry::None => Ok(()),
    }
}

/// `0` is whoever writes it.
fn write_task_files(tasks: &[Vec<u8>]) -> Step<()> {
    for path in tasks {
        let name = || format!("enter the cgroup of {}", show(path));
        let file = open(path.as_slice(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).at(Stage::Cgroup, name)?;
        rustix::io::write(&file, b"0").at(Stage::Cgroup, name)?;
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
