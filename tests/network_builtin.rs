//! The built-in pod network, in network namespaces of its own: what pods reach, what reaches them, and that nothing
//! of a pod stays behind.
#![allow(clippy::unwrap_used)]

mod network_support;

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use network_support::*;
use orlop::network::{InterfaceReader, Network, NetworkError, PodNetworkRequest, Protocol, Provider};

#[test]
fn pods_reach_each_other_and_the_node() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = builtin(root.path(), |_| {}).await;
        let (a, b) = (pod(&network, "a", &[]).await, pod(&network, "b", &[]).await);
        assert_ne!(primary(&a), primary(&b));
        let server = serve_tcp(&a.netns, at(primary(&a), 80), 2);
        assert_eq!(call_tcp(&b.netns, at(primary(&a), 80)).unwrap(), primary(&b), "a pod sees a pod's own address");
        assert_eq!(call_tcp(&here(), at(primary(&a), 80)).unwrap(), "10.88.0.1".parse::<IpAddr>().unwrap());
        server.join().unwrap();
        let node = serve_tcp(&here(), "0.0.0.0:81".parse().unwrap(), 1);
        assert_eq!(call_tcp(&b.netns, "10.88.0.1:81".parse().unwrap()).unwrap(), primary(&b));
        node.join().unwrap();
        // Loopback is up, and eth0 has no IPv6 that nobody asked for.
        let lo = serve_tcp(&a.netns, "127.0.0.1:80".parse().unwrap(), 1);
        call_tcp(&a.netns, "127.0.0.1:80".parse().unwrap()).unwrap();
        lo.join().unwrap();
        assert_eq!(inside(&a.netns, || ip("-6 -o addr show dev eth0")), "");
    });
}

#[test]
fn pods_leave_with_the_nodes_address() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let far = outside();
        let network = builtin(root.path(), |config| {
            config.subnet6 = Some("fd00:88::/64".parse().unwrap());
        })
        .await;
        let a = pod(&network, "a", &[]).await;
        assert_eq!(a.record.ips.len(), 2);
        for (server, node) in [("192.0.2.2:80", "192.0.2.1"), ("[2001:db8::2]:80", "2001:db8::1")] {
            let server = server.parse().unwrap();
            let serving = serve_tcp(&far, server, 1);
            assert_eq!(call_tcp(&a.netns, server).unwrap(), node.parse::<IpAddr>().unwrap());
            serving.join().unwrap();
        }
        let b = pod(&network, "b", &[]).await;
        for ip in &a.record.ips {
            let serving = serve_tcp(&a.netns, at(*ip, 80), 1);
            assert!(b.record.ips.contains(&call_tcp(&b.netns, at(*ip, 80)).unwrap()));
            serving.join().unwrap();
        }
    });
}

#[test]
fn some_destinations_see_the_pods_address() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let far = outside();
        inside(&far, || ip("route add 10.88.0.0/16 via 192.0.2.1"));
        let network = builtin(root.path(), |config| {
            config.no_masquerade = vec!["192.0.2.0/24".parse().unwrap()];
        })
        .await;
        let a = pod(&network, "a", &[]).await;
        let serving = serve_tcp(&far, "192.0.2.2:80".parse().unwrap(), 1);
        assert_eq!(call_tcp(&a.netns, "192.0.2.2:80".parse().unwrap()).unwrap(), primary(&a));
        serving.join().unwrap();
    });
}

#[test]
fn host_ports_lead_to_the_pod() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let far = outside();
        let network = builtin(root.path(), |config| {
            config.subnet6 = Some("fd00:88::/64".parse().unwrap());
        })
        .await;
        let ports = [port(Protocol::Tcp, "", 8080, 80), port(Protocol::Udp, "", 8080, 53)];
        let a = pod(&network, "a", &ports).await;
        let b = pod(&network, "b", &[]).await;
        let far_ip: IpAddr = "192.0.2.2".parse().unwrap();
        let tcp = serve_tcp(&a.netns, "[::]:80".parse().unwrap(), 6);
        let udp = serve_udp(&a.netns, at(primary(&a), 53), 3);
        // From outside the pod sees who calls.
        let seen = call_tcp(&far, "192.0.2.1:8080".parse().unwrap()).unwrap();
        assert_eq!(seen.to_canonical(), far_ip);
        assert_eq!(call_udp(&far, "192.0.2.1:8080".parse().unwrap()).unwrap(), far_ip);
        let seen = call_tcp(&far, "[2001:db8::1]:8080".parse().unwrap()).unwrap();
        assert_eq!(seen, "2001:db8::2".parse::<IpAddr>().unwrap());
        // From the node, by its address and by loopback; from another pod, and from the pod itself.
        let node = here();
        for caller in [&node, &b.netns, &a.netns] {
            call_tcp(caller, "192.0.2.1:8080".parse().unwrap()).unwrap();
        }
        call_tcp(&node, "127.0.0.1:8080".parse().unwrap()).unwrap();
        call_udp(&node, "127.0.0.1:8080".parse().unwrap()).unwrap();
        call_udp(&b.netns, "192.0.2.1:8080".parse().unwrap()).unwrap();
        tcp.join().unwrap();
        udp.join().unwrap();
        // What is only routed through the node is not for its ports.
        inside(&far, || ip("route add 198.51.100.1/32 via 192.0.2.1"));
        assert!(call_tcp(&far, "198.51.100.1:8080".parse().unwrap()).is_err());
        network.teardown(&request("a"), &a.record).await.unwrap();
        assert!(call_tcp(&far, "192.0.2.1:8080".parse().unwrap()).is_err());
    });
}

#[test]
fn a_host_port_of_one_address() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let far = outside();
        ip("addr add 192.0.2.3/24 dev up0");
        let network = builtin(root.path(), |_| {}).await;
        let a = pod(&network, "a", &[port(Protocol::Tcp, "192.0.2.3", 80, 80)]).await;
        let serving = serve_tcp(&a.netns, at(primary(&a), 80), 1);
        assert!(call_tcp(&far, "192.0.2.1:80".parse().unwrap()).is_err());
        call_tcp(&far, "192.0.2.3:80".parse().unwrap()).unwrap();
        serving.join().unwrap();
        // Another address's port is free, every address's is not.
        let taken = PodNetworkRequest { port_mappings: vec![port(Protocol::Tcp, "", 80, 8080)], ..request("b") };
        let error = network.setup(taken).await.unwrap_err();
        assert!(matches!(&error, NetworkError::HostPortTaken { owner, .. } if owner == "a"), "{error}");
        assert_eq!(error.to_string(), "host port 80/tcp is taken by pod a");
        pod(&network, "c", &[port(Protocol::Tcp, "192.0.2.1", 80, 80), port(Protocol::Udp, "", 80, 80)]).await;
    });
}

#[test]
fn a_restless_udp_sender_reaches_the_next_pod() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let far = outside();
        let network = builtin(root.path(), |_| {}).await;
        let sender = inside(&far, || std::net::UdpSocket::bind("0.0.0.0:4000").unwrap());
        sender.connect("192.0.2.1:5353").unwrap();
        sender.set_read_timeout(Some(PATIENCE)).unwrap();
        let send = |wanted: bool| {
            let _ = sender.send(b"x");
            let answered = sender.recv(&mut [0; 64]).is_ok();
            assert_eq!(answered, wanted);
        };
        // Nobody is there yet: the flow leads to the node itself, which refuses.
        send(false);
        for id in ["a", "b"] {
            let pod = pod(&network, id, &[port(Protocol::Udp, "", 5353, 53)]).await;
            let serving = serve_udp(&pod.netns, at(primary(&pod), 53), 1);
            send(true);
            serving.join().unwrap();
            network.teardown(&request(id), &pod.record).await.unwrap();
        }
    });
}

#[test]
fn no_pod_reaches_the_nodes_loopback() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = builtin(root.path(), |_| {}).await;
        let a = pod(&network, "a", &[]).await;
        let _listening = std::net::TcpListener::bind("127.0.0.1:4321").unwrap();
        inside(&a.netns, || {
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            ip("addr del 127.0.0.1/8 dev lo");
            ip("route add 127.0.0.1/32 via 10.88.0.1");
        });
        let address = "127.0.0.1:4321".parse().unwrap();
        let result = inside(&a.netns, || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)));
        assert!(result.is_err());
    });
}

#[test]
fn a_full_subnet_says_so_and_recovers() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = builtin(root.path(), |config| {
            config.subnet = "10.99.0.0/29".parse().unwrap();
            config.pool_size = 2;
        })
        .await;
        let mut pods = Vec::new();
        for number in 0..5 {
            pods.push(pod(&network, &number.to_string(), &[]).await);
        }
        let error = network.setup(request("x")).await.unwrap_err();
        assert!(matches!(error, NetworkError::SubnetFull { used: 5, .. }), "{error}");
        network.status().unwrap();
        let record = pods.remove(0).record;
        network.teardown(&request("0"), &record).await.unwrap();
        // Its address comes back as soon as its link is gone, and a request waits for that.
        assert_eq!(pod(&network, "y", &[]).await.record.ips, record.ips);
    });
}

#[test]
fn three_hundred_pods_leave_nothing() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = builtin(root.path(), |config| config.pool_size = 8).await;
        eventually("the pool is full", || pod_links() == 8).await;
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
        for number in 0..300_u16 {
            let id = number.to_string();
            let pod = pod(&network, &id, &[port(Protocol::Tcp, "", 10_000 + number, 80)]).await;
            let record = pod.record.clone();
            drop(pod);
            network.teardown(&request(&id), &record).await.unwrap();
            network.teardown(&request(&id), &record).await.unwrap();
        }
        eventually("only the pool's links are there", || pod_links() == 8).await;
        if std::path::Path::new("/usr/sbin/nft").exists() {
            assert!(!run("nft", "list table inet orlop").contains("elements"), "a host port stayed behind");
        }
        let more = std::fs::read_dir("/proc/self/fd").unwrap().count();
        // Other tests of this process open and close descriptors meanwhile.
        assert!(more < fds + 100, "{fds} descriptors became {more}");
        drop(network);
        eventually("no link is there", || pod_links() == 0).await;
    });
}

#[test]
fn parallel_requests_get_different_addresses() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        for pool_size in [0, 4] {
            let network = builtin(root.path(), |config| config.pool_size = pool_size).await;
            let ids: Vec<String> = (0..64).map(|number| number.to_string()).collect();
            let setups = ids.iter().map(|id| network.setup(request(id)));
            let pods: Vec<_> = futures_util::future::join_all(setups).await.into_iter().map(Result::unwrap).collect();
            let addresses: HashSet<IpAddr> = pods.iter().map(primary).collect();
            assert_eq!(addresses.len(), 64);
            for (id, pod) in ids.iter().zip(pods) {
                let record = pod.record.clone();
                drop(pod);
                network.teardown(&request(id), &record).await.unwrap();
            }
            eventually("the links are gone", || pod_links() == pool_size).await;
        }
    });
}

#[test]
fn a_restart_keeps_pods_and_removes_the_rest() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let far = outside();
        let network = builtin(root.path(), |_| {}).await;
        let kept = pod(&network, "kept", &[port(Protocol::Tcp, "", 8080, 80)]).await;
        let lost = pod(&network, "lost", &[port(Protocol::Tcp, "", 8081, 80)]).await;
        let dead = pod(&network, "dead", &[]).await;
        let dead_record = dead.record.clone();
        drop(dead);
        // What a killed agent leaves: the namespaces of pods that processes hold, and nothing of the pool.
        drop(network);
        eventually("the pool is gone", || pod_links() == 2).await;

        let network = Network::open(&builtin_config(|_| {}), root.path(), root.path()).await.unwrap();
        assert!(network.status().is_err(), "not ready before it knows which addresses are free");
        assert!(matches!(network.setup(request("early")).await, Err(NetworkError::NotReady(_))));
        let live = [("kept".to_owned(), kept.record.clone()), ("dead".to_owned(), dead_record.clone())];
        network.recover(&live).await.unwrap();
        network.status().unwrap();
        let serving = serve_tcp(&kept.netns, at(primary(&kept), 80), 1);
        call_tcp(&far, "192.0.2.1:8080".parse().unwrap()).unwrap();
        serving.join().unwrap();
        assert!(call_tcp(&far, "192.0.2.1:8081".parse().unwrap()).is_err());
        // Nobody claims the other pod's link: it goes though its namespace is held.
        eventually("it is gone", || inside(&lost.netns, || ip("-o link show type veth")).is_empty()).await;
        eventually("only the pool and one pod", || pod_links() == 4 + 1).await;
        let mut addresses = HashSet::from([primary(&kept), dead_record.ips[0]]);
        for number in 0..10 {
            assert!(addresses.insert(primary(&pod(&network, &number.to_string(), &[]).await)));
        }
        let error = network
            .setup(PodNetworkRequest { port_mappings: vec![port(Protocol::Tcp, "", 8080, 1)], ..request("late") })
            .await
            .unwrap_err();
        assert!(matches!(error, NetworkError::HostPortTaken { .. }), "{error}");
        network.teardown(&request("dead"), &dead_record).await.unwrap();
        network.teardown(&request("kept"), &kept.record).await.unwrap();
        pod(&network, "late", &[port(Protocol::Tcp, "", 8080, 1)]).await;
    });
}

#[test]
fn a_namespace_that_outlives_its_pod_loses_its_link() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = builtin(root.path(), |config| config.pool_size = 0).await;
        let a = pod(&network, "a", &[]).await;
        network.teardown(&request("a"), &a.record).await.unwrap();
        assert_eq!(pod_links(), 1);
        eventually("the link is deleted", || pod_links() == 0).await;
    });
}

#[test]
fn a_given_namespace_is_filled() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = builtin(root.path(), |_| {}).await;
        let given = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            here()
        });
        let given = given.join().unwrap();
        let mut wanted = request("a");
        wanted.netns = Some(given.try_clone().unwrap());
        let a = network.setup(wanted).await.unwrap();
        let serving = serve_tcp(&given, at(primary(&a), 80), 1);
        call_tcp(&here(), at(primary(&a), 80)).unwrap();
        serving.join().unwrap();
    });
}

#[test]
fn a_taken_subnet_and_a_taken_name_are_refused() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let _far = outside();
        ip("addr add 10.88.7.1/24 dev up0");
        let error = Network::open(&builtin_config(|_| {}), root.path(), root.path()).await.unwrap_err();
        let expected = "subnet 10.88.0.0/16 of the pods overlaps 10.88.7.0/24, which up0 has; \
                        set network.builtin.subnet to a free one";
        assert_eq!(error.to_string(), expected);
        let config = builtin_config(|config| {
            config.subnet = "10.77.0.0/16".parse().unwrap();
            config.bridge = "up0".to_owned();
        });
        let error = Network::open(&config, root.path(), root.path()).await.unwrap_err();
        assert!(error.to_string().contains("up0 is veth interface, not a bridge"), "{error}");
    });
}

#[test]
fn the_kubelets_pod_cidr_is_taken_over() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let far = outside();
        let network = builtin(root.path(), |_| {}).await;
        let old = pod(&network, "old", &[]).await;
        network.update_pod_cidr("10.42.3.0/24").await.unwrap();
        network.update_pod_cidr("10.42.3.0/24").await.unwrap();
        network.update_pod_cidr("").await.unwrap();
        let new = pod(&network, "new", &[]).await;
        assert!(primary(&new).to_string().starts_with("10.42.3."));
        for pod in [&old, &new] {
            let serving = serve_tcp(&far, "192.0.2.2:80".parse().unwrap(), 1);
            call_tcp(&pod.netns, "192.0.2.2:80".parse().unwrap()).unwrap();
            serving.join().unwrap();
        }
        let serving = serve_tcp(&new.netns, at(primary(&new), 80), 1);
        call_tcp(&old.netns, at(primary(&new), 80)).unwrap();
        serving.join().unwrap();
        drop(network);
        // It is remembered, and the old subnet goes when no pod needs it.
        let network = builtin(root.path(), |_| {}).await;
        assert!(primary(&pod(&network, "x", &[]).await).to_string().starts_with("10.42.3."));
        assert!(!ip("-o addr show dev orlop0").contains("10.88."));
        assert!(network.update_pod_cidr("nonsense").await.is_err());
    });
}

#[test]
fn flushed_rules_and_a_deleted_bridge_come_back() {
    if !std::path::Path::new("/usr/sbin/nft").exists() {
        eprintln!("skipped: this machine has no nft program to flush rules with");
        return;
    }
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let far = outside();
        let network = builtin(root.path(), |_| {}).await;
        let a = pod(&network, "a", &[port(Protocol::Tcp, "", 8080, 80)]).await;
        run("nft", "flush ruleset");
        eventually("the table is back", || run("nft", "list tables").contains("orlop")).await;
        let serving = serve_tcp(&a.netns, at(primary(&a), 80), 2);
        call_tcp(&far, "192.0.2.1:8080".parse().unwrap()).unwrap();
        run("nft", "flush ruleset");
        network.teardown(&request("a"), &a.record).await.unwrap();
        ip("link del orlop0");
        eventually("the problem is seen", || network.status().is_err() || ip("-o link").contains("orlop0")).await;
        eventually("the bridge is back", || network.status().is_ok()).await;
        call_tcp(&here(), at(primary(&a), 80)).unwrap();
        serving.join().unwrap();
    });
}

#[test]
fn counters_count() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = builtin(root.path(), |_| {}).await;
        let mut a = pod(&network, "a", &[]).await;
        let serving = serve_tcp(&a.netns, at(primary(&a), 80), 1);
        call_tcp(&here(), at(primary(&a), 80)).unwrap();
        serving.join().unwrap();
        let counters = a.counters.read().unwrap();
        let eth0 = counters.iter().find(|interface| interface.name == "eth0").unwrap();
        assert!(eth0.rx_bytes > 0 && eth0.tx_bytes > 0 && eth0.rx_packets > 0 && !eth0.loopback);
        assert!(counters.iter().any(|interface| interface.name == "lo" && interface.loopback));
        let again = InterfaceReader::open(a.netns.as_fd()).unwrap().read().unwrap();
        assert_eq!(again.len(), counters.len());
    });
}

#[test]
fn the_record_is_plain() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = builtin(root.path(), |_| {}).await;
        let a = pod(&network, "a", &[port(Protocol::Tcp, "", 8080, 80)]).await;
        assert!(matches!(a.record.provider, Provider::Builtin { .. }));
        let text = serde_json::to_string(&a.record).unwrap();
        assert_eq!(serde_json::from_str::<orlop::network::NetworkRecord>(&text).unwrap(), a.record);
        assert!(text.contains("\"provider\":\"builtin\""), "{text}");
    });
}

/// Prints what a setup costs; the limits are far above what an idle machine needs.
#[test]
fn a_setup_is_fast() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        for (pool_size, limit) in [(16, Duration::from_millis(20)), (0, Duration::from_millis(60))] {
            let network = builtin(root.path(), |config| config.pool_size = pool_size).await;
            eventually("the pool is full", || pod_links() == pool_size).await;
            let mut times = Vec::new();
            let mut pods = Vec::new();
            for number in 0..pool_size.max(16) {
                let start = Instant::now();
                pods.push(pod(&network, &number.to_string(), &[]).await);
                times.push(start.elapsed());
            }
            times.sort();
            let median = times[times.len() / 2];
            eprintln!("setup, pool of {pool_size}: median {median:?}, longest {:?}", times[times.len() - 1]);
            assert!(median < limit, "{median:?}");
            let start = Instant::now();
            for pod in &mut pods {
                pod.counters.read().unwrap();
            }
            eprintln!("counters of {} pods: {:?}", pods.len(), start.elapsed());
            drop(pods);
            drop(network);
            eventually("the links are gone", || pod_links() == 0).await;
        }
    });
}

/// Eight requests at a time, without pause: what one thread can make. Prints what that comes to.
#[test]
fn a_burst_is_sustained() {
    private(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = builtin(root.path(), |config| config.pool_size = 16).await;
        eventually("the pool is full", || pod_links() == 16).await;
        let start = Instant::now();
        let (next, done) = (std::cell::Cell::new(0), std::cell::RefCell::new(Vec::new()));
        let worker = async || {
            while next.get() < 200 {
                let id = next.replace(next.get() + 1).to_string();
                let pod = pod(&network, &id, &[]).await;
                done.borrow_mut().push((id, pod));
            }
        };
        futures_util::future::join_all((0..8).map(|_| worker())).await;
        let rate = 200.0 / start.elapsed().as_secs_f64();
        eprintln!("200 pods, 8 at a time: {rate:.0} pods/s");
        assert!(rate > 20.0, "{rate}");
        let mut pods = done.into_inner();
        for round in ["first", "next"] {
            let start = Instant::now();
            for (_, pod) in &mut pods {
                assert_eq!(pod.counters.read().unwrap().len(), 2);
            }
            eprintln!("{round} counters of one of {} pods: {:?}", pods.len(), start.elapsed() / 200);
        }
        let start = Instant::now();
        for (id, pod) in pods {
            let record = pod.record.clone();
            drop(pod);
            network.teardown(&request(&id), &record).await.unwrap();
        }
        eprintln!("teardown of one: {:?}", start.elapsed() / 200);
    });
}
