//! `orlop stats`: what pods or containers use.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::client::{Client, EndpointArgs, refused};
use super::names::Inventory;
use super::output::{OutputArgs, bytes, memory, short_id};
use crate::cri::v1::{CpuUsage, ListContainerStatsRequest, ListPodSandboxStatsRequest, MemoryUsage, UInt64Value};

/// How far apart the two readings of a CPU are, where the agent has only one.
const INTERVAL: Duration = Duration::from_millis(500);

/// Show what pods or containers use
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  orlop stats\n  orlop stats --pods -o json")]
pub(super) struct StatsArgs {
    /// Pods, with their network, rather than containers
    #[arg(short, long)]
    pods: bool,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct ContainerRow {
    id: String,
    pod: String,
    name: String,
    /// Thousandths of a CPU.
    cpu_milli: Option<u64>,
    /// Bytes, as the kubelet judges it.
    working_set: Option<u64>,
    /// Bytes, without the page cache.
    rss: Option<u64>,
    /// Bytes that the container wrote to its root filesystem.
    written: Option<u64>,
}

#[derive(Debug, Serialize)]
struct PodRow {
    id: String,
    namespace: String,
    name: String,
    cpu_milli: Option<u64>,
    working_set: Option<u64>,
    processes: Option<u64>,
    rx_bytes: Option<u64>,
    tx_bytes: Option<u64>,
}

pub(super) async fn run(args: StatsArgs) -> anyhow::Result<u8> {
    let mut client = args.endpoint.connect().await?;
    if args.pods {
        pods(&mut client, args.output).await?
    } else {
        containers(&mut client, args.output).await?
    }
    Ok(0)
}

async fn containers(client: &mut Client, output: OutputArgs) -> anyhow::Result<()> {
    let inventory = Inventory::read(client).await?;
    let pod_of: BTreeMap<&str, &str> =
        inventory.containers.iter().map(|c| (c.id.as_str(), c.pod_sandbox_id.as_str())).collect();
    let mut rates = Rates::default();
    let mut stats = list_containers(client).await?;
    if stats.iter().any(|(_, cpu, ..)| rates.lacking(cpu.as_ref())) {
        rates.first(stats.iter().map(|(id, cpu, ..)| (id.0.as_str(), cpu.as_ref())));
        tokio::time::sleep(INTERVAL).await;
        stats = list_containers(client).await?;
    }
    let rows: Vec<ContainerRow> = stats
        .into_iter()
        .map(|((id, name), cpu, memory, written)| ContainerRow {
            pod: pod_of.get(id.as_str()).map(|pod| inventory.pod_name(pod)).unwrap_or_default(),
            cpu_milli: rates.milli(&id, cpu.as_ref()),
            working_set: value(memory.as_ref().and_then(|m| m.working_set_bytes.as_ref())),
            rss: value(memory.as_ref().and_then(|m| m.rss_bytes.as_ref())),
            id,
            name,
            written,
        })
        .collect();
    output.list(&rows, ["ID", "POD", "NAME", "CPU", "MEMORY", "RSS", "WRITTEN"], |row| {
        [
            short_id(&row.id),
            row.pod.clone(),
            row.name.clone(),
            milli(row.cpu_milli),
            or_dash(row.working_set, memory),
            or_dash(row.rss, memory),
            or_dash(row.written, bytes),
        ]
    })?;
    Ok(())
}

/// Id and name, CPU, memory, bytes written.
type ContainerReading = ((String, String), Option<CpuUsage>, Option<MemoryUsage>, Option<u64>);

async fn list_containers(client: &mut Client) -> anyhow::Result<Vec<ContainerReading>> {
    let request = ListContainerStatsRequest::default();
    let answer = client.runtime.list_container_stats(request).await.map_err(refused)?.into_inner();
    let reading = |stats: crate::cri::v1::ContainerStats| {
        let attributes = stats.attributes.unwrap_or_default();
        let name = attributes.metadata.unwrap_or_default().name;
        let written = value(stats.writable_layer.as_ref().and_then(|layer| layer.used_bytes.as_ref()));
        ((attributes.id, name), stats.cpu, stats.memory, written)
    };
    Ok(answer.stats.into_iter().map(reading).collect())
}

async fn pods(client: &mut Client, output: OutputArgs) -> anyhow::Result<()> {
    let mut rates = Rates::default();
    let mut stats = list_pods(client).await?;
    let cpu = |stats: &crate::cri::v1::PodSandboxStats| stats.linux.as_ref().and_then(|linux| linux.cpu);
    let id =
        |stats: &crate::cri::v1::PodSandboxStats| stats.attributes.as_ref().map(|a| a.id.clone()).unwrap_or_default();
    if stats.iter().any(|s| rates.lacking(cpu(s).as_ref())) {
        let first: Vec<(String, Option<CpuUsage>)> = stats.iter().map(|s| (id(s), cpu(s))).collect();
        rates.first(first.iter().map(|(id, cpu)| (id.as_str(), cpu.as_ref())));
        tokio::time::sleep(INTERVAL).await;
        stats = list_pods(client).await?;
    }
    let rows: Vec<PodRow> = stats
        .into_iter()
        .map(|stats| {
            let attributes = stats.attributes.unwrap_or_default();
            let metadata = attributes.metadata.unwrap_or_default();
            let linux = stats.linux.unwrap_or_default();
            let interface = linux.network.and_then(|network| network.default_interface);
            PodRow {
                cpu_milli: rates.milli(&attributes.id, linux.cpu.as_ref()),
                id: attributes.id,
                namespace: metadata.namespace,
                name: metadata.name,
                working_set: value(linux.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref())),
                processes: value(linux.process.as_ref().and_then(|process| process.process_count.as_ref())),
                rx_bytes: value(interface.as_ref().and_then(|interface| interface.rx_bytes.as_ref())),
                tx_bytes: value(interface.as_ref().and_then(|interface| interface.tx_bytes.as_ref())),
            }
        })
        .collect();
    output.list(&rows, ["ID", "NAMESPACE", "NAME", "CPU", "MEMORY", "PROCESSES", "RECEIVED", "SENT"], |row| {
        [
            short_id(&row.id),
            row.namespace.clone(),
            row.name.clone(),
            milli(row.cpu_milli),
            or_dash(row.working_set, memory),
            or_dash(row.processes, |count| count.to_string()),
            or_dash(row.rx_bytes, bytes),
            or_dash(row.tx_bytes, bytes),
        ]
    })?;
    Ok(())
}

async fn list_pods(client: &mut Client) -> anyhow::Result<Vec<crate::cri::v1::PodSandboxStats>> {
    let request = ListPodSandboxStatsRequest::default();
    Ok(client.runtime.list_pod_sandbox_stats(request).await.map_err(refused)?.into_inner().stats)
}

/// CPU rates: the agent's own where it has one, else of two readings of this command.
#[derive(Default)]
struct Rates {
    /// Timestamp and usage of the first reading, both in nanoseconds.
    first: BTreeMap<String, (i64, u64)>,
}

impl Rates {
    fn lacking(&self, cpu: Option<&CpuUsage>) -> bool {
        cpu.is_some_and(|cpu| cpu.usage_nano_cores.is_none() && cpu.usage_core_nano_seconds.is_some())
    }

    fn first<'a>(&mut self, readings: impl Iterator<Item = (&'a str, Option<&'a CpuUsage>)>) {
        for (id, cpu) in readings {
            if let Some(CpuUsage { timestamp, usage_core_nano_seconds: Some(usage), .. }) = cpu {
                self.first.insert(id.to_owned(), (*timestamp, usage.value));
            }
        }
    }

    fn milli(&self, id: &str, cpu: Option<&CpuUsage>) -> Option<u64> {
        let cpu = cpu?;
        if let Some(cores) = &cpu.usage_nano_cores {
            return Some(cores.value / 1_000_000);
        }
        let (then, used) = self.first.get(id)?;
        let elapsed = u64::try_from(cpu.timestamp - then).ok().filter(|elapsed| *elapsed > 0)?;
        Some(cpu.usage_core_nano_seconds.as_ref()?.value.saturating_sub(*used) * 1000 / elapsed)
    }
}

fn value(value: Option<&UInt64Value>) -> Option<u64> {
    value.map(|value| value.value)
}

fn milli(value: Option<u64>) -> String {
    or_dash(value, |milli| format!("{milli}m"))
}

fn or_dash(value: Option<u64>, show: impl Fn(u64) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}
