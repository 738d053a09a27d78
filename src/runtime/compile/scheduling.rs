//! Scheduler, CPUs, memory policy, I/O priority and personality.

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler, Spec,
};

use super::{Result, invalid, lists};
use crate::runtime::plan::{MemoryPolicyPlan, SchedulerPlan};

/// What fits the policy; the kernel would take some of the rest in silence.
pub(super) fn scheduler(asked: &Scheduler) -> Result<SchedulerPlan> {
    let policy = match asked.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = asked.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x1,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x2,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x4,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x8,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    let nice = asked.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return invalid("process.scheduler.nice", format!("{nice} is not between -20 and 19"));
    }
    let priority = asked.priority().unwrap_or(0);
    if priority != 0 && !matches!(policy, 1 | 2) {
        return invalid("process.scheduler.priority", "is for SCHED_FIFO and SCHED_RR only");
    }
    let Ok(priority) = u32::try_from(priority) else {
        return invalid("process.scheduler.priority", format!("{priority} is negative"));
    };
    let times = [asked.runtime(), asked.deadline(), asked.period()].map(|t| t.unwrap_or(0));
    if times != [0; 3] && policy != 6 {
        return invalid("process.scheduler", "runtime, deadline and period are for SCHED_DEADLINE only");
    }
    let [runtime, deadline, period] = times;
    Ok(SchedulerPlan { policy, flags, nice, priority, runtime, deadline, period })
}

/// Class and priority in one number.
pub(super) fn io_priority(asked: &LinuxIOPriority) -> Result<u32> {
    const CLASS_SHIFT: u32 = 13;
    let class = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(asked.priority()) {
        Ok(priority @ 0..=7) => Ok(class << CLASS_SHIFT | priority),
        _ => invalid("process.ioPriority", format!("{} is not between 0 and 7", asked.priority())),
    }
}

/// The domain; the specification has no flags yet.
pub(super) fn personality(spec: &Spec) -> Result<Option<u64>> {
    let Some(asked) = spec.linux().as_ref().and_then(|l| l.personality().as_ref()) else { return Ok(None) };
    if asked.flags().as_ref().is_some_and(|f| !f.is_empty()) {
        return invalid("linux.personality.flags", "there are none in the specification");
    }
    Ok(Some(match asked.domain() {
        LinuxPersonalityDomain::PerLinux => 0x0,
        LinuxPersonalityDomain::PerLinux32 => 0x8,
    }))
}

/// `linux.memoryPolicy`. Which modes go with which flags and with how many nodes is the kernel's to say.
pub(super) fn memory_policy(spec: &Spec) -> Result<Option<MemoryPolicyPlan>> {
    /// As many as any kernel is built for.
    const MOST: u32 = 1 << 12;
    let Some(asked) = spec.linux().as_ref().and_then(|l| l.memory_policy().as_ref()) else { return Ok(None) };
    let mode = match asked.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = asked.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
                MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            }
    });
    let nodes = lists::bits("linux.memoryPolicy.nodes", asked.nodes().as_deref().unwrap_or_default(), MOST)?;
    Ok(Some(MemoryPolicyPlan { mode: mode | flags, nodes }))
}

/// As many as any kernel is built for.
const MOST_CPUS: u32 = 1 << 13;

/// `process.execCPUAffinity.final`; empty: none.
pub(super) fn final_cpus(process: &Process) -> Result<Vec<u64>> {
    let asked = process.exec_cpu_affinity().as_ref().and_then(|a| a.cpu_affinity_final().as_deref());
    lists::bits("process.execCPUAffinity.final", asked.unwrap_or_default(), MOST_CPUS)
}

/// `process.execCPUAffinity.initial`: the CPUs that whoever starts an exec runs on meanwhile
/// ([`run_on`](crate::runtime::execute::run_on)); empty: none.
pub fn initial_cpus(process: &Process) -> Result<Vec<u64>> {
    let asked = process.exec_cpu_affinity().as_ref().and_then(|a| a.initial().as_deref());
    lists::bits("process.execCPUAffinity.initial", asked.unwrap_or_default(), MOST_CPUS)
}
