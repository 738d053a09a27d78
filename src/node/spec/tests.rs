//! What a spec must hold.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Capability, LinuxNamespaceType};

use super::*;
use crate::node::types::{Capabilities, EnvVar, Mount, Propagation, Resources};

struct Case {
    pod: PodConfig,
    config: ContainerConfig,
    image: ImageDefaults,
    user: ResolvedUser,
    mounts: Vec<ResolvedMount>,
    volumes: Vec<Volume>,
}

impl Case {
    fn new() -> Self {
        let image = ImageDefaults {
            env: vec!["PATH=/bin".into(), "A=image".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["cmd".into()],
            working_dir: "/work".into(),
            stop_signal: String::new(),
        };
        let mut config = ContainerConfig::default();
        config.security.namespaces.pid = NamespaceMode::Container;
        Self {
            pod: PodConfig { hostname: "box".into(), ..PodConfig::default() },
            config,
            image,
            user: ResolvedUser::default(),
            mounts: Vec::new(),
            volumes: Vec::new(),
        }
    }

    fn with<R>(&self, use_it: impl FnOnce(&Input<'_>) -> R) -> R {
        let files = PodFiles {
            hostname: "/s/hostname".into(),
            hosts: "/s/hosts".into(),
            resolv_conf: "/s/resolv.conf".into(),
            shm: "/s/shm".into(),
        };
        use_it(&Input {
            pod: &self.pod,
            container_id: "id",
            config: &self.config,
            image: &self.image,
            user: &self.user,
            files: &files,
            mounts: &self.mounts,
            volumes: &self.volumes,
            devices: &[],
            cgroup: "/pods/id",
            unified_cgroups: true,
            host_name: "host",
        })
    }

    fn spec(&self) -> Spec {
        self.with(container).unwrap()
    }

    fn args(&self) -> Vec<String> {
        self.spec().process().as_ref().unwrap().args().clone().unwrap()
    }

    fn env(&self) -> Vec<String> {
        self.spec().process().as_ref().unwrap().env().clone().unwrap()
    }

    fn mount_options(&self, path: &str) -> Option<Vec<String>> {
        let spec = self.spec();
        let mounts = spec.mounts().as_ref().unwrap();
        let found = mounts.iter().find(|mount| mount.destination() == Path::new(path))?;
        found.options().clone()
    }
}

#[test]
fn a_command_replaces_the_entrypoint_and_the_cmd_arguments_only_the_cmd() {
    let mut case = Case::new();
    assert_eq!(case.args(), ["/entry", "cmd"]);
    case.config.args = vec!["arg".into()];
    assert_eq!(case.args(), ["/entry", "arg"]);
    case.config.command = vec!["/run".into()];
    assert_eq!(case.args(), ["/run", "arg"]);
    case.config.args.clear();
    assert_eq!(case.args(), ["/run"]);
}

#[test]
fn nothing_to_run_is_an_error_that_names_the_container() {
    let mut case = Case::new();
    case.config.metadata.name = "idle".into();
    (case.image.entrypoint, case.image.cmd) = (vec![], vec![]);
    let error = case.with(container).unwrap_err();
    assert!(error.to_string().contains("\"idle\" has nothing to run"), "{error}");
}

#[test]
fn later_environment_entries_win_in_the_place_of_the_earlier() {
    let mut case = Case::new();
    case.config.envs = vec![
        EnvVar { key: "A".into(), value: b"request".to_vec() },
        EnvVar { key: "B".into(), value: b"1".to_vec() },
        EnvVar { key: "B".into(), value: b"2".to_vec() },
    ];
    assert_eq!(case.env(), ["PATH=/bin", "HOSTNAME=box", "A=request", "B=2", "HOME=/"]);
    case.user.home = Some("/root".into());
    assert!(case.env().contains(&"HOME=/root".to_owned()));
}

#[test]
fn a_home_that_is_no_path_does_not_reach_the_environment() {
    let mut case = Case::new();
    case.user.home = Some("x\nroot::0:0::/:/bin/sh".into());
    assert!(case.env().contains(&"HOME=/".to_owned()));
}

#[test]
fn values_need_not_be_utf8_but_names_must_be_names() {
    let mut case = Case::new();
    case.config.envs = vec![EnvVar { key: "RAW".into(), value: vec![0xff, 0xfe] }];
    let entries = case.with(environment).unwrap();
    assert!(entries.contains(&b"RAW=\xff\xfe".to_vec()));
    for (key, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
        case.config.envs = vec![EnvVar { key: key.into(), value: value.into() }];
        assert!(case.with(environment).is_err(), "{key:?}={value:?}");
    }
}

#[test]
fn a_request_adds_no_limit_that_it_does_not_name() {
    let mut case = Case::new();
    case.config.resources =
        Some(Resources { cpu_shares: Some(102), memory_limit: Some(1 << 27), ..Resources::default() });
    let spec = case.spec();
    let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
    let cpu = resources.cpu().clone().unwrap();
    assert_eq!((cpu.shares(), cpu.quota(), cpu.period()), (Some(102), None, None));
    assert_eq!((cpu.cpus().clone(), cpu.mems().clone()), (None, None));
    let memory = resources.memory().unwrap();
    assert_eq!((memory.limit(), memory.swap()), (Some(1 << 27), Some(1 << 27)));
    assert_eq!((memory.reservation(), memory.swappiness(), memory.kernel()), (None, None, None));
    assert!(resources.pids().is_none() && resources.block_io().is_none() && resources.network().is_none());
    case.config.resources = None;
    let resources = case.spec().linux().as_ref().unwrap().resources().clone().unwrap();
    assert!(resources.memory().is_none() && resources.cpu().is_none() && resources.pids().is_none());
    assert!(case.spec().process().as_ref().unwrap().rlimits().is_none());
}

#[test]
fn a_container_never_names_its_pod() {
    let spec = Case::new().spec();
    assert_eq!((spec.hostname().as_deref(), spec.domainname().as_deref()), (None, None));
}

#[test]
fn capabilities_follow_the_order_of_cri() {
    let bounding = |capabilities: Capabilities, privileged: bool| {
        let mut case = Case::new();
        case.config.security.capabilities = capabilities;
        case.config.security.privileged = privileged;
        let process = case.spec().process().clone().unwrap();
        let sets = process.capabilities().clone().unwrap();
        assert_eq!(sets.inheritable().as_ref().map(HashSet::len), Some(0));
        sets.bounding().clone().unwrap()
    };
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let default = bounding(Capabilities::default(), false);
    assert_eq!(default.len(), 14);
    assert!(!default.contains(&Capability::SysAdmin));
    let dropped =
        bounding(Capabilities { add: names(&["NET_ADMIN"]), drop: names(&["ALL"]), ..Default::default() }, false);
    assert_eq!(dropped, HashSet::from([Capability::NetAdmin]));
    let all = bounding(Capabilities { add: names(&["all"]), drop: names(&["CAP_CHOWN"]), ..Default::default() }, false);
    assert_eq!(all.len(), 40);
    assert_eq!(bounding(Capabilities::default(), true).len(), 41);
}

#[test]
fn an_unknown_capability_is_named() {
    let mut case = Case::new();
    case.config.security.capabilities.add = vec!["FLY".into()];
    assert!(matches!(case.with(container), Err(SpecError::Capability(name)) if name == "FLY"));
}

#[test]
fn the_pod_lends_its_namespaces_and_the_container_has_its_own() {
    let kinds = |case: &Case| {
        let spec = case.spec();
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        namespaces.iter().map(|namespace| namespace.typ()).collect::<Vec<_>>()
    };
    let mut case = Case::new();
    assert_eq!(kinds(&case), [LinuxNamespaceType::Mount, LinuxNamespaceType::Pid, LinuxNamespaceType::Cgroup]);
    case.config.security.namespaces.pid = NamespaceMode::Pod;
    case.config.security.privileged = true;
    assert_eq!(kinds(&case), [LinuxNamespaceType::Mount]);
}

#[test]
fn a_mount_of_the_request_takes_the_place_of_the_pods_own() {
    let mut case = Case::new();
    assert!(case.mount_options("/etc/hosts").unwrap().contains(&"rw".to_owned()));
    case.config.security.readonly_rootfs = true;
    assert!(case.mount_options("/etc/hosts").unwrap().contains(&"ro".to_owned()));
    for path in ["/etc/hosts/", "/dev/shm", "/sys"] {
        case.config.mounts.push(Mount { container_path: path.into(), ..Mount::default() });
        case.mounts.push(ResolvedMount { index: case.config.mounts.len() - 1, source: "/kubelet".into() });
    }
    let spec = case.spec();
    let at = |path: &str| {
        let all = spec.mounts().as_ref().unwrap().iter();
        all.filter(|mount| mount.destination() == Path::new(path)).collect::<Vec<_>>()
    };
    for path in ["/etc/hosts", "/dev/shm", "/sys"] {
        assert_eq!(at(path).len(), 1, "{path}");
        assert_eq!(at(path)[0].source().as_deref(), Some(Path::new("/kubelet")), "{path}");
    }
}

#[test]
fn parents_are_mounted_before_children() {
    let mut case = Case::new();
    for path in ["/a/b/c", "/a", "/a/b"] {
        case.config.mounts.push(Mount { container_path: path.into(), ..Mount::default() });
        case.mounts.push(ResolvedMount { index: case.config.mounts.len() - 1, source: "/x".into() });
    }
    let spec = case.spec();
    let order: Vec<_> = spec.mounts().as_ref().unwrap().iter().map(|mount| mount.destination().clone()).collect();
    let at = |path: &str| order.iter().position(|other| other == Path::new(path)).unwrap();
    assert!(at("/a") < at("/a/b") && at("/a/b") < at("/a/b/c"));
    assert!(at("/proc") == 0);
}

#[test]
fn propagation_reaches_the_root_and_recursive_read_only_needs_privacy() {
    let mut case = Case::new();
    let mut mount = Mount { container_path: "/v".into(), propagation: Propagation::Bidirectional, ..Mount::default() };
    case.mounts.push(ResolvedMount { index: 0, source: "/v".into() });
    case.config.mounts = vec![mount.clone()];
    assert_eq!(case.mount_options("/v").unwrap(), ["rbind", "rshared", "rw"]);
    assert_eq!(case.spec().linux().as_ref().unwrap().rootfs_propagation().as_deref(), Some("rshared"));
    mount.recursive_read_only = true;
    mount.readonly = true;
    case.config.mounts = vec![mount.clone()];
    let error = case.with(container).unwrap_err();
    assert!(error.to_string().starts_with("RROUnsupported"), "{error}");
    mount.propagation = Propagation::Private;
    case.config.mounts = vec![mount];
    assert_eq!(case.mount_options("/v").unwrap(), ["rbind", "rprivate", "rro"]);
}

#[test]
fn stop_signals_have_names_and_numbers() {
    let config = ContainerConfig::default();
    let signal = |text: &str| stop_signal(&config, text);
    for (text, number) in [("", 15), ("SIGQUIT", 3), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)] {
        assert_eq!(signal(text).unwrap(), number, "{text}");
    }
    for text in ["0", "65", "SIGFOO", "RTMIN+99"] {
        assert!(signal(text).is_err(), "{text}");
    }
    let config = ContainerConfig { stop_signal: Some(10), ..ContainerConfig::default() };
    assert_eq!(stop_signal(&config, "SIGQUIT").unwrap(), 10);
}

/// CVE-2024-3154 and CVE-2023-6476: runtimes take orders from annotations, and anybody who may make a pod writes them.
#[test]
fn annotations_of_pods_do_not_reach_a_runtime() {
    let mut case = Case::new();
    case.config.annotations = [("org.systemd.property.ExecStartPre".into(), "['/bin/sh']".into())].into();
    assert_eq!(*case.with(container).unwrap().annotations(), None);
}
