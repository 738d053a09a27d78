//! `orlop rm`: forgets pods and containers.

use anyhow::bail;
use clap::Args;

use super::client::{Client, EndpointArgs, refused};
use super::names::{Inventory, Object};
use super::output;
use super::run::{RunDir, remove_files};
use super::stop::stop_pod;
use crate::cri::v1::{ContainerState, PodSandbox, PodSandboxState, RemoveContainerRequest, RemovePodSandboxRequest};

/// Remove pods or containers
///
/// A pod that `orlop run` started loses its log and its emptyDir volumes with it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  orlop rm demo\n  orlop rm -f demo other/web")]
pub(super) struct RmArgs {
    /// Names, POD/NAME, or the beginnings of ids
    #[arg(required = true)]
    objects: Vec<String>,
    /// Stop what runs, at once
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    dir: RunDir,
}

pub(super) async fn run(args: RmArgs) -> anyhow::Result<u8> {
    let mut client = args.endpoint.connect().await?;
    let inventory = Inventory::read(&mut client).await?;
    let objects: Vec<Object> = args.objects.iter().map(|text| inventory.object(text)).collect::<Result<_, _>>()?;
    if !args.force {
        for (object, text) in objects.iter().zip(&args.objects) {
            let runs = match object {
                Object::Pod(pod) => pod.state == PodSandboxState::SandboxReady as i32,
                Object::Container(container) => container.state == ContainerState::ContainerRunning as i32,
            };
            if runs {
                bail!("\"{text}\" still runs; stop it first, or use -f");
            }
        }
    }
    for (object, text) in objects.into_iter().zip(&args.objects) {
        match object {
            Object::Pod(pod) => remove_pod(&mut client, &inventory, &pod, &args.dir).await?,
            Object::Container(container) => {
                let request = RemoveContainerRequest { container_id: container.id };
                client.runtime.remove_container(request).await.map_err(refused)?;
            }
        }
        output::print(&format!("{text}\n"))?;
    }
    Ok(0)
}

/// Removes a pod with all that it has.
pub(super) async fn remove_pod(
    client: &mut Client,
    inventory: &Inventory,
    pod: &PodSandbox,
    dir: &RunDir,
) -> anyhow::Result<()> {
    if pod.state == PodSandboxState::SandboxReady as i32 {
        stop_pod(client, inventory, &pod.id, Some(0)).await?;
    }
    let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    client.runtime.remove_pod_sandbox(request).await.map_err(refused)?;
    remove_files(dir, pod)
}
