//! System calls of the kernel's own interfaces: a process under a filter, and an agent that answers for one.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What a call is made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    Native,
    /// `int 0x80`.
    #[cfg(target_arch = "x86_64")]
    I386,
}

/// One call: its number and its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub abi: Abi,
    pub number: u32,
    pub args: [u64; 6],
}

/// What came of the calls that a process made under a filter.
#[derive(Debug, PartialEq, Eq)]
pub struct Made {
    /// As the kernel returns it: an errno is negative.
    pub results: Vec<i64>,
    /// The signal that ended it.
    pub signal: i32,
}

/// Makes the calls in a process of its own, under the filter.
pub fn under_filter(program: &[u8], flags: u32, calls: &[Call]) -> Made {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const u64,
    }
    let filter: Vec<u64> = program.chunks_exact(8).map(|c| u64::from_ne_bytes(std::array::from_fn(|i| c[i]))).collect();
    let program = Program { length: filter.len() as u16, filter: filter.as_ptr() };
    let mut pipe = [0; 2];
    // SAFETY: pipe(2) writes two descriptors; they are closed below.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    // SAFETY: fork(2); the child makes system calls only, allocates nothing, and ends with _exit(2).
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: prctl(2) and seccomp(2) with a program that lives on the stack of the parent's copy.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
            if libc::syscall(libc::SYS_seccomp, 1, flags, &raw const program) == -1 {
                libc::_exit(1);
            }
        }
        for call in calls {
            let result = make(*call);
            // SAFETY: write(2) of eight bytes.
            unsafe { libc::write(pipe[1], (&raw const result).cast(), 8) };
        }
        // SAFETY: _exit(2).
        unsafe { libc::_exit(0) }
    }
    // SAFETY: close(2) of the end that is the child's, read(2) into a buffer of its size, waitpid(2).
    unsafe {
        libc::close(pipe[1]);
        let mut results = Vec::new();
        let mut result = 0i64;
        while libc::read(pipe[0], (&raw mut result).cast(), 8) == 8 {
            results.push(result);
        }
        libc::close(pipe[0]);
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        assert!(libc::WIFSIGNALED(status) || libc::WEXITSTATUS(status) == 0, "the filter was not loaded");
        Made { results, signal: if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 } }
    }
}

fn make(call: Call) -> i64 {
    let [a, b, c, d, e, f] = call.args;
    match call.abi {
        Abi::Native => {
            // SAFETY: the tests make only calls that touch no memory.
            let result = unsafe { libc::syscall(call.number.into(), a, b, c, d, e, f) };
            // SAFETY: the C library keeps it for this thread.
            if result == -1 { -i64::from(unsafe { *libc::__errno_location() }) } else { result }
        }
        #[cfg(target_arch = "x86_64")]
        Abi::I386 => {
            let result: i32;
            // SAFETY: a call of the 32-bit table, with its arguments in ebx, ecx and edx; rbx is the compiler's, and is
            // put back.
            unsafe {
                std::arch::asm!(
                    "xchg rbx, {first}", "int 0x80", "xchg rbx, {first}",
                    first = inout(reg) a => _,
                    inout("eax") call.number => result,
                    in("ecx") b as u32, in("edx") c as u32,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                );
            }
            result.into()
        }
    }
}

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Notification {
    pub id: u64,
    pub pid: u32,
    flags: u32,
    pub number: i32,
    pub arch: u32,
    instruction: u64,
    pub args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
#[derive(Debug, Default)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// The next call that waits.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    let mut notification = Notification::default();
    // SAFETY: SECCOMP_IOCTL_NOTIF_RECV writes one `struct seccomp_notif`, which is zeroed as it must be.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), 0xc050_2100, &raw mut notification) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(notification) }
}

/// Lets a call fail with an errno, or go on where there is none.
pub fn respond(listener: BorrowedFd<'_>, id: u64, errno: Option<i32>) -> io::Result<()> {
    const CONTINUE: u32 = 1;
    let response = match errno {
        Some(errno) => Response { id, error: -errno, ..Response::default() },
        None => Response { id, flags: CONTINUE, ..Response::default() },
    };
    // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads one `struct seccomp_notif_resp`.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), 0xc018_2101, &raw const response) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
