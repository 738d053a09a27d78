//! `PodSandboxConfig` and what is in it.

use std::net::IpAddr;

use super::resources::resources;
use super::{known, security};
use crate::cri::v1;
use crate::cri::validate::{
    ANNOTATIONS_LIMIT, At, Checked, Invalid, LABELS_LIMIT, LIST_LIMIT, NAME_LIMIT, PATH_LIMIT, absolute, confined,
    each, line, name, pairs, quoted, required, sysctl, sysctl_value, text, within, word,
};
use crate::node::types::{DnsConfig, PodConfig, PodMetadata, PortMapping, Protocol};

/// HOST_NAME_MAX, gethostname(2).
const HOSTNAME_LIMIT: usize = 64;
/// Bytes of a sysctl's value: the kernel takes a page.
const SYSCTL_LIMIT: usize = 4096;

/// A pod's config with the handler that runs it.
pub fn pod_config(config: v1::PodSandboxConfig, runtime_handler: String) -> Checked<PodConfig> {
    if config.windows.is_some() {
        return Err(Invalid::of("windows", "this node runs Linux"));
    }
    hostname(&config.hostname).at("hostname")?;
    log_directory(&config.log_directory).at("log_directory")?;
    pairs(&config.labels, LABELS_LIMIT).at("labels")?;
    pairs(&config.annotations, ANNOTATIONS_LIMIT).at("annotations")?;
    let linux = config.linux.unwrap_or_default();
    confined(&linux.cgroup_parent).and_then(|()| line(&linux.cgroup_parent, PATH_LIMIT)).at("linux.cgroup_parent")?;
    for (key, value) in &linux.sysctls {
        sysctl(key).and_then(|()| text(value, SYSCTL_LIMIT)).and_then(|()| sysctl_value(value)).at("linux.sysctls")?;
    }
    Ok(PodConfig {
        metadata: required(config.metadata).and_then(metadata).at("metadata")?,
        hostname: config.hostname,
        log_directory: config.log_directory,
        dns: config.dns_config.map(dns).transpose().at("dns_config")?,
        port_mappings: each(config.port_mappings, LIST_LIMIT, port).at("port_mappings")?,
        labels: config.labels,
        annotations: config.annotations,
        cgroup_parent: linux.cgroup_parent,
        security: security::pod_security(linux.security_context.unwrap_or_default()).at("linux.security_context")?,
        sysctls: linux.sysctls,
        overhead: linux.overhead.map(resources).transpose().at("linux.overhead")?,
        resources: linux.resources.map(resources).transpose().at("linux.resources")?,
        runtime_handler,
    })
}

/// The name of a runtime handler; empty for the default.
pub fn runtime_handler(handler: String) -> Checked<String> {
    text(&handler, NAME_LIMIT)?;
    if !handler.is_empty() {
        word(&handler, NAME_LIMIT)?;
    }
    Ok(handler)
}

fn metadata(m: v1::PodSandboxMetadata) -> Checked<PodMetadata> {
    name(&m.name).at("name")?;
    name(&m.uid).at("uid")?;
    name(&m.namespace).at("namespace")?;
    Ok(PodMetadata { name: m.name, uid: m.uid, namespace: m.namespace, attempt: m.attempt })
}

fn hostname(hostname: &str) -> Checked {
    text(hostname, HOSTNAME_LIMIT)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !hostname.chars().all(plain) {
        return Err(Invalid::new(format!("{} is no host name", quoted(hostname))));
    }
    Ok(())
}

fn log_directory(path: &str) -> Checked {
    if path.is_empty() {
        return Ok(());
    }
    absolute(path)?;
    confined(path)
}

/// The parts of resolv.conf: each becomes a word of a line there.
fn dns(d: v1::DnsConfig) -> Checked<DnsConfig> {
    let words = |list: Vec<String>, field: &str| {
        each(list, LIST_LIMIT, |entry| word(&entry, NAME_LIMIT).map(|()| entry)).at(field)
    };
    Ok(DnsConfig {
        servers: words(d.servers, "servers")?,
        searches: words(d.searches, "searches")?,
        options: words(d.options, "options")?,
    })
}

fn port(p: v1::PortMapping) -> Checked<PortMapping> {
    let protocol = match known(p.protocol, "protocol").at("protocol")? {
        v1::Protocol::Tcp => Protocol::Tcp,
        v1::Protocol::Udp => Protocol::Udp,
        v1::Protocol::Sctp => Protocol::Sctp,
    };
    if !p.host_ip.is_empty() && p.host_ip.parse::<IpAddr>().is_err() {
        return Err(Invalid::of("host_ip", format!("{} is no address", quoted(&p.host_ip))));
    }
    Ok(PortMapping {
        protocol,
        container_port: number(p.container_port, 1).at("container_port")?,
        host_port: number(p.host_port, 0).at("host_port")?,
        host_ip: p.host_ip,
    })
}

fn number(port: i32, least: i32) -> Checked<u16> {
    within(port.into(), least.into()..=u16::MAX.into(), "")?;
    Ok(port as u16)
}
