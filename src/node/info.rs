//! What a verbose status adds: for people who look into a node, not for programs that rely on it.

use std::collections::BTreeMap;

use serde_json::json;

use super::index::Node;

impl Node {
    /// The `info` of `PodSandboxStatus`.
    pub fn pod_info(&self, id: &str) -> BTreeMap<String, String> {
        let Ok(pod) = self.find_pod(id) else { return BTreeMap::new() };
        let shim = pod.shim();
        let live = pod.live();
        let info = json!({
            "pid": shim.as_ref().map(|shim| shim.pid()),
            "network": live.network,
            "cgroupParent": pod.config.cgroup_parent,
            "stateDirectory": self.inner.dirs.pod_state(&pod.id),
            "recordDirectory": self.inner.dirs.pod(&pod.id),
            "config": pod.config,
        });
        BTreeMap::from([("info".to_owned(), info.to_string())])
    }

    /// The `info` of `ContainerStatus`, with the OCI spec as the runtime gets it.
    pub fn container_info(&self, id: &str) -> BTreeMap<String, String> {
        let Ok(container) = self.find_container(id) else { return BTreeMap::new() };
        let spec = self.pod_of(&container).and_then(|pod| self.build_spec(&pod, &container.record, &container.config));
        let info = json!({
            "pid": container.view("").pid,
            "sandboxID": container.record.pod_id,
            "cgroup": container.record.cgroup,
            "imageRef": container.record.image_ref,
            "lowerDirectories": container.record.lowers,
            "directory": self.inner.dirs.container(container.id()),
            "config": *container.config,
            "runtimeSpec": spec.ok().map(|(spec, _)| spec),
        });
        BTreeMap::from([("info".to_owned(), info.to_string())])
    }
}
