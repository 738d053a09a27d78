//! Seccomp profiles of the runtime specification, compiled to BPF here, without libseccomp.
//!
//! The program asks for the architecture, then finds the number of the call in a balanced tree of ranges, so it is a
//! tenth of the usual list of comparisons in size, time to load and time to run. [`Filter`] is plain data: callers keep
//! it by the digest of the profile.
//!
//! How rules of one system call combine is libseccomp's way: one without conditions covers those with; among several
//! with conditions the first that matches counts; one that says what the default says is as if it were not there. A
//! rule with two conditions on the same argument is two rules, as runc has it.

mod emit;
mod profile;
mod rules;
mod table;
#[cfg(test)]
mod tests;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

use super::plan::{ListenerPlan, SeccompPlan};
pub use profile::default_profile;

/// A compiled filter: what a plan carries.
pub type Filter = SeccompPlan;

/// A profile that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    #[error("linux.seccomp of the OCI specification: {0}")]
    Invalid(String),
    #[error("linux.seccomp of the OCI specification: {0} is not supported")]
    Unsupported(String),
    #[error("the seccomp profile needs {0} instructions, and the kernel takes 4096; it needs fewer conditions")]
    TooLong(usize),
}

type Result<T> = std::result::Result<T, SeccompError>;

/// What the listener is called in the message to the agent (`fds` of `ContainerProcessState`).
pub const SECCOMP_FD: &str = "seccompFd";

/// Compiles a profile. Names of system calls that no architecture of the profile has are passed over, as the
/// specification wants it.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    let listener = listener(profile)?;
    let rules = rules::Rules::of(profile)?;
    let mut flags = flags(profile);
    if listener.is_some() {
        flags |= NEW_LISTENER;
        // What a listener and the synchronisation of threads have to say would not fit into one result otherwise.
        flags |= if flags & TSYNC != 0 { TSYNC_ESRCH } else { 0 };
    } else {
        // Says how to wait for an agent; without one the kernel refuses it.
        flags &= !WAIT_KILLABLE_RECV;
    }
    Ok(Filter { program: emit::program(&rules)?, flags, listener })
}

/// The agent, if any of the rules asks one.
fn listener(profile: &LinuxSeccomp) -> Result<Option<ListenerPlan>> {
    let path = profile.listener_path().as_ref().filter(|path| !path.as_os_str().is_empty());
    let metadata = profile.listener_metadata().clone().unwrap_or_default();
    if path.is_none() && !metadata.is_empty() {
        return Err(SeccompError::Invalid("listenerMetadata is for a listener, and there is no listenerPath".into()));
    }
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        let reason = "SCMP_ACT_NOTIFY cannot be the default action, as it would be that of write too";
        return Err(SeccompError::Invalid(reason.into()));
    }
    let mut asking = profile.syscalls().iter().flatten().filter(|c| c.action() == LinuxSeccompAction::ScmpActNotify);
    let Some(first) = asking.next() else { return Ok(None) };
    if [first].into_iter().chain(asking).any(|call| call.names().iter().any(|name| name == "write")) {
        // By write the agent is told that there is something for it.
        return Err(SeccompError::Invalid("SCMP_ACT_NOTIFY cannot be the action of write".into()));
    }
    let Some(path) = path else {
        return Err(SeccompError::Invalid("SCMP_ACT_NOTIFY needs a listenerPath".into()));
    };
    let path = path.as_os_str().as_encoded_bytes().to_vec();
    Ok(Some(ListenerPlan { path, metadata, message: Vec::new() }))
}

/// `SECCOMP_FILTER_FLAG_*` of include/uapi/linux/seccomp.h.
const TSYNC: u32 = 1;
const LOG: u32 = 2;
const SPEC_ALLOW: u32 = 4;
const NEW_LISTENER: u32 = 8;
const TSYNC_ESRCH: u32 = 16;
const WAIT_KILLABLE_RECV: u32 = 32;

/// A profile that has no list of flags gets `SPEC_ALLOW`, as with runc: the mitigation that it switches off costs every
/// program dear.
fn flags(profile: &LinuxSeccomp) -> u32 {
    let Some(listed) = profile.flags() else { return SPEC_ALLOW };
    listed.iter().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => TSYNC,
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
            }
    })
}
