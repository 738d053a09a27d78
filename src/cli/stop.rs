//! `orlop stop`: ends pods and containers.

use clap::Args;

use super::client::{Client, EndpointArgs, refused};
use super::names::{Inventory, Object};
use super::output;
use super::run::grace_of;
use crate::cri::v1::{Container, ContainerState, StopContainerRequest, StopPodSandboxRequest};

/// Stop pods or containers
///
/// The containers of a pod are asked to end, all at once, and killed when the time is over; then the pod is stopped.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  orlop stop demo\n  orlop stop -t 0 demo/web")]
pub(super) struct StopArgs {
    /// Names, POD/NAME, or the beginnings of ids
    #[arg(required = true)]
    objects: Vec<String>,
    /// Seconds before what still runs is killed; by default what the pod's manifest says, else 10
    #[arg(short, long = "time", value_name = "SECONDS")]
    time: Option<i64>,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

pub(super) async fn run(args: StopArgs) -> anyhow::Result<u8> {
    let mut client = args.endpoint.connect().await?;
    let inventory = Inventory::read(&mut client).await?;
    // All are looked up before the first is stopped, so that a mistyped name changes nothing.
    let objects: Vec<Object> = args.objects.iter().map(|text| inventory.object(text)).collect::<Result<_, _>>()?;
    for (object, text) in objects.into_iter().zip(&args.objects) {
        match object {
            Object::Pod(pod) => stop_pod(&mut client, &inventory, &pod.id, args.time).await?,
            Object::Container(container) => stop_container(&client, &container, args.time).await?,
        }
        output::print(&format!("{text}\n"))?;
    }
    Ok(0)
}

/// Stops a pod: its running containers side by side, then itself.
pub(super) async fn stop_pod(
    client: &mut Client,
    inventory: &Inventory,
    id: &str,
    time: Option<i64>,
) -> anyhow::Result<()> {
    let running = inventory
        .containers
        .iter()
        .filter(|c| c.pod_sandbox_id == id && c.state == ContainerState::ContainerRunning as i32);
    let stops = running.map(|container| stop_container(client, container, time));
    futures_util::future::try_join_all(stops).await?;
    let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    client.runtime.stop_pod_sandbox(request).await.map_err(refused)?;
    Ok(())
}

async fn stop_container(client: &Client, container: &Container, time: Option<i64>) -> anyhow::Result<()> {
    let timeout = time.unwrap_or_else(|| grace_of(&container.annotations));
    let request = StopContainerRequest { container_id: container.id.clone(), timeout };
    client.runtime.clone().stop_container(request).await.map_err(refused)?;
    Ok(())
}
