//! Ids, users, paths and lengths that are more than they seem.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::bundle::Bundle;
use crate::race::Canary;

#[test]
fn crun_1_28_ids_that_are_paths_or_options() {
    let Some(bundle) = Bundle::new("ids", "true") else { return };
    let canary = Canary::new(&bundle);
    let long = "x".repeat(1025);
    let state = bundle.path().join("state");
    for id in
        ["..", ".", "../x", "../../canary", "a/b", "canary/", "", ".hidden", "a b", "a\nb", "é", "a%2fb", long.as_str()]
    {
        for verb in [&["create"][..], &["run"], &["state"], &["start"], &["kill"], &["delete"], &["delete", "--force"]]
        {
            let text = bundle.call(&[verb, &["--", id]].concat()).failed();
            assert!(text.contains("container ID") || text.contains("does not exist"), "{verb:?} {id:?}: {text}");
        }
    }
    // What begins like an option is taken for one, and refused.
    for id in ["-x", "--force", "-"] {
        bundle.call(&["create", id]).failed();
    }
    canary.untouched();
    let made = fs::read_dir(&state).map_or(0, Iterator::count);
    assert_eq!(made, 0);
}

#[test]
fn crun_1_28_cgroup_paths_that_climb() {
    let Some(mut bundle) = Bundle::new("cgroups", "true") else { return };
    let id = bundle.id.clone();
    for path in ["/../x", "../x", "/a/../../x", "..", "/..", "x/..", "/a\nb"] {
        bundle.linux()["cgroupsPath"] = json!(format!("{path}"));
        let text = bundle.fails();
        assert!(text.contains("cgroup"), "{path:?}: {text}");
    }
    bundle.linux()["cgroupsPath"] = json!(format!("/{id}"));
    bundle.script("exec sleep 1000");
    bundle.run_detached();
    for path in ["../..", "..", "/../..", "cpu:../.."] {
        bundle.call(&["exec", "--cgroup", path, &id, "true"]).failed();
    }
}

#[test]
fn cve_2026_30892_exec_users_are_numbers_or_nothing() {
    let Some(bundle) = Bundle::new("users", "exec sleep 1000") else { return };
    bundle.run_detached();
    let id = bundle.id.as_str();
    for (user, expected) in
        [("1", "1 0\n"), ("1:2", "1 2\n"), ("0:5", "0 5\n"), ("4294967294:7", "4294967294 7\n"), ("007", "7 0\n")]
    {
        let called = bundle.call(&["exec", "--user", user, id, "sh", "-c", "echo $(id -u) $(id -g)"]);
        assert_eq!(called.output(), expected, "{user}");
    }
    for user in [
        "",
        ":",
        ":1",
        "1:",
        "-1",
        "+1",
        " 1",
        "1 ",
        "0x1",
        "1e0",
        "1.0",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "1:2:3",
        "1:-2",
        "1:4294967296",
        "root",
        "user",
        "1,2",
        "１",
    ] {
        let called = bundle.call(&["exec", "--user", user, id, "id"]);
        assert!(called.stdout.is_empty(), "{user:?}: {called:#?}");
        called.failed();
    }
}

#[test]
fn cve_2021_43784_lengths_are_not_wrapped() {
    let Some(mut bundle) = Bundle::new("lengths", "true") else { return };
    let usual = bundle.config.clone();
    // What other runtimes counted with sixteen bits, around and beyond their end.
    for length in [4095, 4097, 65535, 65536, 65540, 70000, 1 << 20] {
        let long = format!("/{}", "p".repeat(length));
        for field in ["namespace", "source", "target", "masked"] {
            bundle.config = usual.clone();
            match field {
                "namespace" => bundle.namespace(json!({ "type": "network", "path": long })),
                "source" => bundle.mount("/tmp", "bind", &long, &["bind"]),
                "target" => bundle.mount(&long, "tmpfs", "t", &[]),
                _ => bundle.linux()["maskedPaths"] = json!([long]),
            }
            let text = bundle.fails();
            assert!(
                text.contains("name too long") || text.contains("File name too long"),
                "{field} {length}: {text:.300}"
            );
        }
    }
    // Many short ones are as long.
    bundle.config = usual.clone();
    let many: Vec<_> = (0..9000).map(|n| format!("/not/there/{n}")).collect();
    bundle.linux()["maskedPaths"] = json!(many);
    bundle.linux()["readonlyPaths"] = json!(many);
    bundle.output();
    let many: Vec<_> = (0..5000).map(|n| format!("NAME{n}={n}")).collect();
    bundle.process()["env"] = json!(["PATH=/bin"]);
    bundle.process()["env"].as_array_mut().unwrap().extend(many.iter().map(|text| json!(text)));
    bundle.script("env | grep -c ^NAME; echo $NAME4999");
    assert_eq!(bundle.output(), "5000\n4999\n");
}

#[test]
fn cve_2021_43784_endless_documents_are_not_read() {
    let Some(bundle) = Bundle::new("endless", "true") else { return };
    // Sparse: it takes no space here, and would take all memory there.
    bundle.write_config();
    let command = bundle.command(&["run", &bundle.id]);
    fs::File::create(bundle.path().join("config.json")).unwrap().set_len(8 << 30).unwrap();
    let text = crate::bundle::finish(command).failed();
    assert!(text.contains("no more than"), "{text}");
    let nul = json!("a\0b");
    for (field, change) in [
        ("process.args", json!({ "process": { "args": [nul] } })),
        ("process.env", json!({ "process": { "env": [nul] } })),
        ("process.cwd", json!({ "process": { "cwd": "/a\0b" } })),
        ("hostname", json!({ "hostname": nul })),
        ("linux.maskedPaths", json!({ "linux": { "maskedPaths": ["/a\0b"] } })),
    ] {
        let mut other = Bundle::new("nul", "true").unwrap();
        merge(&mut other.config, &change);
        let text = other.fails();
        assert!(text.contains(field), "{field}: {text}");
    }
}

fn merge(into: &mut serde_json::Value, from: &serde_json::Value) {
    for (key, value) in from.as_object().unwrap() {
        match value {
            serde_json::Value::Object(_) => merge(&mut into[key], value),
            _ => into[key] = value.clone(),
        }
    }
}

/// The programs of the tests here are quick; a runtime that waits for something is wrong.
#[test]
fn cve_2023_25153_a_users_file_that_never_ends() {
    let Some(mut bundle) = Bundle::new("passwd", "echo $HOME") else { return };
    let passwd = bundle.rootfs().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    let begin = std::time::Instant::now();
    // A pipe that nobody writes to; a sparse file; a device; a link out; a directory.
    rustix::fs::mkfifoat(rustix::fs::CWD, &passwd, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    assert_eq!(bundle.output(), "/\n");
    fs::remove_file(&passwd).unwrap();
    fs::File::create(&passwd).unwrap().set_len(10 << 30).unwrap();
    assert_eq!(bundle.output(), "/\n");
    fs::remove_file(&passwd).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &passwd).unwrap();
    assert_eq!(bundle.output(), "/\n");
    fs::remove_file(&passwd).unwrap();
    let outside = bundle.path().join("outside");
    fs::write(&outside, "root:x:0:0::/stolen:/bin/sh\n").unwrap();
    std::os::unix::fs::symlink(format!("{}{}", "/..".repeat(8), outside.display()), &passwd).unwrap();
    assert_eq!(bundle.output(), "/\n");
    fs::remove_file(&passwd).unwrap();
    fs::create_dir(&passwd).unwrap();
    assert_eq!(bundle.output(), "/\n");
    assert!(begin.elapsed() < Duration::from_secs(20));
    // What a file says is a home only if it is a path.
    fs::remove_dir(&passwd).unwrap();
    fs::write(&passwd, "root:x:0:0::$(reboot)\nX=1:/bin/sh\n").unwrap();
    assert_eq!(bundle.output(), "/\n");
    bundle.process()["user"]["uid"] = json!(77);
    assert_eq!(bundle.output(), "/\n");
}

#[test]
fn cve_2021_21334_the_environment_is_the_containers_own() {
    let Some(mut bundle) = Bundle::new("environment", "export") else { return };
    bundle.environment = vec![("SECRET_OF_THE_CALLER".to_owned(), "1".to_owned())];
    bundle.script("export; tr '\\0' '\\n' < /proc/self/environ; exec cat /proc/1/environ");
    let output = bundle.output();
    assert!(!output.contains("SECRET_OF_THE_CALLER") && !output.contains("CARGO"), "{output}");
    bundle.script("exec sleep 1000");
    bundle.run_detached();
    let output = bundle.exec(&["sh", "-c", "export; cat /proc/1/environ"]).output();
    assert!(!output.contains("SECRET_OF_THE_CALLER") && !output.contains("CARGO"), "{output}");
}
