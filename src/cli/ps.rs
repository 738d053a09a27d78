//! `orlop ps`: the containers of this node.

use clap::Args;
use serde::Serialize;

use super::client::EndpointArgs;
use super::names::Inventory;
use super::output::{OutputArgs, ago, short_id};
use crate::cri::v1::{Container, ContainerState};

/// List containers
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  orlop ps            those that run\n  orlop ps -a demo    all of one pod, ended ones too"
)]
pub(super) struct PsArgs {
    /// Only those of this pod
    pod: Option<String>,
    /// Ended and not yet started ones too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    attempt: u32,
    pod: String,
    pod_id: String,
    image: String,
    state: &'static str,
    /// Of an ended container.
    exit_code: Option<i32>,
    reason: String,
    /// Nanoseconds since the epoch.
    created_at: i64,
}

pub(super) async fn run(args: PsArgs) -> anyhow::Result<u8> {
    let mut client = args.endpoint.connect().await?;
    let inventory = Inventory::read(&mut client).await?;
    let pod = args.pod.as_deref().map(|text| inventory.pod(text)).transpose()?;
    let mut rows = Vec::new();
    for container in &inventory.containers {
        let state = ContainerState::try_from(container.state).unwrap_or(ContainerState::ContainerUnknown);
        if pod.as_ref().is_some_and(|pod| pod.id != container.pod_sandbox_id)
            || (!args.all && state != ContainerState::ContainerRunning)
        {
            continue;
        }
        let mut row = row(container, state, &inventory);
        if state == ContainerState::ContainerExited {
            // It may be removed between the two questions.
            if let Ok(status) = client.container_status(&container.id).await {
                row.exit_code = Some(status.exit_code);
                row.reason = status.reason;
            }
        }
        rows.push(row);
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.created_at));
    args.output.list(&rows, ["ID", "POD", "NAME", "STATE", "IMAGE", "CREATED"], |row| {
        let state = match row.exit_code {
            Some(code) if row.reason.is_empty() => format!("exited ({code})"),
            Some(code) => format!("exited ({code}, {})", row.reason),
            None => row.state.to_owned(),
        };
        [short_id(&row.id), row.pod.clone(), row.name.clone(), state, row.image.clone(), ago(row.created_at)]
    })?;
    Ok(0)
}

fn row(container: &Container, state: ContainerState, inventory: &Inventory) -> Row {
    let metadata = container.metadata.clone().unwrap_or_default();
    let image = container.image.clone().unwrap_or_default();
    Row {
        id: container.id.clone(),
        name: metadata.name,
        attempt: metadata.attempt,
        pod: inventory.pod_name(&container.pod_sandbox_id),
        pod_id: container.pod_sandbox_id.clone(),
        image: if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        state: state_name(state),
        exit_code: None,
        reason: String::new(),
        created_at: container.created_at,
    }
}

pub(super) fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "created",
        ContainerState::ContainerRunning => "running",
        ContainerState::ContainerExited => "exited",
        ContainerState::ContainerUnknown => "unknown",
    }
}
