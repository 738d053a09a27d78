//! Pods whose cgroups systemd makes. Needs a machine that systemd runs (process 1), such as the guest of
//! `make test-v2`; there, tests of other files run with this driver too.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use orlop::cri::v1;
use serde_json::json;
use support::agent::{Agent, in_netns, run, shim_of};
use support::kubelet::{Kubelet, code};
use support::registry::TestRegistry;

/// Whether systemd runs this machine, and the tests' agents use it.
fn able() -> bool {
    let able = Path::new("/run/systemd/system").is_dir() && support::agent::systemd();
    if !able {
        eprintln!("skipped: needs systemd as process 1 and ORLOP_TEST_CGROUP_DRIVER=systemd");
    }
    able
}

fn show(unit: &str, property: &str) -> String {
    run(Command::new("systemctl").args(["show", "--value", "--property", property, unit])).trim().to_owned()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display())).trim().to_owned()
}

#[test]
fn a_pod_is_a_scope_and_a_reload_changes_nothing() {
    if !able() {
        return;
    }
    in_netns(|| async {
        let registry = TestRegistry::start().expect("docker-registry");
        let image = support::image::busybox(json!({ "Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"] }));
        let image = image.push(&registry, "test/busybox", "1").await;
        let mut agent = Agent::start("").await;
        let mut kubelet = Kubelet::new(&agent, &image).await;
        kubelet.pull(&image).await.unwrap();
        let said = agent.runtime().await.runtime_config(v1::RuntimeConfigRequest {}).await.unwrap().into_inner();
        assert_eq!(said.linux.unwrap().cgroup_driver(), v1::CgroupDriver::Systemd);

        let config = kubelet.pod("scope");
        let pod = kubelet.run_pod(&config).await.unwrap();
        let unit = format!("orlop-{pod}.scope");
        let parent = config.linux.as_ref().unwrap().cgroup_parent.clone();
        assert_eq!(show(&unit, "ControlGroup"), format!("{parent}/{unit}"));
        assert_eq!(show(&unit, "Delegate"), "yes");
        let scope = PathBuf::from(format!("/sys/fs/cgroup{parent}/{unit}"));
        let shim = shim_of(&pod).unwrap().as_raw_nonzero().get();
        assert_eq!(text(&scope.join("shim/cgroup.procs")), shim.to_string());
        assert_eq!(text(&scope.join("cgroup.procs")), "");

        let mut spec = kubelet.container("main", &[]);
        let limits = v1::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_shares: 204,
            cpu_quota: 12345,
            cpu_period: 50000,
            ..Default::default()
        };
        spec.linux.as_mut().unwrap().resources = Some(limits);
        // What a pod's owner writes must never reach systemd.
        spec.annotations.insert("org.systemd.property.ExecStop".to_owned(), "'/bin/touch /scratch/escaped'".to_owned());
        let id = kubelet.run(&pod, spec, &config).await.unwrap();
        let group = scope.join(&id);
        let check = || {
            assert_eq!(text(&group.join("memory.max")), (64 << 20).to_string());
            assert_eq!(text(&group.join("cpu.weight")), "29");
            assert_eq!(text(&group.join("cpu.max")), "12345 50000");
        };
        check();
        run(Command::new("systemctl").arg("daemon-reload"));
        check();
        assert_eq!(kubelet.sh(&id, "(: < /dev/kmsg) 2>/dev/null || echo refused").await, "refused");

        agent.restart().await;
        kubelet = Kubelet::new(&agent, &image).await;
        assert_eq!(kubelet.sh(&id, "echo $$ > /dev/null; echo here").await, "here");
        kubelet.stop_pod(&pod).await.unwrap();
        assert_eq!(show(&unit, "LoadState"), "not-found");
        kubelet.remove_pod(&pod).await.unwrap();
        agent.assert_clean().await;
        assert!(
            !Path::new(&format!("/sys/fs/cgroup{parent}")).exists(),
            "the slice came with the pod and goes with it"
        );
    });
}

#[test]
fn a_parent_that_is_no_slice_is_refused() {
    if !able() {
        return;
    }
    in_netns(|| async {
        let agent = Agent::start("").await;
        let mut kubelet = Kubelet::new(&agent, "none").await;
        let mut config = kubelet.pod("cgroupfs");
        config.linux.as_mut().unwrap().cgroup_parent = "/kubepods/burstable/pod1".to_owned();
        let refused = kubelet.run_pod(&config).await;
        let message = refused.as_ref().unwrap_err().message().to_owned();
        assert_eq!(code(refused), tonic::Code::InvalidArgument, "{message}");
        assert!(message.contains("/kubepods/burstable/pod1") && message.contains("slice"), "{message}");
        agent.assert_clean().await;
    });
}
