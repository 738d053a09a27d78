//! What a shim is asked to start: a container or a command in one, as a compiled plan with the descriptors it needs.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::container::{Container, Phase};
use super::error::{NodeError, Result};
use super::index::Node;
use super::launch;
use super::pod::Pod;
use super::types::NamespaceMode;
use crate::runtime::cgroup::{Cgroup, Entry, Version};
use crate::runtime::compile::{self, CgroupView, HostFacts, V1Hierarchy};
use crate::runtime::plan::{CgroupEntry, MountSource, MountStep, Plan, RootSource, SpawnHeader};
use crate::shim::client::{ContainerIo, ExecIo, ExecRequest, StartRequest};

/// A container that is ready to be started.
#[derive(Debug)]
pub(super) struct Launch {
    header: SpawnHeader,
    plan: Vec<u8>,
    cgroup: Option<OwnedFd>,
    log: Option<File>,
    /// The plan has a mount of the memory that the shim holds.
    shm: bool,
}

impl Launch {
    pub fn request<'a>(&'a self, container: &'a Container) -> StartRequest<'a> {
        let config = &container.config;
        let log = self.log.as_ref().map(AsFd::as_fd);
        let namespaces = &config.security.namespaces;
        StartRequest {
            id: container.id(),
            header: &self.header,
            plan: &self.plan,
            cgroup: self.cgroup.as_ref().map(AsFd::as_fd),
            pid_of: (namespaces.pid == NamespaceMode::Target).then_some(namespaces.target_id.as_str()),
            io: if config.tty {
                ContainerIo::Terminal { log }
            } else {
                ContainerIo::Pipes { log, stdin: config.stdin }
            },
            shm: self.shm,
        }
    }
}

/// A command that is ready to be run.
#[derive(Debug)]
pub(super) struct Exec {
    header: SpawnHeader,
    plan: Vec<u8>,
    cgroup: Option<OwnedFd>,
}

impl Exec {
    pub fn request<'a>(&'a self, id: &'a str, target: &'a str, io: ExecIo<'a>) -> ExecRequest<'a> {
        let cgroup = self.cgroup.as_ref().map(AsFd::as_fd);
        ExecRequest { id, target, header: &self.header, plan: &self.plan, cgroup, io }
    }
}

impl Node {
    /// Makes the cgroup, the plan and the log of a container.
    pub(super) fn build_launch(&self, pod: &Pod, container: &Container) -> Result<Launch> {
        let failed = |cause: &dyn std::fmt::Display| {
            NodeError::invalid(format!("container \"{}\": {cause}", container.config.metadata.name))
        };
        let (spec, environment) = self.build_spec(pod, &container.record, &container.config)?;
        let cgroup = self.make_cgroup(container, &spec)?;
        let (facts, entry) = self.facts(pod, container, &cgroup)?;
        let (mut header, mut plan) =
            compile::container(&spec, self.root(container), &facts).map_err(|cause| failed(&cause))?;
        header.join_pid_namespace = joins_pids(container);
        plan.process.env = environment;
        plan.process.die_with_parent = true;
        let attached =
            |step: &MountStep| matches!(step, MountStep::Mount(mount) if mount.source == MountSource::Attached);
        let shm = plan.mounts.iter().any(attached);
        let plan = Plan::Launch(Box::new(plan)).encode().map_err(|cause| failed(&cause))?;
        let path = &container.record.log_path;
        let log = if path.is_empty() { None } else { Some(launch::open_log(Path::new(path))?) };
        Ok(Launch { header, plan, cgroup: entry, log, shm })
    }

    /// The plan of a command in a running container: the container's own process with other arguments.
    pub(super) fn build_exec(&self, pod: &Pod, container: &Container, command: Vec<String>, tty: bool) -> Result<Exec> {
        let failed = |cause: &dyn std::fmt::Display| {
            NodeError::invalid(format!("command in container {}: {cause}", container.id()))
        };
        let (spec, environment) = self.build_spec(pod, &container.record, &container.config)?;
        let cgroup = container.live().cgroup.clone().ok_or_else(|| failed(&"its cgroup is gone"))?;
        let (facts, entry) = self.facts(pod, container, &cgroup)?;
        let running = match container.live().phase {
            Phase::Running { pid, .. } => Some(pid),
            _ => None,
        };
        let facts = HostFacts { running, ..facts };
        let mut process = spec.process().clone().ok_or_else(|| failed(&"its specification has no process"))?;
        process.set_args(Some(command)).set_terminal(Some(tty));
        let (mut header, mut plan) = compile::process(&spec, &process, &facts).map_err(|cause| failed(&cause))?;
        header.join_pid_namespace |= joins_pids(container);
        plan.process.env = environment;
        plan.process.die_with_parent = true;
        let plan = Plan::Exec(Box::new(plan)).encode().map_err(|cause| failed(&cause))?;
        Ok(Exec { header, plan, cgroup: entry })
    }

    /// The path that stands for the shared memory that the pod's shim holds, if it does. It tells by there being no
    /// mount point: the agent that started the pod may have been another.
    fn shim_memory(&self, pod: &Pod) -> Option<PathBuf> {
        let path = self.inner.dirs.pod_state(&pod.id).join("shm");
        let shared = pod.config.security.namespaces.ipc != NamespaceMode::Node;
        (shared && !path.exists()).then_some(path)
    }

    /// The container's writable layer upon the layers of its image.
    fn root(&self, container: &Container) -> RootSource {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let dir = self.inner.dirs.container(container.id());
        RootSource::Overlay {
            lowers: container.record.lowers.iter().map(|lower| bytes(lower)).collect(),
            upper: bytes(&dir.join("upper")),
            work: bytes(&dir.join("work")),
            // What a container wrote ends with it: it need not survive power loss, and its unmount need not wait.
            volatile: true,
            options: Vec::new(),
        }
    }

    /// What the plan depends on beside the spec.
    fn facts(&self, pod: &Pod, container: &Container, cgroup: &Arc<Cgroup>) -> Result<(HostFacts, Option<OwnedFd>)> {
        let entry = cgroup.entry().map_err(|cause| NodeError::internal(cgroup.path().as_str(), cause))?;
        let (entry, directory) = match entry {
            Entry::V2(directory) => (CgroupEntry::V2, Some(directory)),
            Entry::V1(tasks) => {
                let tasks = tasks.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect();
                (CgroupEntry::V1 { tasks }, None)
            }
        };
        let filter = self.inner.filters.of(&container.config.security, self.inner.settings.seccomp_profile.as_ref())?;
        let facts = HostFacts {
            cgroup: entry,
            into_cgroup: directory.is_some(),
            cgroup_view: self.cgroup_view(cgroup),
            pod_namespaces: pod_namespaces(pod),
            attached_shm: self.shim_memory(pod),
            keyring: Some(format!("_ses.{}", container.id())),
            id: container.id().to_string(),
            seccomp: filter,
            ..HostFacts::default()
        };
        Ok((facts, directory))
    }

    fn cgroup_view(&self, cgroup: &Cgroup) -> CgroupView {
        let below = cgroup.path().as_str().trim_start_matches('/');
        let host = cgroup.host();
        let mut mounts = host.mounts();
        match host.version() {
            Version::V2 => mounts.next().map_or(CgroupView::None, |mount| CgroupView::V2(mount.join(below))),
            Version::V1 => CgroupView::V1(
                mounts
                    .map(|mount| V1Hierarchy {
                        name: mount.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                        directory: mount.join(below),
                    })
                    .collect(),
            ),
        }
    }
}

/// `CLONE_NEW*` flags of the namespaces that are the pod's and not the host's.
fn pod_namespaces(pod: &Pod) -> u32 {
    let namespaces = &pod.config.security.namespaces;
    let mut flags = 0;
    if namespaces.network != NamespaceMode::Node {
        flags |= libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
    }
    if namespaces.ipc != NamespaceMode::Node {
        flags |= libc::CLONE_NEWIPC;
    }
    flags.cast_unsigned()
}

/// Whether the container's processes go into a PID namespace that is there already: the pod's or another container's.
fn joins_pids(container: &Container) -> bool {
    matches!(container.config.security.namespaces.pid, NamespaceMode::Pod | NamespaceMode::Target)
}
