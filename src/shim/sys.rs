#![allow(unsafe_code)]
//! System calls that rustix does not have: signals, namespaces, a fork for the pod's init, and bare pages.

use std::io;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, align_of, size_of};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{NonNull, null, null_mut};

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Memory straight from the kernel, zeroed, in whole pages that take no room until they are written to.
#[derive(Debug)]
pub(super) struct Pages {
    start: NonNull<u8>,
    length: usize,
}

impl Pages {
    pub fn new(length: usize) -> io::Result<Self> {
        // SAFETY: a new private anonymous mapping, wherever the kernel likes (mmap(2)).
        let start = unsafe {
            libc::mmap(
                null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Self { start, length })
    }

    /// Gives the memory back to the kernel; it reads as zero from now on.
    pub fn trim(&mut self) {
        // SAFETY: the range is exactly this mapping, which nobody else refers to while it is borrowed (madvise(2)). A
        // failure leaves it as it was.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.length, libc::MADV_DONTNEED) };
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `length` bytes, readable, initialised by the kernel, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and writable; the exclusive borrow of `self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by `new` and nobody refers to it any more (munmap(2)).
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// A list that never moves, in [`Pages`]: it has address space for all entries that there may be, and takes memory as they
/// come. Without the allocator, whose own pages would be a quarter of a small process.
#[derive(Debug)]
pub(super) struct Reserve<T> {
    pages: Pages,
    length: usize,
    entries: PhantomData<T>,
}

impl<T> Reserve<T> {
    pub fn new(capacity: usize) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= 4096) };
        Ok(Self { pages: Pages::new(capacity * size_of::<T>())?, length: 0, entries: PhantomData })
    }

    /// Gives the entry back if there is no room for it.
    pub fn push(&mut self, entry: T) -> Result<(), T> {
        if (self.length + 1) * size_of::<T>() > self.pages.length {
            return Err(entry);
        }
        // SAFETY: the place is within the mapping (just checked), aligned (the mapping is, to a page, and entries follow
        // each other), and holds no entry yet.
        unsafe { self.pages.start.cast::<T>().add(self.length).write(entry) };
        self.length += 1;
        Ok(())
    }

    pub fn pop(&mut self) -> Option<T> {
        self.length = self.length.checked_sub(1)?;
        // SAFETY: the entry at the old end was written by `push`; the shortened list gives it up to the caller.
        Some(unsafe { self.pages.start.cast::<T>().add(self.length).read() })
    }
}

impl<T> Deref for Reserve<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `push` wrote the first `length` entries, and the mapping lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.pages.start.cast().as_ptr(), self.length) }
    }
}

impl<T> DerefMut for Reserve<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; the exclusive borrow of `self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.pages.start.cast().as_ptr(), self.length) }
    }
}

impl<T> Drop for Reserve<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// Closes every descriptor from 3 on: whatever the parent let through.
pub(super) fn close_inherited() {
    // SAFETY: called first thing in the program, before any descriptor above 2 has an owner (close_range(2)).
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
}

fn only_sigchld() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset(3) initialises the set, so it may be read after that; sigaddset(3) gets a valid number.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        set.assume_init()
    }
}

/// Ignores what would end the process, and turns SIGCHLD into a descriptor that becomes readable.
pub(super) fn child_signals() -> io::Result<OwnedFd> {
    // Those that say that the program itself is broken keep their effect.
    let kept = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGSYS];
    for signal in 1..=64 {
        if !kept.contains(&signal) {
            let action = if signal == libc::SIGCHLD { libc::SIG_DFL } else { libc::SIG_IGN };
            // SAFETY: no handler of ours is installed; numbers that cannot be ignored are refused (signal(2)).
            unsafe { libc::signal(signal, action) };
        }
    }
    let set = only_sigchld();
    // SAFETY: the set is initialised; the old mask is not asked for (sigprocmask(2)).
    checked(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, null_mut()) }.into())?;
    // SAFETY: a new descriptor for an initialised set (signalfd(2)); nobody else owns it.
    unsafe {
        let fd = checked(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// One of the signals that have numbers only.
pub(super) fn real_time_signal(number: i32) -> Option<rustix::process::Signal> {
    // SAFETY: the range check leaves the kernel's real-time signals. It is not for this process, so none that the C
    // library keeps for itself matters; it is only sent (signal(7)).
    (32..=64).contains(&number).then(|| unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}

/// A child that is dead and waits to be reaped; it keeps its number until then.
pub(super) fn dead_child() -> Option<rustix::process::Pid> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a siginfo_t of zeros is a valid one, and waitid(2) fills it in or leaves it so; si_pid is the field that
    // it sets.
    let pid = unsafe {
        if libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) == -1 {
            return None;
        }
        info.assume_init().si_pid()
    };
    rustix::process::Pid::from_raw(pid)
}

/// setns(2): enters a namespace of this kind (`CLONE_NEW*`).
pub(super) fn enter(namespace: BorrowedFd<'_>, kind: i32) -> io::Result<()> {
    // SAFETY: two integers; the descriptor is open as long as it is borrowed.
    checked(unsafe { libc::setns(namespace.as_raw_fd(), kind) }.into()).map(drop)
}

/// unshare(2), for namespaces (`CLONE_NEW*`) only.
pub(super) fn unshare(kinds: i32) -> io::Result<()> {
    // SAFETY: one integer; no memory or descriptor table of this process becomes another.
    checked(unsafe { libc::unshare(kinds) }.into()).map(drop)
}

/// Forks the init of a new PID namespace: it reaps what is left to it, and dies with this process.
pub(super) fn fork_init() -> io::Result<(i32, OwnedFd)> {
    /// `struct clone_args` in its first version (clone(2)).
    #[repr(C)]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
    }
    let mut pidfd: i32 = -1;
    let args = CloneArgs {
        flags: (libc::CLONE_NEWPID | libc::CLONE_PIDFD) as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM this is a fork; this process has one thread, so the child's copy is whole. `args` and
    // `pidfd` live through the call.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        init();
    }
    // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD).
    Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The life of the pod's init. SIGCHLD is blocked already, and what can be ignored is.
fn init() -> ! {
    let set = only_sigchld();
    // SAFETY: this is the forked child: no descriptor of its copy is used again (close_range(2)); prctl(2) gets integers
    // and a string with its NUL; waitpid(2) and sigwaitinfo(2) take null for what is not asked for.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_NAME, c"orlop-init".as_ptr());
        libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32);
        loop {
            while libc::waitpid(-1, null_mut(), libc::WNOHANG) > 0 {}
            libc::syscall(libc::SYS_rt_sigtimedwait, &raw const set, null::<u8>(), null::<u8>(), 8usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_reserve_keeps_what_it_is_given() {
        let mut list = Reserve::new(100).unwrap();
        let one = Rc::new(1);
        for _ in 0..50 {
            list.push(Rc::clone(&one)).unwrap();
        }
        assert_eq!((list.len(), Rc::strong_count(&one)), (50, 51));
        assert_eq!(list.pop().as_deref(), Some(&1));
        list[3] = Rc::new(3);
        assert_eq!((*list[3], Rc::strong_count(&one)), (3, 49));
        drop(list);
        assert_eq!(Rc::strong_count(&one), 1);
    }

    #[test]
    fn a_reserve_has_an_end() {
        let mut list = Reserve::new(1).unwrap();
        let room = (0..).take_while(|&n: &u64| list.push(n).is_ok()).count();
        assert_eq!((room, list.len()), (1, 1));
        assert_eq!(list.push(7), Err(7));
        assert_eq!((list.pop(), list.pop()), (Some(0), None));
    }

    #[test]
    fn trimmed_pages_are_zero() {
        let mut pages = Pages::new(10_000).unwrap();
        pages[9_999] = 7;
        pages.trim();
        assert!(pages.iter().all(|&byte| byte == 0));
    }
}
