//! `orlop run`: a pod from a Kubernetes manifest, without a kubelet.
//!
//! What a kubelet would do once is done: images, sandbox, init containers one after the other, containers. What it
//! would go on doing (restarts, probes) is not.

mod attach;
mod convert;
mod expand;
mod files;
mod manifest;
mod quantity;

#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::client::{Client, EndpointArgs, refused};
use super::names::Inventory;
use super::output::{self, OutputArgs, short_id};
use super::rm::remove_pod;
use super::{logs, pull};
use crate::cri::v1::{
    ContainerState, CreateContainerRequest, Image, ImageSpec, ImageStatusRequest, PodSandbox, PodSandboxConfig,
    PodSandboxState, RunPodSandboxRequest, StartContainerRequest,
};
use convert::Surroundings;
pub(super) use files::{RunDir, remove_files};
use manifest::{Container, Pod, PullPolicy, RestartPolicy};

/// Start a pod from a Kubernetes manifest
///
/// The manifest is a Pod (apiVersion v1) in YAML or JSON. Containers and initContainers are understood with command,
/// args, env, ports, resources, securityContext and imagePullPolicy; volumes may be emptyDir or hostPath; of the pod
/// itself the namespaces, hostname, DNS, security context, RuntimeClass and grace period. A field that is not
/// understood is an error that names it. Nothing restarts a container that ends, whatever restartPolicy says: that
/// is a kubelet's work. Where the manifest names no seccomp profile, the default one is used.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orlop run pod.yaml             start it and return
  orlop run --attach pod.yaml    and show what it prints, until it ends or ^C
  orlop run --rm job.yaml        and remove it then; the exit code is the first that is not 0
  kubectl run web --image=IMAGE --dry-run=client -o yaml | orlop run -")]
pub(super) struct RunArgs {
    /// The manifest, or - for standard input
    manifest: PathBuf,
    /// Show what its containers print, until they have all ended; ^C leaves them running
    #[arg(short, long)]
    attach: bool,
    /// Attach, and remove the pod at the end or on ^C
    #[arg(long)]
    rm: bool,
    /// Remove a pod of the same name before
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    dir: RunDir,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What was started.
#[derive(Debug, Serialize)]
struct Started {
    id: String,
    namespace: String,
    name: String,
    /// Empty for a pod in the host's network.
    ip: String,
    containers: Vec<StartedContainer>,
}

#[derive(Clone, Debug, Serialize)]
struct StartedContainer {
    name: String,
    id: String,
}

pub(super) async fn run(args: RunArgs) -> anyhow::Result<u8> {
    let pod = read(&args.manifest)?;
    let around = files::surroundings(&args.dir)?;
    // Every field is looked at before anything is made.
    let sandbox = convert::sandbox(&pod, &around)?;
    for container in pod.spec.init_containers.iter().chain(&pod.spec.containers) {
        convert::container(&pod, container, &around)?;
    }
    let mut client = args.endpoint.connect().await?;
    make_room(&mut client, &pod, &args).await?;
    let http = args.endpoint.socket()?.with_file_name("http.sock");
    for container in pod.spec.init_containers.iter().chain(&pod.spec.containers) {
        provide_image(&mut client, &pod, container, &http).await?;
    }
    if let Err(error) = files::make(&pod, &around) {
        files::remove(&args.dir, &around.uid)?;
        return Err(error);
    }
    let started = start(&mut client, &pod, &sandbox, &around, &args.dir).await?;
    if pod.spec.restart_policy.is_some_and(|policy| policy != RestartPolicy::Never) {
        eprintln!("orlop: note: without a kubelet nothing restarts a container, whatever restartPolicy says");
    }
    if !args.attach && !args.rm {
        show(&started, args.output)?;
        return Ok(0);
    }
    let code = attach::attach(&mut client, &started.containers).await;
    if args.rm {
        // Also when nobody reads the output any more.
        remove(&mut client, &started.id, &args.dir).await?;
    }
    code
}

/// The grace period of a container in seconds, as its annotations have it.
pub(super) fn grace_of(annotations: &std::collections::BTreeMap<String, String>) -> i64 {
    annotations.get(convert::GRACE).and_then(|seconds| seconds.parse().ok()).unwrap_or(10)
}

fn read(path: &Path) -> anyhow::Result<Pod> {
    let (name, text) = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
        ("standard input".to_owned(), text)
    } else {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?;
        (name, text)
    };
    parse(&text).with_context(|| name)
}

fn parse(text: &str) -> anyhow::Result<Pod> {
    let pod: Pod = serde_saphyr::from_str(text).map_err(|error| {
        let place = error.location().map_or_else(String::new, |at| format!("line {}: ", at.line()));
        anyhow::anyhow!("{place}{}", plain(&error))
    })?;
    if (pod.api_version.as_str(), pod.kind.as_str()) != ("v1", "Pod") {
        bail!("this is {} of {}; `orlop run` takes a Pod of v1", pod.kind, pod.api_version);
    }
    if pod.spec.containers.is_empty() {
        bail!("spec.containers is empty");
    }
    let mut names: Vec<&str> =
        pod.spec.init_containers.iter().chain(&pod.spec.containers).map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("two containers are called \"{}\"", twice[0]);
    }
    // The names become parts of paths.
    let dns = |name: &str| !name.is_empty() && name.len() <= 253 && name.bytes().all(is_name) && !name.starts_with('.');
    let volumes = pod.spec.volumes.iter().map(|volume| volume.name.as_str());
    let pod_names = [pod.metadata.name.as_str(), pod.metadata.namespace.as_str()];
    if let Some(bad) = names.into_iter().chain(volumes).chain(pod_names).find(|name| !dns(name)) {
        bail!("\"{bad}\" is not a name: lower-case letters, digits, - and . make one");
    }
    Ok(pod)
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
}

/// The parser's message in one line; for a field that is not there, in the terms of this command.
fn plain(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    match text.split_once("unknown field `").and_then(|(_, rest)| rest.split_once('`')) {
        Some((field, _)) => format!("field \"{field}\" is not supported by `orlop run`"),
        None => text,
    }
}

/// Sees to it that no pod of the same name is in the way.
async fn make_room(client: &mut Client, pod: &Pod, args: &RunArgs) -> anyhow::Result<()> {
    let inventory = Inventory::read(client).await?;
    let same = |other: &&PodSandbox| {
        other.metadata.as_ref().is_some_and(|m| m.name == pod.metadata.name && m.namespace == pod.metadata.namespace)
    };
    for other in inventory.pods.iter().filter(same) {
        if args.replace {
            remove_pod(client, &inventory, other, &args.dir).await?;
        } else if other.state == PodSandboxState::SandboxReady as i32 {
            bail!("a pod \"{}\" runs already; remove it first, or use --replace", pod.metadata.name);
        }
    }
    Ok(())
}

/// Pulls the image if the policy says so, and refuses root where the manifest does.
async fn provide_image(client: &mut Client, pod: &Pod, container: &Container, http: &Path) -> anyhow::Result<()> {
    let latest = {
        let tag = container.image.rsplit('/').next().unwrap_or_default();
        !container.image.contains('@') && (!tag.contains(':') || tag.ends_with(":latest"))
    };
    let policy =
        container.image_pull_policy.unwrap_or(if latest { PullPolicy::Always } else { PullPolicy::IfNotPresent });
    let mut image = image(client, &container.image).await?;
    if policy == PullPolicy::Always || (policy == PullPolicy::IfNotPresent && image.is_none()) {
        pull::pull(client, &container.image, None, http, false).await?;
        image = self::image(client, &container.image).await?;
    }
    let Some(image) = image else {
        bail!("image {} is not here, and imagePullPolicy is Never; `orlop pull` brings it", container.image)
    };
    let of_pod = &pod.spec.security_context;
    let context = &container.security_context;
    if context.run_as_non_root.unwrap_or(of_pod.run_as_non_root) {
        let user = context.run_as_user.or(of_pod.run_as_user).or(image.uid.map(|uid| uid.value));
        match user {
            Some(0) => bail!("container {}: runAsNonRoot, but its user is root", container.name),
            None if image.username.is_empty() => {
                bail!("container {}: runAsNonRoot, but its image runs as root", container.name)
            }
            None => bail!(
                "container {}: runAsNonRoot, but the image's user \"{}\" is no number that could be checked; set runAsUser",
                container.name,
                image.username
            ),
            Some(_) => {}
        }
    }
    Ok(())
}

async fn image(client: &mut Client, name: &str) -> anyhow::Result<Option<Image>> {
    let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    let request = ImageStatusRequest { image, verbose: false };
    Ok(client.images.image_status(request).await.map_err(refused)?.into_inner().image)
}

/// Sandbox, init containers, containers. What was made is removed when it fails on the way.
async fn start(
    client: &mut Client,
    pod: &Pod,
    sandbox: &PodSandboxConfig,
    around: &Surroundings,
    dir: &RunDir,
) -> anyhow::Result<Started> {
    let request = RunPodSandboxRequest {
        config: Some(sandbox.clone()),
        runtime_handler: pod.spec.runtime_class_name.clone().unwrap_or_default(),
    };
    let id = match client.runtime.run_pod_sandbox(request).await {
        Ok(answer) => answer.into_inner().pod_sandbox_id,
        Err(status) => {
            files::remove(dir, &around.uid)?;
            return Err(refused(status));
        }
    };
    match start_containers(client, pod, sandbox, &id, around).await {
        Ok(containers) => {
            let ip = client.pod_status(&id).await?.network.unwrap_or_default().ip;
            let metadata = &pod.metadata;
            Ok(Started { id, namespace: metadata.namespace.clone(), name: metadata.name.clone(), ip, containers })
        }
        Err(error) => match remove(client, &id, dir).await {
            Ok(()) => Err(error),
            Err(further) => {
                Err(error.context(format!("and the pod {} could not be removed: {further:#}", short_id(&id))))
            }
        },
    }
}

async fn start_containers(
    client: &mut Client,
    pod: &Pod,
    sandbox: &PodSandboxConfig,
    id: &str,
    around: &Surroundings,
) -> anyhow::Result<Vec<StartedContainer>> {
    for container in &pod.spec.init_containers {
        let started = start_container(client, pod, container, sandbox, id, around).await?;
        let code = wait(client, &started.id).await?;
        if code != 0 {
            let log = around.log_directory().join(&container.name).join("0.log");
            attach::print_tail(&log);
            bail!("init container {} ended with {code}", container.name);
        }
    }
    let mut started = Vec::new();
    for container in &pod.spec.containers {
        started.push(start_container(client, pod, container, sandbox, id, around).await?);
    }
    Ok(started)
}

async fn start_container(
    client: &mut Client,
    pod: &Pod,
    container: &Container,
    sandbox: &PodSandboxConfig,
    pod_id: &str,
    around: &Surroundings,
) -> anyhow::Result<StartedContainer> {
    let name = &container.name;
    let request = CreateContainerRequest {
        pod_sandbox_id: pod_id.to_owned(),
        config: Some(convert::container(pod, container, around)?),
        sandbox_config: Some(sandbox.clone()),
    };
    let answer = client.runtime.create_container(request).await.map_err(refused);
    let id = answer.with_context(|| format!("container {name} could not be made"))?.into_inner().container_id;
    let request = StartContainerRequest { container_id: id.clone() };
    let answer = client.runtime.start_container(request).await.map_err(refused);
    answer.with_context(|| format!("container {name} could not be started"))?;
    Ok(StartedContainer { name: name.clone(), id })
}

/// Waits for the end of a container; its exit code.
async fn wait(client: &mut Client, id: &str) -> anyhow::Result<i32> {
    let mut pause = Duration::from_millis(5);
    loop {
        let status = client.container_status(id).await?;
        if status.state == ContainerState::ContainerExited as i32 {
            return Ok(status.exit_code);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

async fn remove(client: &mut Client, id: &str, dir: &RunDir) -> anyhow::Result<()> {
    let inventory = Inventory::read(client).await?;
    match inventory.pods.iter().find(|pod| pod.id == id) {
        Some(pod) => remove_pod(client, &inventory, pod, dir).await,
        // Somebody else was faster.
        None => Ok(()),
    }
}

fn show(started: &Started, output: OutputArgs) -> anyhow::Result<()> {
    if output.json() {
        return Ok(output::json(started)?);
    }
    let place = if started.ip.is_empty() { "in the host's network" } else { started.ip.as_str() };
    let mut text = format!("pod {} ({}) {place}\n", started.name, short_id(&started.id));
    for container in &started.containers {
        text.push_str(&format!("  {} ({})\n", container.name, short_id(&container.id)));
    }
    Ok(output::print(&text)?)
}
