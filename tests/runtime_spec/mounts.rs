//! `mounts`: kinds, options, order, propagation, and what is done to a target that is not there.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, skip};

/// The options of a mount and of its super block, of the last mount at a path, in a text of /proc/self/mountinfo.
fn options(mountinfo: &str, path: &str) -> (Vec<String>, Vec<String>) {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(path));
    let line = line.unwrap_or_else(|| panic!("{path} is not mounted: {mountinfo}"));
    let words = |text: &str| text.split(',').map(str::to_owned).collect();
    (words(line.split(' ').nth(5).unwrap()), words(line.rsplit(' ').next().unwrap()))
}

#[test]
fn every_option_of_a_mount() {
    let Some(mut bundle) = Bundle::new("options", "cat /proc/self/mountinfo") else { return };
    bundle.directory_inside("source");
    let source = bundle.rootfs().join("source");
    let cases: [(&[&str], &[&str], &[&str]); 25] = [
        (&["ro"], &["ro"], &["rw"]),
        (&["ro", "rw"], &["rw"], &["ro"]),
        (&["nosuid"], &["nosuid"], &[]),
        (&["nosuid", "suid"], &[], &["nosuid"]),
        (&["nodev"], &["nodev"], &[]),
        (&["nodev", "dev"], &[], &["nodev"]),
        (&["noexec"], &["noexec"], &[]),
        (&["noexec", "exec"], &[], &["noexec"]),
        (&["noatime"], &["noatime"], &["relatime"]),
        (&["noatime", "atime"], &["relatime"], &["noatime"]),
        (&["relatime"], &["relatime"], &[]),
        (&["norelatime"], &["relatime"], &[]),
        (&["strictatime"], &[], &["relatime", "noatime"]),
        (&["strictatime", "nostrictatime"], &["relatime"], &[]),
        (&["nodiratime"], &["nodiratime"], &[]),
        (&["nodiratime", "diratime"], &[], &["nodiratime"]),
        (&["nosymfollow"], &["nosymfollow"], &[]),
        (&["nosymfollow", "symfollow"], &[], &["nosymfollow"]),
        (&["defaults"], &["rw"], &[]),
        (&["async", "nolazytime", "nomand"], &["rw"], &[]),
        (&["silent", "loud"], &["rw"], &[]),
        (&["iversion", "noiversion"], &["rw"], &[]),
        (&["mand"], &["rw"], &[]),
        (&["ro", "nosuid", "nodev", "noexec", "noatime"], &["ro", "nosuid", "nodev", "noexec", "noatime"], &[]),
        (&["sync", "dirsync", "lazytime"], &["rw"], &[]),
    ];
    for (n, (given, _, _)) in cases.iter().enumerate() {
        bundle.mount(&format!("/tmp/fs{n}"), "tmpfs", "tmpfs", given);
        let with_bind = [&["bind"], *given].concat();
        bundle.mount(&format!("/tmp/bind{n}"), "none", source.to_str().unwrap(), &with_bind);
    }
    let output = bundle.output();
    for (n, (given, there, absent)) in cases.iter().enumerate() {
        for kind in ["fs", "bind"] {
            let (found, _) = options(&output, &format!("/tmp/{kind}{n}"));
            for option in *there {
                assert!(found.contains(&(*option).to_owned()), "{kind} {given:?}: {found:?}");
            }
            for option in *absent {
                assert!(!found.contains(&(*option).to_owned()), "{kind} {given:?}: {found:?}");
            }
        }
    }
    let (_, superblock) = options(&output, "/tmp/fs24");
    for option in ["sync", "dirsync", "lazytime"] {
        assert!(superblock.contains(&option.to_owned()), "{superblock:?}");
    }
}

#[test]
fn recursive_options_reach_what_is_mounted_below() {
    let Some(mut bundle) = Bundle::new("recursive", "cat /proc/self/mountinfo") else { return };
    // A file system with another in it, seen in a mount namespace of the test's own.
    fs::create_dir_all(bundle.path().join("tree")).unwrap();
    let script = "mount -t tmpfs a tree && mkdir tree/in && mount -t tmpfs b tree/in && exec \"$@\"";
    bundle.prefix = ["unshare", "--mount", "sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    let cases = [
        ("rro", "ro", true),
        ("rnosuid", "nosuid", true),
        ("rnodev", "nodev", true),
        ("rnoexec", "noexec", true),
        ("rnodiratime", "nodiratime", true),
        ("rnoatime", "noatime", true),
        ("rnosymfollow", "nosymfollow", true),
        ("rrelatime", "relatime", true),
        ("rnostrictatime", "relatime", true),
        ("rnorelatime", "relatime", true),
        ("ratime", "relatime", true),
        ("rstrictatime", "relatime", false),
        ("rrw", "ro", false),
        ("rsuid", "nosuid", false),
        ("rdev", "nodev", false),
        ("rexec", "noexec", false),
        ("rdiratime", "nodiratime", false),
        ("rsymfollow", "nosymfollow", false),
    ];
    for (option, _, _) in cases {
        bundle.mount(&format!("/tmp/{option}"), "bind", "tree", &["rbind", option]);
    }
    // Without the r they are those of the upper mount alone.
    bundle.mount("/tmp/upper", "bind", "tree", &["rbind", "ro", "nosuid"]);
    let output = bundle.output();
    for (option, flag, expected) in cases {
        for below in ["", "/in"] {
            let (found, _) = options(&output, &format!("/tmp/{option}{below}"));
            assert_eq!(found.contains(&flag.to_owned()), expected, "{option} {below}: {found:?}");
        }
    }
    assert!(options(&output, "/tmp/upper").0.contains(&"ro".to_owned()));
    let (inner, _) = options(&output, "/tmp/upper/in");
    assert!(!inner.contains(&"ro".to_owned()) && !inner.contains(&"nosuid".to_owned()), "{inner:?}");
}

#[test]
fn binds_of_files_and_directories_with_any_type_relative_to_the_bundle() {
    let Some(mut bundle) = Bundle::new("binds", "cat /a/file /b/data/deep /c; ls -d /made/for/it") else { return };
    fs::create_dir_all(bundle.path().join("data")).unwrap();
    fs::write(bundle.path().join("data/deep"), "deep\n").unwrap();
    fs::write(bundle.path().join("plain"), "plain\n").unwrap();
    bundle.mount("/a/file", "bind", "plain", &["bind", "ro"]);
    // `bind` makes a bind of it, whatever the type says; and a relative target is relative to the root.
    bundle.mount("/b/data", "tmpfs", "data", &["rbind"]);
    bundle.mount("c", "none", "plain", &["bind"]);
    bundle.mount("/made/for/it", "bind", "data", &["bind"]);
    assert_eq!(bundle.output(), "plain\ndeep\nplain\n/made/for/it\n");
    bundle.mount("/d", "bind", "absent", &["bind"]);
    let error = bundle.fails();
    assert!(error.contains("bind") && error.contains("/d: no such file or directory"), "{error}");
    bundle.unmount("/d");
    bundle.mount("/d", "none", "", &["bind"]);
    assert!(bundle.fails().contains("mounts /d"));
}

#[test]
fn mounts_are_made_in_their_order() {
    let script = "ls /tmp/x; ls /tmp/y";
    let Some(mut bundle) = Bundle::new("order", script) else { return };
    fs::create_dir_all(bundle.path().join("one")).unwrap();
    fs::write(bundle.path().join("one/1"), "").unwrap();
    bundle.mount("/tmp/x", "tmpfs", "tmpfs", &[]);
    bundle.mount("/tmp/x", "bind", "one", &["bind"]);
    bundle.mount("/tmp/y", "bind", "one", &["bind"]);
    bundle.mount("/tmp/y", "tmpfs", "tmpfs", &[]);
    assert_eq!(bundle.output(), "1\n");
}

#[test]
fn a_tmpfs_with_what_it_covers() {
    let script = "cat /data/sub/file; stat -c '%a %u:%g' /data /data/sub /data/sub/file /plain /other; \
        readlink /data/link; echo x > /data/new; ls /plain";
    let Some(mut bundle) = Bundle::new("copyup", script) else { return };
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let data = bundle.directory_inside("/data/sub");
    fs::write(data.join("file"), "copied\n").unwrap();
    std::os::unix::fs::symlink("sub/file", bundle.rootfs().join("data/link")).unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(7), Some(8)).unwrap();
    mode(&data.join("file"), 0o640);
    mode(&data, 0o711);
    mode(&bundle.rootfs().join("data"), 0o751);
    mode(&bundle.directory_inside("/plain"), 0o700);
    fs::write(bundle.rootfs().join("plain/hidden"), "").unwrap();
    bundle.capabilities(&["CAP_DAC_OVERRIDE"]);
    bundle.mount("/data", "tmpfs", "tmpfs", &["tmpcopyup", "nodev"]);
    bundle.mount("/plain", "tmpfs", "tmpfs", &[]);
    bundle.mount("/other", "tmpfs", "tmpfs", &["mode=1770", "size=64k"]);
    assert_eq!(bundle.output(), "copied\n751 0:0\n711 0:0\n640 7:8\n700 0:0\n1770 0:0\nsub/file\n");
    assert!(!bundle.rootfs().join("data/new").exists());
    bundle.mount("/x", "bind", "rootfs", &["bind", "tmpcopyup"]);
    assert!(bundle.fails().contains("tmpcopyup"));
}

#[test]
fn options_of_the_file_system_are_handed_on_and_refused_by_it() {
    let Some(mut bundle) = Bundle::new("data", "cat /proc/self/mountinfo") else { return };
    bundle.mount("/t", "tmpfs", "tmpfs", &["size=128k", "nr_inodes=17", "uid=3", "mode=710"]);
    let (_, found) = options(&bundle.output(), "/t");
    for option in ["size=128k", "nr_inodes=17", "uid=3", "mode=710"] {
        assert!(found.contains(&option.to_owned()), "{found:?}");
    }
    bundle.unmount("/t");
    bundle.mount("/t", "tmpfs", "tmpfs", &["colour=red"]);
    let error = bundle.fails();
    assert!(error.contains("mount tmpfs") && error.contains("colour") && error.contains("/t"), "{error}");
    bundle.unmount("/t");
    bundle.mount("/t", "nosuchfs", "x", &[]);
    assert!(bundle.fails().contains("nosuchfs"));
    bundle.unmount("/t");
    bundle.mount("/t", "none", "x", &[]);
    assert!(bundle.fails().contains("mounts /t"));
}

#[test]
fn options_may_be_longer_than_fsconfig_takes() {
    let script = "cat /over/bottom /over/top; echo new > /over/new; cat /proc/self/mountinfo";
    let Some(mut bundle) = Bundle::new("long", script) else { return };
    bundle.capabilities(&["CAP_DAC_OVERRIDE"]);
    // Layers on a file system that an overlay can be made of.
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let layer = |name: &str| {
        let path = scratch.path().join("x".repeat(150)).join(name);
        fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (top, bottom, upper, work) = (layer("top"), layer("bottom"), layer("upper"), layer("work"));
    fs::write(Path::new(&top).join("top"), "top\n").unwrap();
    fs::write(Path::new(&bottom).join("bottom"), "bottom\n").unwrap();
    let lower = format!("lowerdir={top}:{bottom}");
    assert!(lower.len() > 255);
    let (upper, work) = (format!("upperdir={upper}"), format!("workdir={work}"));
    bundle.mount("/over", "overlay", "overlay", &[&lower, &upper, &work, "nosuid", "nodev"]);
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let output = bundle.output();
    assert!(output.starts_with("bottom\ntop\n"), "{output}");
    let (found, _) = options(&output, "/over");
    assert!(found.contains(&"nosuid".to_owned()) && found.contains(&"nodev".to_owned()), "{found:?}");
    assert!(scratch.path().join("x".repeat(150)).join("upper/new").exists());
    // The place it was mounted on is nowhere.
    assert!(!output.contains("/new "), "{output}");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(), before.lines().count());
    bundle.unmount("/over");
    bundle.mount("/over", "overlay", "overlay", &[&format!("lowerdir=/{}", "y".repeat(5000))]);
    assert!(bundle.fails().contains("4096 bytes"));
}

#[test]
fn a_remount_changes_flags_and_options() {
    let Some(mut bundle) = Bundle::new("remount", "cat /proc/self/mountinfo") else { return };
    bundle.mount("/t", "tmpfs", "tmpfs", &["size=128k", "mode=755"]);
    bundle.mount("/t", "tmpfs", "tmpfs", &["remount", "ro", "noexec", "size=64k"]);
    bundle.mount("/dev/shm", "bind", "", &["remount", "bind", "ro"]);
    let output = bundle.output();
    let (found, superblock) = options(&output, "/t");
    assert!(found.contains(&"ro".to_owned()) && found.contains(&"noexec".to_owned()), "{found:?}");
    assert!(superblock.contains(&"size=64k".to_owned()), "{superblock:?}");
    assert_eq!(output.lines().filter(|line| line.split(' ').nth(4) == Some("/t")).count(), 1);
    assert!(options(&output, "/dev/shm").0.contains(&"ro".to_owned()));
    bundle.mount("/t", "tmpfs", "tmpfs", &["remount", "colour=red"]);
    let error = bundle.fails();
    assert!(error.contains("remount /t") && error.contains("colour"), "{error}");
}

#[test]
fn the_usual_file_systems_are_those() {
    let script = "cat /proc/self/mountinfo; ls /sys/fs/cgroup | head -1; touch /dev/mqueue/q; ls /dev/mqueue";
    let Some(mut bundle) = Bundle::new("usual", script) else { return };
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "nodev", "noexec"]);
    let output = bundle.output();
    let kind = |path: &str| {
        let line = output.lines().rfind(|line| line.split(' ').nth(4) == Some(path)).unwrap();
        line.split(" - ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    for (path, name) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/mqueue", "mqueue"),
        ("/dev/shm", "tmpfs"),
    ] {
        assert_eq!(kind(path), name, "{path}");
    }
    assert!(["tmpfs", "cgroup2"].contains(&kind("/sys/fs/cgroup").as_str()));
    assert!(output.ends_with("\nq\n"), "{output}");
    // Its own part of the hierarchy, and read-only.
    bundle.script("grep -c . /proc/self/cgroup > /dev/null; mkdir /sys/fs/cgroup/new 2>&1; true");
    assert!(bundle.output().contains("Read-only file system"));
}

#[test]
fn a_procfs_belongs_at_proc_and_nothing_else() {
    let Some(mut bundle) = Bundle::new("proc", "true") else { return };
    bundle.mount("/proc/sys", "tmpfs", "tmpfs", &[]);
    assert!(bundle.fails().contains("only a procfs can be mounted at /proc"));
    bundle.unmount("/proc/sys");
    bundle.unmount("/proc");
    fs::remove_dir(bundle.rootfs().join("proc")).unwrap();
    std::os::unix::fs::symlink("/tmp", bundle.rootfs().join("proc")).unwrap();
    bundle.mount("/proc", "proc", "proc", &[]);
    assert!(bundle.fails().contains("must be mounted on ordinary directory"));
    bundle.unmount("/proc");
    bundle.mount("/", "tmpfs", "tmpfs", &[]);
    assert!(bundle.fails().contains("over the root"));
}

/// The propagation of a mount: "shared", "slave", "shared slave", "unbindable", or "private".
fn propagation(mountinfo: &str, path: &str) -> String {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(path)).unwrap();
    let tags = line.split(" - ").next().unwrap().split(' ').skip(6);
    let names: Vec<_> = tags
        .filter(|tag| !tag.starts_with("propagate_from"))
        .map(|tag| match tag.split(':').next().unwrap() {
            "master" => "slave",
            other => other,
        })
        .collect();
    if names.is_empty() { "private".to_owned() } else { names.join(" ") }
}

#[test]
fn the_propagation_of_the_root_and_of_mounts() {
    let Some(mut bundle) = Bundle::new("propagation", "cat /proc/self/mountinfo") else { return };
    if Command::new("unshare").arg("--help").output().is_err() {
        return skip("needs unshare (Debian's package util-linux)");
    }
    fs::create_dir_all(bundle.path().join("tree")).unwrap();
    // What is shared here is shared with nobody else.
    let script = "mount -t tmpfs a tree && mount --make-rshared / && exec \"$@\"";
    bundle.prefix =
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    for name in ["shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"] {
        bundle.mount(&format!("/tmp/{name}"), "bind", "tree", &["rbind", name]);
    }
    bundle.mount("/tmp/two", "bind", "tree", &["rbind", "rslave", "rshared"]);
    bundle.mount("/tmp/none", "bind", "tree", &["rbind"]);
    let output = bundle.output();
    for (path, expected) in [
        ("/tmp/shared", "shared"),
        ("/tmp/rshared", "shared"),
        ("/tmp/slave", "slave"),
        ("/tmp/rslave", "slave"),
        ("/tmp/private", "private"),
        ("/tmp/rprivate", "private"),
        ("/tmp/unbindable", "unbindable"),
        ("/tmp/runbindable", "unbindable"),
        ("/tmp/two", "shared slave"),
        ("/tmp/none", "slave"),
    ] {
        assert_eq!(propagation(&output, path), expected, "{path}: {output}");
    }
    for (name, expected) in [
        ("shared", "shared"),
        ("rshared", "shared"),
        ("private", "private"),
        ("rprivate", "private"),
        ("unbindable", "unbindable"),
        ("slave", "slave"),
        ("rslave", "slave"),
    ] {
        bundle.linux()["rootfsPropagation"] = json!(name);
        let found = propagation(&bundle.output(), "/");
        assert!(found == expected || expected == "shared" && found.contains("shared"), "{name}: {found}");
    }
    bundle.linux()["rootfsPropagation"] = json!("sideways");
    assert!(bundle.fails().contains("linux.rootfsPropagation"));
}
