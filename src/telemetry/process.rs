//! The agent as a process, under the names that Prometheus clients have agreed on (`process_…`).

use std::fmt;
use std::fs;
use std::sync::LazyLock;

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Reads /proc/self at each scrape.
#[derive(Debug)]
pub(super) struct Process;

/// What the files say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sample {
    cpu_seconds: f64,
    threads: u64,
    /// Seconds since the epoch.
    start_time: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
    open_fds: u64,
    max_fds: u64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        // A scrape without these is better than none.
        let Some(sample) = read() else { return Ok(()) };
        let counter = ConstCounter::new(sample.cpu_seconds);
        let cpu = encoder.encode_descriptor(
            "process_cpu",
            "CPU time of the agent, user and system",
            Some(&Unit::Seconds),
            counter.metric_type(),
        )?;
        counter.encode(cpu)?;
        let start = ConstGauge::new(sample.start_time);
        let encoded = encoder.encode_descriptor(
            "process_start_time",
            "When the agent started, since the epoch",
            Some(&Unit::Seconds),
            start.metric_type(),
        )?;
        start.encode(encoded)?;
        let gauges = [
            ("process_resident_memory", "Resident memory of the agent", Some(&Unit::Bytes), sample.resident_bytes),
            ("process_virtual_memory", "Virtual memory of the agent", Some(&Unit::Bytes), sample.virtual_bytes),
            ("process_open_fds", "File descriptors that the agent has open", None, sample.open_fds),
            ("process_max_fds", "File descriptors that the agent may open", None, sample.max_fds),
            ("process_threads", "Threads of the agent", None, sample.threads),
        ];
        for (name, help, unit, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

pub(super) fn read() -> Option<Sample> {
    static TICKS: LazyLock<f64> = LazyLock::new(|| sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64);
    static BOOTED: LazyLock<f64> = LazyLock::new(|| boot_time().unwrap_or_default());
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;

    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name, may hold anything; the rest is after its closing parenthesis. proc_pid_stat(5) counts
    // from 1, and "state", the first after the name, is 3.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| -> Option<u64> { fields.get(number - 3)?.parse().ok() };
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Some(Sample {
        cpu_seconds: (field(14)? + field(15)?) as f64 / *TICKS,
        threads: field(20)?,
        start_time: *BOOTED + field(22)? as f64 / *TICKS,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
        // The directory being read is one of them.
        open_fds: fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64,
        max_fds: limits.current.unwrap_or(u64::MAX),
    })
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}
