//! Containers and commands, by the command line of an external runtime.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{LinuxNamespaceType, Process};

use tokio::time::Instant;

use super::bundle::{Bundle, CONSOLE, PID_FILE};
use super::specification::{self, Limits, Surroundings};
use super::{ExternalRuntime, command};
use crate::image::rootfs;
use crate::node::container::{Container, Phase};
use crate::node::error::{ErrorKind, NodeError, Result};
use crate::node::index::Node;
use crate::node::launch;
use crate::node::pod::Pod;
use crate::node::records::StartedRecord;
use crate::node::types::{ContainerConfig, NamespaceMode};
use crate::shim::client::{ContainerIo, ExecIo, ExecStarted, MakeIo, MakeRequest, ShimClient, ShimError};

/// How long a runtime may take to make a container or a command.
const MAKING: Duration = Duration::from_secs(120);
/// How long it may take to hand on a signal.
const SIGNALLING: Duration = Duration::from_secs(5);

impl Node {
    /// What can be wrong with a container because of the runtime that is to run it.
    pub(in crate::node) async fn check_external(
        &self,
        pod: &Pod,
        config: &ContainerConfig,
        environment: &[Vec<u8>],
    ) -> Result<()> {
        let Some(runtime) = &pod.external else { return Ok(()) };
        specification::check_environment(environment, &runtime.handler)?;
        let Some(mount) = config.mounts.iter().find(|mount| mount.recursive_read_only) else { return Ok(()) };
        if self.inner.handlers.features(&runtime.handler).await.recursive_read_only_mounts {
            return Ok(());
        }
        let message = format!(
            "RROUnsupported: mount on \"{}\": runtime handler \"{}\" ({}) does not say that it has recursive read-only mounts",
            mount.container_path,
            runtime.handler,
            runtime.path.display()
        );
        Err(NodeError::new(ErrorKind::Known, message))
    }

    /// Has an external runtime create and start a container.
    pub(in crate::node) async fn launch_external(
        &self,
        runtime: &ExternalRuntime,
        pod: &Pod,
        container: &Container,
        shim: &ShimClient,
    ) -> Result<StartedRecord> {
        // What an earlier try may have left is gone before a new bundle is made, and nobody clears this one meanwhile.
        self.clear_external(pod, container).await?;
        let _turn = container.clearing.lock().await;
        let (spec, environment) = self.build_spec(pod, &container.record, &container.config)?;
        specification::check_environment(&environment, &runtime.handler)?;
        let spec = specification::adapt(spec, &self.surroundings(pod, container, shim).await?)?;
        let dir = self.inner.dirs.container(container.id());
        let root =
            rootfs::Writable { lowers: &container.record.lowers, upper: &dir.join("upper"), work: &dir.join("work") };
        let bundle = Bundle::make(self.bundle_of(container), &spec, &root)?;
        let tty = container.config.tty;
        let console = if tty { Some(bundle.listen()?) } else { None };
        let path = &container.record.log_path;
        let log = if path.is_empty() { None } else { Some(launch::open_log(Path::new(path))?) };
        let log = log.as_ref().map(AsFd::as_fd);
        let io =
            if tty { ContainerIo::Terminal { log } } else { ContainerIo::Pipes { log, stdin: container.config.stdin } };

        let pid_file = bundle.path.join(PID_FILE);
        let mut create = vec![OsStr::new("create"), OsStr::new("--bundle"), bundle.path.as_os_str()];
        create.extend([OsStr::new("--pid-file"), pid_file.as_os_str()]);
        if tty {
            create.extend([OsStr::new("--console-socket"), OsStr::new(CONSOLE)]);
        }
        create.push(OsStr::new(container.id()));
        let start = [OsStr::new("start"), OsStr::new(container.id())];
        let request = MakeRequest {
            id: container.id(),
            target: None,
            programs: &[runtime.words(Some(&bundle.log()), &create), runtime.words(Some(&bundle.log()), &start)],
            oom_score_adj: oom_score_adj(spec.process().as_ref()),
            directory: bundle.directory.as_fd(),
            pid_file: PID_FILE,
            console: console.as_ref().map(AsFd::as_fd),
            io: MakeIo::Container(io),
        };
        let started = made(shim, request, MAKING).await.map_err(|cause| {
            let what = format!("container \"{}\"", container.config.metadata.name);
            failure(runtime, "create", &what, &bundle, &cause)
        })?;
        container.live().cgroup = launch::open_cgroup(&self.inner.cgroups, &container.record.cgroup).map(Into::into);
        let pid = i32::try_from(started.pid).unwrap_or_default();
        Ok(StartedRecord { at: crate::node::exits::nanoseconds(started.started_at), pid })
    }

    /// Has an external runtime run a command in a running container. At the deadline a runtime that is still at it is
    /// killed.
    #[allow(clippy::too_many_arguments)]
    pub(in crate::node) async fn exec_external(
        &self,
        runtime: &ExternalRuntime,
        pod: &Pod,
        container: &Container,
        shim: &ShimClient,
        exec_id: &str,
        command: Vec<String>,
        io: ExecIo<'_>,
        deadline: Option<Instant>,
    ) -> Result<ExecStarted> {
        let what =
            format!("command \"{}\" in container {}", command.first().map_or("", String::as_str), container.id());
        let (spec, environment) = self.build_spec(pod, &container.record, &container.config)?;
        specification::check_environment(&environment, &runtime.handler)?;
        let spec = specification::adapt(spec, &self.rights(container))?;
        let mut process = spec.process().clone().ok_or_else(|| NodeError::internal(&what, "there is no process"))?;
        let tty = matches!(io, ExecIo::Terminal);
        process.set_args(Some(command)).set_terminal(Some(tty));
        let directory = self.bundle_of(container).join("execs").join(exec_id);
        let files = Bundle::make_for_exec(directory, &process)?;
        let console = if tty { Some(files.listen()?) } else { None };

        let (document, pid_file) = (files.path.join("process.json"), files.path.join(PID_FILE));
        let mut exec = vec![OsStr::new("exec"), OsStr::new("--process"), document.as_os_str(), OsStr::new("--detach")];
        exec.extend([OsStr::new("--pid-file"), pid_file.as_os_str()]);
        if tty {
            exec.extend([OsStr::new("--console-socket"), OsStr::new(CONSOLE)]);
        }
        exec.push(OsStr::new(container.id()));
        let request = MakeRequest {
            id: exec_id,
            target: Some(container.id()),
            programs: &[runtime.words(Some(&files.log()), &exec)],
            oom_score_adj: oom_score_adj(Some(&process)),
            directory: files.directory.as_fd(),
            pid_file: PID_FILE,
            console: console.as_ref().map(AsFd::as_fd),
            io: MakeIo::Exec(io),
        };
        let left = deadline.map_or(MAKING, |deadline| deadline.saturating_duration_since(Instant::now()).min(MAKING));
        let started = made(shim, request, left).await.map_err(|cause| {
            let failure = failure(runtime, "exec", &what, &files, &cause);
            NodeError::new(ErrorKind::Internal, failure.message)
        });
        // Nothing reads it any more. What cannot be removed goes with the bundle.
        let _ = std::fs::remove_dir_all(&files.path);
        started
    }

    /// Sends the stop signal by way of the runtime: with some, the process that is known here is not the container's own.
    pub(in crate::node) async fn signal_external(
        &self,
        runtime: &ExternalRuntime,
        container: &Container,
        signal: i32,
    ) -> std::result::Result<(), String> {
        runtime.run(None, &["kill", container.id(), &signal.to_string()], SIGNALLING).await.map(|_| ())
    }

    /// What of the container's rights depends on the machine.
    fn rights(&self, container: &Container) -> Surroundings {
        let security = &container.config.security;
        let all = security.capabilities.add.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
        Surroundings {
            limits: Limits::of_this_process(),
            all_capabilities: security.privileged || all,
            ..Surroundings::default()
        }
    }

    async fn surroundings(&self, pod: &Pod, container: &Container, shim: &ShimClient) -> Result<Surroundings> {
        let mut surroundings = self.rights(container);
        let (settings, security) = (&self.inner.settings, &container.config.security);
        surroundings.seccomp = self.inner.filters.profile(security, settings.seccomp_profile.as_ref())?;
        let (of_pod, own) = (&pod.config.security.namespaces, &security.namespaces);
        let mut enter = |kind, pid: u32, name: &str| {
            surroundings.namespaces.push((kind, format!("/proc/{pid}/ns/{name}").into()));
        };
        if of_pod.network != NamespaceMode::Node {
            enter(LinuxNamespaceType::Network, shim.pid(), "net");
            enter(LinuxNamespaceType::Uts, shim.pid(), "uts");
        }
        if of_pod.ipc != NamespaceMode::Node && own.ipc != NamespaceMode::Container {
            enter(LinuxNamespaceType::Ipc, shim.pid(), "ipc");
        }
        match own.pid {
            NamespaceMode::Pod => enter(LinuxNamespaceType::Pid, pod_init(pod, shim).await?, "pid"),
            NamespaceMode::Target => {
                let target = self.find_container(&own.target_id)?;
                let Phase::Running { pid, .. } = target.phase() else {
                    let message = format!("container {} does not run, so its processes cannot be joined", target.id());
                    return Err(NodeError::new(ErrorKind::FailedPrecondition, message));
                };
                enter(LinuxNamespaceType::Pid, pid.unsigned_abs(), "pid");
            }
            NamespaceMode::Container | NamespaceMode::Node => {}
        }
        Ok(surroundings)
    }
}

/// What the container's processes have, for those to which the runtime gives none.
fn oom_score_adj(process: Option<&Process>) -> Option<i16> {
    i16::try_from(process?.oom_score_adj()?).ok()
}

/// The process id of the init of the pod's PID namespace.
async fn pod_init(pod: &Pod, shim: &ShimClient) -> Result<u32> {
    use std::os::fd::AsRawFd;
    let failed =
        |cause: &dyn std::fmt::Display| NodeError::internal(format!("PID namespace of pod {}", pod.label()), cause);
    let fds = shim.pod_fds().await.map_err(|cause| failed(&cause))?;
    let pidfd = fds.pid.ok_or_else(|| failed(&"the pod has none, or its init is dead"))?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
    let info = info.map_err(|cause| failed(&cause))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.ok_or_else(|| failed(&"its init is dead"))
}

/// Makes a process, and puts an end to a runtime that does not come to one.
async fn made(
    shim: &ShimClient,
    request: MakeRequest<'_>,
    limit: Duration,
) -> std::result::Result<ExecStarted, ShimError> {
    let making = shim.make(request);
    tokio::pin!(making);
    match tokio::time::timeout(limit, &mut making).await {
        Ok(made) => made,
        Err(_) => {
            // The answer then says that it was killed; or that it was done just now, and then the signal met nobody.
            let _ = shim.signal(request.id, libc::SIGKILL).await;
            making.await
        }
    }
}

/// Why a runtime did not make something, in its own words if it left any.
fn failure(runtime: &ExternalRuntime, verb: &str, what: &str, bundle: &Bundle, cause: &ShimError) -> NodeError {
    if cause.start_stage().is_none() {
        return NodeError::internal(what, cause);
    }
    let logged = std::fs::read_to_string(bundle.log()).ok().and_then(|text| command::said(&text));
    let text = logged.unwrap_or_else(|| cause.to_string());
    NodeError::new(ErrorKind::FailedPrecondition, format!("{what}: {}", runtime.failure(verb, &text)))
}
