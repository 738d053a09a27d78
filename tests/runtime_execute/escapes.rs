//! Ways out of a container that other runtimes had. Each test has the number of the vulnerability it is about.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::support::{Bundle, alone};

/// A directory of the host that must stay as it is.
fn canary(bundle: &Bundle) -> std::path::PathBuf {
    let path = bundle.directory.path().join("canary");
    fs::create_dir(&path).unwrap();
    path
}

#[track_caller]
fn untouched(path: &std::path::Path) {
    let found: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn cve_2019_19921_2023_27561_proc_and_sys_as_symlinks() {
    alone("escapes::cve_2019_19921_2023_27561_proc_and_sys_as_symlinks", || {
        for name in ["proc", "sys"] {
            let bundle = Bundle::shell("true");
            let canary = canary(&bundle);
            fs::remove_dir(bundle.rootfs().join(name)).unwrap();
            symlink("/tmp", bundle.rootfs().join(name)).unwrap();
            let text = bundle.run().failed();
            assert!(text.contains("must be mounted on ordinary directory"), "{text}");
            fs::remove_file(bundle.rootfs().join(name)).unwrap();
            symlink(&canary, bundle.rootfs().join(name)).unwrap();
            assert!(bundle.run().failed().contains("must be mounted on ordinary directory"));
            untouched(&canary);
        }
    });
}

#[test]
fn cve_2026_41579_dev_as_symlink_to_the_host() {
    alone("escapes::cve_2026_41579_dev_as_symlink_to_the_host", || {
        for absolute in [false, true] {
            let mut bundle = Bundle::shell("true");
            let canary = canary(&bundle);
            fs::write(canary.join("ptmx"), "mine").unwrap();
            fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
            let target = if absolute { canary.clone() } else { "../canary".into() };
            symlink(target, bundle.rootfs().join("dev")).unwrap();
            let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
            let outcome = bundle.run();
            assert!(outcome.failure.is_none(), "{outcome:#?}");
            assert_eq!(fs::read(canary.join("ptmx")).unwrap(), b"mine");
            assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
        }
    });
}

#[test]
fn cve_2026_88264_device_nodes_as_symlinks() {
    alone("escapes::cve_2026_88264_device_nodes_as_symlinks", || {
        let mut bundle = Bundle::shell("true");
        let victim = bundle.directory.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] != "/dev");
        symlink(&victim, bundle.rootfs().join("dev/null")).unwrap();
        bundle.process()["user"] = json!({ "uid": 1000, "gid": 1000 });
        let text = bundle.run().failed();
        assert_eq!(text, "/dev/null is there already and is not the device asked for");
        fs::remove_file(bundle.rootfs().join("dev/null")).unwrap();

        symlink(&victim, bundle.rootfs().join("dev/console")).unwrap();
        bundle.process()["terminal"] = json!(true);
        let text = bundle.run().failed();
        assert!(text.starts_with("bind /dev/console"), "{text}");
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
    });
}

#[test]
fn cve_2024_21626_working_directory_through_a_descriptor() {
    alone("escapes::cve_2024_21626_working_directory_through_a_descriptor", || {
        // A directory of the host, open without close-on-exec in the caller, as an engine may leave one.
        let leaked = crate::sys::leak_directory("/");
        let mut bundle = Bundle::shell("pwd; ls -l /proc/self/fd /proc/1/fd 2>/dev/null || true");
        for fd in (3..20).chain([leaked]) {
            for path in [format!("/proc/self/fd/{fd}"), format!("/proc/1/fd/{fd}"), format!("/proc/self/fd/{fd}/../..")]
            {
                bundle.process()["cwd"] = json!(path);
                let text = bundle.run().failed();
                assert!(text.contains(&path), "{text}");
            }
        }
        bundle.process()["cwd"] = json!("/link");
        symlink(format!("/proc/self/fd/{leaked}"), bundle.rootfs().join("link")).unwrap();
        assert!(bundle.run().failed().contains("chdir to cwd"));

        bundle.process()["cwd"] = json!("/");
        let output = bundle.run().output();
        assert!(!output.contains(&format!("{leaked} -> ")), "{output}");

        // The same for an exec.
        bundle.process()["args"] = json!(["sleep", "1000"]);
        let running = bundle.start();
        assert_eq!(running.settle(), (vec![], None));
        for fd in (3..20).chain([leaked]) {
            let process = json!({ "args": ["pwd"], "cwd": format!("/proc/self/fd/{fd}"), "env": ["PATH=/bin"],
                "user": { "uid": 0, "gid": 0 } });
            bundle.exec(running.spawned.pidfd.as_fd(), process).failed();
        }
        let process = json!({ "args": ["ls", "/proc/self/fd"], "cwd": "/", "env": ["PATH=/bin"],
            "user": { "uid": 0, "gid": 0 } });
        let output = bundle.exec(running.spawned.pidfd.as_fd(), process).output();
        assert_eq!(output, "0\n1\n2\n3\n");
        running.kill();
    });
}

#[test]
fn cve_2024_21626_program_through_a_descriptor() {
    alone("escapes::cve_2024_21626_program_through_a_descriptor", || {
        crate::sys::leak_directory("/");
        let mut bundle = Bundle::shell("");
        for fd in 3..12 {
            bundle.process()["args"] = json!([format!("/proc/self/fd/{fd}/bin/true")]);
            bundle.run().failed();
            bundle.process()["args"] = json!([format!("/proc/self/fd/{fd}")]);
            bundle.run().failed();
        }
    });
}

#[test]
fn cve_2019_16884_mounts_into_proc() {
    alone("escapes::cve_2019_16884_mounts_into_proc", || {
        // The compiler refuses the plain form; through a link only the executor can see it.
        let mut bundle = Bundle::shell("true");
        symlink("/proc/self/attr", bundle.rootfs().join("innocent")).unwrap();
        bundle.mount(json!({ "destination": "/innocent", "type": "tmpfs", "source": "t" }));
        assert_eq!(bundle.run().failed(), "/innocent leads into /proc, where nothing may be mounted");
    });
}

#[test]
fn cve_2021_30465_target_swapped_for_a_link_while_mounting() {
    alone("escapes::cve_2021_30465_target_swapped_for_a_link_while_mounting", || {
        let mut bundle = Bundle::shell("true");
        let canary = canary(&bundle);
        let volume = bundle.directory.path().join("volume");
        fs::create_dir_all(volume.join("dir/inner")).unwrap();
        symlink("/../../../../../../../".to_owned() + canary.to_str().unwrap(), volume.join("link")).unwrap();
        bundle.mount(json!({ "destination": "/vol", "source": volume, "options": ["bind", "rprivate"] }));
        bundle.mount(json!({ "destination": "/vol/dir/inner/made", "type": "tmpfs", "source": "t" }));
        // Forked, since the starts below need a process with one thread.
        let racer = crate::sys::fork_loop(|| {
            let _ = crate::sys::exchange(&volume.join("dir"), &volume.join("link"));
        });
        for _ in 0..300 {
            // It starts or it does not; either way nothing of the host is touched.
            bundle.run();
        }
        racer.stop();
        untouched(&canary);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(bundle.directory.path().to_str().unwrap()), "{mounts}");
    });
}

#[test]
fn cve_2022_24769_inheritable_capabilities_are_empty() {
    alone("escapes::cve_2022_24769_inheritable_capabilities_are_empty", || {
        let bundle = Bundle::shell("grep CapInh /proc/self/status; sleep 1000 > /dev/null");
        let running = bundle.start();
        assert_eq!(running.settle(), (vec![], None));
        let mut process = bundle.spec["process"].clone();
        process["args"] = json!(["grep", "CapInh", "/proc/self/status"]);
        let output = bundle.exec(running.spawned.pidfd.as_fd(), process).output();
        assert_eq!(output, "CapInh:\t0000000000000000\n");
        running.kill();
    });
}

#[test]
fn cve_2025_52881_sysctls_do_not_go_through_the_images_proc() {
    alone("escapes::cve_2025_52881_sysctls_do_not_go_through_the_images_proc", || {
        // No /proc is mounted, and the image has files in the places that would be written to.
        let mut bundle = Bundle::shell("cat /proc/sys/kernel/shmmni");
        bundle.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/proc");
        bundle.spec["linux"]["maskedPaths"] = json!([]);
        bundle.spec["linux"]["readonlyPaths"] = json!([]);
        let fake = bundle.rootfs().join("proc/sys/kernel");
        fs::create_dir_all(&fake).unwrap();
        fs::write(fake.join("shmmni"), "untouched\n").unwrap();
        bundle.spec["linux"]["sysctl"] = json!({ "kernel.shmmni": "4098" });
        assert_eq!(bundle.run().output(), "untouched\n");
    });
}

#[test]
fn cve_2025_31133_masked_files_are_covered_by_the_hosts_null_device() {
    alone("escapes::cve_2025_31133_masked_files_are_covered_by_the_hosts_null_device", || {
        // /dev of the image is what the container gets, and somebody swaps its null for a link all the time.
        let mut bundle = Bundle::shell("cat /secret; stat -c '%F %t %T' /secret");
        let canary = canary(&bundle);
        bundle.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
        fs::write(bundle.rootfs().join("secret"), "secret\n").unwrap();
        fs::write(bundle.rootfs().join("target"), "target\n").unwrap();
        bundle.spec["linux"]["maskedPaths"] = json!(["/secret"]);
        let dev = bundle.rootfs().join("dev");
        symlink("/target", dev.join("link")).unwrap();
        bundle.run();
        let racer = crate::sys::fork_loop(|| {
            let _ = crate::sys::exchange(&dev.join("null"), &dev.join("link"));
        });
        let mut started = 0;
        for _ in 0..200 {
            let outcome = bundle.run();
            if outcome.failure.is_none() {
                started += 1;
                assert_eq!(outcome.stdout, "character special file 1 3\n", "{outcome:#?}");
            }
        }
        racer.stop();
        assert!(started > 0);
        untouched(&canary);
        assert_eq!(fs::read_to_string(bundle.rootfs().join("target")).unwrap(), "target\n");
    });
}

#[test]
fn cve_2026_88265_the_null_device_of_the_host_is_left_behind() {
    alone("escapes::cve_2026_88265_the_null_device_of_the_host_is_left_behind", || {
        use orlop::runtime::execute::{Attached, Stdio3, spawn};
        use std::os::unix::fs::MetadataExt;
        let mut bundle = Bundle::shell("exec sleep 1000");
        bundle.process()["user"] = json!({ "uid": 1000, "gid": 1000 });
        let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        let before = null.metadata().unwrap();
        let io = Stdio3 { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() };
        let (header, plan) = bundle.compile(bundle.overlay(false));
        let memfd = crate::support::memfd(&plan);
        let spawned = spawn(&header, memfd.as_fd(), io, Attached::default()).unwrap();
        assert!(matches!(
            orlop::runtime::execute::read_status(spawned.status.as_fd()).unwrap(),
            orlop::runtime::execute::Report::End
        ));
        for fd in 0..3 {
            let own = fs::metadata(format!("/proc/{}/fd/{fd}", spawned.pid)).unwrap();
            assert_eq!(own.rdev(), before.rdev());
            assert_ne!((own.dev(), own.ino()), (before.dev(), before.ino()));
        }
        assert_eq!(null.metadata().unwrap().uid(), before.uid());
        let pid = rustix::process::Pid::from_raw(spawned.pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();

        // A file of the image in its place is neither used nor given away.
        bundle.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
        let tmp = bundle.rootfs().join("tmp");
        bundle.mount(json!({ "destination": "/dev", "source": tmp, "options": ["bind"] }));
        fs::write(bundle.rootfs().join("tmp/null"), "mine").unwrap();
        bundle.process()["args"] = json!(["true"]);
        let (header, plan) = bundle.compile(bundle.overlay(false));
        let memfd = crate::support::memfd(&plan);
        let spawned = spawn(&header, memfd.as_fd(), io, Attached::default()).unwrap();
        let report = orlop::runtime::execute::read_status(spawned.status.as_fd()).unwrap();
        assert!(matches!(report, orlop::runtime::execute::Report::End), "{report:?}");
        let pid = rustix::process::Pid::from_raw(spawned.pid).unwrap();
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
        let file = bundle.rootfs().join("tmp/null");
        assert_eq!(fs::metadata(&file).unwrap().uid(), 0);
        assert_eq!(fs::read(&file).unwrap(), b"mine");
    });
}
