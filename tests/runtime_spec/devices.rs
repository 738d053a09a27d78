//! `linux.devices`, the devices and links that every container has, and `root.readonly`.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::bundle::Bundle;

#[test]
fn every_container_has_the_default_devices_and_links() {
    let script = "stat -c '%n %F %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; \
        for l in fd stdin stdout stderr core ptmx; do readlink /dev/$l; done; ls /dev/console 2>/dev/null; \
        head -c 4 /dev/zero | wc -c; echo x > /dev/null; echo y > /dev/full";
    let Some(bundle) = Bundle::new("default-devices", script) else { return };
    let called = bundle.run();
    let expected = "/dev/null character special file 1:3 666\n/dev/zero character special file 1:5 666\n\
        /dev/full character special file 1:7 666\n/dev/random character special file 1:8 666\n\
        /dev/urandom character special file 1:9 666\n/dev/tty character special file 5:0 666\n\
        /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n/proc/kcore\npts/ptmx\n4\n";
    assert_eq!(called.stdout, expected);
    assert!(called.stderr.contains("No space left on device"), "{called:?}");
}

#[test]
fn devices_of_every_type_with_mode_and_owner_anywhere() {
    let script = "stat -c '%n %F %t:%T %a %u:%g' /dev/fuse /dev/loop /dev/pipe /deep/er/node /dev/un /dev/default";
    let Some(mut bundle) = Bundle::new("devices", script) else { return };
    bundle.linux()["devices"] = json!([
        { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8 },
        { "path": "/dev/loop", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600 },
        { "path": "/dev/pipe", "type": "p", "fileMode": 0o622, "uid": 9 },
        { "path": "/deep/er/node", "type": "c", "major": 1, "minor": 3, "fileMode": 0o020_644 },
        { "path": "/dev/un", "type": "u", "major": 1, "minor": 5, "fileMode": 0o666 },
        { "path": "/dev/default", "type": "c", "major": 1, "minor": 7 },
    ]);
    let expected = "/dev/fuse character special file a:e5 640 7:8\n/dev/loop block special file 7:0 600 0:0\n\
        /dev/pipe fifo 0:0 622 9:0\n/deep/er/node character special file 1:3 644 0:0\n\
        /dev/un character special file 1:5 666 0:0\n/dev/default character special file 1:7 666 0:0\n";
    assert_eq!(bundle.output(), expected);
}

#[test]
fn a_node_that_is_there_must_be_the_right_one() {
    let Some(mut bundle) = Bundle::new("existing-device", "stat -c '%t:%T' /nodes/null") else { return };
    bundle.directory_inside("/nodes");
    let node = bundle.rootfs().join("nodes/null");
    let device = |minor| json!([{ "path": "/nodes/null", "type": "c", "major": 1, "minor": minor, "fileMode": 0o666 }]);
    assert!(std::process::Command::new("mknod").arg(&node).args(["c", "1", "3"]).status().unwrap().success());
    bundle.linux()["devices"] = device(3);
    assert_eq!(bundle.output(), "1:3\n");
    bundle.linux()["devices"] = device(5);
    assert!(bundle.fails().contains("/nodes/null is there already and is not the device asked for"));
    fs::remove_file(&node).unwrap();
    symlink("/etc/passwd", &node).unwrap();
    bundle.linux()["devices"] = device(3);
    assert!(bundle.fails().contains("/nodes/null is there already and is not the device asked for"));
}

#[test]
fn wrong_devices_are_named() {
    let Some(mut bundle) = Bundle::new("wrong-devices", "true") else { return };
    for device in [
        json!({ "path": "dev/relative", "type": "c", "major": 1, "minor": 3 }),
        json!({ "path": "/dev/x/..", "type": "c", "major": 1, "minor": 3 }),
        json!({ "path": "/dev/a", "type": "a", "major": 1, "minor": 3 }),
        json!({ "path": "/dev/x", "type": "c", "major": -1, "minor": 3 }),
    ] {
        bundle.linux()["devices"] = json!([device]);
        let error = bundle.fails();
        assert!(error.contains("linux.devices"), "{error}");
    }
    bundle.linux()["devices"] = json!([{ "path": "/dev/x", "type": "z" }]);
    assert!(bundle.fails().contains("config.json"));
}

#[test]
fn a_dev_of_the_hosts_is_left_alone() {
    let Some(mut bundle) = Bundle::new("bound-dev", "ls /dev") else { return };
    fs::create_dir_all(bundle.path().join("dev/pts")).unwrap();
    for directory in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        bundle.unmount(directory);
    }
    bundle.mount("/dev", "bind", "dev", &["bind"]);
    bundle.linux()["devices"] = json!([{ "path": "/dev/node", "type": "c", "major": 1, "minor": 3 }]);
    assert_eq!(bundle.output(), "pts\n");
    assert_eq!(fs::read_dir(bundle.path().join("dev")).unwrap().count(), 1);
}

#[test]
fn a_root_is_read_only_or_not() {
    let Some(mut bundle) = Bundle::new("readonly", "touch /new 2>&1; touch /dev/new && echo dev") else { return };
    assert_eq!(bundle.output(), "dev\n");
    fs::remove_file(bundle.rootfs().join("new")).unwrap();
    bundle.config["root"]["readonly"] = json!(true);
    assert_eq!(bundle.output(), "touch: /new: Read-only file system\ndev\n");
    assert!(!bundle.rootfs().join("new").exists());
}
