//! The process that turns into a container's program, while it waits and afterwards: what it is, what it holds, and
//! that an image which gets hold of it can change nothing of the host.

#![allow(clippy::unwrap_used)]

#[path = "support/bundle.rs"]
mod bundle;

use std::fs;
use std::path::Path;

use bundle::{Bundle, skip};
use serde_json::json;

fn fds(pid: i32) -> Vec<(u32, String)> {
    let listed = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().path());
    let number = |path: &Path| path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let mut fds: Vec<_> = listed.map(|p| (number(&p), fs::read_link(&p).unwrap().display().to_string())).collect();
    fds.sort();
    fds
}

#[test]
fn a_waiting_init_is_small_and_holds_little() {
    let Some(bundle) = Bundle::new("init-small", "exec sleep 1000") else { return };
    let pid = bundle.create();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    };
    eprintln!("resident: {} KiB, of these its own: {} KiB", kib("VmRSS:"), kib("RssAnon:"));
    assert!(kib("VmRSS:") < 1024, "{status}");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "orlop-init\n");
    assert_eq!(fs::read(format!("/proc/{pid}/cmdline")).unwrap(), b"orlop-init\0");
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");

    // Its streams, the socket that it reports to, the FIFOs it is started by, and the root that paths are resolved from.
    let fds = fds(pid);
    let state = bundle.path().join("state").join(&bundle.id);
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    for (number, target) in &fds[3..] {
        // Older kernels name a mount of the container's by where it is there, and not "/".
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap().trim();
        let own = mounts.lines().any(|line| line.split(' ').next() == Some(mount));
        let known = target.starts_with("socket:") || target == "/" || own || Path::new(target).starts_with(&state);
        assert!(known, "{number} is {target}: {fds:?}");
    }
    bundle.start();
    bundle::wait_until("it runs its program", || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n");
    let fds = self::fds(pid);
    assert_eq!(fds.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2], "{fds:?}");
    // And so has an exec.
    assert_eq!(bundle.exec(&["ls", "/proc/self/fd"]).output(), "0\n1\n2\n3\n"); // 3 is the directory that ls reads
}

#[test]
fn created_is_what_waits_and_running_what_was_started() {
    let Some(bundle) = Bundle::new("init-states", "exec sleep 1000") else { return };
    bundle.create();
    assert_eq!(bundle.status(), "created");
    bundle.start();
    assert_eq!(bundle.status(), "running");
    assert!(bundle.refused(&["start", &bundle.id]).contains("running"));
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
}

#[test]
fn cve_2019_5736_a_program_that_is_the_runtime_itself() {
    let Some(mut bundle) = Bundle::new("init-exe", "") else { return };
    if std::env::var_os("ORLOP_TEST_RUNTIME").is_some() {
        return skip("it is about our own program");
    }
    let host = Path::new(env!("CARGO_BIN_EXE_orlop"));
    let before = fs::read(host).unwrap();
    // The entry point is what /proc/self/exe is: the init, executed again inside.
    std::os::unix::fs::symlink("/proc/self/exe", bundle.rootfs().join("entry")).unwrap();
    bundle.process()["args"] = json!(["/entry"]);
    let called = bundle.run();
    assert!(!called.status.success());
    // Or a script whose interpreter it is, started at the beginning and by an exec.
    let script = bundle.rootfs().join("script");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bundle.process()["args"] = json!(["/script"]);
    assert!(!bundle.run().status.success());
    // While that goes on, somebody inside tries to write what it is.
    bundle.script("while :; do for p in /proc/[0-9]*; do echo x > $p/exe; done; done 2>/dev/null");
    bundle.run_detached();
    for _ in 0..20 {
        assert!(!bundle.exec(&["/script"]).status.success());
        assert!(bundle.exec(&["true"]).status.success());
    }
    assert!(fs::read(host).unwrap() == before, "{} has changed", host.display());
}
