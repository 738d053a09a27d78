//! The CNI client with the plugins that Debian packages: addresses, masquerade and a host port, end to end.
#![allow(clippy::unwrap_used)]

mod network_support;

use std::path::Path;
use std::time::Instant;

use network_support::plugins::Plugins;
use network_support::*;
use orlop::network::{PodNetworkRequest, Protocol};
use serde_json::json;

/// Debian's plugins, for real: an address from host-local, a bridge, a host port.
#[test]
fn the_plugins_of_debian() {
    const DIR: &str = "/usr/lib/cni";
    for needed in ["/usr/lib/cni/bridge", "/usr/lib/cni/portmap", "/usr/sbin/iptables"] {
        if !Path::new(needed).exists() {
            eprintln!("skipped: {needed} is not installed (Debian: containernetworking-plugins, iptables)");
            return;
        }
    }
    private(|| async {
        let plugins = Plugins::new(&[]);
        let far = outside();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let data = plugins.path("ipam");
        plugins.configure(
            "10-net.conflist",
            &json!({"cniVersion": "1.0.0", "name": "debian", "plugins": [
                {"type": "bridge", "bridge": "cni9", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                    "ipam": {"type": "host-local", "dataDir": data, "ranges": [[{"subnet": "10.97.0.0/24"}]],
                        "routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ]}),
        );
        let mut config = plugins.config();
        config.cni.bin_dirs = vec![DIR.into()];
        let network = plugins.open_with(&config).await;
        network.recover(&[]).await.unwrap();
        network.status().unwrap();
        let start = Instant::now();
        let ports = vec![port(Protocol::Tcp, "", 8080, 80)];
        let a = network.setup(PodNetworkRequest { port_mappings: ports, ..request("a") }).await.unwrap();
        eprintln!("bridge, host-local, portmap: {:?}", start.elapsed());
        let b = network.setup(request("b")).await.unwrap();
        // Debian's portmap checks IPv6 rules that an IPv4 pod never gets: the pod without ports is checked.
        network.check(&request("b"), &b.record).await.unwrap();
        assert!(primary(&a).to_string().starts_with("10.97.0."));
        let serving = serve_tcp(&a.netns, at(primary(&a), 80), 2);
        assert_eq!(call_tcp(&b.netns, at(primary(&a), 80)).unwrap(), primary(&b));
        assert_eq!(call_tcp(&far, "192.0.2.1:8080".parse().unwrap()).unwrap().to_string(), "192.0.2.2");
        serving.join().unwrap();
        let serving = serve_tcp(&far, "192.0.2.2:80".parse().unwrap(), 1);
        assert_eq!(call_tcp(&b.netns, "192.0.2.2:80".parse().unwrap()).unwrap().to_string(), "192.0.2.1");
        serving.join().unwrap();
        // One is detached as it should be, the other after a restart with its namespace gone.
        let record = a.record.clone();
        drop(a);
        network.teardown(&request("a"), &record).await.unwrap();
        drop(network);
        let pin = b.record.netns_path.clone().unwrap();
        rustix::mount::unmount(&pin, rustix::mount::UnmountFlags::DETACH).unwrap();
        let record = b.record.clone();
        drop(b);
        let network = plugins.open_with(&config).await;
        network.teardown(&request("b"), &record).await.unwrap();
        assert_eq!(plugins.traces(), [] as [&Path; 0]);
        let reserved = std::fs::read_dir(data.join("debian")).unwrap();
        let reserved =
            reserved.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("10."));
        assert_eq!(reserved.count(), 0, "an address is still reserved");
    });
}
