//! `events`: what a container uses, again and again, and when its memory ran out; a JSON object a line.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::record::Root;
use super::{Result, control, figures};
use crate::cli::output;
use crate::runtime::cgroup::{Cgroup, Controllers, Version};

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Print what it uses once, and end
    #[arg(long)]
    stats: bool,
    /// How often to print it
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_interval)]
    interval: Duration,
    id: String,
}

/// "500ms", "5s", "1m30s", "2h": what Go writes.
pub(super) fn parse_interval(text: &str) -> std::result::Result<Duration, String> {
    let bad = || format!("{text:?} is no duration such as 5s or 500ms, or is zero");
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..end].parse().map_err(|_| bad())?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        sum += number
            * match &rest[..end] {
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(bad()),
            };
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(sum).ok().filter(|d| !d.is_zero()).ok_or_else(bad)
}

pub(super) fn events(root: &Root, args: &EventsArgs) -> Result<()> {
    let record = root.load(&args.id)?;
    let Some((process, _)) = record.process() else { bail!("container not running: {}", args.id) };
    let cgroup = control::cgroup(&record)?.with_context(|| format!("the cgroup of {} is gone", args.id))?;
    let stats = || -> Result<()> {
        let data = figures::of(&cgroup, record.pid).context("read the figures")?;
        print(&json!({ "type": "stats", "id": args.id, "data": data }))
    };
    if args.stats {
        return stats();
    }
    let memory = Memory::of(&cgroup)?;
    let mut seen = cgroup.oom_kills().unwrap_or(0);
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            stats()?;
            next += args.interval;
        }
        let left = next.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
        fds.extend(memory.watch.as_ref().map(|watch| PollFd::new(watch, PollFlags::IN)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            other => drop(other.context("wait for events")?),
        }
        let [ended, told] = [0, 1].map(|n| fds.get(n).is_some_and(|fd| !fd.revents().is_empty()));
        if (told || ended) && memory.ran_out(&cgroup, &mut seen, told) {
            print(&json!({ "type": "oom", "id": args.id }))?;
        }
        if ended || !cgroup.host().exists(cgroup.path()) {
            return Ok(());
        }
    }
}

/// What is known of the end of memory.
struct Memory {
    /// None where the host has no memory controller.
    watch: Option<OwnedFd>,
}

impl Memory {
    fn of(cgroup: &Cgroup) -> Result<Self> {
        let there = cgroup.host().controllers().contains(Controllers::MEMORY);
        Ok(Self { watch: if there { Some(cgroup.watch_oom()?) } else { None } })
    }

    /// `told`: the kernel has said something. On v1 it says so before it kills, and nothing else.
    fn ran_out(&self, cgroup: &Cgroup, seen: &mut u64, told: bool) -> bool {
        // One number on v1; on v2 a record for each change, of more bytes than a number has.
        let mut buffer = [0; 1024];
        while told && self.watch.as_ref().is_some_and(|fd| rustix::io::read(fd, &mut buffer).is_ok_and(|n| n > 8)) {}
        if told && cgroup.host().version() == Version::V1 {
            // It is told of the cgroup's removal by the same.
            let there = cgroup.host().exists(cgroup.path());
            *seen = if there { u64::MAX } else { *seen };
            return there;
        }
        // A v1 event was told already; the counter has nothing more to say.
        let kills = cgroup.oom_kills().unwrap_or(0);
        let more = kills > *seen;
        *seen = kills.max(*seen);
        more
    }
}

/// One line, at once: who reads it waits for it.
fn print(event: &Value) -> Result<()> {
    Ok(output::print(&format!("{event}\n"))?)
}
