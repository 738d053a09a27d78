//! Settings for cgroup v1.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::host::{Controllers, Version};
use super::settings::{Current, Otherwise, Setting, cpu_list, hugepages, rdma};
use super::{CgroupError, Result};

/// The settings for `resources`, device rules excepted.
pub(super) fn plan(resources: &LinuxResources, current: &Current) -> Result<Vec<Setting>> {
    if let Some(key) = resources.unified().iter().flat_map(|unified| unified.keys()).next() {
        return Err(CgroupError::Unsupported {
            field: format!("unified[{key:?}]"),
            version: Version::V1,
            reason: "unified settings exist on cgroup v2 only",
        });
    }
    let mut out = Vec::with_capacity(8);
    if let Some(cpu) = resources.cpu() {
        cpuset(cpu, &mut out)?;
        cpu_time(cpu, current, &mut out);
    }
    if let Some(memory) = resources.memory() {
        memory_limits(memory, current, &mut out)?;
    }
    if let Some(pids) = resources.pids()
        && !(current.fresh && pids.limit() < 0)
    {
        out.push(Setting::new(Controllers::PIDS, "pids.max", super::convert::or_max(pids.limit()), "pids.limit"));
    }
    if let Some(block_io) = resources.block_io() {
        blkio(block_io, &mut out)?;
    }
    hugepages(resources, "limit_in_bytes", &mut out)?;
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id().filter(|class| *class != 0) {
            out.push(Setting::new(Controllers::NET_CLS, "net_cls.classid", class, "network.classID"));
        }
        for priority in network.priorities().iter().flatten() {
            let line = format!("{} {}", priority.name(), priority.priority());
            out.push(Setting::new(Controllers::NET_PRIO, "net_prio.ifpriomap", line, "network.priorities"));
        }
    }
    rdma(resources, &mut out)?;
    Ok(out)
}

fn cpuset(cpu: &LinuxCpu, out: &mut Vec<Setting>) -> Result<()> {
    if let Some(cpus) = cpu_list("cpu.cpus", cpu.cpus())? {
        out.push(Setting::new(Controllers::CPUSET, "cpuset.cpus", cpus, "cpu.cpus"));
    }
    if let Some(mems) = cpu_list("cpu.mems", cpu.mems())? {
        out.push(Setting::new(Controllers::CPUSET, "cpuset.mems", mems, "cpu.mems"));
    }
    Ok(())
}

/// Period, quota and burst are checked against each other and against the parent, so that no order is always right:
/// what is refused at first is tried again at the end.
fn cpu_time(cpu: &LinuxCpu, current: &Current, out: &mut Vec<Setting>) {
    let mut add = |file, value: String, field| {
        out.push(Setting::new(Controllers::CPU, file, value, field).or(Otherwise::TryLater));
    };
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && !(current.fresh && *shares == 1024)) {
        add("cpu.shares", shares.to_string(), "cpu.shares");
    }
    if let Some(period) = cpu.period().filter(|period| *period != 0 && !(current.fresh && *period == 100_000)) {
        add("cpu.cfs_period_us", period.to_string(), "cpu.period");
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0 && !(current.fresh && *quota < 0)) {
        add("cpu.cfs_quota_us", quota.max(-1).to_string(), "cpu.quota");
    }
    if let Some(burst) = cpu.burst().filter(|burst| !(current.fresh && *burst == 0)) {
        add("cpu.cfs_burst_us", burst.to_string(), "cpu.burst");
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        add("cpu.rt_period_us", period.to_string(), "cpu.realtimePeriod");
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        add("cpu.rt_runtime_us", runtime.to_string(), "cpu.realtimeRuntime");
    }
    if let Some(idle) = cpu.idle().filter(|idle| !(current.fresh && *idle == 0)) {
        add("cpu.idle", idle.to_string(), "cpu.idle");
    }
}

const LIMIT: &str = "memory.limit_in_bytes";
const BOTH: &str = "memory.memsw.limit_in_bytes";

fn memory_limits(memory: &LinuxMemory, current: &Current, out: &mut Vec<Setting>) -> Result<()> {
    let limit = memory.limit().filter(|limit| *limit != 0 && !(current.fresh && *limit < 0));
    let swap = swap_limit(memory, current)?;
    let limit = limit.map(|limit| Setting::new(Controllers::MEMORY, LIMIT, limit.max(-1), "memory.limit"));
    let raise_both_first = match (swap, current.memory_and_swap) {
        (Some(..0), _) => true,
        (Some(swap), Some(now)) => swap as u64 > now,
        _ => false,
    };
    // Without swap accounting in the kernel nobody can be given swap: no more than memory is then as good as kept.
    let harmless = swap.is_some_and(|swap| swap < 0 || memory.limit() == Some(swap));
    let swap = swap.map(|swap| {
        Setting::new(Controllers::MEMORY, BOTH, swap.max(-1), "memory.swap").or(if harmless {
            Otherwise::FineIfMissing
        } else {
            Otherwise::Fail
        })
    });
    // The kernel demands limit <= memory and swap together after each single write.
    if raise_both_first {
        out.extend(swap.into_iter().chain(limit));
    } else {
        out.extend(limit.into_iter().chain(swap));
    }
    if let Some(reservation) = memory.reservation().filter(|value| *value != 0 && !(current.fresh && *value < 0)) {
        let value = reservation.max(-1);
        out.push(Setting::new(Controllers::MEMORY, "memory.soft_limit_in_bytes", value, "memory.reservation"));
    }
    if let Some(tcp) = memory.kernel_tcp().filter(|value| *value != 0) {
        let value = tcp.max(-1);
        out.push(Setting::new(Controllers::MEMORY, "memory.kmem.tcp.limit_in_bytes", value, "memory.kernelTCP"));
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(CgroupError::invalid("memory.swappiness", swappiness, "it must be from 0 to 100"));
        }
        out.push(Setting::new(Controllers::MEMORY, "memory.swappiness", swappiness, "memory.swappiness"));
    }
    if let Some(disable) = memory.disable_oom_killer().filter(|disable| *disable || !current.fresh) {
        let value = u8::from(disable);
        out.push(Setting::new(Controllers::MEMORY, "memory.oom_control", value, "memory.disableOOMKiller"));
    }
    Ok(())
}

/// The limit of memory and swap together that is to be written; -1 for none.
fn swap_limit(memory: &LinuxMemory, current: &Current) -> Result<Option<i64>> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    match (limit, memory.swap().filter(|swap| *swap != 0)) {
        (Some(limit), Some(swap)) if swap >= 0 && (limit < 0 || swap < limit) => Err(CgroupError::invalid(
            "memory.swap",
            swap,
            format!("it is memory and swap together and must not be less than memory.limit ({limit})"),
        )),
        (None, Some(swap)) if swap > 0 && current.fresh => {
            Err(CgroupError::invalid("memory.swap", swap, "it needs a memory.limit"))
        }
        (_, Some(..0)) if current.fresh => Ok(None),
        (_, Some(swap)) => Ok(Some(swap.max(-1))),
        (None, None) => Ok(None),
        // Memory without a limit and swap not mentioned: both are meant.
        (Some(..0), None) => Ok((!current.fresh).then_some(-1)),
        // A raise beyond the old total keeps the old allowance of swap.
        (Some(limit), None) => Ok(current.memory_and_swap.filter(|both| *both < limit as u64).map(|both| {
            let allowance = both.saturating_sub(current.memory.unwrap_or(both));
            limit.saturating_add_unsigned(allowance)
        })),
    }
}

fn blkio(block_io: &LinuxBlockIo, out: &mut Vec<Setting>) -> Result<()> {
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        let instead = Otherwise::Instead { file: "blkio.weight", value: weight.to_string() };
        out.push(Setting::new(Controllers::BLKIO, "blkio.bfq.weight", weight, "blockIO.weight").or(instead));
    }
    let mut add = |file: &'static str, value: String, field| {
        out.push(Setting::new(Controllers::BLKIO, file, value, field));
    };
    if let Some(weight) = block_io.leaf_weight().filter(|weight| *weight != 0) {
        add("blkio.leaf_weight", weight.to_string(), "blockIO.leafWeight");
    }
    for device in block_io.weight_device().iter().flatten() {
        let (major, minor) = (device.major(), device.minor());
        if let Some(weight) = device.weight() {
            add("blkio.weight_device", format!("{major}:{minor} {weight}"), "blockIO.weightDevice");
        }
        if let Some(weight) = device.leaf_weight() {
            add("blkio.leaf_weight_device", format!("{major}:{minor} {weight}"), "blockIO.weightDevice");
        }
    }
    let throttles = [
        ("blkio.throttle.read_bps_device", block_io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", block_io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", block_io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", block_io.throttle_write_iops_device()),
    ];
    for (file, devices) in throttles {
        for device in devices.iter().flatten() {
            add(file, format!("{}:{} {}", device.major(), device.minor(), device.rate()), "blockIO.throttle");
        }
    }
    Ok(())
}
