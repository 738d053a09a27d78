//! Pods, containers and the node itself, as replies show them.

use super::container::mount_view;
use super::image::spec_view;
use super::resources::resources_view;
use super::security::namespaces_view;
use super::signal;
use crate::cri::v1;
use crate::node::types::{ContainerConfig, ContainerMetadata, ContainerState, PodMetadata, PodState};
use crate::node::views::{CgroupDriver, ContainerView, NodeStatus, PodView, UserView};

/// A pod in a list.
pub fn pod_item(p: PodView) -> v1::PodSandbox {
    v1::PodSandbox {
        id: p.id,
        metadata: Some(pod_metadata(p.metadata)),
        state: pod_state(p.state).into(),
        created_at: p.created_at,
        labels: p.labels,
        annotations: p.annotations,
        runtime_handler: p.runtime_handler,
    }
}

/// A pod's status. The network is always there: kubelets read an empty address as "in the host's network" or "not
/// ready", which is what it means here.
pub fn pod_status(p: PodView) -> v1::PodSandboxStatus {
    let mut ips = p.ips.iter().map(ToString::to_string);
    v1::PodSandboxStatus {
        id: p.id,
        metadata: Some(pod_metadata(p.metadata)),
        state: pod_state(p.state).into(),
        created_at: p.created_at,
        network: Some(v1::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(namespaces_view(&p.namespaces)) }),
        }),
        labels: p.labels,
        annotations: p.annotations,
        runtime_handler: p.runtime_handler,
    }
}

/// A container in a list.
pub fn container_item(c: ContainerView) -> v1::Container {
    v1::Container {
        id: c.id,
        pod_sandbox_id: c.pod_id,
        metadata: Some(container_metadata(c.config.metadata.clone())),
        image: Some(shown_image(&c.config)),
        image_ref: c.image_ref,
        state: container_state(c.state).into(),
        created_at: c.created_at,
        labels: c.config.labels.clone(),
        annotations: c.config.annotations.clone(),
        image_id: c.image_id,
    }
}

/// A container's status.
pub fn container_status(c: ContainerView) -> v1::ContainerStatus {
    v1::ContainerStatus {
        id: c.id,
        metadata: Some(container_metadata(c.config.metadata.clone())),
        state: container_state(c.state).into(),
        created_at: c.created_at,
        started_at: c.started_at,
        finished_at: c.finished_at,
        exit_code: c.exit_code,
        image: Some(shown_image(&c.config)),
        image_ref: c.image_ref,
        reason: c.reason,
        message: c.message,
        labels: c.config.labels.clone(),
        annotations: c.config.annotations.clone(),
        mounts: c.config.mounts.iter().map(mount_view).collect(),
        log_path: c.log_path,
        resources: c
            .resources
            .as_ref()
            .map(|r| v1::ContainerResources { linux: Some(resources_view(r)), windows: None }),
        image_id: c.image_id,
        user: c.user.map(user),
        stop_signal: signal::value(c.stop_signal).into(),
    }
}

/// The image as the pod's author named it. Kubelets create with the image's id, and would show that to people.
fn shown_image(config: &ContainerConfig) -> v1::ImageSpec {
    let mut spec = spec_view(&config.image);
    if !spec.user_specified_image.is_empty() {
        spec.image.clone_from(&spec.user_specified_image);
    }
    spec
}

/// What `Status` says.
pub fn node_status(s: NodeStatus) -> v1::StatusResponse {
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: s
                .conditions
                .into_iter()
                .map(|c| v1::RuntimeCondition {
                    r#type: c.kind.to_owned(),
                    status: c.ready,
                    reason: c.reason,
                    message: c.message,
                })
                .collect(),
        }),
        info: s.info,
        runtime_handlers: s
            .handlers
            .into_iter()
            .map(|h| v1::RuntimeHandler {
                name: h.name,
                features: Some(v1::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: h.recursive_read_only_mounts,
                    user_namespaces: h.user_namespaces,
                }),
            })
            .collect(),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: s.supplemental_groups_policy,
            user_namespaces_host_network: false,
            mount_options: false,
        }),
    }
}

/// What `RuntimeConfig` says.
pub fn runtime_config(driver: CgroupDriver) -> v1::RuntimeConfigResponse {
    let driver = match driver {
        CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
        CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
    };
    v1::RuntimeConfigResponse { linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) }
}

pub(super) fn pod_metadata(m: PodMetadata) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata { name: m.name, uid: m.uid, namespace: m.namespace, attempt: m.attempt }
}

pub(super) fn container_metadata(m: ContainerMetadata) -> v1::ContainerMetadata {
    v1::ContainerMetadata { name: m.name, attempt: m.attempt }
}

fn user(u: UserView) -> v1::ContainerUser {
    let linux = v1::LinuxContainerUser { uid: u.uid, gid: u.gid, supplemental_groups: u.groups };
    v1::ContainerUser { linux: Some(linux) }
}

fn pod_state(state: PodState) -> v1::PodSandboxState {
    match state {
        PodState::Ready => v1::PodSandboxState::SandboxReady,
        PodState::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

fn container_state(state: ContainerState) -> v1::ContainerState {
    match state {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running => v1::ContainerState::ContainerRunning,
        ContainerState::Exited => v1::ContainerState::ContainerExited,
        ContainerState::Unknown => v1::ContainerState::ContainerUnknown,
    }
}
