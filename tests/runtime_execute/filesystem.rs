//! Root file systems, mounts, devices, hidden paths, terminals.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use orlop::runtime::compile::{CgroupView, V1Hierarchy};
use orlop::runtime::execute::{Attached, Report, read_status};
use serde_json::json;

use crate::support::{Bundle, alone, start};

#[test]
fn an_overlay_takes_the_writes() {
    alone("filesystem::an_overlay_takes_the_writes", || {
        for volatile in [false, true] {
            let bundle =
                Bundle::shell("echo changed > /etc/passwd; echo new > /new; cat /new; grep ' / ' /proc/mounts");
            let output = bundle.run_with(bundle.overlay(volatile)).output();
            assert!(output.starts_with("new\noverlay / overlay rw"), "{output}");
            assert_eq!(output.contains("volatile"), volatile, "{output}");
            assert!(fs::read_to_string(bundle.rootfs().join("etc/passwd")).unwrap().starts_with("root:"));
            assert_eq!(fs::read_to_string(bundle.directory.path().join("upper/new")).unwrap(), "new\n");
            // Nothing was mounted on the host.
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            assert!(!mounts.contains(bundle.directory.path().to_str().unwrap()));
        }
    });
}

#[test]
fn an_overlay_has_layers_with_long_paths() {
    alone("filesystem::an_overlay_has_layers_with_long_paths", || {
        let bundle = Bundle::shell("cat /marker; cat /other");
        let mut deep = bundle.directory.path().to_path_buf();
        for _ in 0..3 {
            deep.push("d".repeat(120));
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("marker"), "deep\n").unwrap();
        let mut root = bundle.overlay(true);
        let orlop::runtime::plan::RootSource::Overlay { lowers, .. } = &mut root else { panic!() };
        // Thirty layers, of which the topmost that has a file wins.
        for n in 0..30 {
            let layer = bundle.directory.path().join(format!("layer{n}"));
            fs::create_dir(&layer).unwrap();
            fs::write(layer.join("other"), format!("{n}\n")).unwrap();
            lowers.push(layer.into_os_string().into_encoded_bytes());
        }
        lowers.insert(0, deep.into_os_string().into_encoded_bytes());
        assert_eq!(bundle.run_with(root).output(), "deep\n0\n");
    });
}

#[test]
fn mounts_have_their_flags_and_order() {
    alone("filesystem::mounts_have_their_flags_and_order", || {
        let mut bundle = Bundle::shell(
            "grep ' /vol' /proc/mounts | cut -d' ' -f2,4; cat /vol/file; touch /vol/x 2>&1; cat /vol/sub/inner; \
             touch /t/new 2>&1; ls /t",
        );
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/cut")).unwrap();
        let host = bundle.directory.path().join("volume");
        fs::create_dir_all(host.join("sub")).unwrap();
        fs::write(host.join("file"), "content\n").unwrap();
        let inner = bundle.directory.path().join("inner");
        fs::write(&inner, "inner\n").unwrap();
        let options = json!(["rbind", "ro", "nosuid", "nodev", "noexec", "rprivate"]);
        bundle.mount(json!({ "destination": "/t", "type": "tmpfs", "source": "t", "options": ["ro", "mode=700"] }));
        bundle.mount(json!({ "destination": "/t/below", "source": host, "options": ["bind"] }));
        bundle.mount(json!({ "destination": "/vol", "source": host, "options": options }));
        bundle.mount(json!({ "destination": "/vol/sub", "type": "tmpfs", "source": "t" }));
        bundle.mount(json!({ "destination": "/vol/sub/inner", "source": inner, "options": ["bind", "ro"] }));
        let output = bundle.run().output();
        let lines: Vec<_> = output.lines().collect();
        assert!(lines[0].starts_with("/vol ro,nosuid,nodev,noexec"), "{output}");
        assert!(lines[1].starts_with("/vol/sub rw"), "{output}");
        assert!(lines[2].starts_with("/vol/sub/inner ro"), "{output}");
        assert_eq!(lines[3], "content");
        assert!(lines[4].contains("Read-only file system"), "{output}");
        assert_eq!(lines[5], "inner");
        assert!(lines[6].contains("Read-only file system"), "{output}");
        assert_eq!(lines[7], "below");
    });
}

#[test]
fn recursive_readonly_reaches_what_is_below() {
    alone("filesystem::recursive_readonly_reaches_what_is_below", || {
        crate::sys::own_mounts();
        let mut bundle = Bundle::shell("touch /a/sub/x 2>&1; touch /b/sub/x 2>&1; echo $?");
        let host = bundle.directory.path().join("volume");
        fs::create_dir_all(host.join("sub")).unwrap();
        rustix::mount::mount("t", host.join("sub"), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        bundle.mount(json!({ "destination": "/a", "source": host, "options": ["rbind", "rro"] }));
        bundle.mount(json!({ "destination": "/b", "source": host, "options": ["rbind", "ro"] }));
        let output = bundle.run().output();
        let lines: Vec<_> = output.lines().collect();
        assert!(lines[0].contains("Read-only file system"), "{output}");
        // The plain form leaves what is mounted below as it is.
        assert_eq!(lines[1..], ["0"], "{output}");
    });
}

#[test]
fn propagation_goes_where_it_is_asked_for() {
    alone("filesystem::propagation_goes_where_it_is_asked_for", || {
        crate::sys::own_mounts();
        let script = "mount -t tmpfs made /shared/made; mount -t tmpfs made /private/made; echo done; \
            while ! test -e /slave/late/x; do sleep 0.01; done; test -e /private/late/x; echo $?";
        let mut bundle = Bundle::shell(script);
        let capabilities = json!(["CAP_SYS_ADMIN"]);
        for set in ["bounding", "effective", "permitted"] {
            bundle.process()["capabilities"][set] = capabilities.clone();
        }
        let host = bundle.directory.path().join("volume");
        for name in ["made", "late"] {
            fs::create_dir_all(host.join(name)).unwrap();
        }
        use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
        mount_bind(&host, &host).unwrap();
        mount_change(&host, MountPropagationFlags::SHARED).unwrap();
        bundle.spec["linux"]["rootfsPropagation"] = json!("rshared");
        for kind in ["shared", "slave", "private"] {
            let mount = json!({ "destination": format!("/{kind}"), "source": host,
                "options": ["rbind", format!("r{kind}")] });
            bundle.mount(mount);
        }
        let running = bundle.start();
        assert_eq!(running.settle(), (vec![], None));
        let is_mount = |path: &PathBuf| fs::metadata(path).unwrap().dev() != fs::metadata(&host).unwrap().dev();
        while !is_mount(&host.join("made")) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        mount("t", host.join("late"), "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(host.join("late/x"), "").unwrap();
        assert_eq!(running.finish().output(), "done\n1\n");
        let made = fs::read_to_string("/proc/self/mounts").unwrap();
        // What went into the shared one is here, what went into the private one is not.
        assert_eq!(made.matches("made tmpfs").count(), 1, "{made}");
    });
}

#[test]
fn missing_targets_are_made_through_links_inside_the_root() {
    alone("filesystem::missing_targets_are_made_through_links_inside_the_root", || {
        let mut bundle = Bundle::shell("cat /run/secrets/token /etc/hosts; stat -c '%a %F' /run/secrets /data/new");
        let root = bundle.rootfs();
        fs::create_dir(root.join("var")).unwrap();
        std::os::unix::fs::symlink("/run", root.join("var/run")).unwrap();
        std::os::unix::fs::symlink("../../../../data", root.join("loose")).unwrap();
        let secrets = bundle.directory.path().join("secrets");
        fs::create_dir(&secrets).unwrap();
        fs::set_permissions(&secrets, fs::Permissions::from_mode(0o751)).unwrap();
        fs::write(secrets.join("token"), "token\n").unwrap();
        let hosts = bundle.directory.path().join("hosts");
        fs::write(&hosts, "127.0.0.1\n").unwrap();
        bundle.mount(json!({ "destination": "/var/run/secrets", "source": secrets, "options": ["rbind"] }));
        bundle.mount(json!({ "destination": "/etc/hosts", "source": hosts, "options": ["rbind"] }));
        bundle.mount(json!({ "destination": "/loose/new", "type": "tmpfs", "source": "t" }));
        let output = bundle.run().output();
        assert_eq!(output, "token\n127.0.0.1\n751 directory\n1777 directory\n");
        assert!(root.join("run/secrets").is_dir() && root.join("data/new").is_dir());
    });
}

#[test]
fn a_tmpfs_takes_the_mode_of_what_it_covers_and_its_content_when_asked() {
    alone("filesystem::a_tmpfs_takes_the_mode_of_what_it_covers_and_its_content_when_asked", || {
        let mut bundle = Bundle::shell(
            "stat -c '%a' /covered /copied /copied/dir/file; stat -c %u /copied/dir/file; cat /copied/dir/file; \
             readlink /copied/link; ls -A /covered",
        );
        let root = bundle.rootfs();
        for name in ["covered", "copied/dir"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("covered/hidden"), "").unwrap();
        fs::write(root.join("copied/dir/file"), "kept\n").unwrap();
        fs::set_permissions(root.join("copied/dir/file"), fs::Permissions::from_mode(0o4755)).unwrap();
        std::os::unix::fs::chown(root.join("copied/dir/file"), Some(77), None).unwrap();
        fs::set_permissions(root.join("copied/dir/file"), fs::Permissions::from_mode(0o4755)).unwrap();
        std::os::unix::fs::symlink("/nowhere", root.join("copied/link")).unwrap();
        fs::set_permissions(root.join("covered"), fs::Permissions::from_mode(0o1750)).unwrap();
        fs::set_permissions(root.join("copied"), fs::Permissions::from_mode(0o705)).unwrap();
        bundle.mount(json!({ "destination": "/covered", "type": "tmpfs", "source": "t" }));
        bundle.mount(json!({ "destination": "/copied", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"] }));
        assert_eq!(bundle.run().output(), "1750\n705\n4755\n77\nkept\n/nowhere\n");
    });
}

#[test]
fn devices_are_there_and_right() {
    alone("filesystem::devices_are_there_and_right", || {
        let mut bundle = Bundle::shell(
            "cd /dev; stat -c '%n %F %t %T %a %u' null zero full random urandom tty mine; \
             for l in fd stdin stdout stderr core ptmx; do readlink $l; done; echo x > /dev/null; ls | wc -l",
        );
        bundle.spec["linux"]["devices"] = json!([
            { "path": "/dev/mine", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640, "uid": 5, "gid": 6 }]);
        let output = bundle.run().output();
        let device = "character special file";
        let expected = format!(
            "null {device} 1 3 666 0\nzero {device} 1 5 666 0\nfull {device} 1 7 666 0\nrandom {device} 1 8 666 0\n\
             urandom {device} 1 9 666 0\ntty {device} 5 0 666 0\nmine {device} a c8 640 5\n\
             /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n/proc/kcore\npts/ptmx\n16\n"
        );
        assert_eq!(output, expected);
    });
}

#[test]
fn devices_are_bound_where_they_cannot_be_made() {
    alone("filesystem::devices_are_bound_where_they_cannot_be_made", || {
        let mut bundle =
            Bundle::shell("stat -c '%F %t %T' /dev/null /dev/full; echo x > /dev/null; grep -c ' /dev/' /proc/mounts");
        bundle.host.bind_devices = true;
        let output = bundle.run().output();
        assert!(output.starts_with("character special file 1 3\ncharacter special file 1 7\n"), "{output}");
        assert!(output.lines().last().unwrap().parse::<u32>().unwrap() >= 9);
    });
}

#[test]
fn hidden_paths_are_empty_and_readonly_paths_refuse_writes() {
    alone("filesystem::hidden_paths_are_empty_and_readonly_paths_refuse_writes", || {
        let mut bundle = Bundle::shell(
            "wc -c < /proc/keys; wc -c < /secret; ls -A /hidden /sys/firmware /hidden2 | grep -v : | grep .; \
             touch /hidden/x 2>&1; echo 1 > /proc/sys/kernel/shmmax; echo x > /keep/file; test -e /keep; echo $?",
        );
        for name in ["hidden", "hidden2", "keep"] {
            fs::create_dir(bundle.rootfs().join(name)).unwrap();
            fs::write(bundle.rootfs().join(name).join("file"), "x").unwrap();
        }
        fs::write(bundle.rootfs().join("secret"), "secret").unwrap();
        let masked =
            json!(["/proc/keys", "/secret", "/hidden", "/hidden2", "/sys/firmware", "/proc/timer_list", "/no"]);
        bundle.spec["linux"]["maskedPaths"] = masked;
        bundle.spec["linux"]["readonlyPaths"].as_array_mut().unwrap().push(json!("/keep"));
        let outcome = bundle.run();
        assert!(outcome.failure.is_none() && outcome.status.success(), "{outcome:#?}");
        assert!(outcome.stdout.starts_with("0\n0\ntouch: /hidden/x: Read-only file system\n"), "{outcome:#?}");
        assert!(outcome.stdout.ends_with("0\n"), "{outcome:#?}");
        assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{outcome:#?}");
        assert_eq!(fs::read_to_string(bundle.rootfs().join("keep/file")).unwrap(), "x");
    });
}

#[test]
fn a_readonly_root_refuses_writes_but_has_its_directories() {
    alone("filesystem::a_readonly_root_refuses_writes_but_has_its_directories", || {
        let mut bundle = Bundle::shell("pwd; touch /x 2>&1; touch /dev/shm/x && echo ok");
        bundle.spec["root"]["readonly"] = json!(true);
        bundle.process()["cwd"] = json!("/made/deep");
        for overlay in [false, true] {
            let outcome = if overlay { bundle.run_with(bundle.overlay(true)) } else { bundle.run() };
            assert_eq!(outcome.output(), "/made/deep\ntouch: /x: Read-only file system\nok\n");
        }
    });
}

#[test]
fn cgroups_of_the_first_version_are_shown_as_directories() {
    alone("filesystem::cgroups_of_the_first_version_are_shown_as_directories", || {
        let mut bundle = Bundle::shell("cd /sys/fs/cgroup; ls; cat cpu/mark; readlink cpu; touch new memory/new 2>&1");
        let host = bundle.directory.path().join("cgroups");
        let hierarchy = |name: &str| {
            let directory = host.join(name);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("mark"), format!("{name}\n")).unwrap();
            V1Hierarchy { name: name.into(), directory }
        };
        bundle.host.cgroup_view = CgroupView::V1(vec![hierarchy("cpu,cpuacct"), hierarchy("memory")]);
        bundle.mount(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }));
        let outcome = bundle.run();
        let expected = "cpu\ncpu,cpuacct\ncpuacct\nmemory\ncpu,cpuacct\ncpu,cpuacct\n\
            touch: new: Read-only file system\ntouch: memory/new: Read-only file system\n";
        assert_eq!(outcome.stdout, expected);
    });
}

#[test]
fn a_terminal_is_the_containers_own() {
    alone("filesystem::a_terminal_is_the_containers_own", || {
        let mut bundle = Bundle::shell(
            "tty; stty size; stat -c '%t %T' /dev/console; echo to console > /dev/console; read x; echo got $x",
        );
        bundle.process()["terminal"] = json!(true);
        bundle.process()["consoleSize"] = json!({ "height": 30, "width": 100 });
        let (header, plan) = bundle.compile(bundle.overlay(false));
        let running = start(&header, &plan, Attached::default());
        let Report::Console(master) = read_status(running.spawned.status.as_fd()).unwrap() else { panic!() };
        assert!(matches!(read_status(running.spawned.status.as_fd()).unwrap(), Report::End));
        rustix::io::write(&master, b"word\n").unwrap();
        let mut text = Vec::new();
        let mut buffer = [0; 1024];
        // The kernel answers EIO when the last slave is closed.
        while let Ok(n @ 1..) = rustix::io::read(&master, &mut buffer) {
            text.extend_from_slice(&buffer[..n]);
        }
        let text = String::from_utf8(text).unwrap().replace("\r\n", "\n").replacen("word\n", "", 1);
        assert_eq!(text, "/dev/pts/0\n30 100\n88 0\nto console\ngot word\n");
        running.finish().output();
    });
}

#[test]
fn sysctls_are_written_in_the_containers_namespaces() {
    alone("filesystem::sysctls_are_written_in_the_containers_namespaces", || {
        let mut bundle = Bundle::shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni");
        bundle.spec["linux"]["sysctl"] =
            json!({ "net.ipv4.ip_unprivileged_port_start": "81", "kernel.shmmni": "4097" });
        assert_eq!(bundle.run().output(), "81\n4097\n");
        assert_ne!(fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(), "4097\n");
        bundle.spec["linux"]["sysctl"] = json!({ "net.ipv4.not_there": "1" });
        assert_eq!(bundle.run().failed(), "write sysctl net.ipv4.not_there: no such file or directory");
    });
}

#[test]
fn a_tree_that_was_passed_is_mounted() {
    alone("filesystem::a_tree_that_was_passed_is_mounted", || {
        let mut bundle = Bundle::shell("cat /dev/shm/mark; echo from inside > /dev/shm/answer");
        let shared = bundle.directory.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::write(shared.join("mark"), "mark\n").unwrap();
        let flags = rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE | rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, &shared, flags).unwrap();
        bundle.host.attached_shm = Some("/the/pods/shm".into());
        bundle.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev/shm");
        bundle.mount(json!({ "destination": "/dev/shm", "source": "/the/pods/shm", "options": ["bind", "nosuid"] }));
        let (header, plan) = bundle.compile(bundle.overlay(false));
        let fds = Attached { shm: Some(tree.as_fd()), ..Attached::default() };
        assert_eq!(start(&header, &plan, fds).finish().output(), "mark\n");
        assert_eq!(fs::read_to_string(shared.join("answer")).unwrap(), "from inside\n");
        let text = start(&header, &plan, Attached::default()).finish().failed();
        assert_eq!(text, "the mount passed for /dev/shm is missing");
    });
}

#[test]
fn a_volatile_upper_directory_that_was_used_is_refused_with_the_reason() {
    alone("filesystem::a_volatile_upper_directory_that_was_used_is_refused_with_the_reason", || {
        let bundle = Bundle::shell("true");
        bundle.run_with(bundle.overlay(true)).output();
        let text = bundle.run_with(bundle.overlay(true)).failed();
        assert!(text.contains("serves one mount only"), "{text}");
    });
}
