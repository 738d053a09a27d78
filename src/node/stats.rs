//! What containers and pods use: read from cgroups and interfaces when it is asked for, with nothing running between.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::container::Container;
use super::error::Result;
use super::ids;
use super::index::Node;
use super::pod::Pod;
use super::types::ContainerState;
use super::views::{
    ContainerFilter, ContainerStatsView, CpuView, FsUsage, InterfaceView, MemoryView, PodFilter, PodStatsView, SwapView,
};
use crate::runtime::cgroup::{Cgroup, LightStats, MemoryStats};

impl Node {
    /// `ContainerStats`.
    pub fn container_stats(&self, id: &str) -> Result<ContainerStatsView> {
        let container = self.find_container(id)?;
        Ok(self.stats_of(&container))
    }

    /// `ListContainerStats`: of the containers that run.
    pub fn list_container_stats(&self, filter: &ContainerFilter) -> Vec<ContainerStatsView> {
        let mut running = self.matching(filter);
        running.retain(|container| container.state() == ContainerState::Running);
        running.iter().map(|container| self.stats_of(container)).collect()
    }

    fn stats_of(&self, container: &Arc<Container>) -> ContainerStatsView {
        let at = ids::now();
        let cgroup = container.live().cgroup.clone();
        let read = cgroup.and_then(|cgroup| cgroup.stats_light().ok());
        let cpu = read.as_ref().map(|read| {
            let nano_cores = container.live().cpu.update(at, read.cpu_usage_ns);
            cpu_view(read, at, nano_cores)
        });
        ContainerStatsView {
            id: container.id().to_owned(),
            metadata: container.config.metadata.clone(),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            cpu,
            memory: read.as_ref().map(|read| memory_view(&read.memory, at)),
            io_psi: None,
            writable_layer: Some(self.writable_layer(container, at)),
        }
    }

    /// What the container wrote. The walk is bounded by time between walks, not by the request.
    fn writable_layer(&self, container: &Container, at: i64) -> FsUsage {
        let dir = self.inner.dirs.container(container.id());
        let mut live = container.live();
        let stale = live.written.is_none_or(|(when, ..)| at - when > live.walk_pause);
        if stale {
            let began = std::time::Instant::now();
            let (bytes, inodes) = usage_of(&dir.join("upper"));
            // A walk may take one part in a thousand of the time: small trees are always fresh, big ones cost little.
            let took = i64::try_from(began.elapsed().as_nanos()).unwrap_or(i64::MAX / 1000);
            live.walk_pause = took.saturating_mul(1000);
            live.written = Some((at, bytes, inodes));
        }
        let (timestamp, used_bytes, inodes_used) = live.written.unwrap_or_default();
        FsUsage { timestamp, mountpoint: self.inner.dirs.root.display().to_string(), used_bytes, inodes_used }
    }

    /// What all containers wrote, as far as it was looked at: bytes and inodes.
    pub(super) fn written(&self) -> (u64, u64) {
        let at = ids::now();
        let usages = self.all_containers().into_iter().map(|container| self.writable_layer(&container, at));
        usages.fold((0, 0), |(bytes, inodes), one| (bytes + one.used_bytes, inodes + one.inodes_used))
    }

    /// `PodSandboxStats`.
    pub fn pod_stats(&self, id: &str) -> Result<PodStatsView> {
        let pod = self.find_pod(id)?;
        let shared = self.shared_parents();
        Ok(self.stats_of_pod(&pod, &shared))
    }

    /// `ListPodSandboxStats`: of the pods that are ready.
    pub fn list_pod_stats(&self, filter: &PodFilter) -> Vec<PodStatsView> {
        let shared = self.shared_parents();
        let mut pods = self.matching_pods(filter);
        pods.retain(|pod| pod.live().state == super::types::PodState::Ready);
        pods.iter().map(|pod| self.stats_of_pod(pod, &shared)).collect()
    }

    /// How many pods have the same cgroup parent: a kubelet gives each its own, others may not.
    fn shared_parents(&self) -> HashMap<String, usize> {
        let mut count = HashMap::new();
        for pod in self.all_pods() {
            *count.entry(pod.config.cgroup_parent.clone()).or_default() += 1;
        }
        count
    }

    fn stats_of_pod(&self, pod: &Arc<Pod>, parents: &HashMap<String, usize>) -> PodStatsView {
        let at = ids::now();
        let containers = self.containers_of(&pod.id);
        let running = containers.iter().filter(|container| container.is_running());
        let containers: Vec<_> = running.map(|container| (container.clone(), self.stats_of(container))).collect();
        let own = match parents.get(&pod.config.cgroup_parent) {
            Some(1) if !pod.config.cgroup_parent.is_empty() => self.parent_of(pod),
            _ => None,
        };
        let own = own.and_then(|cgroup| cgroup.stats_light().ok());
        let mut view = PodStatsView {
            id: pod.id.clone(),
            metadata: pod.config.metadata.clone(),
            labels: pod.config.labels.clone(),
            annotations: pod.config.annotations.clone(),
            timestamp: at,
            cpu: None,
            memory: None,
            io_psi: None,
            interfaces: interfaces(pod),
            process_count: None,
            containers: Vec::new(),
        };
        match own {
            Some(read) => {
                let nano_cores = pod.live().cpu.update(at, read.cpu_usage_ns);
                view.cpu = Some(cpu_view(&read, at, nano_cores));
                view.memory = Some(memory_view(&read.memory, at));
                view.process_count = read.pids;
            }
            None => {
                let pids = containers.iter().filter_map(|(container, _)| {
                    let cgroup = container.live().cgroup.clone()?;
                    cgroup.stats_light().ok()?.pids
                });
                view.process_count = Some(pids.sum());
                sum(&mut view, containers.iter().map(|(_, stats)| stats));
                if let Some(cpu) = &mut view.cpu {
                    cpu.nano_cores = pod.live().cpu.update(at, cpu.usage);
                }
            }
        }
        view.containers = containers.into_iter().map(|(_, stats)| stats).collect();
        view
    }

    /// The pod's own cgroup, opened once.
    fn parent_of(&self, pod: &Pod) -> Option<Arc<Cgroup>> {
        let mut live = pod.live();
        if live.cgroup.is_none() {
            let path = self.parent_path(&pod.config).ok()?;
            live.cgroup = super::launch::open_cgroup(&self.inner.cgroups, &path).map(Arc::new);
        }
        live.cgroup.clone()
    }
}

/// The pod's interfaces; none for a pod in the host's network, whose counters are the host's.
fn interfaces(pod: &Pod) -> Vec<InterfaceView> {
    let mut live = pod.live();
    let Some(reader) = &mut live.counters else { return Vec::new() };
    let Ok(counters) = reader.read() else { return Vec::new() };
    let mut views: Vec<InterfaceView> = counters
        .into_iter()
        .filter(|counter| counter.name != "lo")
        .map(|counter| InterfaceView {
            name: counter.name,
            rx_bytes: counter.rx_bytes,
            rx_errors: counter.rx_errors,
            tx_bytes: counter.tx_bytes,
            tx_errors: counter.tx_errors,
        })
        .collect();
    views.sort_by(|a, b| (a.name != "eth0").cmp(&(b.name != "eth0")).then_with(|| a.name.cmp(&b.name)));
    views
}

/// A pod without a cgroup of its own is the sum of its containers.
fn sum<'a>(view: &mut PodStatsView, containers: impl Iterator<Item = &'a ContainerStatsView>) {
    let mut cpu = CpuView { timestamp: view.timestamp, ..CpuView::default() };
    let mut memory = MemoryView { timestamp: view.timestamp, ..MemoryView::default() };
    for container in containers {
        cpu.usage += container.cpu.map_or(0, |cpu| cpu.usage);
        let Some(one) = &container.memory else { continue };
        memory.working_set += one.working_set;
        memory.usage += one.usage;
        memory.rss += one.rss;
        memory.page_faults += one.page_faults;
        memory.major_page_faults += one.major_page_faults;
    }
    (view.cpu, view.memory) = (Some(cpu), Some(memory));
}

fn cpu_view(read: &LightStats, at: i64, nano_cores: Option<u64>) -> CpuView {
    CpuView { timestamp: at, usage: read.cpu_usage_ns, nano_cores, psi: None }
}

fn memory_view(read: &MemoryStats, at: i64) -> MemoryView {
    MemoryView {
        timestamp: at,
        working_set: read.working_set,
        available: read.limit.map(|limit| limit.saturating_sub(read.working_set)),
        usage: read.usage,
        rss: read.rss,
        page_faults: read.page_faults,
        major_page_faults: read.major_page_faults,
        swap: read
            .swap_usage
            .map(|usage| SwapView { usage, available: read.swap_limit.map(|limit| limit.saturating_sub(usage)) }),
        psi: None,
    }
}

/// Bytes on disk and inodes of a tree; what vanishes meanwhile does not count.
fn usage_of(dir: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut inodes) = (0, 1);
    let Ok(entries) = std::fs::read_dir(dir) else { return (0, 0) };
    for entry in entries.flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        if meta.is_dir() {
            let (more, deeper) = usage_of(&entry.path());
            bytes += more + meta.blocks() * 512;
            inodes += deeper;
        } else {
            // A file with several names counts where it is met first; whiteouts have no blocks.
            bytes += meta.blocks() * 512 / meta.nlink().max(1);
            inodes += 1;
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_its_blocks_and_its_inodes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/file"), vec![1; 10_000]).unwrap();
        let (bytes, inodes) = usage_of(dir.path());
        assert!((10_000..100_000).contains(&bytes), "{bytes}");
        assert_eq!(inodes, 3);
        assert_eq!(usage_of(&dir.path().join("missing")), (0, 0));
    }
}
