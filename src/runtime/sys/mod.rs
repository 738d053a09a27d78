//! System calls that rustix does not have: the only unsafe code of the runtime.
#![allow(unsafe_code)]

pub(super) mod clone;
pub(super) mod mount;
pub(super) mod process;
