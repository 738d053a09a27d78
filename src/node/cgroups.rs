//! Where the cgroups of pods are, under either driver.
//!
//! Under systemd a pod is one scope in the slice that the kubelet names, and its containers are cgroups of ours below
//! it, for systemd gives a scope away whole (Delegate). So systemd is asked once a pod and not once a container, no
//! reload touches a container's limits, and a container's last figures do not vanish with its last process. The scope
//! begins with the pod's shim and ends after it.

use std::os::fd::OwnedFd;

use oci_spec::runtime::LinuxResources;
use tracing::warn;

use super::error::{NodeError, Result};
use super::index::Node;
use super::launch;
use super::pod::Pod;
use super::records::PodScope;
use super::types::PodConfig;
use crate::runtime::cgroup::systemd::{Scope, ScopeName, ScopeOptions, Systemd, slice_of_path};
use crate::runtime::cgroup::{self, CgroupPath, CreateOptions, OnExisting, Version};

/// The shim's own cgroup in its pod's scope.
const SHIM: &str = "shim";

impl Node {
    /// The cgroup that a pod is to be in, as a path from the hierarchy's root; empty if none was asked for.
    pub(super) fn parent_path(&self, config: &PodConfig) -> Result<String> {
        if self.inner.systemd.is_none() || config.cgroup_parent.is_empty() {
            return Ok(config.cgroup_parent.clone());
        }
        let slice = self.slice_of(config)?;
        cgroup::systemd::expand_slice(&slice).map_err(|cause| wrong_parent(config, cause))
    }

    fn slice_of(&self, config: &PodConfig) -> Result<String> {
        let parent =
            if config.cgroup_parent.is_empty() { &self.inner.settings.cgroup_parent } else { &config.cgroup_parent };
        slice_of_path(parent).map_err(|cause| wrong_parent(config, cause))
    }

    /// The scope of a new pod, where systemd makes the cgroups.
    pub(super) fn new_scope(&self, config: &PodConfig, id: &str) -> Result<Option<PodScope>> {
        if self.inner.systemd.is_none() {
            return Ok(None);
        }
        let name = ScopeName::new(&self.slice_of(config)?, "orlop", id);
        let name = name.map_err(|cause| wrong_parent(config, cause))?;
        let path = name.path().map_err(|cause| wrong_parent(config, cause))?.as_str().to_owned();
        Ok(Some(PodScope { slice: name.slice, unit: name.unit, path }))
    }

    /// The cgroup of the container `id`.
    pub(super) fn container_cgroup(&self, pod: &Pod, id: &str) -> String {
        match &pod.scope {
            Some(scope) => format!("{}/{id}", scope.path),
            None => launch::cgroup_path(&pod.config, &self.inner.settings.cgroup_parent, id),
        }
    }

    /// Makes the scope of a pod around its shim. What comes back the shim has to write to, for a cgroup with
    /// processes of its own cannot have others below it.
    pub(super) async fn enter_scope(&self, pod: &Pod, shim: u32) -> Result<Vec<OwnedFd>> {
        let Some(scope) = pod.scope.clone() else { return Ok(Vec::new()) };
        let host = self.inner.cgroups.clone();
        let entered = tokio::task::spawn_blocking(move || {
            let name = ScopeName { slice: scope.slice, unit: scope.unit };
            let options = ScopeOptions { pids: vec![shim.cast_signed()], properties: Vec::new() };
            let none = LinuxResources::default();
            let (group, _) = host.create_scope(&Systemd::system(), &name, &none, options)?;
            if host.version() == Version::V1 {
                return Ok(Vec::new());
            }
            let adopt = CreateOptions { existing: OnExisting::Adopt, ..CreateOptions::default() };
            host.create(&group.path().child(SHIM)?, &none, adopt)?.door().map(|door| vec![door])
        });
        let failed =
            |cause: &dyn std::fmt::Display| NodeError::internal(format!("scope of pod {}", pod.label()), cause);
        let entered: cgroup::Result<_> = entered.await.map_err(|cause| failed(&cause))?;
        entered.map_err(|cause| failed(&cause))
    }

    /// Ends the scope of a pod whose processes are gone. One that is gone is fine.
    pub(super) async fn leave_scope(&self, pod: &Pod) -> Result<()> {
        let Some(scope) = pod.scope.clone() else { return Ok(()) };
        let host = self.inner.cgroups.clone();
        let left = tokio::task::spawn_blocking(move || {
            let stopped = Scope { systemd: Systemd::system(), unit: scope.unit }.stop();
            // On version 1 systemd leaves hierarchies alone that it does not know; and it may be out of reach.
            match launch::open_cgroup(&host, &scope.path) {
                None => Ok(()),
                Some(group) => group.remove().and(stopped),
            }
        });
        let failed =
            |cause: &dyn std::fmt::Display| NodeError::internal(format!("scope of pod {}", pod.label()), cause);
        let left: cgroup::Result<()> = left.await.map_err(|cause| failed(&cause))?;
        left.map_err(|cause| failed(&cause))
    }

    /// Removes the cgroups that came with a pod, where nobody else is in them by now.
    pub(super) async fn remove_parents(&self, pod: &Pod) {
        let (host, paths, label) = (self.inner.cgroups.clone(), pod.made_cgroups.clone(), pod.label());
        let systemd = self.inner.systemd.clone();
        let external = pod.external.is_some();
        let removed = tokio::task::spawn_blocking(move || {
            for path in &paths {
                let cgroup = launch::open_cgroup(&host, path);
                let slice = path.rsplit('/').next().filter(|name| name.ends_with(".slice"));
                let result = match (cgroup, &systemd, slice) {
                    (None, ..) => Ok(()),
                    (Some(cgroup), Some(systemd), Some(slice)) if is_unused(&host, cgroup.path()) => {
                        Scope { systemd: systemd.clone(), unit: slice.to_owned() }.stop()
                    }
                    (Some(_), Some(_), Some(_)) => Ok(()),
                    (Some(cgroup), ..) => cgroup.remove_if_empty(),
                };
                if let Err(cause) = result {
                    warn!(pod = %label, %cause, "a cgroup that the pod brought stays");
                }
                if external {
                    super::external::remove_everywhere(path);
                }
            }
        });
        if let Err(cause) = removed.await {
            warn!(pod = %pod.label(), %cause, "cgroups that the pod brought stay");
        }
    }
}

fn is_unused(host: &cgroup::Host, path: &CgroupPath) -> bool {
    host.children(path).is_ok_and(|children| children.is_empty())
}

fn wrong_parent(config: &PodConfig, cause: cgroup::CgroupError) -> NodeError {
    NodeError::invalid(format!("cgroup parent \"{}\": {cause}", config.cgroup_parent))
}
