//! OCI runtime-spec: a spec in, processes and cgroups out.
//!
//! All thought is in [`compile`]: pure functions from `config.json` to a plan ([`plan`]), which is plain data.
//! [`execute`] carries a plan out in a forked child: one clone3, mounts, pivot_root, ids, capabilities, seccomp, exec.
//! The shim and `orlop runtime` use the same plan and the same executor.

#[cfg(feature = "agent")]
pub mod cgroup;
#[cfg(feature = "agent")]
pub mod compile;
#[cfg(feature = "agent")]
pub mod embedded;
pub mod execute;
pub mod plan;
#[cfg(feature = "agent")]
pub mod resctrl;
#[cfg(feature = "agent")]
pub mod seccomp;
pub mod security;
mod sys;
