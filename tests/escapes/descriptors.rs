//! What a caller leaves open, and what a process has open on its way into a container.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use serde_json::json;

use crate::bundle::{Bundle, finish};
use crate::leaky::leaky;
use crate::race::Canary;

#[test]
fn cve_2024_21626_working_directory_through_a_descriptor() {
    let Some(mut bundle) = Bundle::new("cwd", "pwd") else { return };
    let canary = Canary::new(&bundle);
    let run = |bundle: &Bundle| finish(leaky(&bundle.command(&["run", &bundle.id]), canary.path()));
    let paths =
        |fd: i32| [format!("/proc/self/fd/{fd}"), format!("/proc/1/fd/{fd}"), format!("/proc/self/fd/{fd}/../..")];
    symlink("/proc/self/fd/7", bundle.rootfs().join("link")).unwrap();
    let all: Vec<_> =
        (3..24).flat_map(paths).chain(["/link".into(), "/proc/self/cwd".into(), "/proc/1/root".into()]).collect();
    for path in &all {
        bundle.process()["cwd"] = json!(path);
        let called = run(&bundle);
        assert!(called.stdout.is_empty() && called.stderr.contains(path.as_str()), "{path}: {called:#?}");
        called.failed();
    }
    bundle.process()["cwd"] = json!("/");
    bundle.script("exec sleep 1000");
    bundle.run_detached();
    for path in &all {
        let called = finish(leaky(&bundle.command(&["exec", "--cwd", path, &bundle.id, "pwd"]), canary.path()));
        assert!(called.stdout.is_empty(), "{path}: {called:#?}");
        called.failed();
    }
    canary.untouched();
}

#[test]
fn cve_2024_21626_program_through_a_descriptor() {
    let Some(mut bundle) = Bundle::new("fd-program", "") else { return };
    let canary = Canary::new(&bundle);
    fs::copy("/bin/busybox", bundle.path().join("busybox")).unwrap();
    let host = bundle.path().to_owned();
    fs::write(host.join("mine"), "").unwrap();
    for fd in 3..16 {
        for program in
            [format!("/proc/self/fd/{fd}/busybox"), format!("/proc/self/fd/{fd}"), format!("/proc/1/fd/{fd}/busybox")]
        {
            bundle.process()["args"] = json!([program, "true"]);
            finish(leaky(&bundle.command(&["run", &bundle.id]), &host)).failed();
        }
    }
    canary.untouched();
}

/// The numbers of what is open in the shell.
const LIST: &str = "n=0; while [ $n -lt 64 ]; do [ -e /proc/$$/fd/$n ] && echo $n; n=$((n + 1)); done; exit 0";

#[test]
fn leaked_descriptors_are_closed() {
    let Some(mut bundle) = Bundle::new("leaks", LIST) else { return };
    let canary = Canary::new(&bundle);
    let called = finish(leaky(&bundle.command(&["run", &bundle.id]), canary.path()));
    assert_eq!(called.output(), "0\n1\n2\n");
    bundle.script("exec sleep 1000");
    bundle.run_detached();
    let called = finish(leaky(&bundle.command(&["exec", &bundle.id, "sh", "-c", LIST]), canary.path()));
    assert_eq!(called.output(), "0\n1\n2\n");

    // A container that waits for its start has nothing of the host either, but what it waits with.
    bundle.ok(&["delete", "--force", &bundle.id]);
    let mut command = leaky(&bundle.command(&["create", "--pid-file", "pid", &bundle.id]), canary.path());
    let status = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status().unwrap();
    assert!(status.success());
    let pid = fs::read_to_string(bundle.path().join("pid")).unwrap();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap();
        let target = target.to_str().unwrap();
        assert!(!target.contains("canary") && target != "/dev/zero", "{target}");
        assert!(!target.contains("config.json") && !target.contains("state.json"), "{target}");
    }
}

#[test]
fn cve_2026_88265_the_null_device_of_the_host_is_left_behind() {
    let Some(mut bundle) = Bundle::new("null", "exec sleep 1000") else { return };
    bundle.process()["user"] = json!({ "uid": 1000, "gid": 1000 });
    let host = fs::metadata("/dev/null").unwrap();
    let pid = bundle.run_detached();
    for fd in 0..2 {
        let own = fs::metadata(format!("/proc/{pid}/fd/{fd}")).unwrap();
        assert_eq!(own.rdev(), host.rdev());
        assert_ne!((own.dev(), own.ino()), (host.dev(), host.ino()));
    }
    // A file of the image in its place is neither used nor given away.
    bundle.ok(&["delete", "--force", &bundle.id]);
    for mount in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        bundle.unmount(mount);
    }
    let tmp = bundle.directory_inside("tmp");
    bundle.mount("/dev", "bind", tmp.to_str().unwrap(), &["bind"]);
    fs::write(tmp.join("null"), "mine").unwrap();
    let pid = bundle.run_detached();
    let own = fs::metadata(format!("/proc/{pid}/fd/0")).unwrap();
    assert_eq!(own.rdev(), host.rdev());
    assert_eq!(fs::metadata(tmp.join("null")).unwrap().uid(), 0);
    assert_eq!(fs::read(tmp.join("null")).unwrap(), b"mine");
    let now = fs::metadata("/dev/null").unwrap();
    assert_eq!((now.uid(), now.gid(), now.mode()), (host.uid(), host.gid(), host.mode()));
}

#[test]
fn cve_2016_9962_a_process_on_its_way_into_a_container() {
    // The container may trace, and looks at every process that appears in its PID namespace: whether it has something of
    // the host open, or is still in the host's file system, where the mark is.
    let watch = "mkdir -p /seen; while true; do for p in /proc/[0-9]*; do \
        test -e $p/root/host-mark && echo root > /seen/root; \
        done; done";
    let Some(mut bundle) = Bundle::new("ptrace", watch) else { return };
    let canary = Canary::new(&bundle);
    bundle.capabilities(&["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE"]);
    let mark = canary.path().join("mine").display().to_string();
    bundle.script(&watch.replace("/host-mark", &mark));
    bundle.run_detached();
    let begin = std::time::Instant::now();
    let mut rounds = 0;
    while rounds < 200 && begin.elapsed().as_secs() < 4 {
        let called = finish(leaky(&bundle.command(&["exec", &bundle.id, "true"]), canary.path()));
        assert!(called.status.success(), "{called:#?}");
        rounds += 1;
    }
    let seen: Vec<_> = fs::read_dir(bundle.rootfs().join("seen")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(seen.is_empty(), "in {rounds} rounds: {seen:?}");
    assert!(rounds > 10);
}
