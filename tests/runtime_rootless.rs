//! `orlop runtime` of a plain user, and of root in somebody else's user namespace.
#![allow(clippy::unwrap_used)]

#[path = "support/bundle.rs"]
mod bundle;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use bundle::{Bundle, Called, finish, skip, wait_until};
use serde_json::{Value, json};

/// The user that these containers are run by: Debian's nobody.
const USER: u32 = 65_534;
/// What the user may map more.
const MORE: u32 = 300_000;

fn map(ranges: &[(u32, u32, u32)]) -> Value {
    ranges
        .iter()
        .map(|(inside, outside, size)| json!({ "containerID": inside, "hostID": outside, "size": size }))
        .collect()
}

fn give(path: &Path, owner: u32) {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner)).unwrap();
    if fs::symlink_metadata(path).unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), owner);
        }
    }
}

/// A bundle that belongs to the user, with a user namespace that has these ids.
fn bundle(name: &str, script: &str, ranges: &[(u32, u32, u32)]) -> Option<Bundle> {
    let mut bundle = Bundle::new(name, script)?;
    for tool in ["unshare", "setpriv", "newuidmap"] {
        if Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            skip(&format!("needs {tool}"));
            return None;
        }
    }
    if !Path::new("/etc/subuid").exists() || !Path::new("/etc/subgid").exists() {
        skip("needs /etc/subuid and /etc/subgid, to cover them");
        return None;
    }
    fs::write(bundle.path().join("subids"), format!("nobody:{MORE}:65536\n")).unwrap();
    fs::create_dir_all(bundle.path().join("state")).unwrap();
    give(bundle.path(), USER);
    bundle.namespace(json!({ "type": "user" }));
    bundle.linux()["uidMappings"] = map(ranges);
    bundle.linux()["gidMappings"] = map(ranges);
    // Group 5 is not among the ids.
    bundle.unmount("/dev/pts");
    bundle.mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    Some(bundle)
}

/// The same call by the user, in a mount namespace in which the user has ids to map.
fn by_user(bundle: &Bundle, words: &[&str], arguments: &[&str]) -> Command {
    let call = bundle.command(arguments);
    let script = "mount --bind subids /etc/subuid && mount --bind subids /etc/subgid && \
        exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).args(words).arg(call.get_program()).args(call.get_args());
    command.current_dir(bundle.path()).stdin(Stdio::null());
    command
}

fn run(bundle: &Bundle) -> Called {
    finish(by_user(bundle, &[], &["run", &bundle.id]))
}

const OWN: [(u32, u32, u32); 1] = [(0, USER, 1)];

#[test]
fn a_plain_user_maps_the_own_id() {
    let script = "id -u; id -g; tr -s ' ' < /proc/self/uid_map; cat /proc/self/setgroups; touch /made; stat -c %u /made /dev; \
        echo > /dev/null; hostname; echo $$";
    let Some(bundle) = bundle("rootless", script, &OWN) else { return };
    assert_eq!(run(&bundle).output(), format!("0\n0\n 0 {USER} 1\ndeny\n0\n0\ninside\n1\n"));
    bundle.nothing_left();
}

#[test]
fn more_ids_come_from_newuidmap() {
    let script = "tr -s ' ' < /proc/self/uid_map; id -G; touch /made; chown 7:8 /made; stat -c %u:%g /made";
    let Some(mut bundle) = bundle("rootless-ids", script, &[(0, USER, 1), (1, MORE, 65_536)]) else { return };
    bundle.process()["user"]["additionalGids"] = json!([5, 6]);
    bundle.capabilities(&["CAP_CHOWN", "CAP_SETGID"]);
    let called = run(&bundle);
    assert_eq!(called.stdout, format!(" 0 {USER} 1\n 1 {MORE} 65536\n0 5 6\n7:8\n"), "{called:?}");
    // Ids that are not the user's.
    bundle.linux()["uidMappings"] = map(&[(0, USER, 1), (1, MORE - 1, 10)]);
    let text = run(&bundle).failed();
    assert!(text.contains("newuidmap") && text.contains("/etc/subuid"), "{text}");
    // And without the program that may map them.
    let call = bundle.command(&["run", &bundle.id]);
    let mut words = vec!["env", "PATH=/nowhere"];
    words.push(call.get_program().to_str().unwrap());
    let mut command = by_user(&bundle, &words[..2], &["run", &bundle.id]);
    command.env_remove("XDG_RUNTIME_DIR");
    let text = finish(command).failed();
    assert!(text.contains("needs newuidmap"), "{text}");
    bundle.nothing_left();
}

#[test]
fn it_is_executed_in_signalled_and_deleted_by_its_user() {
    let Some(bundle) = bundle("rootless-exec", "exec sleep 1000", &[(0, USER, 1), (1, MORE, 65_536)]) else { return };
    let mut begin = by_user(&bundle, &[], &["run", "--detach", "--pid-file", "pid", &bundle.id]);
    let errors = bundle.path().join("errors");
    begin.stdout(Stdio::null()).stderr(fs::File::create(&errors).unwrap());
    assert!(begin.status().unwrap().success(), "{}", fs::read_to_string(errors).unwrap());
    let call = |arguments: &[&str]| finish(by_user(&bundle, &[], arguments));
    let pid = fs::read_to_string(bundle.path().join("pid")).unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("Uid:\t{USER}\t")), "{status}");
    assert_eq!(
        call(&["exec", &bundle.id, "sh", "-c", "id -u; echo $$ > /tmp/x; readlink /proc/1/exe"]).output(),
        "0\n/bin/busybox\n"
    );
    assert_eq!(call(&["exec", "-u", "5:6", &bundle.id, "id"]).output(), "uid=5 gid=6\n");
    let state: Value = serde_json::from_str(&call(&["state", &bundle.id]).output()).unwrap();
    assert_eq!(state["status"], "running");
    call(&["kill", &bundle.id, "KILL"]).output();
    wait_until("it has ended", || call(&["state", &bundle.id]).stdout.contains("stopped"));
    call(&["delete", &bundle.id]).output();
    bundle.nothing_left();
}

#[test]
fn what_a_plain_user_cannot_have_is_said() {
    let Some(mut bundle) = bundle("rootless-not", "true", &OWN) else { return };
    bundle.process()["user"]["additionalGids"] = json!([5]);
    assert!(run(&bundle).failed().contains("cannot set any additional groups"));
    bundle.process()["user"]["additionalGids"] = json!([]);
    if !Path::new("/sys/fs/cgroup/cgroup.procs").exists() {
        bundle.linux()["resources"] = json!({ "memory": { "limit": 10_000_000 } });
        let text = run(&bundle).failed();
        assert!(text.contains("linux.resources need a cgroup"), "{text}");
        // Rules for devices are no limit that anybody could break here.
        bundle.linux()["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
        assert_eq!(run(&bundle).output(), "");
        let text = finish(by_user(&bundle, &[], &["--rootless", "false", "run", &bundle.id])).failed();
        assert!(text.contains("cgroup"), "{text}");
    }
    bundle.no_namespace("user");
    bundle.linux()["uidMappings"] = Value::Null;
    bundle.linux()["gidMappings"] = Value::Null;
    assert!(run(&bundle).failed().contains("needs a user namespace"));
    bundle.nothing_left();
}

#[test]
fn root_in_somebody_elses_user_namespace() {
    let script = "id -u; test -c /dev/null; echo $?; echo > /dev/null; cat /proc/self/setgroups; touch /made; stat -c %u /made; \
        mknod /tmp/n c 1 3 2>/dev/null || echo refused";
    let Some(mut bundle) = bundle("nested", script, &OWN) else { return };
    bundle.no_namespace("user");
    bundle.linux()["uidMappings"] = Value::Null;
    bundle.linux()["gidMappings"] = Value::Null;
    bundle.capabilities(&["CAP_MKNOD"]);
    bundle.process()["oomScoreAdj"] = json!(-500);
    let called = finish(by_user(&bundle, &["unshare", "--user", "--map-root-user"], &["run", &bundle.id]));
    assert_eq!(called.stdout, "0\n0\ndeny\n0\nrefused\n", "{called:?}");
    assert!(called.stderr.contains("oom_score_adj stays"), "{called:?}");
    // Of the network around it there is no new sysfs.
    bundle.no_namespace("network");
    bundle.process()["oomScoreAdj"] = Value::Null;
    bundle.script("test -d /sys/class/net; echo $?; touch /sys/x 2>&1 | grep -c -e Read-only -e denied");
    let called = finish(by_user(&bundle, &["unshare", "--user", "--map-root-user"], &["run", &bundle.id]));
    assert_eq!(called.stdout, "0\n1\n", "{called:?}");
    bundle.nothing_left();
}
