//! config.json to plan: never a panic, and a plan keeps what the executor relies on.

use orlop::runtime::compile::{self, CgroupView, HostFacts, V1Hierarchy};
use orlop::runtime::plan::{LaunchPlan, MountSource, MountStep, Plan, RootSource};
use serde_json::{Value, json};

use super::bytes::Bytes;

/// A specification in which nearly everything is used.
fn whole() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "inside", "domainname": "example",
        "annotations": { "a": "b" },
        "process": {
            "terminal": false, "consoleSize": { "height": 24, "width": 80 },
            "user": { "uid": 1000, "gid": 1000, "umask": 18, "additionalGids": [5, 6] },
            "args": ["/bin/sh", "-c", "true"], "env": ["PATH=/bin", "HOME=/root", "A=b=c"], "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"],
                "inheritable": [], "ambient": [],
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 10, "hard": 20 }],
            "noNewPrivileges": true, "oomScoreAdj": 100,
            "apparmorProfile": "unconfined",
            "scheduler": { "policy": "SCHED_BATCH", "nice": 5 },
            "ioPriority": { "class": "IOPRIO_CLASS_BE", "priority": 4 },
            "execCPUAffinity": { "initial": "0", "final": "0-1" },
        },
        "hooks": {
            "createRuntime": [{ "path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5 }],
            "startContainer": [{ "path": "/bin/true" }],
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "size=65536k", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] },
            { "destination": "/data", "type": "bind", "source": "/data", "options": ["rbind", "rro", "rprivate"] },
            { "destination": "/data", "type": "none", "source": "none", "options": ["remount", "noatime"] },
            { "destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"] },
            { "destination": "/mapped", "type": "bind", "source": "relative", "options": ["bind", "ridmap"],
              "uidMappings": [{ "containerID": 0, "hostID": 100_000, "size": 65536 }],
              "gidMappings": [{ "containerID": 0, "hostID": 100_000, "size": 65536 }] },
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc", "path": "/proc/1/ns/ipc" },
                { "type": "network" }, { "type": "cgroup" }, { "type": "user" }, { "type": "time" },
            ],
            "uidMappings": [{ "containerID": 0, "hostID": 100_000, "size": 65536 }],
            "gidMappings": [{ "containerID": 0, "hostID": 100_000, "size": 65536 }],
            "timeOffsets": { "monotonic": { "secs": 5, "nanosecs": 6 } },
            "devices": [{ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0 }],
            "netDevices": { "eth7": { "name": "inside0" } },
            "cgroupsPath": "/a/b",
            "resources": { "devices": [{ "allow": false, "access": "rwm" }], "memory": { "limit": 100_000_000 } },
            "sysctl": { "net.ipv4.ip_forward": "1", "kernel.shmmax": "100" },
            "seccomp": { "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW" }] },
            "rootfsPropagation": "slave",
            "maskedPaths": ["/proc/kcore", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys"],
            "mountLabel": "",
            "personality": { "domain": "LINUX" },
            "memoryPolicy": { "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] },
            "intelRdt": { "closID": "x" },
        },
    })
}

/// Values that are likely to be taken for something else.
fn odd(bytes: &mut Bytes<'_>) -> Value {
    const TEXTS: [&str; 40] = [
        "",
        "/",
        "//",
        "/..",
        "/../../etc",
        "..",
        ".",
        "relative",
        "/proc",
        "/proc/self/attr",
        "/proc/../proc/sys",
        "/sys",
        "/dev",
        "/dev/null",
        "/dev/console",
        "a\0b",
        "/a\0b",
        "\n",
        "=",
        "A",
        "=x",
        "A=",
        "PATH=",
        "HOME=",
        "ro",
        "rw",
        "bind",
        "rbind",
        "remount",
        "idmap",
        "tmpcopyup",
        "mode=",
        "shared",
        "rslave",
        "tmpfs",
        "proc",
        "cgroup2",
        "SCMP_ACT_NOTIFY",
        "1.9.9",
        "net/../kernel/core_pattern",
    ];
    const NUMBERS: [i64; 14] = [
        0,
        1,
        -1,
        7,
        255,
        65535,
        65536,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
        i64::MAX,
        i64::MIN,
        1000,
    ];
    match bytes.below(9) {
        0 => Value::Null,
        1 => json!(bytes.flip()),
        2 => json!(*bytes.pick(&NUMBERS)),
        3 => json!(bytes.word()),
        4 => json!([]),
        5 => json!({}),
        6 => json!("/x".repeat(1 + bytes.below(3000))),
        7 => json!(String::from_utf8_lossy(bytes.take(8))),
        _ => json!(*bytes.pick(&TEXTS)),
    }
}

/// Changes the value somewhere below.
fn change(value: &mut Value, bytes: &mut Bytes<'_>, depth: usize) {
    let here = bytes.below(6) == 0 && depth > 0;
    match value {
        Value::Object(map) if !map.is_empty() && !here => {
            let at = bytes.below(map.len());
            let key = map.keys().nth(at).cloned().unwrap_or_default();
            if bytes.below(8) == 0 {
                map.remove(&key);
            } else if let Some(inner) = map.get_mut(&key) {
                change(inner, bytes, depth + 1);
            }
        }
        Value::Array(list) if !list.is_empty() && !here => {
            let at = bytes.below(list.len());
            match bytes.below(8) {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                2 => list.push(odd(bytes)),
                _ => change(&mut list[at], bytes, depth + 1),
            }
        }
        other => *other = odd(bytes),
    }
}

/// What is known of the host.
fn facts(bytes: &mut Bytes<'_>) -> HostFacts {
    let cgroup_view = match bytes.below(3) {
        0 => CgroupView::None,
        1 => CgroupView::V2("/sys/fs/cgroup/x".into()),
        _ => CgroupView::V1(vec![V1Hierarchy { name: "cpu,cpuacct".into(), directory: "/sys/fs/cgroup/cpu/x".into() }]),
    };
    HostFacts {
        cgroup_view,
        pod_namespaces: if bytes.flip() { libc::CLONE_NEWUTS as u32 } else { 0 },
        bundle: "/bundle".into(),
        bind_devices: bytes.flip(),
        ..HostFacts::default()
    }
}

pub fn check(input: &[u8]) {
    let mut bytes = Bytes(input);
    let mut value = whole();
    let facts = facts(&mut bytes);
    for _ in 0..24 {
        if bytes.is_empty() {
            break;
        }
        change(&mut value, &mut bytes, 0);
    }
    let Ok((spec, _)) = compile::read_spec(value.to_string().as_bytes()) else { return };
    let root = RootSource::Directory(b"/bundle/rootfs".to_vec());
    let Ok((_, plan)) = compile::container(&spec, root, &facts) else { return };
    obeys(&plan);
    let plan = Plan::Launch(Box::new(plan));
    let encoded = plan.encode().expect("a plan can be encoded");
    assert_eq!(Plan::decode(&encoded).expect("and decoded"), plan);
    if let Some(process) = spec.process()
        && let Ok((_, exec)) = compile::process(&spec, process, &facts)
    {
        let exec = Plan::Exec(Box::new(exec));
        assert_eq!(Plan::decode(&exec.encode().unwrap()).unwrap(), exec);
    }
}

fn obeys(plan: &LaunchPlan) {
    let absolute =
        |path: &[u8]| assert!(path.starts_with(b"/") && !path.contains(&0), "{:?}", String::from_utf8_lossy(path));
    let text = |text: &[u8]| assert!(!text.contains(&0), "{:?}", String::from_utf8_lossy(text));
    plan.join.iter().for_each(|namespace| absolute(&namespace.path));
    plan.masked.iter().chain(&plan.readonly).for_each(|path| absolute(path));
    plan.devices.iter().for_each(|device| {
        absolute(&device.path);
        assert!(!device.path.ends_with(b"/"));
        device.bind.iter().for_each(|path| absolute(path));
    });
    plan.symlinks.iter().for_each(|(link, target)| {
        absolute(link);
        text(target);
    });
    for step in &plan.mounts {
        match step {
            MountStep::Symlink { path, target } => {
                absolute(path);
                text(target);
            }
            MountStep::Change { path, .. } => absolute(path),
            MountStep::Mount(mount) => {
                absolute(&mount.target);
                match &mount.source {
                    MountSource::Bind { path, .. } => absolute(path),
                    MountSource::Filesystem { kind, options, fallback, .. } => {
                        text(kind);
                        assert!(!kind.is_empty());
                        fallback.iter().for_each(|path| absolute(path));
                        options.iter().for_each(|(key, value)| {
                            text(key);
                            value.iter().for_each(|value| text(value));
                        });
                    }
                    MountSource::Attached => {}
                }
            }
        }
    }
    plan.late_changes.iter().for_each(|(path, _)| absolute(path));
    // A sysctl leads nowhere but below /proc/sys, and not to what is the whole machine's.
    for (path, value) in &plan.sysctls {
        let path = std::str::from_utf8(path).unwrap();
        assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path}");
        assert!(["net/", "kernel/", "fs/mqueue/", "user/"].iter().any(|root| path.starts_with(root)), "{path}");
        assert!(!value.iter().any(|b| b"+=;\n\0|".contains(b)));
    }
    let process = &plan.process;
    absolute(&process.cwd);
    // A container without a process can be created; what starts has a name.
    assert!(process.args.first().is_none_or(|name| !name.is_empty()));
    process.args.iter().for_each(|arg| text(arg));
    let mut names = std::collections::HashSet::new();
    for entry in &process.env {
        text(entry);
        let name = entry.split(|&b| b == b'=').next().unwrap();
        assert!(!name.is_empty() && name.len() < entry.len() && names.insert(name));
    }
    assert!(process.umask <= 0o777);
    let sets = process.capabilities;
    let all = (1u64 << compile::CAPABILITY_NAMES.len()) - 1;
    assert_eq!((sets.bounding | sets.effective | sets.permitted | sets.inheritable | sets.ambient) & !all, 0);
    assert!(plan.hostname.iter().chain(&plan.domainname).all(|name| name.len() <= 64 && !name.contains(&0)));
    if let Some(filter) = &process.seccomp {
        assert!(filter.program.len().is_multiple_of(8) && filter.program.len() / 8 <= 4096);
    }
}
