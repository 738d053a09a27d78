//! Settings for cgroup v2.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::convert::{io_weight_from_blkio, or_max, swap_max, weight_from_shares};
use super::host::{Controllers, Version};
use super::settings::{Current, Otherwise, Setting, cpu_list, hugepages, rdma};
use super::{CgroupError, Result};

/// The settings for `resources`, device rules excepted. `available` are the controllers of the host.
pub(super) fn plan(resources: &LinuxResources, current: &Current, available: Controllers) -> Result<Vec<Setting>> {
    let mut out = Vec::with_capacity(8);
    if let Some(cpu) = resources.cpu() {
        cpu_time(cpu, current, &mut out)?;
    }
    if let Some(memory) = resources.memory() {
        memory_limits(memory, current, &mut out)?;
    }
    if let Some(pids) = resources.pids()
        && !(current.fresh && pids.limit() < 0)
    {
        out.push(Setting::new(Controllers::PIDS, "pids.max", or_max(pids.limit()), "pids.limit"));
    }
    if let Some(block_io) = resources.block_io() {
        io(block_io, &mut out)?;
    }
    hugepages(resources, "max", &mut out)?;
    if let Some(network) = resources.network()
        && (network.class_id().is_some_and(|class| class != 0) || network.priorities().iter().flatten().count() > 0)
    {
        return Err(unsupported("network.classID, network.priorities", "those controllers exist on cgroup v1 only"));
    }
    rdma(resources, &mut out)?;
    unified(resources, available, &mut out)?;
    Ok(out)
}

fn unsupported(field: &str, reason: &'static str) -> CgroupError {
    CgroupError::Unsupported { field: field.to_owned(), version: Version::V2, reason }
}

fn cpu_time(cpu: &LinuxCpu, current: &Current, out: &mut Vec<Setting>) -> Result<()> {
    if cpu.realtime_period().is_some_and(|v| v != 0) || cpu.realtime_runtime().is_some_and(|v| v != 0) {
        return Err(unsupported("cpu.realtimePeriod, cpu.realtimeRuntime", "the kernel has no such files"));
    }
    if let Some(idle) = cpu.idle().filter(|idle| !(current.fresh && *idle == 0)) {
        out.push(Setting::new(Controllers::CPU, "cpu.idle", idle, "cpu.idle"));
    }
    // An idle cgroup has no weight: the kernel refuses one.
    if let Some(weight) = cpu.shares().and_then(weight_from_shares)
        && !(current.fresh && weight == 100)
        && cpu.idle() != Some(1)
    {
        out.push(Setting::new(Controllers::CPU, "cpu.weight", weight, "cpu.shares"));
    }
    if let Some(max) = cpu_max(cpu, current) {
        out.push(Setting::new(Controllers::CPU, "cpu.max", max, "cpu.quota, cpu.period").or(Otherwise::TryLater));
    }
    if let Some(burst) = cpu.burst().filter(|burst| !(current.fresh && *burst == 0)) {
        out.push(Setting::new(Controllers::CPU, "cpu.max.burst", burst, "cpu.burst").or(Otherwise::TryLater));
    }
    if let Some(cpus) = cpu_list("cpu.cpus", cpu.cpus())? {
        out.push(Setting::new(Controllers::CPUSET, "cpuset.cpus", cpus, "cpu.cpus"));
    }
    if let Some(mems) = cpu_list("cpu.mems", cpu.mems())? {
        out.push(Setting::new(Controllers::CPUSET, "cpuset.mems", mems, "cpu.mems"));
    }
    Ok(())
}

/// The text for `cpu.max`; what is not given stays as it is.
fn cpu_max(cpu: &LinuxCpu, current: &Current) -> Option<String> {
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if current.fresh && quota.is_none_or(|quota| quota < 0) {
        return None;
    }
    match (quota, period) {
        (None, None) => None,
        (Some(quota), None) => Some(or_max(quota)),
        (Some(quota), Some(period)) => Some(format!("{} {period}", or_max(quota))),
        (None, Some(period)) => {
            let now = current.cpu_max.as_deref().and_then(|text| text.split(' ').next()).unwrap_or("max");
            Some(format!("{now} {period}"))
        }
    }
}

fn memory_limits(memory: &LinuxMemory, current: &Current, out: &mut Vec<Setting>) -> Result<()> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(swap) = swap_max(limit, memory.swap())?
        && !(current.fresh && swap == "max")
    {
        // A kernel without swap gives none, which is what "0" asks for, and keeps no one from "max".
        let harmless = swap == "max" || swap == "0";
        out.push(Setting::new(Controllers::MEMORY, "memory.swap.max", swap, "memory.swap").or(if harmless {
            Otherwise::FineIfMissing
        } else {
            Otherwise::Fail
        }));
    }
    if let Some(limit) = limit.filter(|limit| !(current.fresh && *limit < 0)) {
        out.push(Setting::new(Controllers::MEMORY, "memory.max", or_max(limit), "memory.limit"));
    }
    if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
        out.push(Setting::new(Controllers::MEMORY, "memory.low", or_max(reservation), "memory.reservation"));
    }
    if memory.kernel_tcp().is_some_and(|value| value > 0) {
        return Err(unsupported("memory.kernelTCP", "the kernel counts it with the rest of memory"));
    }
    if memory.swappiness().is_some() {
        return Err(unsupported("memory.swappiness", "it is a setting of the whole machine"));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(unsupported("memory.disableOOMKiller", "the OOM killer cannot be switched off"));
    }
    Ok(())
}

fn io(block_io: &LinuxBlockIo, out: &mut Vec<Setting>) -> Result<()> {
    if block_io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(unsupported("blockIO.leafWeight", "the kernel has no such file"));
    }
    if let (Some(bfq), Some(weight)) = (block_io.weight(), block_io.weight().and_then(io_weight_from_blkio)) {
        let instead = Otherwise::Instead { file: "io.weight", value: format!("default {weight}") };
        out.push(Setting::new(Controllers::BLKIO, "io.bfq.weight", bfq, "blockIO.weight").or(instead));
    }
    for device in block_io.weight_device().iter().flatten() {
        if device.leaf_weight().is_some_and(|weight| weight != 0) {
            return Err(unsupported("blockIO.weightDevice.leafWeight", "the kernel has no such file"));
        }
        if let Some(weight) = device.weight().and_then(io_weight_from_blkio) {
            let device_number = format!("{}:{}", device.major(), device.minor());
            let bfq = format!("{device_number} {}", device.weight().unwrap_or_default());
            let instead = Otherwise::Instead { file: "io.weight", value: format!("{device_number} {weight}") };
            out.push(Setting::new(Controllers::BLKIO, "io.bfq.weight", bfq, "blockIO.weightDevice").or(instead));
        }
    }
    let throttles = [
        ("rbps", block_io.throttle_read_bps_device()),
        ("wbps", block_io.throttle_write_bps_device()),
        ("riops", block_io.throttle_read_iops_device()),
        ("wiops", block_io.throttle_write_iops_device()),
    ];
    for (key, devices) in throttles {
        for device in devices.iter().flatten() {
            // 0 took a limit away on v1.
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let line = format!("{}:{} {key}={rate}", device.major(), device.minor());
            out.push(Setting::new(Controllers::BLKIO, "io.max", line, "blockIO.throttle"));
        }
    }
    Ok(())
}

/// Files of the core that a configuration may set; the others move, kill or stop processes.
const CORE: [&str; 3] = ["cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"];

/// Keys that the spec passes through. They come last, so that they win over what was computed.
fn unified(resources: &LinuxResources, available: Controllers, out: &mut Vec<Setting>) -> Result<()> {
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    for (key, value) in entries {
        let name = || format!("unified[{key:?}]");
        let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        let Some((prefix, rest)) = key.split_once('.').filter(|(prefix, _)| plain && !prefix.is_empty()) else {
            return Err(CgroupError::invalid(name(), value, "the key must be the name of a control file"));
        };
        if rest.is_empty() || key.contains("..") {
            return Err(CgroupError::invalid(name(), value, "the key must be the name of a control file"));
        }
        let controller = match prefix {
            "cgroup" if CORE.contains(&key.as_str()) => Controllers::empty(),
            "cgroup" => return Err(CgroupError::invalid(name(), value, "this file is not a setting")),
            // One that is not known here may be known to the kernel; the file shows it.
            _ => match Controllers::named(prefix) {
                None => Controllers::empty(),
                Some(found) if available.contains(found) => found,
                Some(_) => {
                    let (field, controller) = (name(), prefix.to_owned());
                    return Err(CgroupError::MissingController { field, controller, version: Version::V2 });
                }
            },
        };
        // Files of several lines take one a write.
        for line in value.split('\n').filter(|line| !line.is_empty()) {
            out.push(Setting::new(controller, key.clone(), line, "unified"));
        }
    }
    Ok(())
}
