//! What a process does to itself.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::runtime::plan::{CapabilitySets, SchedulerPlan};

fn done(result: i64) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// setns(2): `namespace` is a namespace, or the pidfd of a process whose namespaces of `kinds` are entered.
pub(in crate::runtime) fn setns(namespace: BorrowedFd<'_>, kinds: u32) -> io::Result<()> {
    // SAFETY: setns(2) takes two integers; the descriptor is open as long as it is borrowed.
    done(unsafe { libc::setns(namespace.as_raw_fd(), kinds as i32) }.into())
}

/// unshare(2), for namespaces that change nothing that the memory or the descriptors of this process depend on.
pub(in crate::runtime) fn unshare_namespaces(kinds: u32) -> io::Result<()> {
    // SAFETY: unshare(2) takes an integer. The caller has one thread; descriptors are not unshared.
    done(unsafe { libc::unshare(kinds as i32) }.into())
}

/// _exit(2): nothing of the parent's copy is run or flushed.
pub(in crate::runtime) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) does not return, and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// pidfd_send_signal(2), by number: real-time signals have no names.
pub(in crate::runtime) fn send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: pidfd_send_signal(2) takes integers, and a null pointer for what kill(2) would send.
    done(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, ptr::null::<libc::siginfo_t>(), 0)
    })
}

/// Every signal back to its default action. execve(2) does that for handlers, but not for what is ignored.
pub(in crate::runtime) fn reset_signal_actions() {
    // `struct sigaction` of the kernel, all zero: SIG_DFL, no flags, an empty mask.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: rt_sigaction(2) reads 32 bytes at `default`; the C library is passed over since it keeps two signals
        // to itself. Only KILL and STOP fail, and they have no action to reset.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), 8usize);
        }
    }
}

/// No signal is blocked any more.
pub(in crate::runtime) fn unblock_signals() {
    let none = 0u64;
    // SAFETY: rt_sigprocmask(2) reads 8 bytes at `none`; it cannot fail with these arguments.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, ptr::null_mut::<u64>(), 8usize);
    }
}

/// dup3(2) onto a number, which is closed first if it is open.
pub(in crate::runtime) fn dup_onto(fd: BorrowedFd<'_>, number: i32, close_on_exec: bool) -> io::Result<()> {
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: dup3(2) takes integers. The caller says that whatever `number` was is no longer owned by anyone.
    done(unsafe { libc::dup3(fd.as_raw_fd(), number, flags) }.into())
}

/// Takes over a descriptor that [`dup_onto`] made.
pub(in crate::runtime) fn own(number: i32) -> OwnedFd {
    // SAFETY: the caller has just put it there, and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// [`close_range`] of every descriptor from `first` on.
pub(in crate::runtime) fn close_from(first: u32) -> io::Result<()> {
    close_range(first, u32::MAX)
}

/// close_range(2): every descriptor from `first` to `last`. Where a filter that is in force refuses that (one older than
/// the call), those that this program may have open are closed one by one.
pub(in crate::runtime) fn close_range(first: u32, last: u32) -> io::Result<()> {
    /// More than the executor ever has open at once.
    const MOST: u32 = 256;
    // SAFETY: close_range(2) takes integers. What owned these descriptors is never used again: this process executes
    // its program or exits next, or has just been forked and keeps none of them.
    let error = match done(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => e,
        other => return other,
    };
    for number in first..=last.min(first + MOST) {
        // SAFETY: close(2) takes an integer; the rest is as above.
        if unsafe { libc::close(number as i32) } == -1 {
            let closed = io::Error::last_os_error();
            if closed.raw_os_error() != Some(libc::EBADF) {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// close_range(2): every descriptor from `first` on is closed by execve(2).
pub(in crate::runtime) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range(2) takes integers, and closes nothing with this flag.
    done(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// Whether there is a descriptor of that number that execve(2) would leave open.
pub(in crate::runtime) fn is_passed_on(number: u32) -> bool {
    // SAFETY: fcntl(2) with F_GETFD takes integers, and changes nothing.
    unsafe { libc::fcntl(number as i32, libc::F_GETFD) == 0 }
}

/// Whether there is a descriptor of that number.
pub(in crate::runtime) fn is_open(number: u32) -> bool {
    // SAFETY: fcntl(2) with F_GETFD takes integers, and changes nothing.
    unsafe { libc::fcntl(number as i32, libc::F_GETFD) != -1 }
}

/// Joins or makes the session keyring of that name, and lets its user search it. `ENOSYS`: there are no keyrings here.
pub(in crate::runtime) fn join_session_keyring(name: &CStr) -> io::Result<()> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    const SETPERM: i32 = 5;
    /// Possessor: all. User: view, read, search, link.
    const PERMISSIONS: u32 = 0x3f1b_0000;
    // SAFETY: keyctl(2) reads a string.
    let id = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    done(id)?;
    // SAFETY: keyctl(2) takes integers here.
    done(unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, id as i32, PERMISSIONS) })
}

/// setgroups(2), setresgid(2), setresuid(2) of this thread, the only one.
pub(in crate::runtime) fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: setgroups(2) reads `groups.len()` numbers of 32 bits.
    done(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })
}

/// Real, effective and saved group.
pub(in crate::runtime) fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: setresgid(2) takes integers.
    done(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })
}

/// Real, effective and saved user.
pub(in crate::runtime) fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: setresuid(2) takes integers.
    done(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words a set.
const CAP_VERSION: u32 = 0x2008_0522;

/// What this thread may at most have.
pub(in crate::runtime) fn permitted_capabilities() -> io::Result<u64> {
    capabilities().map(|[_, permitted]| permitted)
}

/// Whether this thread has a capability now.
pub(in crate::runtime) fn is_capable(capability: u32) -> bool {
    capabilities().is_ok_and(|[effective, _]| effective >> capability & 1 == 1)
}

/// The effective and the permitted set.
fn capabilities() -> io::Result<[u64; 2]> {
    let mut header = CapHeader { version: CAP_VERSION, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: capget(2) of version 3 writes two `struct __user_cap_data_struct`.
    done(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok([join(data[0].effective, data[1].effective), join(data[0].permitted, data[1].permitted)])
}

/// capset(2): the effective, permitted and inheritable sets.
pub(in crate::runtime) fn set_capabilities(sets: CapabilitySets) -> io::Result<()> {
    let mut header = CapHeader { version: CAP_VERSION, pid: 0 };
    let word = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: capset(2) of version 3 reads two `struct __user_cap_data_struct`.
    done(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })
}

fn prctl(option: i32, two: u64, three: u64) -> io::Result<()> {
    // SAFETY: the options used in this file take integers only.
    done(unsafe { libc::prctl(option, two, three, 0u64, 0u64) }.into())
}

/// Drops a capability from the bounding set. `EINVAL`: the kernel knows none of that number.
pub(in crate::runtime) fn drop_bounding(capability: u32) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0)
}

/// Whether permitted capabilities outlive a change from root to another user.
pub(in crate::runtime) fn keep_capabilities(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0)
}

pub(in crate::runtime) fn clear_ambient() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)
}

pub(in crate::runtime) fn raise_ambient(capability: u32) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability.into())
}

pub(in crate::runtime) fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// SIGKILL when the parent dies.
pub(in crate::runtime) fn set_parent_death_signal() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)
}

/// Nobody but root may look into this process or trace it, until it executes.
pub(in crate::runtime) fn set_undumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0)
}

/// Its user may look into this process, and write its id maps.
pub(in crate::runtime) fn set_dumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 1, 0)
}

/// setrlimit(2) by number.
pub(in crate::runtime) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: prlimit64(2) reads one `struct rlimit64`.
    done(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, ptr::null_mut::<libc::rlimit64>())
    })
}

/// The hard limit.
pub(in crate::runtime) fn hard_limit(resource: u32) -> io::Result<u64> {
    limits(resource).map(|(_, hard)| hard)
}

/// The soft and the hard limit.
pub(in crate::runtime) fn limits(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: prlimit64(2) writes one `struct rlimit64`.
    done(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, ptr::null::<libc::rlimit64>(), &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// `struct sched_attr` of include/uapi/linux/sched/types.h, in its second version: kernels that only know the first
/// take it as long as the rest is zero.
#[repr(C)]
struct SchedulingAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    clamp_minimum: u32,
    clamp_maximum: u32,
}

/// sched_setattr(2) of this process.
pub(in crate::runtime) fn set_scheduler(plan: SchedulerPlan) -> io::Result<()> {
    let attributes = SchedulingAttributes {
        size: size_of::<SchedulingAttributes>() as u32,
        policy: plan.policy,
        flags: plan.flags,
        nice: plan.nice,
        priority: plan.priority,
        runtime: plan.runtime,
        deadline: plan.deadline,
        period: plan.period,
        clamp_minimum: 0,
        clamp_maximum: 0,
    };
    // SAFETY: sched_setattr(2) reads `size` bytes at `attributes`.
    done(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

/// sched_setaffinity(2) of this process: bit n of word m is CPU 64 m + n.
pub(in crate::runtime) fn set_affinity(cpus: &[u64]) -> io::Result<()> {
    // SAFETY: sched_setaffinity(2) reads that many bytes at `cpus`.
    done(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) })
}

/// set_mempolicy(2): bit n of word m is node 64 m + n.
pub(in crate::runtime) fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    // The kernel counts one bit less than it is told.
    let (mask, bits) = if nodes.is_empty() { (ptr::null(), 0) } else { (nodes.as_ptr(), nodes.len() * 64 + 1) };
    // SAFETY: set_mempolicy(2) reads no more than `bits` bits at `mask`, less one.
    done(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) })
}

/// ioprio_set(2) of this process's group.
pub(in crate::runtime) fn set_io_priority(value: u32) -> io::Result<()> {
    const PROCESS_GROUP: i32 = 2;
    // SAFETY: ioprio_set(2) takes integers.
    done(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS_GROUP, 0, value) })
}

/// personality(2).
pub(in crate::runtime) fn set_personality(value: u64) -> io::Result<()> {
    // SAFETY: personality(2) takes an integer.
    done(unsafe { libc::syscall(libc::SYS_personality, value) })
}

/// seccomp(2): adds a filter, `struct sock_filter` after `struct sock_filter`. Returns its listener, if the flags ask for
/// one.
pub(in crate::runtime) fn load_seccomp(program: &[u8], flags: u32) -> io::Result<Option<OwnedFd>> {
    const NEW_LISTENER: u32 = 8;
    const SET_MODE_FILTER: u32 = 1;
    /// `struct sock_filter`: code, jt, jf, k.
    const INSTRUCTION: usize = 8;
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const u64,
    }
    let length = u16::try_from(program.len() / INSTRUCTION).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Aligned as the kernel's structure is.
    let filter: Vec<u64> =
        program.chunks_exact(INSTRUCTION).map(|c| u64::from_ne_bytes(std::array::from_fn(|i| c[i]))).collect();
    let program = Program { length, filter: filter.as_ptr() };
    // SAFETY: seccomp(2) reads `length` instructions at `filter`, which lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    done(result)?;
    // SAFETY: with this flag the result is a descriptor that the kernel has just made for us, close-on-exec.
    Ok((flags & NEW_LISTENER != 0).then(|| unsafe { OwnedFd::from_raw_fd(result as i32) }))
}

/// A list of C strings with the null pointer at its end, as execve(2) takes them.
#[derive(Debug)]
pub(in crate::runtime) struct CStringArray {
    /// What `pointers` point into.
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl CStringArray {
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

/// execve(2). Returns only the reason why not.
pub(in crate::runtime) fn execute(path: &CStr, args: &CStringArray, env: &CStringArray) -> io::Error {
    // SAFETY: execve(2) reads three things that live through the call: a string and two null-terminated arrays.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// execveat(2) of an open file. Returns only the reason why not.
pub(in crate::runtime) fn execute_descriptor(
    program: BorrowedFd<'_>,
    args: &CStringArray,
    env: &CStringArray,
) -> io::Error {
    // SAFETY: execveat(2) reads three things that live through the call: a string and two null-terminated arrays.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}
