//! CreateContainer with each field wrong in turn.

use orlop::cri::v1;
use orlop::cri::v1::*;

use crate::harness::Wire;
use crate::sample;
use crate::wrong_input::{big, many, one, refused, wrong};

fn config(r: &mut CreateContainerRequest) -> &mut ContainerConfig {
    r.config.as_mut().unwrap()
}

fn security(r: &mut CreateContainerRequest) -> &mut LinuxContainerSecurityContext {
    config(r).linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

fn limits(r: &mut CreateContainerRequest) -> &mut LinuxContainerResources {
    config(r).linux.as_mut().unwrap().resources.as_mut().unwrap()
}

fn caps(r: &mut CreateContainerRequest) -> &mut Capability {
    security(r).capabilities.as_mut().unwrap()
}

#[tokio::test]
async fn containers_names_and_processes() {
    let mut wire = Wire::new().await;
    wrong!(wire.runtime.create_container, sample::create_container(), {
        "pod_sandbox_id": |r| r.pod_sandbox_id.clear(),
        "pod_sandbox_id": |r| r.pod_sandbox_id = "../../etc".into(),
        "config": |r| r.config = None,
        "sandbox_config.metadata": |r| r.sandbox_config = Some(Default::default()),
        "sandbox_config.hostname": |r| r.sandbox_config.as_mut().unwrap().hostname = "a b".into(),
        "config.metadata": |r| config(r).metadata = None,
        "config.metadata.name": |r| config(r).metadata.as_mut().unwrap().name.clear(),
        "config.metadata.name": |r| config(r).metadata.as_mut().unwrap().name = "a/b".into(),
        "config.image": |r| config(r).image = None,
        "config.image.image": |r| config(r).image.as_mut().unwrap().image.clear(),
        "config.image.image": |r| config(r).image.as_mut().unwrap().image = "a b".into(),
        "config.image.user_specified_image": |r| config(r).image.as_mut().unwrap().user_specified_image = big(2000),
        "config.command[1]": |r| config(r).command[1] = "a\0".into(),
        "config.args[0]": |r| config(r).args[0] = big(131_072),
        "config.args": |r| config(r).args = vec![String::new(); 20_000],
        "config.working_dir": |r| config(r).working_dir = "srv".into(),
        "config.working_dir": |r| config(r).working_dir = "/srv\0".into(),
        "config.envs[0].key": |r| config(r).envs[0].key.clear(),
        "config.envs[0].key": |r| config(r).envs[0].key = "A=B".into(),
        "config.envs[1].value": |r| config(r).envs[1].value = b"a\0b".to_vec(),
        "config.envs[1]": |r| config(r).envs[1].value = vec![b'x'; 131_072],
        "config.labels": |r| config(r).labels = many(300_000),
        "config.annotations": |r| config(r).annotations = many(1_100_000),
        "config.log_path": |r| config(r).log_path = "../../../etc/cron.d/x".into(),
        "config.log_path": |r| config(r).log_path = "/etc/passwd".into(),
        "config.log_path": |r| config(r).log_path = "a/..".into(),
        "config.log_path": |r| config(r).log_path = "a\0".into(),
        "config.log_path": |r| config(r).log_path = big(4096),
        "config.windows": |r| config(r).windows = Some(Default::default()),
        "config.CDI_devices[0].name": |r| config(r).cdi_devices[0].name = "gpu".into(),
        "config.CDI_devices[0].name": |r| config(r).cdi_devices[0].name.clear(),
        "config.CDI_devices[0].name": |r| config(r).cdi_devices[0].name = "vendor.com/gpu=".into(),
        "config.stop_signal": |r| config(r).stop_signal = 66,
        "config.stop_signal": |r| config(r).stop_signal = -9,
    });
}

#[tokio::test]
async fn containers_mounts_and_devices() {
    let mut wire = Wire::new().await;
    fn mount(r: &mut CreateContainerRequest) -> &mut Mount {
        &mut config(r).mounts[0]
    }
    wrong!(wire.runtime.create_container, sample::create_container(), under "config.", {
        "mounts[0].container_path": |r| mount(r).container_path.clear(),
        "mounts[0].container_path": |r| mount(r).container_path = "etc".into(),
        "mounts[0].container_path": |r| mount(r).container_path = "/a\0".into(),
        "mounts[0].host_path": |r| mount(r).host_path.clear(),
        "mounts[0].host_path": |r| mount(r).host_path = "etc".into(),
        "mounts[0].host_path": |r| mount(r).image = Some(sample::image_spec()),
        "mounts[0].host_path": |r| mount(r).host_path = format!("/{}", big(4096)),
        "mounts[0].propagation": |r| mount(r).propagation = 3,
        "mounts[0].recursive_read_only": |r| mount(r).recursive_read_only = true,
        "mounts[0].recursive_read_only": |r| { mount(r).recursive_read_only = true; mount(r).readonly = true },
        "mounts[0].image_sub_path": |r| mount(r).image_sub_path = "a".into(),
        "mounts[0].uidMappings[0].length": |r| mount(r).uid_mappings[0].length = 0,
        "mounts[0].gidMappings[0].length": |r| mount(r).gid_mappings[0].length = u32::MAX,
        "mounts[0].mount_options": |r| mount(r).mount_options = vec!["rw".into()],
        "mounts[0].mount_options": |r| mount(r).mount_options = vec!["nodev".into(), "nodev".into()],
        "mounts[1].image_sub_path": |r| config(r).mounts[1].image_sub_path = "../..".into(),
        "mounts[1].image_sub_path": |r| config(r).mounts[1].image_sub_path = "/etc".into(),
        "mounts[1].image.image": |r| config(r).mounts[1].image = Some(Default::default()),
        "devices[0].container_path": |r| config(r).devices[0].container_path.clear(),
        "devices[0].host_path": |r| config(r).devices[0].host_path = "dev/fuse".into(),
        "devices[0].permissions": |r| config(r).devices[0].permissions = "rx".into(),
        "devices[0].permissions": |r| config(r).devices[0].permissions.clear(),
        "devices[0].permissions": |r| config(r).devices[0].permissions = "rwmr".into(),
    });
}

#[tokio::test]
async fn containers_resources() {
    let mut wire = Wire::new().await;
    wrong!(wire.runtime.create_container, sample::create_container(), under "config.linux.resources.", {
        "cpu_period": |r| limits(r).cpu_period = -1,
        "cpu_period": |r| limits(r).cpu_period = 999,
        "cpu_period": |r| limits(r).cpu_period = 1_000_001,
        "cpu_quota": |r| limits(r).cpu_quota = -2,
        "cpu_quota": |r| limits(r).cpu_quota = 999,
        "cpu_shares": |r| limits(r).cpu_shares = i64::MIN,
        "memory_limit_in_bytes": |r| limits(r).memory_limit_in_bytes = -1,
        "memory_swap_limit_in_bytes": |r| limits(r).memory_swap_limit_in_bytes = -2,
        "memory_swap_limit_in_bytes": |r| limits(r).memory_swap_limit_in_bytes = 4096,
        "oom_score_adj": |r| limits(r).oom_score_adj = 1001,
        "oom_score_adj": |r| limits(r).oom_score_adj = i64::MIN,
        "cpuset_cpus": |r| limits(r).cpuset_cpus = "3-1".into(),
        "cpuset_cpus": |r| limits(r).cpuset_cpus = "all".into(),
        "cpuset_mems": |r| limits(r).cpuset_mems = "0\n1".into(),
        "hugepage_limits[0].page_size": |r| limits(r).hugepage_limits[0].page_size.clear(),
        "hugepage_limits[0].page_size": |r| limits(r).hugepage_limits[0].page_size = "2".into(),
        "hugepage_limits[0].page_size": |r| limits(r).hugepage_limits[0].page_size = "-2MB".into(),
        "hugepage_limits[0].page_size": |r| limits(r).hugepage_limits[0].page_size = "2MB/../x".into(),
        "unified": |r| limits(r).unified = one("../cgroup.procs", "1"),
        "unified": |r| limits(r).unified = one("", "1"),
        "unified": |r| limits(r).unified = one("memory", "1"),
        "unified": |r| limits(r).unified = one("memory.max", "1\0"),
        "unified": |r| limits(r).unified = one("memory.max", &big(5000)),
    });
}

#[tokio::test]
#[allow(deprecated)]
async fn containers_security() {
    let mut wire = Wire::new().await;
    fn namespaces(r: &mut CreateContainerRequest) -> &mut NamespaceOption {
        security(r).namespace_options.as_mut().unwrap()
    }
    let id = |value| Some(Int64Value { value });
    wrong!(wire.runtime.create_container, sample::create_container(), under "config.linux.security_context.", {
        "run_as_user": |r| security(r).run_as_user = id(-1),
        "run_as_group": |r| security(r).run_as_group = id(-1),
        "run_as_group": |r| security(r).run_as_user = None,
        "run_as_username": |r| security(r).run_as_username = "root".into(),
        "run_as_username": |r| { security(r).run_as_user = None; security(r).run_as_username = big(256) },
        "supplemental_groups[0]": |r| security(r).supplemental_groups[0] = -1,
        "supplemental_groups_policy": |r| security(r).supplemental_groups_policy = -1,
        "capabilities.add_capabilities[0]": |r| caps(r).add_capabilities[0] = "FLY".into(),
        "capabilities.add_capabilities[0]": |r| caps(r).add_capabilities[0].clear(),
        "capabilities.drop_capabilities[0]": |r| caps(r).drop_capabilities[0] = "CAP_CAP_CHOWN".into(),
        "capabilities.add_ambient_capabilities[0]": |r| caps(r).add_ambient_capabilities[0] = "a b".into(),
        "masked_paths[0]": |r| security(r).masked_paths[0] = "proc".into(),
        "readonly_paths[0]": |r| security(r).readonly_paths[0] = "/a\0".into(),
        "seccomp.profile_type": |r| security(r).seccomp.as_mut().unwrap().profile_type = 4,
        "seccomp.localhost_ref": |r| security(r).seccomp.as_mut().unwrap().localhost_ref = "relative.json".into(),
        "seccomp_profile_path": |r| {
            security(r).seccomp = None;
            security(r).seccomp_profile_path = "localhost/relative.json".into();
        },
        "seccomp_profile_path": |r| {
            security(r).seccomp = None;
            security(r).seccomp_profile_path = "something".into();
        },
        "apparmor_profile": |r| {
            security(r).apparmor = None;
            security(r).apparmor_profile = "something".into();
        },
        "apparmor.profile_type": |r| security(r).apparmor.as_mut().unwrap().profile_type = -3,
        "selinux_options.level": |r| security(r).selinux_options.as_mut().unwrap().level = big(300),
        "namespace_options.target_id": |r| namespaces(r).target_id.clear(),
        "namespace_options.pid": |r| namespaces(r).pid = 44,
        "namespace_options.ipc": |r| namespaces(r).ipc = v1::NamespaceMode::Target.into(),
        "namespace_options.network": |r| namespaces(r).network = v1::NamespaceMode::Target.into(),
    });
}
