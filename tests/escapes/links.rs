//! Images that have links where a runtime expects directories and files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use serde_json::json;

use crate::bundle::Bundle;
use crate::race::Canary;

/// The link's texts with which an image may try to get out: absolute, climbing, and by way of /proc.
fn ways_to(canary: &Canary) -> [String; 4] {
    let path = canary.path().display().to_string();
    let climbing = canary.climbing();
    [
        path.clone(),
        climbing.trim_start_matches('/').to_owned(),
        format!("/proc/1/root{path}"),
        format!("/proc/self/root{path}"),
    ]
}

#[test]
fn cve_2019_19921_and_2023_27561_proc_or_sys_is_a_link() {
    let Some(bundle) = Bundle::new("proc-link", "true") else { return };
    let canary = Canary::new(&bundle);
    for name in ["proc", "sys"] {
        let path = bundle.rootfs().join(name);
        fs::remove_dir(&path).unwrap();
        for target in ways_to(&canary).iter().map(String::as_str).chain(["tmp", "/tmp", "dangling"]) {
            symlink(target, &path).unwrap();
            let text = bundle.fails();
            assert!(text.contains("must be mounted on ordinary directory"), "{target}: {text}");
            canary.untouched();
            fs::remove_file(&path).unwrap();
        }
        // Nor is a file in its place used.
        fs::write(&path, "").unwrap();
        bundle.fails();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
    bundle.output();
    assert!(!bundle.rootfs().join("dangling").exists());
}

#[test]
fn cve_2023_28642_masked_and_read_only_paths_through_links() {
    let script = "cat /secret /real/file; echo x > /frozen/new || echo refused; ls /hidden/";
    let Some(mut bundle) = Bundle::new("mask-link", script) else { return };
    let canary = Canary::new(&bundle);
    let root = bundle.rootfs();
    fs::create_dir_all(root.join("real/directory")).unwrap();
    fs::write(root.join("real/file"), "secret\n").unwrap();
    fs::write(root.join("real/directory/file"), "secret\n").unwrap();
    // What a link leads to is covered, not the link; and one that leads out leads nowhere.
    symlink("real/file", root.join("secret")).unwrap();
    symlink("/real/directory", root.join("hidden")).unwrap();
    symlink("/real", root.join("frozen")).unwrap();
    let mut masked = vec![json!("/secret"), json!("/hidden")];
    for (n, way) in ways_to(&canary).iter().enumerate() {
        symlink(way, root.join(format!("out{n}"))).unwrap();
        if !way.starts_with("/proc") {
            masked.push(json!(format!("/out{n}")));
            masked.push(json!(format!("/out{n}/mine")));
        }
    }
    bundle.linux()["maskedPaths"] = json!(masked);
    bundle.linux()["readonlyPaths"] = json!(["/frozen", "/out0", "/out1/mine"]);
    let called = bundle.run();
    assert!(called.status.success(), "{called:#?}");
    assert_eq!(called.stdout, "refused\n", "{called:#?}");
    assert!(!root.join("real/new").exists());
    canary.untouched();
    // A link of /proc that is none is not followed, and not passed over in silence either.
    for path in ["/out2", "/out3/mine"] {
        bundle.linux()["maskedPaths"] = json!([path]);
        bundle.linux()["readonlyPaths"] = json!([]);
        assert!(bundle.fails().contains(&format!("mask {path}")));
        bundle.linux()["maskedPaths"] = json!([]);
        bundle.linux()["readonlyPaths"] = json!([path]);
        assert!(bundle.fails().contains(&format!("make {path} read-only")));
    }
    canary.untouched();
}

#[test]
fn cve_2026_41579_and_47766_dev_is_a_link_to_the_host() {
    let Some(mut bundle) = Bundle::new("dev-link", "true") else { return };
    let canary = Canary::new(&bundle);
    for mount in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        bundle.unmount(mount);
    }
    let dev = bundle.rootfs().join("dev");
    fs::remove_dir(&dev).unwrap();
    for target in ways_to(&canary) {
        symlink(&target, &dev).unwrap();
        // Nodes are made beneath the root, wherever the link leads there, or not at all.
        let called = bundle.run();
        assert!(called.status.success() || called.stderr.contains("/dev"), "{target}: {called:#?}");
        canary.untouched();
        fs::remove_file(&dev).unwrap();
    }
    symlink(canary.climbing(), &dev).unwrap();
    fs::write(canary.path().join("ptmx"), "mine").unwrap();
    bundle.run();
    assert_eq!(fs::read(canary.path().join("ptmx")).unwrap(), b"mine");
    fs::remove_file(canary.path().join("ptmx")).unwrap();
    canary.untouched();
}

#[test]
fn cve_2026_88264_and_88265_devices_are_links() {
    let Some(mut bundle) = Bundle::new("node-link", "true") else { return };
    let canary = Canary::new(&bundle);
    for mount in ["/dev", "/dev/shm", "/dev/mqueue"] {
        bundle.unmount(mount);
    }
    bundle.process()["user"] = json!({ "uid": 1000, "gid": 1000 });
    let dev = bundle.rootfs().join("dev");
    for name in ["null", "zero", "console"] {
        bundle.process()["terminal"] = json!(name == "console");
        for way in ways_to(&canary) {
            symlink(format!("{way}/mine"), dev.join(name)).unwrap();
            let text = bundle.run().failed();
            let refused = if name == "console" { "bind /dev/console" } else { "is not the device asked for" };
            assert!(text.contains(refused), "{text}");
            canary.untouched();
            fs::remove_file(dev.join(name)).unwrap();
        }
    }
    // A file in the place of the null device is not written to, nor given to the user.
    bundle.process()["terminal"] = json!(false);
    fs::remove_file(dev.join("null")).unwrap();
    fs::write(dev.join("null"), "mine").unwrap();
    assert!(bundle.run().failed().contains("is not the device asked for"));
    assert_eq!(fs::read(dev.join("null")).unwrap(), b"mine");
    assert_eq!(fs::metadata(dev.join("null")).unwrap().uid(), 0);
}

#[test]
fn cve_2025_24965_mount_points_are_not_made_through_links() {
    let Some(mut bundle) = Bundle::new("point-link", "cat /etc/made/file /link/deep/file") else { return };
    let canary = Canary::new(&bundle);
    let source = bundle.path().join("source");
    fs::write(&source, "source\n").unwrap();
    let source = source.to_str().unwrap().to_owned();
    let root = bundle.rootfs();
    for way in ways_to(&canary).iter().filter(|way| !way.starts_with("/proc")) {
        for path in ["etc/made", "link"] {
            let _ = fs::remove_file(root.join(path));
            symlink(way, root.join(path)).unwrap();
        }
        bundle.unmount("/etc/made/file");
        bundle.unmount("/link/deep/file");
        bundle.mount("/etc/made/file", "bind", &source, &["bind", "ro"]);
        bundle.mount("/link/deep/file", "bind", &source, &["bind", "ro"]);
        assert_eq!(bundle.output(), "source\nsource\n");
        canary.untouched();
    }
    // The last name is a link.
    for way in ways_to(&canary).iter().filter(|way| !way.starts_with("/proc")) {
        let _ = fs::remove_file(root.join("etc/last"));
        symlink(format!("{way}/new"), root.join("etc/last")).unwrap();
        bundle.unmount("/etc/last");
        bundle.mount("/etc/last", "bind", &source, &["bind", "ro"]);
        bundle.script("cat /etc/last");
        assert_eq!(bundle.output(), "source\n");
        canary.untouched();
    }
    // Through a link of /proc nothing is made at all.
    let _ = fs::remove_file(root.join("link"));
    symlink(format!("/proc/self/root{}", canary.path().display()), root.join("link")).unwrap();
    bundle.run().failed();
    canary.untouched();
}

#[test]
fn cve_2019_16884_nothing_is_mounted_into_proc() {
    let Some(mut bundle) = Bundle::new("attr", "true") else { return };
    let fake = bundle.path().join("fake");
    fs::create_dir_all(fake.join("attr")).unwrap();
    fs::write(fake.join("attr/current"), "").unwrap();
    let fake = fake.to_str().unwrap().to_owned();
    // By name, and by ways around the name.
    symlink("/proc/self/attr", bundle.rootfs().join("innocent")).unwrap();
    symlink("/proc", bundle.rootfs().join("processes")).unwrap();
    for destination in [
        "/proc/self/attr",
        "/proc/1/attr",
        "/proc/./self/../self",
        "//proc/self/attr",
        "/tmp/../proc/sys",
        "/innocent",
        "/processes/self/attr",
        "/processes/sys",
    ] {
        for (kind, options) in [("bind", &["rbind"][..]), ("tmpfs", &[])] {
            bundle.mount(destination, kind, &fake, options);
            let text = bundle.fails();
            assert!(text.contains("proc"), "{destination}: {text}");
            bundle.unmount(destination);
        }
    }
    // A volume over all of /proc, without a procfs below it.
    bundle.unmount("/proc");
    bundle.mount("/proc", "bind", &fake, &["rbind"]);
    bundle.mount("/proc/self/attr", "bind", &fake, &["rbind"]);
    bundle.run().failed();
}
