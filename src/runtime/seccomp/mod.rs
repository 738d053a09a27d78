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

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};

use super::plan::SeccompPlan;
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

/// Compiles a profile. Names of system calls that no architecture of the profile has are passed over, as the
/// specification wants it.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    if profile.listener_path().is_some() {
        return Err(SeccompError::Unsupported("listenerPath".into()));
    }
    let rules = rules::Rules::of(profile)?;
    Ok(Filter { program: emit::program(&rules)?, flags: flags(profile)? })
}

/// `SECCOMP_FILTER_FLAG_*`. A profile that has no list of flags gets `SPEC_ALLOW`, as with runc: the mitigation that it
/// switches off costs every program dear.
fn flags(profile: &LinuxSeccomp) -> Result<u32> {
    const TSYNC: u32 = 1;
    const LOG: u32 = 2;
    const SPEC_ALLOW: u32 = 4;
    let Some(listed) = profile.flags() else { return Ok(SPEC_ALLOW) };
    listed.iter().try_fold(0, |flags, flag| {
        Ok(flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => TSYNC,
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
                #[allow(unreachable_patterns)]
                other => return Err(SeccompError::Unsupported(format!("the flag {other}"))),
            })
    })
}
