//! What selects pods and containers in lists.

use std::collections::BTreeMap;

use super::known;
use crate::cri::v1;
use crate::cri::validate::{At, Checked, ID_LIMIT, LABELS_LIMIT, pairs, text};
use crate::node::types::{ContainerState, PodState};
use crate::node::views::{ContainerFilter, PodFilter};

/// The filter of ListPodSandbox.
pub fn pods(filter: Option<v1::PodSandboxFilter>) -> Checked<PodFilter> {
    let Some(f) = filter else { return Ok(PodFilter::default()) };
    let state = f.state.map(|s| pod_state(s.state)).transpose().at("state").at("filter")?;
    pod_filter(f.id, state, f.label_selector).at("filter")
}

/// The filter of ListPodSandboxStats.
pub fn pod_stats(filter: Option<v1::PodSandboxStatsFilter>) -> Checked<PodFilter> {
    let Some(f) = filter else { return Ok(PodFilter::default()) };
    pod_filter(f.id, None, f.label_selector).at("filter")
}

/// The filter of ListContainers.
pub fn containers(filter: Option<v1::ContainerFilter>) -> Checked<ContainerFilter> {
    let Some(f) = filter else { return Ok(ContainerFilter::default()) };
    let state = f.state.map(|s| container_state(s.state)).transpose().at("state").at("filter")?;
    container_filter(f.id, f.pod_sandbox_id, state, f.label_selector).at("filter")
}

/// The filter of ListContainerStats.
pub fn container_stats(filter: Option<v1::ContainerStatsFilter>) -> Checked<ContainerFilter> {
    let Some(f) = filter else { return Ok(ContainerFilter::default()) };
    container_filter(f.id, f.pod_sandbox_id, None, f.label_selector).at("filter")
}

fn pod_filter(id: String, state: Option<PodState>, labels: BTreeMap<String, String>) -> Checked<PodFilter> {
    pairs(&labels, LABELS_LIMIT).at("label_selector")?;
    Ok(PodFilter { id: some_id(id).at("id")?, state, labels })
}

fn container_filter(
    id: String,
    pod_id: String,
    state: Option<ContainerState>,
    labels: BTreeMap<String, String>,
) -> Checked<ContainerFilter> {
    pairs(&labels, LABELS_LIMIT).at("label_selector")?;
    Ok(ContainerFilter { id: some_id(id).at("id")?, pod_id: some_id(pod_id).at("pod_sandbox_id")?, state, labels })
}

/// A filter's id selects by its beginning, so an odd one selects nothing rather than being wrong.
fn some_id(id: String) -> Checked<Option<String>> {
    text(&id, ID_LIMIT)?;
    Ok((!id.is_empty()).then_some(id))
}

fn pod_state(state: i32) -> Checked<PodState> {
    Ok(match known(state, "state of a pod")? {
        v1::PodSandboxState::SandboxReady => PodState::Ready,
        v1::PodSandboxState::SandboxNotready => PodState::NotReady,
    })
}

fn container_state(state: i32) -> Checked<ContainerState> {
    Ok(match known(state, "state of a container")? {
        v1::ContainerState::ContainerCreated => ContainerState::Created,
        v1::ContainerState::ContainerRunning => ContainerState::Running,
        v1::ContainerState::ContainerExited => ContainerState::Exited,
        v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
    })
}
