//! A program of the host, run as it is: no container, only other standard streams and another directory.

use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::process::{fchdir, umask};

use super::Stdio3;
use crate::runtime::sys::clone::{Clone3, Forked};
use crate::runtime::sys::process::{
    CStringArray, close_from, dup_onto, execute, exit_now, reset_signal_actions, set_parent_death_signal,
    unblock_signals,
};

/// The exit code of a program that could not be executed, as shells have it.
const NOT_EXECUTED: i32 = 127;

/// Forks a program that dies with its parent: its process id, and its pidfd. It begins in `directory`, with default
/// signals, the usual umask, and no descriptors but its streams. What it cannot do it says on its standard error, and
/// exits with 127.
///
/// `words` gives the arguments, the first being the program's path; it is called in the child. The caller must have one
/// thread only, and reaps the child.
pub fn spawn_host_program(
    words: impl FnOnce() -> Option<Vec<CString>>,
    environment: &[&str],
    io: Stdio3<'_>,
    directory: BorrowedFd<'_>,
) -> io::Result<(i32, OwnedFd)> {
    match (Clone3 { flags: 0, cgroup: None }).fork()? {
        Forked::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Forked::Child => {
            let cause = become_program(words, environment, io, directory);
            let text = format!("cannot run it: {cause}\n");
            // There is nobody else to tell.
            let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
            exit_now(NOT_EXECUTED)
        }
    }
}

/// Returns only with the reason why it could not.
fn become_program(
    words: impl FnOnce() -> Option<Vec<CString>>,
    environment: &[&str],
    io: Stdio3<'_>,
    directory: BorrowedFd<'_>,
) -> io::Error {
    let prepare = || -> io::Result<Vec<CString>> {
        dup_onto(io.stdin, 0, false)?;
        dup_onto(io.stdout, 1, false)?;
        dup_onto(io.stderr, 2, false)?;
        fchdir(directory)?;
        let words = words().filter(|words| !words.is_empty());
        close_from(3)?;
        umask(Mode::WGRP | Mode::WOTH);
        reset_signal_actions();
        unblock_signals();
        set_parent_death_signal()?;
        words.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "its command line cannot be read"))
    };
    let words = match prepare() {
        Ok(words) => words,
        Err(cause) => return cause,
    };
    let environment = environment.iter().filter_map(|entry| CString::new(*entry).ok()).collect();
    let path = words[0].clone();
    execute(&path, &CStringArray::new(words), &CStringArray::new(environment))
}
