//! bpf(2), by hand: three commands do not need a library.
#![allow(unsafe_code)]

mod seed;

pub use seed::Seed;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::bpf::Insn;

// Commands and constants of linux/bpf.h.
const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_DETACH: u32 = 9;
const PROG_GET_FD_BY_ID: u32 = 13;
const PROG_QUERY: u32 = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 2;

/// The part of `union bpf_attr` that loading a program uses.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// The part of `union bpf_attr` that attaching and detaching use.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// The part of `union bpf_attr` that a query uses.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// The part of `union bpf_attr` that finding a program by its id uses.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// bpf(2) with one of the structures above; returns the non-negative result.
fn bpf<T>(command: u32, attr: &mut T) -> Result<i32, Errno> {
    // SAFETY: bpf(2) reads and writes at most `size` bytes at `attr`, which is an exclusive reference to that much;
    // the pointers that the structures hold are to slices that their makers below keep alive over the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(result as i32)
}

/// A descriptor that bpf(2) made, never 0: in its structures 0 stands for "none".
fn owned(fd: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel has just returned this descriptor and nobody else knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if fd.as_raw_fd() == 0 { fcntl_dupfd_cloexec(&fd, 3) } else { Ok(fd) }
}

/// Loads a program that decides on device access. A busy verifier (EAGAIN) is asked again.
pub fn load(program: &[Insn]) -> Result<OwnedFd, Errno> {
    let license = c"Apache-2.0";
    let mut attr = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        prog_name: *b"orlop_devices\0\0\0",
        ..Load::default()
    };
    let mut tries = 0;
    loop {
        match bpf(PROG_LOAD, &mut attr) {
            Ok(fd) => return owned(fd),
            Err(Errno::AGAIN) if tries < 30 => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Attaches `program` to the cgroup, beside those that are there: all must allow an access.
pub fn attach(cgroup: BorrowedFd<'_>, program: impl AsFd) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI,
        ..Attach::default()
    };
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

/// Takes `program` off the cgroup.
pub fn detach(cgroup: BorrowedFd<'_>, program: impl AsFd) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        ..Attach::default()
    };
    bpf(PROG_DETACH, &mut attr).map(drop)
}

/// The device programs attached to this very cgroup.
pub fn attached(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0u32; 64];
    let mut attr = Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    let count = (attr.prog_cnt as usize).min(ids.len());
    let mut programs = Vec::with_capacity(count);
    for id in &ids[..count] {
        let mut attr = ById { id: *id, ..ById::default() };
        match bpf(PROG_GET_FD_BY_ID, &mut attr) {
            Ok(fd) => programs.push(owned(fd)?),
            Err(Errno::NOENT) => {} // detached meanwhile
            Err(error) => return Err(error),
        }
    }
    Ok(programs)
}
