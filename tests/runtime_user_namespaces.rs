//! User and time namespaces, and id-mapped mounts, through the command line as an engine uses it.
#![allow(clippy::unwrap_used)]

#[path = "support/bundle.rs"]
mod bundle;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use bundle::{Bundle, skip};
use serde_json::{Value, json};

/// Where the ids of these containers begin on the host.
const BASE: u32 = 200_000;

fn map(inside: u32, outside: u32, size: u32) -> Value {
    json!([{ "containerID": inside, "hostID": outside, "size": size }])
}

/// A bundle with a user namespace of 65536 ids.
fn mapped(name: &str, script: &str) -> Option<Bundle> {
    let mut bundle = Bundle::new(name, script)?;
    bundle.namespace(json!({ "type": "user" }));
    bundle.linux()["uidMappings"] = map(0, BASE, 65_536);
    bundle.linux()["gidMappings"] = map(0, BASE, 65_536);
    bundle.capabilities(&["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    Some(bundle)
}

/// The same, whose root file system is owned by its root.
fn owned(name: &str, script: &str) -> Option<Bundle> {
    let bundle = mapped(name, script)?;
    give(&bundle.rootfs(), BASE);
    Some(bundle)
}

fn give(path: &std::path::Path, owner: u32) {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner)).unwrap();
    if fs::symlink_metadata(path).unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), owner);
        }
    }
}

#[test]
fn root_inside_is_nobody_outside() {
    let script = "id -u; id -g; cat /proc/self/uid_map | tr -s ' '; cat /proc/self/setgroups; stat -c %u:%g / /dev /tmp; \
        echo again > /proc/self/fd/1; echo null > /dev/null; head -c 4 /dev/zero | wc -c; hostname";
    let Some(bundle) = mapped("userns", script) else { return };
    let map = format!(" 0 {BASE} 65536");
    // The file system is the host root's, who is nobody here; what was mounted for the container is its own.
    let expected = format!("0\n0\n{map}\nallow\n65534:65534\n0:0\n65534:65534\nagain\n4\ninside\n");
    assert_eq!(bundle.output(), expected);
    bundle.nothing_left();
}

#[test]
fn the_host_sees_the_mapped_ids() {
    let Some(mut bundle) = owned("userns-ids", "exec sleep 1000") else { return };
    bundle.process()["user"] = json!({ "uid": 7, "gid": 8, "additionalGids": [9, 10] });
    let pid = bundle.run_detached();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| status.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
    assert_eq!(line("Uid:").split_whitespace().nth(1), Some("200007"));
    assert_eq!(line("Gid:").split_whitespace().nth(1), Some("200008"));
    assert_eq!(line("Groups:").split_whitespace().collect::<Vec<_>>(), ["Groups:", "200009", "200010"]);
    // All its namespaces belong to its user namespace: its root may change what is in them.
    assert_eq!(bundle.status(), "running");
}

#[test]
fn created_then_started() {
    let Some(bundle) = owned("userns-create", "echo started > /mark; exec sleep 1000") else { return };
    let mark = bundle.rootfs().join("mark");
    let pid = bundle.create();
    assert_eq!(bundle.status(), "created");
    assert!(!mark.exists());
    let parent = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(parent.contains("NSpid:"), "{parent}");
    bundle.start();
    bundle.wait_for("running");
    bundle::wait_until("the mark is made", || mark.exists());
    assert_eq!(fs::metadata(&mark).unwrap().uid(), BASE);
    bundle.ok(&["delete", "--force", &bundle.id]);
    bundle.nothing_left();
}

#[test]
fn exec_is_in_the_user_namespace() {
    let Some(bundle) = owned("userns-exec", "exec sleep 1000") else { return };
    let pid = bundle.run_detached();
    let ns = fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    let script = "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; echo x > /proc/self/fd/1; touch /tmp/made; stat -c %u /tmp/made";
    let ns = ns.to_str().unwrap();
    assert_eq!(bundle.exec(&["sh", "-c", script]).output(), format!("0\n{ns}\n{ns}\nx\n0\n"));
    let process = json!({ "args": ["sh", "-c", "id; echo again > /proc/self/fd/1"], "cwd": "/",
        "env": ["PATH=/bin"], "user": { "uid": 5, "gid": 6, "additionalGids": [7, 8] } });
    assert_eq!(bundle.exec_process(&process).output(), "uid=5 gid=6 groups=7,8\nagain\n");
    // An id that is not mapped is none.
    assert!(bundle.call(&["exec", "-u", "70000", &bundle.id, "true"]).failed().contains("set uid 70000"));
}

#[test]
fn a_terminal_of_its_own() {
    let Some(mut bundle) = owned("userns-tty", "tty; stat -c %u /dev/console /dev/pts/0; test -c /dev/ptmx; echo $?")
    else {
        return;
    };
    bundle.process()["terminal"] = json!(true);
    let text = bundle.run();
    assert_eq!(text.stdout, "/dev/pts/0\r\n0\r\n0\r\n0\r\n", "{text:?}");
}

#[test]
fn devices_are_the_hosts_bound() {
    let script = "stat -c '%t:%T %u' /dev/null /dev/urandom /dev/fuse2; mknod /tmp/n c 1 3 || echo refused";
    let Some(mut bundle) = owned("userns-dev", script) else { return };
    bundle.linux()["devices"] = json!([{ "path": "/dev/fuse2", "type": "c", "major": 1, "minor": 3 }]);
    // What the specification calls fuse2 is no such thing on the host.
    assert!(bundle.fails().contains("/dev/fuse2"));
    bundle.linux()["devices"] = json!([{ "path": "/dev/full", "type": "c", "major": 1, "minor": 3 }]);
    assert!(bundle.fails().contains("is not the device asked for"));
    bundle.linux()["devices"] = json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 }]);
    bundle
        .script("stat -c '%t:%T %u' /dev/null /dev/urandom /dev/kmsg; mknod /tmp/n c 1 3 2>/dev/null || echo refused");
    assert_eq!(bundle.output(), "1:3 65534\n1:9 65534\n1:b 65534\nrefused\n");
}

#[test]
fn options_of_new_file_systems_are_in_ids_of_the_container() {
    let Some(mut bundle) = owned("userns-opts", "stat -c %u:%g /t /dev/pts/ptmx; stat -f -c %T /t") else { return };
    bundle.mount("/t", "tmpfs", "tmpfs", &["uid=5", "gid=6", "mode=0700"]);
    assert_eq!(bundle.output(), "5:6\n0:0\ntmpfs\n");
}

#[test]
fn sources_out_of_reach_of_the_user_are_bound_all_the_same() {
    let Some(mut bundle) = owned("userns-bind", "cat /data/file; touch /data/new 2>&1 | grep -c Read-only") else {
        return;
    };
    let secret = bundle.path().join("secret");
    fs::create_dir_all(secret.join("data")).unwrap();
    fs::write(secret.join("data/file"), "content\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    bundle.mount("/data", "none", secret.join("data").to_str().unwrap(), &["rbind", "ro"]);
    assert_eq!(bundle.output(), "content\n1\n");
}

#[test]
fn sysfs_of_the_hosts_network_is_bound_read_only() {
    let script = "stat -f -c %T /sys; test -d /sys/class/net; echo $?; touch /sys/x 2>&1 | grep -c -e Read-only -e denied; \
        mount | grep ' /sys' | grep -v -e '[(,]ro[,)]' -e ' /sys/firmware '";
    let Some(mut bundle) = owned("userns-sys", script) else { return };
    bundle.no_namespace("network");
    let called = bundle.run();
    assert_eq!(called.stdout, "sysfs\n0\n1\n", "{called:?}");
}

#[test]
fn another_containers_namespaces_are_entered_with_its_user_namespace() {
    let Some(first) = owned("userns-first", "exec sleep 1000") else { return };
    let pid = first.run_detached();
    let Some(mut second) = owned("userns-second", "") else { return };
    let path = |kind: &str| format!("/proc/{pid}/ns/{kind}");
    for (kind, file) in [("user", "user"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")] {
        second.namespace(json!({ "type": kind, "path": path(file) }));
    }
    second.config.as_object_mut().unwrap().remove("hostname");
    second.script("for n in user net ipc uts pid mnt; do readlink /proc/self/ns/$n; done; id -u; hostname; ps -o pid,args | grep -c '[s]leep 1000'");
    let expected = |ns: &str| fs::read_link(path(ns)).unwrap().into_os_string().into_string().unwrap();
    let output = second.output();
    let lines: Vec<&str> = output.lines().collect();
    for (line, ns) in lines.iter().zip(["user", "net", "ipc", "uts", "pid"]) {
        assert_eq!(*line, expected(ns));
    }
    assert_ne!(lines[5], expected("mnt"));
    assert_eq!(lines[6..], ["0", "inside", "1"]);

    // With mappings that are its own, and with others.
    second.linux()["uidMappings"] = map(0, BASE, 65_535);
    assert!(second.fails().contains("are not those of the user namespace"));
    second.linux()["uidMappings"] = Value::Null;
    second.linux()["gidMappings"] = Value::Null;
    second.script("id -u");
    assert_eq!(second.output(), "0\n");
    // A user namespace that is entered by its path alone has new ones beside it.
    for kind in ["network", "ipc", "uts", "pid"] {
        second.namespace(json!({ "type": kind }));
    }
    second.script("readlink /proc/self/ns/user; readlink /proc/self/ns/net; echo $$");
    let output = second.output();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], expected("user"));
    assert_ne!(lines[1], expected("net"));
    assert_eq!(lines[2], "1");
}

#[test]
fn a_hosts_pid_namespace_is_entered_beside_a_new_user_namespace() {
    let Some(first) = Bundle::new("userns-pid", "exec sleep 1234") else { return };
    let pid = first.run_detached();
    let Some(mut second) = owned("userns-pid-in", "ps -o args | grep -c '[s]leep 1234'; readlink /proc/self/ns/net")
    else {
        return;
    };
    second.namespace(json!({ "type": "network", "path": format!("/proc/{pid}/ns/net") }));
    second.namespace(json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }));
    // A procfs of a PID namespace that belongs to the host cannot be mounted by anybody else: it is bound.
    second.unmount("/proc");
    second.mount("/proc", "bind", "/proc", &["rbind"]);
    second.linux()["maskedPaths"] = json!([]);
    second.linux()["readonlyPaths"] = json!([]);
    second.unmount("/sys");
    second.script("readlink /proc/1/ns/pid >/dev/null; test -d /proc/self; echo $?");
    let called = second.run();
    assert!(called.status.success(), "{called:?}");
}

#[test]
fn limits_are_raised_by_whoever_may() {
    let Some(mut bundle) = owned("userns-limit", "cat /proc/self/limits | grep 'Max open files' | tr -s ' '") else {
        return;
    };
    let (_, hard) = (0, rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap());
    bundle.process()["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": hard }]);
    assert_eq!(bundle.output(), format!("Max open files 100 {hard} files \n"));
}

#[test]
fn mappings_are_checked_and_never_cut() {
    let Some(mut bundle) = mapped("userns-maps", "true") else { return };
    bundle.linux()["gidMappings"] = json!([]);
    assert!(bundle.fails().contains("linux.gidMappings"));
    let many = |n: u32| (0..n).map(|i| json!({ "containerID": i, "hostID": BASE + i, "size": 1 })).collect::<Vec<_>>();
    bundle.linux()["gidMappings"] = json!(many(341));
    assert!(bundle.fails().contains("no more than 340"));
    // CVE-2021-43784: more than the length of a message can say.
    bundle.linux()["gidMappings"] = json!(many(10_000));
    assert!(bundle.fails().contains("no more than 340"));
    bundle.linux()["gidMappings"] = json!(many(200));
    bundle.script("wc -l < /proc/self/gid_map");
    assert_eq!(bundle.output().trim(), "200");
    bundle.linux()["uidMappings"] = Value::Null;
    bundle.linux()["gidMappings"] = Value::Null;
    assert!(bundle.fails().contains("a new user namespace needs it"));
    bundle.no_namespace("user");
    bundle.linux()["uidMappings"] = map(0, BASE, 1);
    bundle.linux()["gidMappings"] = map(0, BASE, 1);
    assert!(bundle.fails().contains("only with a user namespace"));
    bundle.linux()["uidMappings"] = Value::Null;
    bundle.linux()["gidMappings"] = Value::Null;
    bundle.namespace(json!({ "type": "user", "path": "/not/there" }));
    assert!(bundle.fails().contains("open the namespace /not/there"));
}

#[test]
fn a_namespace_without_a_root_has_its_first_user_instead() {
    let Some(mut bundle) = owned("userns-noroot", "id -u") else { return };
    bundle.linux()["uidMappings"] = map(1000, BASE + 1000, 10);
    bundle.linux()["gidMappings"] = map(1000, BASE + 1000, 10);
    bundle.process()["user"] = json!({ "uid": 1001, "gid": 1001 });
    bundle.unmount("/dev/pts");
    assert_eq!(bundle.output(), "1001\n");
}

#[test]
fn cgroups_are_entered_and_seen() {
    let Some(bundle) = owned("userns-cgroup", "exec sleep 1000") else { return };
    let pid = bundle.run_detached();
    assert!(fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().contains(&bundle.id));
    let inside = bundle.exec(&["cat", "/proc/1/cgroup"]).output();
    assert!(!inside.contains(&bundle.id), "{inside}");
    bundle.ok(&["delete", "--force", &bundle.id]);
    bundle.nothing_left();
}

#[test]
fn clocks_of_a_time_namespace_are_set() {
    let Some(mut bundle) = Bundle::new("timens", "cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets | tr -s ' '")
    else {
        return;
    };
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        return skip("no time namespaces in this kernel");
    }
    bundle.namespace(json!({ "type": "time" }));
    bundle.linux()["timeOffsets"] =
        json!({ "boottime": { "secs": 10_000_000, "nanosecs": 5 }, "monotonic": { "secs": 77 } });
    for user in [false, true] {
        if user {
            bundle.namespace(json!({ "type": "user" }));
            bundle.linux()["uidMappings"] = map(0, BASE, 65_536);
            bundle.linux()["gidMappings"] = map(0, BASE, 65_536);
        }
        let output = bundle.output();
        let lines: Vec<&str> = output.lines().collect();
        assert!(lines[0].parse::<u64>().unwrap() >= 10_000_000, "{output}");
        assert_eq!(lines[1..], ["monotonic 77 0", "boottime 10000000 5"]);
    }
    bundle.linux()["timeOffsets"] = json!({ "realtime": { "secs": 1 } });
    assert!(bundle.fails().contains("no clock of a time namespace"));
    bundle.linux()["timeOffsets"] = json!({ "monotonic": { "secs": 1, "nanosecs": 1_000_000_000 } });
    assert!(bundle.fails().contains("a second or more"));
    bundle.linux()["timeOffsets"] = json!({ "monotonic": { "secs": 1 } });
    bundle.no_namespace("time");
    assert!(bundle.fails().contains("only in a new time namespace"));
}

#[test]
fn a_time_namespace_is_entered_by_its_path_and_by_exec() {
    let Some(mut first) = Bundle::new("timens-first", "exec sleep 1000") else { return };
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        return skip("no time namespaces in this kernel");
    }
    first.namespace(json!({ "type": "time" }));
    first.linux()["timeOffsets"] = json!({ "boottime": { "secs": 20_000_000 } });
    let pid = first.run_detached();
    let uptime = |text: &str| text.trim().split('.').next().unwrap().parse::<u64>().unwrap();
    assert!(uptime(&first.exec(&["cat", "/proc/uptime"]).output()) >= 20_000_000);
    let mut second = Bundle::new("timens-second", "cat /proc/uptime").unwrap();
    second.namespace(json!({ "type": "time", "path": format!("/proc/{pid}/ns/time") }));
    assert!(uptime(&second.output()) >= 20_000_000);
}

#[test]
fn a_mount_namespace_is_entered_by_its_path() {
    let Some(mut bundle) = Bundle::new("mntns", "readlink /proc/self/ns/mnt; ls /; cat /bound/file") else { return };
    // A process in mounts of its own, in which something is at /tmp that the host has not.
    let mut holder = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("mount -t tmpfs t /mnt && echo inside > /mnt/file && echo ready && exec sleep 1000")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let path = format!("/proc/{}/ns/mnt", holder.id());
    bundle.namespace(json!({ "type": "mount", "path": path }));
    bundle.mount("/bound", "bind", "/mnt", &["bind"]);
    let expected = fs::read_link(&path).unwrap().into_os_string().into_string().unwrap();
    let called = bundle.run();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let output = called.output();
    assert!(output.starts_with(&expected) && output.ends_with("\ninside\n"), "{output}");
}

#[test]
fn id_mapped_mounts_show_the_disk_as_the_container_has_its_ids() {
    let Some(mut bundle) =
        owned("idmap", "stat -c %u:%g /data/file /plain/file; touch /data/new; stat -c %u:%g /data/new")
    else {
        return;
    };
    let data = bundle.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "").unwrap();
    let source = data.to_str().unwrap().to_owned();
    bundle.mount("/plain", "bind", &source, &["bind"]);
    bundle.mount("/data", "bind", &source, &["bind", "idmap"]);
    // On disk it is the host's root, and here it is root too; without the mapping it is nobody.
    assert_eq!(bundle.output(), "0:0\n65534:65534\n0:0\n");
    assert_eq!(fs::metadata(data.join("new")).unwrap().uid(), 0);
    // A file system without it is named.
    bundle.mount("/kernel", "bind", "/proc/sys/kernel", &["rbind", "ridmap"]);
    let text = bundle.fails();
    assert!(text.contains("id-map bind /proc/sys/kernel to /kernel") && text.contains("(proc)"), "{text}");
}

#[test]
fn id_mapped_mounts_have_mappings_of_their_own() {
    let Some(mut bundle) = Bundle::new("idmap-own", "stat -c %u:%g /data/file /more/file /data/other") else { return };
    let data = bundle.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "").unwrap();
    fs::write(data.join("other"), "").unwrap();
    std::os::unix::fs::chown(data.join("other"), Some(77), Some(77)).unwrap();
    for target in ["/data", "/more"] {
        bundle.mount(target, "bind", data.to_str().unwrap(), &["rbind", "ridmap", "ro"]);
        let mount = bundle.config["mounts"].as_array_mut().unwrap().last_mut().unwrap();
        mount["uidMappings"] = map(0, 1000, 10);
        mount["gidMappings"] = map(0, 2000, 10);
    }
    assert_eq!(bundle.output(), "1000:2000\n1000:2000\n65534:65534\n");
    let last = |bundle: &mut Bundle, name: &str, value: Value| {
        bundle.config["mounts"].as_array_mut().unwrap().last_mut().unwrap()[name] = value;
    };
    last(&mut bundle, "gidMappings", Value::Null);
    assert!(bundle.fails().contains("mounts /more: gidMappings"));
    last(&mut bundle, "uidMappings", Value::Null);
    assert!(bundle.fails().contains("needs uidMappings and gidMappings, or a user namespace"));
    last(&mut bundle, "options", json!(["ridmap"]));
    last(&mut bundle, "type", json!("tmpfs"));
    last(&mut bundle, "uidMappings", map(0, 1000, 10));
    last(&mut bundle, "gidMappings", map(0, 1000, 10));
    assert!(bundle.fails().contains("only a bind can be id-mapped"));
}

#[test]
fn network_devices_move_into_a_user_namespace() {
    let Some(mut bundle) = owned("userns-net", "ls /sys/class/net | sort | tr '\\n' ' '") else { return };
    // The host of this test is a network namespace that goes with it.
    bundle.linux()["netDevices"] = json!({ "orlopv0": { "name": "moved0" } });
    let call = bundle.command(&["run", &bundle.id]);
    let mut command = std::process::Command::new("unshare");
    let script = "ip link add orlopv0 type veth peer name orlopv1 && exec \"$@\"";
    command.args(["--net", "sh", "-c", script, "sh"]).arg(call.get_program()).args(call.get_args());
    command.current_dir(bundle.path()).stdin(std::process::Stdio::null());
    assert_eq!(bundle::finish(command).output(), "lo moved0 ");
}
