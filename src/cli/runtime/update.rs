//! `update`: other limits for a container that is there.

use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::record::{Root, Status};
use super::{Result, control, log};

/// The longest file of resources that is read.
const MAX_RESOURCES: u64 = 1 << 20;

/// Sizes are bytes, with or without one of the units k, m, g, t (1024 each); -1 is no limit.
#[derive(Debug, Default, Args)]
pub(super) struct UpdateArgs {
    /// Take the limits from this file ("-": standard input), JSON as linux.resources of a config.json
    #[arg(long, short, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Relative weight of block I/O, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// Length of a CPU period, microseconds
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// CPU time in a period, microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Unused CPU time that may be saved up, microseconds
    #[arg(long, value_name = "US")]
    cpu_burst: Option<u64>,
    /// Relative share of CPU time
    #[arg(long, alias = "cpu-shares", value_name = "N")]
    cpu_share: Option<u64>,
    /// Length of a real-time period, microseconds
    #[arg(long, value_name = "US")]
    cpu_rt_period: Option<u64>,
    /// Real-time CPU time in a period, microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// CPUs that may be used, such as 0-2,5
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that may be used, such as 0-1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// 1: CPU time is only what nobody else wants
    #[arg(long, value_name = "N")]
    cpu_idle: Option<i64>,
    /// Memory
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size)]
    memory: Option<i64>,
    /// Memory below which nothing is reclaimed as long as others have some
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size)]
    memory_reservation: Option<i64>,
    /// Memory and swap together
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size)]
    memory_swap: Option<i64>,
    /// Of no effect: kernels have no such limit any more
    #[arg(long, hide = true, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size)]
    kernel_memory: Option<i64>,
    /// Memory of TCP buffers (cgroup v1)
    #[arg(long, hide = true, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size)]
    kernel_memory_tcp: Option<i64>,
    /// Processes and threads
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Intel RDT: the schema for the L3 cache
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Intel RDT: the schema for memory bandwidth
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    id: String,
}

pub(super) fn update(root: &Root, args: &UpdateArgs) -> Result<()> {
    let (_lock, mut record) = root.lock(&args.id)?;
    if record.status() == Status::Stopped {
        bail!("container not running: {}", args.id);
    }
    if args.l3_cache_schema.is_some() || args.mem_bw_schema.is_some() {
        bail!("--l3-cache-schema and --mem-bw-schema: the container {} is in no Intel RDT class", args.id);
    }
    if args.kernel_memory.is_some() {
        log::warning("--kernel-memory has no effect: kernels have no such limit any more");
    }
    let mut wanted = match &args.resources {
        Some(path) => read(path)?,
        None => args.resources(),
    };
    // Engines send the rules of the container's creation again, without those that a runtime adds by itself.
    wanted.as_object_mut().map(|wanted| wanted.remove("devices"));
    let resources: LinuxResources = serde_json::from_value(wanted.clone()).context("these are no OCI resources")?;
    let cgroup = control::cgroup(&record)?.with_context(|| format!("the cgroup of {} is gone", args.id))?;
    cgroup.update(&resources)?;

    // What is asked for the next time begins with what is in force now.
    let mut spec = serde_json::to_value(&record.spec)?;
    merge(&mut spec["linux"]["resources"], wanted);
    record.spec = serde_json::from_value(spec)?;
    root.save(&record)
}

fn read(path: &PathBuf) -> Result<Value> {
    let mut text = String::new();
    let name = path.display();
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(path).with_context(|| format!("open {name}"))?),
    };
    source.take(MAX_RESOURCES).read_to_string(&mut text).with_context(|| format!("read {name}"))?;
    match serde_json::from_str(&text).with_context(|| format!("{name} is no JSON"))? {
        Value::Object(object) => Ok(without_nulls(object)),
        _ => bail!("{name} are no OCI resources"),
    }
}

/// A null says nothing, as a missing field does.
fn without_nulls(object: Map<String, Value>) -> Value {
    let fields = object.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| match value {
        Value::Object(inner) => (key, without_nulls(inner)),
        other => (key, other),
    });
    Value::Object(fields.collect())
}

/// Takes over what `new` has; lists as a whole.
pub(super) fn merge(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new,
    }
}

impl UpdateArgs {
    /// What the flags ask for, in the form of the specification.
    fn resources(&self) -> Value {
        let mut all = json!({
            "cpu": {
                "shares": self.cpu_share, "period": self.cpu_period, "quota": self.cpu_quota, "burst": self.cpu_burst,
                "realtimePeriod": self.cpu_rt_period, "realtimeRuntime": self.cpu_rt_runtime,
                "cpus": self.cpuset_cpus, "mems": self.cpuset_mems, "idle": self.cpu_idle,
            },
            "memory": {
                "limit": self.memory, "reservation": self.memory_reservation, "swap": self.memory_swap,
                "kernelTCP": self.kernel_memory_tcp,
            },
        });
        if let Some(limit) = self.pids_limit {
            all["pids"] = json!({ "limit": limit });
        }
        if let Some(weight) = self.blkio_weight {
            all["blockIO"] = json!({ "weight": weight });
        }
        match all {
            Value::Object(object) => without_nulls(object),
            other => other,
        }
    }
}

/// "512m", "1.5G", "100", "-1".
pub(super) fn parse_size(text: &str) -> std::result::Result<i64, String> {
    let bad = || format!("{text:?} is no size such as 1048576, 512m or 1.5G, and not -1");
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let unit = lower[digits..].trim_start();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(bad()),
    };
    let number = &lower[..digits];
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1 << shift).ok_or_else(bad);
    }
    let value = number.parse::<f64>().map_err(|_| bad())? * (1i64 << shift) as f64;
    if value < i64::MAX as f64 { Ok(value as i64) } else { Err(bad()) }
}
