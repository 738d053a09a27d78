//! `orlop exec`: a command in a running container.

use std::io::{Write, stderr, stdout};

use clap::Args;

use super::client::{EndpointArgs, refused};
use super::names::Inventory;
use crate::cri::v1::ExecSyncRequest;

/// Run a command in a container
///
/// The command gets no standard input and no terminal, and what it prints is shown when it has ended: this uses the
/// ExecSync call of CRI, for this version has no streaming yet. The exit code is the command's.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orlop exec web -- cat /etc/hostname
  orlop exec demo/web -- sh -c 'ps; ls /'
  orlop exec --timeout 5 web -- sleep 60")]
pub(super) struct ExecArgs {
    /// The container: a name, POD/NAME, or the beginning of an id
    container: String,
    /// The command and its arguments
    #[arg(required = true, last = true)]
    command: Vec<String>,
    /// Seconds after which the command is killed; 0 for never
    #[arg(long, default_value_t = 0)]
    timeout: u32,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

pub(super) async fn run(args: ExecArgs) -> anyhow::Result<u8> {
    let mut client = args.endpoint.connect().await?;
    let container = Inventory::read(&mut client).await?.container(&args.container)?;
    let request = ExecSyncRequest { container_id: container.id, cmd: args.command, timeout: i64::from(args.timeout) };
    let answer = client.runtime.exec_sync(request).await.map_err(refused)?.into_inner();
    stdout().write_all(&answer.stdout)?;
    stdout().flush()?;
    stderr().write_all(&answer.stderr)?;
    Ok(exit_code(answer.exit_code))
}

/// A container's exit code as a process's: 0 to 255, and never 0 for what was not 0.
pub(super) fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}
