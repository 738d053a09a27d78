//! `orlop pods`: the pods of this node.

use clap::Args;
use serde::Serialize;

use super::client::EndpointArgs;
use super::output::{OutputArgs, ago, short_id};
use crate::cri::v1::PodSandboxState;

/// List pods
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  orlop pods\n  orlop pods -o json | jq -r '.[].name'")]
pub(super) struct PodsArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Pod {
    id: String,
    name: String,
    namespace: String,
    state: &'static str,
    /// The primary one first.
    ips: Vec<String>,
    attempt: u32,
    /// Nanoseconds since the epoch.
    created_at: i64,
    runtime_handler: String,
}

pub(super) async fn run(args: PodsArgs) -> anyhow::Result<u8> {
    let mut client = args.endpoint.connect().await?;
    let mut pods = Vec::new();
    for pod in client.pods().await? {
        let metadata = pod.metadata.unwrap_or_default();
        // A pod may be removed between the two questions.
        let network = client.pod_status(&pod.id).await.ok().and_then(|status| status.network).unwrap_or_default();
        let further = network.additional_ips.into_iter().map(|further| further.ip);
        pods.push(Pod {
            ips: std::iter::once(network.ip).chain(further).filter(|ip| !ip.is_empty()).collect(),
            state: if pod.state == PodSandboxState::SandboxReady as i32 { "ready" } else { "not ready" },
            id: pod.id,
            name: metadata.name,
            namespace: metadata.namespace,
            attempt: metadata.attempt,
            created_at: pod.created_at,
            runtime_handler: pod.runtime_handler,
        });
    }
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    args.output.list(&pods, ["ID", "NAMESPACE", "NAME", "STATE", "IP", "CREATED"], |pod| {
        [
            short_id(&pod.id),
            pod.namespace.clone(),
            pod.name.clone(),
            pod.state.to_owned(),
            pod.ips.first().cloned().unwrap_or_else(|| "-".to_owned()),
            ago(pod.created_at),
        ]
    })?;
    Ok(0)
}
