#![allow(unsafe_code)]
//! What a test does to its own thread.

/// A mount namespace for this thread, from which nothing reaches the machine's.
pub fn unshare_mounts() {
    // SAFETY: unshare(2) of the mounts and of the current directory, that this thread alone uses from now on; no memory or
    // descriptor table is concerned.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS) }
        .unwrap();
    let flags = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).unwrap();
}
