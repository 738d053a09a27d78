//! `orlop logs`: a container's log, from the file that the agent writes for the kubelet.
//!
//! A record of a CRI log is `TIME STREAM TAG CONTENT`; the tag `P` says that the line goes on in the next record of
//! the same stream. The content is printed as it was written; what went to standard error comes out there.

mod follow;
mod record;

#[cfg(test)]
mod tests;

use std::io::{Write, stderr, stdout};
use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;

use super::client::{Client, EndpointArgs};
use super::names::{Inventory, name_of};
use crate::cri::v1::{Container, ContainerState};
pub(super) use follow::Follower;
pub(super) use record::{Record, Stream};

/// Print a container's log
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orlop logs demo/web
  orlop logs -f --tail 20 web
  orlop logs -p web            the attempt before this one")]
pub(super) struct LogsArgs {
    /// The container: a name, POD/NAME, or the beginning of an id; a pod's name where it has one container
    container: String,
    /// Go on with what is written from now on, until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines; all without it
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// The log of the attempt before
    #[arg(short, long)]
    previous: bool,
    /// Each line with its time
    #[arg(short, long)]
    timestamps: bool,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

pub(super) async fn run(args: LogsArgs) -> anyhow::Result<u8> {
    let mut client = args.endpoint.connect().await?;
    let inventory = Inventory::read(&mut client).await?;
    let mut container = inventory.container(&args.container)?;
    if args.previous {
        container = previous(&inventory, &container)
            .with_context(|| format!("\"{}\" has no attempt before this one", args.container))?;
    }
    let path = client.container_status(&container.id).await?.log_path;
    if path.is_empty() {
        bail!("\"{}\" has no log: it was made without a log path", args.container);
    }
    let mut follower = Follower::open(Path::new(&path)).with_context(|| format!("the log {path} cannot be read"))?;
    if let Some(lines) = args.tail {
        follower.skip_to_last(lines).with_context(|| format!("the log {path} cannot be read"))?;
    }
    let mut printer = Printer { timestamps: args.timestamps };
    loop {
        // Asked before reading: what a container wrote before its end is read after it.
        let over = !args.follow || ended(&mut client, &container.id).await;
        while let Some(record) = follower.next_record()? {
            printer.print(&record)?;
        }
        if over {
            return Ok(0);
        }
        follower.wait().await;
    }
}

/// Whether nothing more will be written.
pub(super) async fn ended(client: &mut Client, id: &str) -> bool {
    let gone_on = [ContainerState::ContainerRunning as i32, ContainerState::ContainerCreated as i32];
    // A container that is gone has ended.
    client.container_status(id).await.map_or(true, |status| !gone_on.contains(&status.state))
}

/// The attempt before `container`: the same name in the same pod.
fn previous(inventory: &Inventory, container: &Container) -> Option<Container> {
    let attempt = |c: &Container| c.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    inventory
        .containers
        .iter()
        .filter(|other| {
            other.pod_sandbox_id == container.pod_sandbox_id
                && name_of(other) == name_of(container)
                && attempt(other) < attempt(container)
        })
        .max_by_key(|other| attempt(other))
        .cloned()
}

struct Printer {
    timestamps: bool,
}

impl Printer {
    fn print(&mut self, record: &Record) -> std::io::Result<()> {
        let mut line = Vec::with_capacity(record.content.len() + 40);
        if self.timestamps {
            line.extend_from_slice(record.time.as_bytes());
            line.push(b' ');
        }
        line.extend_from_slice(&record.content);
        if record.whole {
            line.push(b'\n');
        }
        match record.stream {
            Stream::Stdout => {
                let mut out = stdout().lock();
                out.write_all(&line)?;
                out.flush()
            }
            Stream::Stderr => stderr().lock().write_all(&line),
        }
    }
}
