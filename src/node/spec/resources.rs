//! Limits: from CRI's numbers to those of the runtime spec.

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxHugepageLimit,
    LinuxHugepageLimitBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};

use super::{HostDevice, SpecError};
use crate::node::types::Resources;

/// The cgroup limits of a container, device rules among them. A privileged container may use every device.
pub fn linux_resources(
    asked: Option<&Resources>,
    devices: &[HostDevice],
    privileged: bool,
) -> Result<LinuxResources, SpecError> {
    let mut built = LinuxResourcesBuilder::default().devices(device_rules(devices, privileged)?);
    let Some(asked) = asked else {
        let mut built = built.build()?;
        clear_defaults(&mut built);
        return Ok(built);
    };
    built = built.cpu(cpu(asked)?);
    let pids = asked.unified.get("pids.max").and_then(|max| max.parse::<i64>().ok());
    if let Some(limit) = pids {
        built = built.pids(LinuxPidsBuilder::default().limit(limit).build()?);
    }
    if !asked.hugepage_limits.is_empty() {
        built = built.hugepage_limits(hugepages(asked)?);
    }
    if !asked.unified.is_empty() {
        built = built.unified(asked.unified.clone().into_iter().collect::<std::collections::HashMap<_, _>>());
    }
    let mut built = built.build()?;
    let memory = memory(asked)?;
    built.set_memory(memory);
    if pids.is_none() {
        built.set_pids(None);
    }
    Ok(built)
}

/// The builders fill in more than they are told; what nobody asked for is not written.
fn clear_defaults(resources: &mut LinuxResources) {
    resources.set_memory(None);
    resources.set_cpu(None);
    resources.set_pids(None);
}

fn cpu(asked: &Resources) -> Result<oci_spec::runtime::LinuxCpu, SpecError> {
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(shares) = asked.cpu_shares.and_then(|shares| u64::try_from(shares).ok()) {
        cpu = cpu.shares(shares);
    }
    if let Some(quota) = asked.cpu_quota {
        cpu = cpu.quota(quota);
    }
    if let Some(period) = asked.cpu_period.and_then(|period| u64::try_from(period).ok()) {
        cpu = cpu.period(period);
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(asked.cpuset_cpus.clone());
    }
    if !asked.cpuset_mems.is_empty() {
        cpu = cpu.mems(asked.cpuset_mems.clone());
    }
    Ok(cpu.build()?)
}

/// No swap unless it is asked for: CRI's number is memory and swap together, so its default is the memory limit.
fn memory(asked: &Resources) -> Result<Option<oci_spec::runtime::LinuxMemory>, SpecError> {
    if asked.memory_limit.is_none() && asked.memory_swap_limit.is_none() {
        return Ok(None);
    }
    let mut memory = LinuxMemoryBuilder::default();
    if let Some(limit) = asked.memory_limit {
        memory = memory.limit(limit);
    }
    if let Some(swap) = asked.memory_swap_limit.or(asked.memory_limit) {
        memory = memory.swap(swap);
    }
    Ok(Some(memory.build()?))
}

fn hugepages(asked: &Resources) -> Result<Vec<LinuxHugepageLimit>, SpecError> {
    let build = |limit: &crate::node::types::HugepageLimit| {
        LinuxHugepageLimitBuilder::default()
            .page_size(limit.page_size.clone())
            .limit(i64::try_from(limit.limit).unwrap_or(i64::MAX))
            .build()
    };
    Ok(asked.hugepage_limits.iter().map(build).collect::<Result<Vec<_>, _>>()?)
}

/// Everything is forbidden, then what every container needs, then what was asked for.
fn device_rules(devices: &[HostDevice], privileged: bool) -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
    if privileged {
        return Ok(vec![LinuxDeviceCgroupBuilder::default().allow(true).access("rwm").build()?]);
    }
    let mut rules = vec![LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?];
    for device in devices {
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(if device.block { LinuxDeviceType::B } else { LinuxDeviceType::C })
            .major(i64::from(device.major))
            .minor(i64::from(device.minor))
            .access(device.permissions.clone());
        rules.push(rule.build()?);
    }
    Ok(rules)
}
