//! Statistics, as replies show them.

use super::image::fs_view;
use super::status::{container_metadata, pod_metadata};
use crate::cri::v1;
use crate::node::views::{
    ContainerStatsView, CpuView, InterfaceView, MemoryView, PodStatsView, PsiLine, PsiView, SwapView,
};

/// One container.
pub fn container(s: ContainerStatsView) -> v1::ContainerStats {
    let timestamp = s.cpu.map(|c| c.timestamp).or(s.memory.map(|m| m.timestamp)).unwrap_or(0);
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: s.id,
            metadata: Some(container_metadata(s.metadata)),
            labels: s.labels,
            annotations: s.annotations,
        }),
        cpu: s.cpu.map(cpu),
        swap: s.memory.and_then(|m| m.swap.map(|swap| swap_usage(m.timestamp, swap))),
        memory: s.memory.map(memory),
        writable_layer: s.writable_layer.map(fs_view),
        io: s.io_psi.map(|p| io(timestamp, p)),
    }
}

/// One pod with its containers.
pub fn pod(s: PodStatsView) -> v1::PodSandboxStats {
    let timestamp = s.timestamp;
    let mut interfaces = s.interfaces.into_iter().map(interface);
    let default_interface = interfaces.next();
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: s.id,
            metadata: Some(pod_metadata(s.metadata)),
            labels: s.labels,
            annotations: s.annotations,
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: s.cpu.map(cpu),
            memory: s.memory.map(memory),
            network: default_interface.map(|default| v1::NetworkUsage {
                timestamp,
                default_interface: Some(default),
                interfaces: interfaces.collect(),
            }),
            process: s.process_count.map(|count| v1::ProcessUsage { timestamp, process_count: Some(value(count)) }),
            containers: s.containers.into_iter().map(container).collect(),
            io: s.io_psi.map(|p| io(timestamp, p)),
        }),
        windows: None,
    }
}

fn cpu(c: CpuView) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: c.timestamp,
        usage_core_nano_seconds: Some(value(c.usage)),
        usage_nano_cores: c.nano_cores.map(value),
        psi: c.psi.map(psi),
    }
}

fn memory(m: MemoryView) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp: m.timestamp,
        working_set_bytes: Some(value(m.working_set)),
        available_bytes: m.available.map(value),
        usage_bytes: Some(value(m.usage)),
        rss_bytes: Some(value(m.rss)),
        page_faults: Some(value(m.page_faults)),
        major_page_faults: Some(value(m.major_page_faults)),
        psi: m.psi.map(psi),
    }
}

fn swap_usage(timestamp: i64, s: SwapView) -> v1::SwapUsage {
    v1::SwapUsage { timestamp, swap_available_bytes: s.available.map(value), swap_usage_bytes: Some(value(s.usage)) }
}

fn io(timestamp: i64, p: PsiView) -> v1::IoUsage {
    v1::IoUsage { timestamp, psi: Some(psi(p)) }
}

fn psi(p: PsiView) -> v1::PsiStats {
    v1::PsiStats { full: Some(psi_line(p.full)), some: Some(psi_line(p.some)) }
}

fn psi_line(l: PsiLine) -> v1::PsiData {
    // Averages are kept as hundredths of a percent.
    let percent = |hundredths: u64| hundredths as f64 / 100.0;
    v1::PsiData { total: l.total, avg10: percent(l.avg10), avg60: percent(l.avg60), avg300: percent(l.avg300) }
}

fn interface(i: InterfaceView) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: i.name,
        rx_bytes: Some(value(i.rx_bytes)),
        rx_errors: Some(value(i.rx_errors)),
        tx_bytes: Some(value(i.tx_bytes)),
        tx_errors: Some(value(i.tx_errors)),
    }
}

fn value(value: u64) -> v1::UInt64Value {
    v1::UInt64Value { value }
}
