//! The small files that a pod's containers see: hostname, hosts, resolv.conf.

use std::fs;
use std::io;
use std::path::Path;

use super::spec::PodFiles;
use super::types::{DnsConfig, NamespaceMode, PodConfig};

/// What a pod without a hosts file of its own sees when the host has none either.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Writes the files of a pod into `dir` (on a tmpfs) and says where they are. `shm` is the pod's shared memory.
pub fn write(dir: &Path, config: &PodConfig, host_name: &str) -> io::Result<PodFiles> {
    let files = paths(dir, config);
    let name = if config.hostname.is_empty() { host_name } else { &config.hostname };
    fs::write(&files.hostname, format!("{name}\n"))?;
    fs::write(&files.hosts, fs::read_to_string("/etc/hosts").unwrap_or_else(|_| HOSTS.to_owned()))?;
    match &config.dns {
        Some(dns) => fs::write(&files.resolv_conf, resolv_conf(dns))?,
        None => fs::write(&files.resolv_conf, fs::read("/etc/resolv.conf").unwrap_or_default())?,
    }
    Ok(files)
}

/// Where the files of a pod are.
pub fn paths(dir: &Path, config: &PodConfig) -> PodFiles {
    let host_ipc = config.security.namespaces.ipc == NamespaceMode::Node;
    PodFiles {
        hostname: dir.join("hostname"),
        hosts: dir.join("hosts"),
        resolv_conf: dir.join("resolv.conf"),
        shm: if host_ipc { Path::new("/dev/shm").to_path_buf() } else { dir.join("shm") },
    }
}

/// The text of resolv.conf(5); empty where nothing was asked for.
pub fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_lists_search_servers_and_options() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.10".into(), "fd00::10".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(resolv_conf(&dns), "search a.svc svc\nnameserver 10.0.0.10\nnameserver fd00::10\noptions ndots:5\n");
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }

    #[test]
    fn host_ipc_shares_the_memory_of_the_host() {
        let mut config = PodConfig::default();
        assert_eq!(paths(Path::new("/x"), &config).shm, Path::new("/x/shm"));
        config.security.namespaces.ipc = NamespaceMode::Node;
        assert_eq!(paths(Path::new("/x"), &config).shm, Path::new("/dev/shm"));
    }
}
