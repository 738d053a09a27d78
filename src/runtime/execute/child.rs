//! The child of the fork. It never returns into the caller: it executes its program or exits.

use std::convert::Infallible;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::status::{Notice, Reporter, Stage};
use super::{Attached, Stdio3};
use crate::runtime::plan::Plan;
use crate::runtime::sys::process::exit_now;

/// Carries the plan out; a failure is reported and ends the process with 255.
pub(super) fn run(plan: BorrowedFd<'_>, io: Stdio3<'_>, fds: Attached<'_>, reports: OwnedFd) -> ! {
    let reporter = Reporter { socket: reports };
    let Err(notice) = carry_out(plan, io, fds, &reporter);
    reporter.failure(notice);
    exit_now(255)
}

fn carry_out(
    plan: BorrowedFd<'_>,
    _io: Stdio3<'_>,
    _fds: Attached<'_>,
    _reporter: &Reporter,
) -> Result<Infallible, Notice> {
    let bytes = read_plan(plan)?;
    let plan = Plan::decode(&bytes).map_err(|e| Notice {
        stage: Stage::Plan,
        errno: 0,
        detail: format!("the plan cannot be decoded: {e}"),
    })?;
    let kind = match plan {
        Plan::Launch(_) => "a launch",
        Plan::Exec(_) => "an exec",
    };
    Err(Notice { stage: Stage::Plan, errno: libc::ENOSYS, detail: format!("{kind} is not carried out yet") })
}

/// The whole memfd, whatever its offset: several children may read the same one.
fn read_plan(plan: BorrowedFd<'_>) -> Result<Vec<u8>, Notice> {
    let failed = |e: rustix::io::Errno| Notice {
        stage: Stage::Plan,
        errno: e.raw_os_error(),
        detail: "the plan cannot be read".into(),
    };
    let size = rustix::fs::fstat(plan).map_err(failed)?.st_size as usize;
    let mut bytes = vec![0; size];
    let mut at = 0;
    while at < size {
        match rustix::io::pread(plan, &mut bytes[at..], at as u64).map_err(failed)? {
            0 => break,
            n => at += n,
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}
