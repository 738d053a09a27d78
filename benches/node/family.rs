//! Memory and CPU of the agent and of the shims.

use std::path::Path;
use std::time::Duration;

/// How far apart the two readings of idle CPU are.
const IDLE: Duration = Duration::from_secs(10);

/// One reading.
#[derive(Default)]
pub struct Family {
    agent_kib: u64,
    shims_kib: u64,
    shims: u64,
    /// Hundredths of a second.
    ticks: u64,
}

/// The agent, and every process that runs the shim's program.
pub fn read(agent: u32) -> Family {
    let mut family = Family::default();
    let Ok(processes) = std::fs::read_dir("/proc") else { return family };
    for process in processes.flatten() {
        let path = process.path();
        let is_agent = process.file_name().to_str().is_some_and(|name| name == agent.to_string());
        let is_shim = std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == "orlop-shim");
        if is_shim {
            family.shims += 1;
            family.shims_kib += pss(&path);
        } else if is_agent {
            family.agent_kib += pss(&path);
        }
        if is_shim || is_agent {
            family.ticks += ticks(&path);
        }
    }
    family
}

/// The proportional set size in KiB.
fn pss(process: &Path) -> u64 {
    let text = std::fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

fn ticks(process: &Path) -> u64 {
    let text = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // utime and stime are 14 and 15 of proc_pid_stat(5); the first of these fields is 3.
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    field(14) + field(15)
}

/// Waits while nothing happens, and tells what that cost.
pub async fn idle(agent: u32, before: &Family, pods: usize) -> String {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let first = read(agent);
    tokio::time::sleep(IDLE).await;
    let second = read(agent);
    let grown = (second.agent_kib + second.shims_kib).saturating_sub(before.agent_kib + before.shims_kib);
    format!(
        "agent, PSS: {} KiB before the load, {} KiB with it\nshims, PSS each: {:.1} KiB, {} of them\n\
         a pod, PSS: {:.1} KiB, the agent's growth and the shim\nidle CPU: {:.1} ms/s\n",
        before.agent_kib,
        second.agent_kib,
        second.shims_kib as f64 / second.shims.max(1) as f64,
        second.shims,
        grown as f64 / pods.max(1) as f64,
        second.ticks.saturating_sub(first.ticks) as f64 * 10.0 / IDLE.as_secs_f64(),
    )
}
