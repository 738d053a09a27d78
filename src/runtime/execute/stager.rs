//! The stager: what the forked child is first, where the container has a user namespace of its own, and where an exec
//! goes into a PID namespace.
//!
//! It has the privileges of the caller, which the container's init will not have. With them it opens what comes from
//! the host, enters namespaces, and maps ids. Then it clones the init, as a child of its own parent, tells that parent
//! whom to look after from now on ([`Report::Init`](super::Report::Init)), and is gone.
//!
//! A caller without privileges (a plain user) has none to give: the init opens the sources by itself.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Uid, fchown, fstat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::isatty;

use super::context::{Context, Step, refuse, show};
use super::devices::is_null;
use super::idmap::{self, Namespaces};
use super::mounts::Detached;
use super::status::{Reporter, Stage};
use super::{devices, hide, mounts, namespaces, netdev, root};
use crate::runtime::plan::{ExecPlan, IdMaps, IdRange, LaunchPlan, ProcessPlan, UserPlan};
use crate::runtime::sys::clone::{Clone3, Forked};
use crate::runtime::sys::process as sys;

const USER: u32 = libc::CLONE_NEWUSER as u32;

/// `CAP_SYS_ADMIN`.
const SYS_ADMIN: u32 = 21;

/// What comes from the host, opened.
#[derive(Debug)]
pub(super) struct Sources {
    pub trees: Vec<Option<Detached>>,
    pub bound: Vec<Option<OwnedFd>>,
    pub covers: Option<hide::Covers>,
    /// The root file system, where whoever mounts it may not be able to get at it.
    pub root: Option<OwnedFd>,
}

impl Sources {
    pub fn open(
        plan: &LaunchPlan,
        which: mounts::Which,
        shm: Option<BorrowedFd<'_>>,
        ids: &mut Namespaces,
    ) -> Step<Self> {
        Ok(Self {
            trees: mounts::prepare(&plan.mounts, which, shm, ids)?,
            bound: devices::prepare(&plan.devices)?,
            covers: if plan.masked.is_empty() { None } else { Some(hide::Covers::prepare(plan.mount_label.clone())?) },
            root: None,
        })
    }
}

/// Makes or enters the container's user namespace. Returns in the container's init, with what was opened for it.
pub(super) fn launch(
    plan: &LaunchPlan,
    user: &UserPlan,
    shm: Option<BorrowedFd<'_>>,
    reporter: &Reporter,
) -> Step<Option<Sources>> {
    let privileged = sys::is_capable(SYS_ADMIN);
    let joined = namespaces::open_all(&plan.join)?;
    let own = user.path.as_deref().map(namespaces::open_one).transpose()?;
    let maps = match &own {
        Some(namespace) => known_maps(namespace.as_fd(), user)?,
        None => user.maps.clone(),
    };
    let mut network = netdev::Host::of(&plan.net_devices)?;
    let left = namespaces::join(joined, own.is_some())?;
    if user.new_namespaces & libc::CLONE_NEWNET as u64 == 0
        && let Some(host) = network.take()
    {
        host.move_devices(&plan.net_devices, false)?;
    }
    let sources = if privileged {
        if let Some(time) = &plan.time {
            namespaces::make_time(time)?;
        }
        lend_privileges(&plan.process, &maps);
        let namespace = own.as_ref().map(OwnedFd::try_clone).transpose();
        let namespace = namespace.at(Stage::Namespace, || "hold the user namespace".into())?;
        let mut ids = Namespaces::of_container(maps.clone(), namespace);
        let mut sources = Sources::open(plan, mounts::Which::Host, shm, &mut ids)?;
        sources.root = Some(root::open_source(&plan.root)?);
        Some(sources)
    } else {
        None
    };
    if let (Some(namespace), Some(path)) = (&own, &user.path) {
        enter_user(namespace.as_fd(), || format!("enter the user namespace {}", show(path)))?;
        namespaces::join(left, false)?;
    }
    let new = own.is_none().then_some(user);
    clone_init(user.new_namespaces, new, Some(&maps), reporter, |init| match network {
        // The privileges over the host's network are here, and the new one has just been made.
        Some(host) => {
            let name = || "linux.netDevices: reach the container's network".to_owned();
            sys::setns(init, libc::CLONE_NEWNET as u32).at(Stage::Namespace, name)?;
            host.move_devices(&plan.net_devices, false)
        }
        None => Ok(()),
    })?;
    if let Some(time) = plan.time.as_ref().filter(|_| !privileged) {
        // Its file is that of a process which is closed to its own user. In a user namespace that others are in, it
        // must stay so.
        if own.is_some() {
            return refuse(
                Stage::Namespace,
                "a new time namespace in a user namespace that is entered takes privileges",
            );
        }
        open_to_user(|| namespaces::new_time(time))?;
    }
    Ok(sources)
}

/// Enters the namespaces of a container that has a user namespace. Returns in the process that belongs there.
pub(super) fn exec(plan: &ExecPlan, target: BorrowedFd<'_>, reporter: &Reporter) -> Step<()> {
    let name = || "enter the namespaces of the container; it may have ended".to_owned();
    let maps = idmap::maps_of(target)?;
    if sys::is_capable(SYS_ADMIN) {
        lend_privileges(&plan.process, &maps);
    }
    // Those that are the host's can be entered only now; what only the container's root may enter, only later.
    let mut later = 0;
    for kind in (0..32).map(|bit| 1u32 << bit).filter(|kind| plan.namespaces & !USER & kind != 0) {
        match sys::setns(target, kind) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => later |= kind,
            result => result.at(Stage::Namespace, name)?,
        }
    }
    enter_user(target, name)?;
    if later != 0 {
        sys::setns(target, later).at(Stage::Namespace, name)?;
    }
    clone_init(0, None, Some(&maps), reporter, |_| Ok(()))
}

/// Appears in the PID namespace that this process has entered for its children. Returns in the process that is there.
///
/// That is what comes last: whoever may trace in the container finds nothing of the host in it, no root, no program and no
/// descriptor (CVE-2016-9962).
pub(super) fn appear(reporter: &Reporter) -> Step<()> {
    clone_init(0, None, None, reporter, |_| Ok(()))
}

/// `EINVAL`: it is in that one already, as nothing else can be wrong with a process that has one thread.
fn enter_user(namespace: BorrowedFd<'_>, name: impl FnOnce() -> String) -> Step<()> {
    match sys::setns(namespace, USER) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        result => result.at(Stage::Namespace, name),
    }
}

/// The maps of a namespace that is entered, which must be those that the specification has, if it has any.
fn known_maps(namespace: BorrowedFd<'_>, user: &UserPlan) -> Step<IdMaps> {
    let maps = idmap::maps_of(namespace)?;
    if !user.maps.is_empty() && sorted(&user.maps) != sorted(&maps) {
        let path = show(user.path.as_deref().unwrap_or_default());
        return refuse(
            Stage::Namespace,
            format!("the id mappings of the specification are not those of the user namespace {path}"),
        );
    }
    Ok(maps)
}

/// The kernel may list many ranges in another order than they came.
fn sorted(maps: &IdMaps) -> IdMaps {
    let mut maps = maps.clone();
    maps.uids.sort_unstable_by_key(|range| range.inside);
    maps.gids.sort_unstable_by_key(|range| range.inside);
    maps
}

/// What the process cannot do by itself when it is in its user namespace: to own the pipes that came with it, and to
/// have higher limits than its parent.
fn lend_privileges(process: &ProcessPlan, maps: &IdMaps) {
    if let Some(uid) = maps.uid(process.uid) {
        for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
            let Ok(stat) = fstat(stream) else { continue };
            let ours = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Fifo | FileType::Socket => true,
                FileType::CharacterDevice => !is_null(&stat) && isatty(stream),
                _ => false,
            };
            if ours && stat.st_uid != uid {
                // Where that cannot be, the program still has them open.
                let _ = fchown(stream, Some(Uid::from_raw(uid)), None);
            }
        }
    }
    for limit in &process.rlimits {
        if let Ok((soft, hard)) = sys::limits(limit.resource)
            && limit.hard > hard
        {
            // Refused: the process itself will say so.
            let _ = sys::set_rlimit(limit.resource, soft, limit.hard);
        }
    }
}

/// Clones the init and returns in it; the stager ends here. `new`: the user namespace, if it is a new one. `maps`: those
/// of the user namespace, if there is one. `then`: what else is done before the init goes on.
fn clone_init(
    flags: u64,
    new: Option<&UserPlan>,
    maps: Option<&IdMaps>,
    reporter: &Reporter,
    then: impl FnOnce(BorrowedFd<'_>) -> Step<()>,
) -> Step<()> {
    let name = || "clone the process that enters the container".to_owned();
    let (wait, go) = pipe_with(PipeFlags::CLOEXEC).at(Stage::Namespace, name)?;
    if new.is_some() && !sys::is_capable(SYS_ADMIN) {
        // The files of a closed process are root's, and whoever maps ids here is not.
        sys::set_dumpable().at(Stage::Namespace, name)?;
    }
    let forked = Clone3 { flags, cgroup: None }.fork_sibling();
    match forked.at(Stage::Namespace, || explain(flags))? {
        Forked::Child => {
            drop(go);
            let mut byte = [0];
            if !matches!(rustix::io::retry_on_intr(|| rustix::io::read(&wait, &mut byte)), Ok(1)) {
                // The stager has failed, and said so.
                sys::exit_now(255)
            }
            if let Some(maps) = maps {
                become_root(maps)?;
            }
            sys::set_undumpable().at(Stage::Namespace, name)
        }
        Forked::Parent { pidfd, .. } => {
            if let Some(user) = new {
                idmap::write_maps(pidfd.as_fd(), &user.maps, user.tools.as_ref())?;
            }
            then(pidfd.as_fd())?;
            reporter.init(pidfd.as_fd());
            // The end of the reports is the program's beginning, so nobody else may hold this when it begins.
            let held = reporter.socket.as_raw_fd() as u32;
            let _ = sys::close_range(held, held);
            // Should it be dead, its parent will see that.
            let _ = rustix::io::write(&go, b"g");
            sys::exit_now(0)
        }
    }
}

/// For what only the owner of this process's files can do.
fn open_to_user<T>(body: impl FnOnce() -> Step<T>) -> Step<T> {
    sys::set_dumpable().at(Stage::Namespace, || "open the process to its user".into())?;
    let done = body();
    sys::set_undumpable().at(Stage::Namespace, || "close the process to others".into())?;
    done
}

fn explain(flags: u64) -> String {
    let new = flags & libc::CLONE_NEWUSER as u64 != 0;
    let hint = if new { " (are user namespaces allowed here? see user.max_user_namespaces)" } else { "" };
    format!("clone the init of the container with its namespaces{hint}")
}

/// As which user the container is made: root, or who comes closest to it.
fn become_root(maps: &IdMaps) -> Step<()> {
    let lowest = |ranges: &[IdRange]| ranges.iter().map(|range| range.inside).min().unwrap_or(0);
    let (uid, gid) = (lowest(&maps.uids), lowest(&maps.gids));
    match sys::set_groups(&[]) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        result => result.at(Stage::User, || "drop the groups of the caller".into())?,
    }
    sys::set_gid(gid).at(Stage::User, || format!("become group {gid} of the user namespace"))?;
    sys::set_uid(uid).at(Stage::User, || format!("become user {uid} of the user namespace"))
}
