//! The program that makes containers must not be within their reach.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::json;

use crate::bundle::Bundle;

fn orlop() -> Vec<u8> {
    use sha2::Digest;
    sha2::Sha256::digest(fs::read(env!("CARGO_BIN_EXE_orlop")).unwrap()).to_vec()
}

/// The program of a process: no file of the host's, and nothing that could be written to.
#[track_caller]
fn out_of_reach(pid: i32) {
    let path = format!("/proc/{pid}/exe");
    let program = fs::File::open(&path).unwrap();
    let host = fs::metadata(env!("CARGO_BIN_EXE_orlop")).unwrap();
    assert_ne!(host.dev(), program.metadata().unwrap().dev());
    let read_only = rustix::fs::fstatvfs(&program).unwrap().f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    let seals = rustix::fs::fcntl_get_seals(&program).unwrap_or(rustix::fs::SealFlags::empty());
    assert!(read_only || seals.contains(rustix::fs::SealFlags::WRITE), "{path}");
    assert!(fs::OpenOptions::new().write(true).open(&path).is_err());
    assert!(fs::OpenOptions::new().append(true).open(&path).is_err());
}

#[test]
fn cve_2019_5736_the_waiting_program_cannot_be_written() {
    let Some(bundle) = Bundle::new("sealed", "exec sleep 1000") else { return };
    out_of_reach(bundle.create());
}

#[test]
fn cve_2019_5736_an_entry_point_that_is_the_runtime_itself() {
    let Some(mut bundle) = Bundle::new("exe", "") else { return };
    let before = orlop();
    let script = bundle.rootfs().join("bin/entry");
    for interpreter in ["/proc/self/exe", "/proc/thread-self/exe"] {
        fs::write(&script, format!("#!{interpreter}\n")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        for args in [json!(["/bin/entry"]), json!([interpreter]), json!([interpreter, "runtime", "--help"])] {
            bundle.process()["args"] = args;
            // Whatever it does, it ends, and it is not the program of the host that it has hold of.
            let called = bundle.run();
            assert!(!called.stdout.contains("Run containers from OCI bundles"), "{called:#?}");
        }
    }
    assert_eq!(orlop(), before);
}

#[test]
fn cve_2019_5736_a_container_that_waits_for_execs() {
    // It may do nearly everything inside, and tries to write to the program of whatever comes in.
    let attack = "mkdir -p /seen; while true; do for p in /proc/[0-9]*; do \
        case $p in /proc/1|/proc/$$) continue;; esac; \
        mount -o remount,rw $p/exe 2>/dev/null; \
        (: >> $p/exe) 2>/dev/null && { readlink $p/exe; cat $p/comm; } >> /seen/written; \
        readlink $p/exe >> /seen/all 2>/dev/null; done; done";
    let Some(mut bundle) = Bundle::new("exe-race", attack) else { return };
    let before = orlop();
    bundle.capabilities(&["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"]);
    bundle.run_detached();
    let begin = std::time::Instant::now();
    while begin.elapsed().as_secs() < 4 {
        assert!(bundle.exec(&["true"]).status.success());
    }
    let seen = |name: &str| fs::read_to_string(bundle.rootfs().join("seen").join(name)).unwrap_or_default();
    // It has seen some of ours, so that what it tried was tried on them; and none could be written to but busybox.
    let all = seen("all");
    assert!(all.lines().any(|line| !line.ends_with("/bin/busybox")), "it never saw the runtime's own program");
    let written = seen("written");
    assert!(written.lines().all(|line| line == "/bin/busybox"), "{written}");
    assert_eq!(orlop(), before);
}
