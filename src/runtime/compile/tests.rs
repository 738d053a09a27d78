//! Plans from specifications, without root and without a machine.

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::*;
use crate::runtime::plan::{MountSource, MountStep, Plan};

fn spec() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "process": { "args": ["/app"], "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] },
    })
}

fn compile(value: &Value, host: &HostFacts) -> Result<(SpawnHeader, LaunchPlan)> {
    let spec: Spec = serde_json::from_value(value.clone()).unwrap();
    container(&spec, RootSource::default(), host)
}

#[track_caller]
fn plan(value: &Value) -> LaunchPlan {
    compile(value, &HostFacts::default()).unwrap().1
}

#[track_caller]
fn error(value: &Value) -> String {
    compile(value, &HostFacts::default()).unwrap_err().to_string()
}

fn with(path: &str, value: Value) -> Value {
    let mut spec = spec();
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = if parent.is_empty() { &mut spec } else { spec.pointer_mut(parent).unwrap() };
    parent[name] = value;
    spec
}

#[test]
fn a_plan_survives_its_encoding() {
    let (_, launch) = compile(&spec(), &HostFacts::default()).unwrap();
    let plan = Plan::Launch(Box::new(launch));
    assert_eq!(Plan::decode(&plan.encode().unwrap()).unwrap(), plan);
    assert!(Plan::decode(b"").is_err());
}

#[test]
fn new_namespaces_are_flags_and_the_cgroup_namespace_is_the_childs() {
    let kinds = ["mount", "pid", "ipc", "uts", "network", "cgroup"].map(|kind| json!({ "type": kind }));
    let (header, launch) = compile(&with("/linux/namespaces", json!(kinds)), &HostFacts::default()).unwrap();
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET;
    assert_eq!(header.clone_flags, flags as u64);
    assert!(launch.new_cgroup_namespace && launch.join.is_empty() && !header.join_pid_namespace);
}

#[test]
fn namespaces_with_a_path_are_entered() {
    let list = json!([{ "type": "mount" }, { "type": "pid", "path": "/proc/7/ns/pid" },
        { "type": "network", "path": "/run/netns/x" }]);
    let (header, launch) = compile(&with("/linux/namespaces", list), &HostFacts::default()).unwrap();
    assert!(header.join_pid_namespace);
    assert_eq!(header.clone_flags, libc::CLONE_NEWNS as u64);
    assert_eq!(launch.join.len(), 1);
    assert_eq!(launch.join[0].path, b"/run/netns/x");
}

#[test]
fn impossible_namespaces_are_refused() {
    let twice = with("/linux/namespaces", json!([{ "type": "mount" }, { "type": "pid" }, { "type": "pid" }]));
    assert!(error(&twice).contains("twice"));
    assert!(error(&with("/linux/namespaces", json!([{ "type": "pid" }]))).contains("mount namespace"));
    let list = json!([{ "type": "mount" }, { "type": "network", "path": "run/x" }]);
    assert!(error(&with("/linux/namespaces", list)).contains("absolute"));
}

#[test]
fn fields_that_cannot_be_honoured_are_errors_with_their_names() {
    assert!(error(&with("/linux/mountLabel", json!("x"))).contains("linux.mountLabel"));
    assert!(error(&with("/process/selinuxLabel", json!("x"))).contains("process.selinuxLabel"));
    assert!(error(&with("/process/apparmorProfile", json!("x"))).contains("process.apparmorProfile"));
    plan(&with("/process/apparmorProfile", json!("unconfined")));
}

#[test]
fn hooks_are_split_between_the_child_and_its_parent() {
    let hook = |path: &str| json!([{ "path": path, "args": ["a"], "env": ["A=b"], "timeout": 3 }]);
    let hooks = json!({
        "prestart": [], "createRuntime": hook("/cr"), "createContainer": hook("/cc"), "startContainer": hook("/sc"),
        "poststart": hook("/psa"), "poststop": hook("/pso"),
    });
    let text = with("/hooks", hooks);
    let of_child = plan(&text).hooks;
    assert!(of_child.pause);
    assert_eq!((of_child.create_container[0].path.as_slice(), of_child.start_container.len()), (b"/cc".as_slice(), 1));
    assert_eq!(of_child.create_container[0].timeout, Some(3));
    assert!(!plan(&with("/hooks", json!({ "prestart": [], "poststop": hook("/x") }))).hooks.pause);
    for (hook, problem) in [
        (json!({ "path": "relative" }), "absolute"),
        (json!({ "path": "/x", "timeout": 0 }), "greater than zero"),
        (json!({ "path": "/x", "env": ["=x"] }), "no name and value"),
        (json!({ "path": "/x", "args": ["a\0b"] }), "NUL"),
    ] {
        let error = error(&with("/hooks", json!({ "startContainer": [hook] })));
        assert!(error.contains(problem) && error.contains("hooks.startContainer[0]"), "{error}");
    }
}

#[test]
fn labels_go_where_a_module_takes_them() {
    let security = SecurityModules { apparmor: true, selinux: true };
    let host = HostFacts { security, ..HostFacts::default() };
    let mut spec = with("/process/apparmorProfile", json!("orlop"));
    spec["process"]["selinuxLabel"] = json!("u:r:t:s0:c1,c2");
    spec["linux"]["mountLabel"] = json!("u:object_r:t:s0:c1,c2");
    spec["mounts"] = json!([
        { "destination": "/proc", "type": "proc" },
        { "destination": "/dev", "type": "tmpfs" },
        { "destination": "/dev/pts", "type": "devpts" },
        { "destination": "/dev/mqueue", "type": "mqueue" },
        { "destination": "/data", "source": "/data", "options": ["bind"] },
    ]);
    let plan = compile(&spec, &host).unwrap().1;
    assert_eq!(plan.process.apparmor.as_deref(), Some(&b"orlop"[..]));
    assert_eq!(plan.process.selinux.as_deref(), Some(&b"u:r:t:s0:c1,c2"[..]));
    let label = b"u:object_r:t:s0:c1,c2".to_vec();
    assert_eq!(plan.mount_label.as_ref(), Some(&label));
    let context = (b"context".to_vec(), Some(label.clone()));
    for step in &plan.mounts {
        let MountStep::Mount(mount) = step else { panic!("{step:?}") };
        let by_option = matches!(&mount.source, MountSource::Filesystem { options, .. } if options.contains(&context));
        let expected = matches!(mount.target.as_slice(), b"/dev" | b"/dev/pts");
        assert_eq!(by_option, expected, "{mount:?}");
        assert_eq!(mount.label.is_some(), mount.target == b"/dev/mqueue", "{mount:?}");
    }
    for field in ["/process/apparmorProfile", "/process/selinuxLabel", "/linux/mountLabel"] {
        let error = compile(&with(field, json!("a\nb")), &host).unwrap_err().to_string();
        assert!(error.contains(&field[1..].replace('/', ".")), "{error}");
    }
    // Where there is an AppArmor, "unconfined" is a profile like others.
    let plan = compile(&with("/process/apparmorProfile", json!("unconfined")), &host).unwrap().1;
    assert!(plan.process.apparmor.is_some());
}

#[test]
fn versions_of_the_specification() {
    for good in ["1.0.0", "1.0.2-dev", "1.3.0", "1.9.1+x"] {
        plan(&with("/ociVersion", json!(good)));
    }
    for bad in ["", "0.9.0", "2.0.0", "1.0", "x"] {
        assert!(error(&with("/ociVersion", json!(bad))).contains("ociVersion"), "{bad}");
    }
}

#[test]
fn the_environment_keeps_the_last_value_at_the_first_place() {
    let env = json!(["A=1", "HOME=", "B=x=y", "A=2", "C="]);
    let process = plan(&with("/process/env", env)).process;
    assert_eq!(process.env, [b"A=2".to_vec(), b"B=x=y".to_vec(), b"C=".to_vec()]);
    assert!(process.default_home);
    assert!(!plan(&with("/process/env", json!(["HOME=/x"]))).process.default_home);
    for bad in ["A", "=1", "", "A=\0"] {
        assert!(error(&with("/process/env", json!([bad]))).contains("process.env"), "{bad:?}");
    }
}

#[test]
fn arguments_and_directory_are_checked() {
    assert!(error(&with("/process/args", json!([]))).contains("process.args"));
    assert!(error(&with("/process/args", json!([""]))).contains("process.args"));
    assert!(error(&with("/process/args", json!(["a", "b\0"]))).contains("NUL"));
    assert!(error(&with("/process/cwd", json!("x"))).contains("process.cwd"));
}

#[test]
fn numbers_of_the_process_are_checked() {
    assert_eq!(plan(&spec()).process.umask, 0o022);
    let user = json!({ "uid": 5, "gid": 6, "umask": 0o77, "additionalGids": [7, 8] });
    let process = plan(&with("/process/user", user)).process;
    assert_eq!((process.uid, process.gid, process.umask), (5, 6, 0o77));
    assert_eq!(process.groups, [7, 8]);
    assert!(error(&with("/process/user", json!({ "uid": 0, "gid": 0, "umask": 0o1000 }))).contains("umask"));
    assert!(error(&with("/process/oomScoreAdj", json!(1001))).contains("oomScoreAdj"));
    assert_eq!(plan(&with("/process/oomScoreAdj", json!(-998))).process.oom_score_adj, Some(-998));
    assert_eq!(plan(&spec()).process.oom_score_adj, None);
    let limit = json!({ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 2 });
    let limits = plan(&with("/process/rlimits", json!([limit]))).process.rlimits;
    assert_eq!((limits[0].resource, limits[0].soft, limits[0].hard), (7, 1, 2));
    assert!(error(&with("/process/rlimits", json!([limit, limit]))).contains("twice"));
    let inverted = json!([{ "type": "RLIMIT_CORE", "soft": 3, "hard": 2 }]);
    assert!(error(&with("/process/rlimits", inverted)).contains("above"));
}

#[test]
fn capabilities_are_bits_by_their_numbers() {
    let sets = json!({ "bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"], "effective": ["CAP_SYS_ADMIN"] });
    let sets = plan(&with("/process/capabilities", sets)).process.capabilities;
    assert_eq!(sets.bounding, 1 | 1 << 40);
    assert_eq!(sets.effective, 1 << 21);
    assert_eq!(sets.inheritable | sets.permitted | sets.ambient, 0);
}

#[test]
fn only_sysctls_of_namespaces_are_taken() {
    let mut value =
        with("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/forwarding": "1" }));
    assert!(error(&value).contains("network namespace"));
    value["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "network" }));
    let expected: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (b"net/ipv4/conf/eth0.1/forwarding".to_vec(), b"1".to_vec()),
        (b"net/ipv4/ip_forward".to_vec(), b"1".to_vec()),
    ];
    assert_eq!(plan(&value).sysctls, expected);
    for (name, text) in [
        ("kernel.core_pattern", "x"),
        ("kernel.hostname", "x"),
        ("net..ipv4", "1"),
        ("net.ipv4/../../kernel/core_pattern", "1"),
        ("net.ipv4.ip forward", "1"),
        ("net.ipv4.ip_forward", "1+kernel.core_pattern=|/x"),
        ("net.ipv4.ip_forward", "1\n"),
        ("", "1"),
    ] {
        value["linux"]["sysctl"] = json!({ name: text });
        assert!(error(&value).contains("sysctl"), "{name:?} {text:?}");
    }
}

#[test]
fn sysctls_and_names_may_be_the_pods() {
    let mut value = with("/linux/sysctl", json!({ "kernel.shmmax": "100" }));
    value["hostname"] = json!("h");
    let host = HostFacts { pod_namespaces: (libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u32, ..HostFacts::default() };
    let (_, launch) = compile(&value, &host).unwrap();
    assert_eq!(launch.sysctls.len(), 1);
    assert_eq!(launch.hostname.as_deref(), Some(&b"h"[..]));
    assert!(compile(&value, &HostFacts::default()).is_err());
}

#[test]
fn default_devices_yield_to_those_of_the_specification() {
    let devices = json!([{ "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 9 }]);
    let launch = plan(&with("/linux/devices", devices));
    let null: Vec<_> = launch.devices.iter().filter(|d| d.path == b"/dev/null").collect();
    assert_eq!(null.len(), 1);
    assert_eq!((null[0].mode, null[0].uid), (libc::S_IFCHR | 0o600, 9));
    assert_eq!(launch.devices.len(), 6);
    assert!(
        error(&with("/linux/devices", json!([{ "path": "/dev/x", "type": "a", "major": 1, "minor": 1 }])))
            .contains("cgroup")
    );
    assert!(
        error(&with("/linux/devices", json!([{ "path": "dev/x", "type": "c", "major": 1, "minor": 1 }])))
            .contains("absolute")
    );
}

#[test]
fn nothing_is_put_into_a_dev_of_the_host() {
    let mut value = spec();
    let mount = json!({ "destination": "/dev/", "type": "bind", "source": "/dev", "options": ["rbind"] });
    value["mounts"].as_array_mut().unwrap().push(mount);
    value["process"]["terminal"] = json!(true);
    let launch = plan(&value);
    assert!(launch.devices.is_empty() && launch.symlinks.is_empty() && !launch.bind_console);
}

#[test]
fn binds_take_the_propagation_of_the_root_unless_they_have_one() {
    let bind = |options: Value| json!([{ "destination": "/x", "source": "y", "options": options }]);
    let host = HostFacts { bundle: "/bundle".into(), ..HostFacts::default() };
    let launch = compile(&with("/mounts", bind(json!(["rbind", "ro"]))), &host).unwrap().1;
    let MountStep::Mount(mount) = &launch.mounts[0] else { panic!() };
    assert_eq!(mount.source, MountSource::Bind { path: b"/bundle/y".to_vec(), recursive: true });
    assert_eq!(mount.flags.propagation[0], (libc::MS_SLAVE | libc::MS_REC) as u32);
    let launch = compile(&with("/mounts", bind(json!(["bind", "rshared"]))), &host).unwrap().1;
    let MountStep::Mount(mount) = &launch.mounts[0] else { panic!() };
    assert_eq!(mount.flags.propagation[0], (libc::MS_SHARED | libc::MS_REC) as u32);
    // What is for a file system and not for a mount is passed over, as mount(2) does.
    let launch = compile(&with("/mounts", bind(json!(["bind", "mode=7"]))), &host).unwrap().1;
    let MountStep::Mount(mount) = &launch.mounts[0] else { panic!() };
    assert_eq!((mount.flags.set, mount.flags.clear), (0, 0));
}

#[test]
fn mounts_that_endanger_proc_or_the_root_are_refused() {
    let bind = |target: &str, source: &str| {
        with("/mounts", json!([{ "destination": target, "source": source, "options": ["bind"] }]))
    };
    for target in ["/", "/..", "/proc", "/proc/self/attr", "/x/../proc/sys", "/proc/sys/crypto/../kernel"] {
        assert!(error(&bind(target, "/tmp")).contains("mounts"), "{target}");
    }
    plan(&bind("/proc/meminfo", "/lxcfs/meminfo"));
    plan(&bind("/proc", "/proc"));
    plan(&bind("/procfoo", "/tmp"));
    assert!(error(&with("/mounts", json!([{ "destination": "/x" }]))).contains("neither"));
}

#[test]
fn a_readonly_tmpfs_is_filled_first() {
    let mounts = json!([{ "destination": "/t", "type": "tmpfs", "source": "t", "options": ["ro", "nosuid"] }]);
    let launch = plan(&with("/mounts", mounts));
    let MountStep::Mount(mount) = &launch.mounts[0] else { panic!() };
    assert_eq!(mount.flags.set, libc::MOUNT_ATTR_NOSUID);
    assert_eq!(launch.late_changes[0].0, b"/t");
    assert_eq!(launch.late_changes[0].1.set, libc::MOUNT_ATTR_RDONLY);
}

#[test]
fn cgroup_mounts_follow_the_host() {
    let mounts = json!([{ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] }]);
    let value = with("/mounts", mounts);
    assert!(error(&value).contains("cgroups"));
    let hierarchy =
        |name: &str| V1Hierarchy { name: name.into(), directory: format!("/sys/fs/cgroup/{name}/x").into() };
    let view = CgroupView::V1(vec![hierarchy("cpu,cpuacct"), hierarchy("memory")]);
    let host = HostFacts { cgroup_view: view, ..HostFacts::default() };
    let steps = compile(&value, &host).unwrap().1.mounts;
    let kinds: Vec<_> = steps
        .iter()
        .map(|step| match step {
            MountStep::Mount(mount) => String::from_utf8_lossy(&mount.target).into_owned(),
            MountStep::Symlink { path, target } => {
                format!("{} -> {}", String::from_utf8_lossy(path), String::from_utf8_lossy(target))
            }
            MountStep::Change { path, .. } => format!("change {}", String::from_utf8_lossy(path)),
        })
        .collect();
    let expected = [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup/cpu -> cpu,cpuacct",
        "/sys/fs/cgroup/cpuacct -> cpu,cpuacct",
        "/sys/fs/cgroup/memory",
        "change /sys/fs/cgroup",
    ];
    assert_eq!(kinds, expected);
    let host = HostFacts { cgroup_view: CgroupView::V2("/sys/fs/cgroup/x".into()), ..HostFacts::default() };
    let steps = compile(&value, &host).unwrap().1.mounts;
    assert!(matches!(&steps[0], MountStep::Mount(MountPlan { source: MountSource::Filesystem { kind, .. }, .. })
        if kind == b"cgroup2"));
}

use crate::runtime::plan::MountPlan;

#[test]
fn an_exec_enters_what_the_container_has_of_its_own() {
    let value: Spec = serde_json::from_value(with(
        "/linux/namespaces",
        json!([{ "type": "mount" }, { "type": "pid" }, { "type": "cgroup" }, { "type": "ipc" }]),
    ))
    .unwrap();
    let (header, exec) = process(&value, value.process().as_ref().unwrap(), &HostFacts::default()).unwrap();
    // The child enters everything itself, its PID namespace last.
    assert!(!header.join_pid_namespace && header.clone_flags == 0);
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP | libc::CLONE_NEWIPC | libc::CLONE_NEWPID;
    assert_eq!(exec.namespaces, flags as u32);
}

#[test]
fn hidden_paths_are_absolute_and_listed_once() {
    let launch = plan(&with("/linux/maskedPaths", json!(["/proc/keys", "/proc//keys", "/x"])));
    assert_eq!(launch.masked.len(), 2);
    assert!(error(&with("/linux/readonlyPaths", json!(["proc"]))).contains("readonlyPaths"));
}

#[test]
fn root_propagation_has_nine_names() {
    for good in ["", "slave", "rslave", "private", "rprivate", "shared", "rshared", "unbindable", "runbindable"] {
        plan(&with("/linux/rootfsPropagation", json!(good)));
    }
    assert!(error(&with("/linux/rootfsPropagation", json!("x"))).contains("rootfsPropagation"));
}

#[test]
fn scheduling_fits_its_policy() {
    let process = plan(&with("/process/scheduler", json!({ "policy": "SCHED_BATCH", "nice": 5 }))).process;
    assert_eq!(process.scheduler.map(|s| (s.policy, s.nice, s.flags)), Some((3, 5, 0)));
    let of = |value: Value| compile(&with("/process/scheduler", value), &HostFacts::default());
    assert_eq!(of(json!({ "policy": "SCHED_RR", "priority": 3 })).unwrap().1.process.scheduler.unwrap().priority, 3);
    for bad in [
        json!({ "policy": "SCHED_OTHER", "nice": 20 }),
        json!({ "policy": "SCHED_OTHER", "priority": 1 }),
        json!({ "policy": "SCHED_RR", "runtime": 1 }),
        json!({ "policy": "SCHED_FIFO", "priority": -1 }),
    ] {
        assert!(of(bad.clone()).unwrap_err().to_string().contains("process.scheduler"), "{bad}");
    }
    let io = json!({ "class": "IOPRIO_CLASS_BE", "priority": 4 });
    assert_eq!(plan(&with("/process/ioPriority", io)).process.io_priority, Some(2 << 13 | 4));
    assert!(error(&with("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }))).contains("7"));
    let domain = json!({ "domain": "LINUX32" });
    assert_eq!(plan(&with("/linux/personality", domain)).process.personality, Some(8));
}

#[test]
fn a_user_namespace_is_the_stagers_with_all_that_is_new() {
    let mut spec = spec();
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    spec["linux"]["namespaces"] = json!([{ "type": "user" }, { "type": "mount" }, { "type": "cgroup" },
        { "type": "pid", "path": "/proc/7/ns/pid" }, { "type": "time" }]);
    spec["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": -5 } });
    assert!(error(&spec).contains("a new user namespace needs it"));
    spec["linux"]["uidMappings"] = map.clone();
    assert!(error(&spec).contains("gidMappings"));
    spec["linux"]["gidMappings"] = map.clone();
    let (header, launch) = compile(&spec, &HostFacts::default()).unwrap();
    assert_eq!((header.clone_flags, header.join_pid_namespace), (0, false));
    let user = launch.user.unwrap();
    let new = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    assert_eq!((user.path, user.new_namespaces), (None, new as u64));
    assert_eq!(launch.join.iter().map(|j| j.kind).collect::<Vec<_>>(), [libc::CLONE_NEWPID as u32]);
    assert_eq!(launch.time.unwrap().offsets[0].seconds, -5);
    assert!(launch.devices.iter().all(|device| device.bind.is_some()));
    // An exec has nothing done by the parent of its fork.
    let parsed: Spec = serde_json::from_value(spec.clone()).unwrap();
    let (header, plan) = process(&parsed, parsed.process().as_ref().unwrap(), &HostFacts::default()).unwrap();
    assert!(!header.join_pid_namespace);
    assert_eq!(plan.namespaces, (new | libc::CLONE_NEWPID) as u32 | 0x80);
    spec["linux"]["namespaces"] = json!([{ "type": "mount" }]);
    spec["linux"]["timeOffsets"] = Value::Null;
    assert!(error(&spec).contains("only with a user namespace"));
    spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "user", "path": "/proc/7/ns/user" }]);
    assert_eq!(plan_of_user(&spec).path.as_deref(), Some(&b"/proc/7/ns/user"[..]));
}

fn plan_of_user(spec: &Value) -> crate::runtime::plan::UserPlan {
    plan(spec).user.unwrap()
}

#[test]
fn a_cgroup_belongs_to_the_containers_root_only_if_it_can_be_written() {
    let owner = |spec: &Value| cgroup_owner(&serde_json::from_value(spec.clone()).unwrap()).unwrap();
    let mut spec = spec();
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    spec["linux"]["namespaces"] = json!([{ "type": "user" }, { "type": "mount" }, { "type": "cgroup" }]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    assert_eq!(owner(&spec), None);
    spec["mounts"] =
        json!([{ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"] }]);
    assert_eq!(owner(&spec), Some(100_000));
    spec["mounts"][0]["options"] = json!(["ro"]);
    assert_eq!(owner(&spec), None);
    spec["mounts"][0]["options"] = json!([]);
    spec["linux"]["namespaces"] = json!([{ "type": "user" }, { "type": "mount" }]);
    assert_eq!(owner(&spec), None);
}
