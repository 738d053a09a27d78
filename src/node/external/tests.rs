//! What external runtimes are told, and what they say.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use oci_spec::runtime::LinuxNamespaceType;

use super::command::said;
use super::specification::{Limits, Surroundings, adapt, check_environment};
use super::*;
use crate::node::spec;
use crate::node::types::{Capabilities, ContainerConfig, ContainerSecurity, PodConfig, Resources};

fn runtime() -> ExternalRuntime {
    ExternalRuntime {
        handler: "crun".into(),
        path: "/usr/bin/crun".into(),
        args: vec!["--debug".into()],
        root: "/run/orlop/handlers/crun".into(),
        systemd_cgroup: false,
    }
}

fn container(security: ContainerSecurity, resources: Option<Resources>) -> oci_spec::runtime::Spec {
    let config = ContainerConfig { command: vec!["true".into()], security, resources, ..ContainerConfig::default() };
    let files = spec::PodFiles {
        hostname: "/p/hostname".into(),
        hosts: "/p/hosts".into(),
        resolv_conf: "/p/resolv.conf".into(),
        shm: "/p/shm".into(),
    };
    let input = spec::Input {
        pod: &PodConfig::default(),
        container_id: "c",
        config: &config,
        image: &Default::default(),
        user: &Default::default(),
        files: &files,
        mounts: &[],
        volumes: &[],
        devices: &[],
        cgroup: "/pod/c",
        unified_cgroups: true,
        host_name: "host",
    };
    spec::container(&input).unwrap()
}

#[test]
fn a_command_line_is_runcs() {
    let words = |log: Option<&Path>, verb: &[&str], runtime: &ExternalRuntime| {
        let verb: Vec<&OsStr> = verb.iter().map(OsStr::new).collect();
        let words = runtime.words(log, &verb).into_iter().map(|word| String::from_utf8(word).unwrap());
        words.collect::<Vec<_>>().join(" ")
    };
    let mut runtime = runtime();
    assert_eq!(
        words(Some(Path::new("/b/log")), &["start", "c"], &runtime),
        "/usr/bin/crun --debug --root /run/orlop/handlers/crun --log /b/log --log-format json start c"
    );
    runtime.args.clear();
    runtime.systemd_cgroup = true;
    assert_eq!(
        words(None, &["delete", "--force", "c"], &runtime),
        "/usr/bin/crun --root /run/orlop/handlers/crun --systemd-cgroup delete --force c"
    );
}

#[test]
fn the_last_error_of_a_log_is_what_went_wrong() {
    let runc = "{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"runc create failed: x\"}\n\
                {\"level\":\"info\",\"msg\":\"i\"}\n";
    assert_eq!(said(runc).as_deref(), Some("runc create failed: x"));
    let youki = "{\"timestamp\":\"t\",\"level\":\"ERROR\",\"fields\":{\"message\":\"failed to y\"},\"target\":\"z\"}\n";
    assert_eq!(said(youki).as_deref(), Some("failed to y"));
    assert_eq!(said("first\nplain text\n\n").as_deref(), Some("plain text"));
    assert_eq!(said("\n"), None);
    assert_eq!(said(&"ä".repeat(1000)).unwrap().len(), 1024);
}

#[test]
fn features_are_those_of_the_document() {
    let runc = br#"{"ociVersionMin":"1.0.0","ociVersionMax":"1.0.2-dev","mountOptions":["ro","rro"],
        "linux":{"namespaces":["cgroup","user"],"cgroup":{"v1":true}},"annotations":{}}"#;
    let found = Features::parse(runc).unwrap();
    assert!(found.recursive_read_only_mounts && found.user_namespaces && !found.id_mapped_mounts);
    assert_eq!(found.spec_version.as_deref(), Some("1.0.2-dev"));
    let newer = br#"{"mountOptions":["ro"],"linux":{"mountExtensions":{"idmap":{"enabled":true}}}}"#;
    let found = Features::parse(newer).unwrap();
    assert!(!found.recursive_read_only_mounts && !found.user_namespaces && found.id_mapped_mounts);
    assert_eq!(Features::parse(b"{}").unwrap(), Features::default());
    assert!(Features::parse(b"unknown command features").is_err());
}

#[test]
fn namespaces_of_the_pod_are_entered_by_path() {
    let surroundings = Surroundings {
        namespaces: vec![(LinuxNamespaceType::Network, "/proc/7/ns/net".into())],
        ..Surroundings::default()
    };
    let adapted = adapt(container(ContainerSecurity::default(), None), &surroundings).unwrap();
    let namespaces = adapted.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let network = namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network).unwrap();
    assert_eq!(network.path().as_deref(), Some(Path::new("/proc/7/ns/net")));
    assert!(namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount));
    assert_eq!(adapted.version(), "1.0.2");
}

#[test]
fn all_capabilities_are_all_that_the_machine_has() {
    // CAP_CHOWN and CAP_KILL.
    let limits = Limits { capabilities: 1 | 1 << 5, oom_score_adj: 0 };
    let sets = |security: ContainerSecurity, all_capabilities| {
        let surroundings = Surroundings { limits, all_capabilities, ..Surroundings::default() };
        let resources = Resources { oom_score_adj: -500, ..Resources::default() };
        let adapted = adapt(container(security, Some(resources)), &surroundings).unwrap();
        let process = adapted.process().clone().unwrap();
        assert_eq!(process.oom_score_adj(), Some(0));
        process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len()
    };
    assert_eq!(sets(ContainerSecurity { privileged: true, ..ContainerSecurity::default() }, true), 2);
    // What is asked for by name is for the runtime to give or to refuse.
    let names = Capabilities { add: vec!["SYS_ADMIN".into()], drop: vec!["ALL".into()], ..Capabilities::default() };
    assert_eq!(sets(ContainerSecurity { capabilities: names, ..ContainerSecurity::default() }, false), 1);
}

#[test]
fn an_environment_that_is_not_text_is_refused_by_name() {
    check_environment(&[b"A=\xc3\xa4".to_vec()], "crun").unwrap();
    let refused = check_environment(&[b"A=1".to_vec(), b"B=\xff".to_vec()], "crun").unwrap_err();
    assert!(refused.message.contains("\"B\"") && refused.message.contains("crun"), "{}", refused.message);
}

#[test]
fn the_built_in_runtime_has_two_names_and_more() {
    let handler = |path: Option<&str>| crate::config::Handler { path: path.map(Into::into), ..Default::default() };
    let configured =
        BTreeMap::from([("crun".to_owned(), handler(Some("/usr/bin/crun"))), ("mine".to_owned(), handler(None))]);
    let handlers = Handlers::of(&configured, Path::new("/run/orlop"), false);
    assert_eq!(handlers.names().collect::<Vec<_>>(), ["crun", "mine", "orlop"]);
    assert!(handlers.knows("") && handlers.knows("mine") && !handlers.knows("runc"));
    assert_eq!(handlers.runtime("crun").unwrap().root, Path::new("/run/orlop/handlers/crun"));
    assert!(
        handlers.runtime("").is_none() && handlers.runtime("mine").is_none() && handlers.runtime("orlop").is_none()
    );
    assert_eq!(handlers.known_features("crun"), None);
}
