//! `orlop version`: this program's version, and the agent's.

use clap::Args;
use serde::Serialize;

use super::client::{EndpointArgs, refused};
use super::output::{self, OutputArgs};
use crate::cri::v1::VersionRequest;

/// Print the version of this program and of the agent
#[derive(Debug, Args)]
pub(super) struct VersionArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    /// Absent where no agent answers.
    agent: Option<Agent>,
}

#[derive(Debug, Serialize)]
struct Agent {
    name: String,
    version: String,
    cri: String,
}

pub(super) async fn run(args: VersionArgs) -> anyhow::Result<u8> {
    // Without an agent this is still an answer.
    let agent = match args.endpoint.connect().await {
        Err(_) => None,
        Ok(mut client) => {
            let answer = client.runtime.version(VersionRequest::default()).await.map_err(refused)?.into_inner();
            Some(Agent { name: answer.runtime_name, version: answer.runtime_version, cri: answer.runtime_api_version })
        }
    };
    let versions = Versions { client: env!("CARGO_PKG_VERSION"), agent };
    if args.output.json() {
        output::json(&versions)?;
        return Ok(0);
    }
    let agent = match &versions.agent {
        Some(Agent { name, version, cri }) => format!("{name} {version}, CRI {cri}"),
        None => format!("none answers on {}", args.endpoint.socket()?.display()),
    };
    output::print(&format!("orlop {}\nagent: {agent}\n", versions.client))?;
    Ok(0)
}
