//! The CNI client with plugins that are scripts: every verb, what plugins get to see, what happens when they fail, and
//! changes of the configuration directory.
#![allow(clippy::unwrap_used)]

mod network_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use network_support::plugins::Plugins;
use network_support::*;
use orlop::network::{
    Attachment, CniError, Dns, IpPreference, NetworkError, NetworkRecord, PodNetworkRequest, Protocol, Provider,
};
use serde_json::json;

fn full_request() -> PodNetworkRequest {
    let annotations = [("kubernetes.io/ingress-bandwidth", "10M"), ("kubernetes.io/egress-bandwidth", "1Gi")];
    PodNetworkRequest {
        port_mappings: vec![port(Protocol::Udp, "192.0.2.1", 5353, 53), port(Protocol::Tcp, "", 0, 80)],
        annotations: annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        dns: Some(Dns { servers: vec!["1.1.1.1".to_owned()], searches: vec!["x".to_owned()], options: Vec::new() }),
        cgroup_parent: "/kubepods/pod1".to_owned(),
        ..request("pod1")
    }
}

#[test]
fn a_pod_is_attached_and_detached() {
    private(|| async {
        let plugins = Plugins::new(&["first", "second"]);
        let all = json!({"portMappings": true, "bandwidth": true, "dns": true, "cgroupPath": true,
            "io.kubernetes.cri.pod-annotations": true, "mac": true, "aliases": false});
        plugins.configure(
            "10-net.conflist",
            &json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
                {"type": "first", "custom": {"deep": [1, 2.5, null]}, "cni.dev/x": 1},
                {"type": "second", "capabilities": all},
            ]}),
        );
        let network = plugins.open().await;
        network.status().unwrap();
        network.recover(&[]).await.unwrap();
        let pod = network.setup(full_request()).await.unwrap();
        assert_eq!(pod.record.ips, ["10.1.0.5".parse::<std::net::IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
        let pin = pod.record.netns_path.clone().unwrap();
        assert_eq!(pin, plugins.path("state").join("netns/pod1"));
        inside(std::fs::File::open(&pin).unwrap(), || assert!(ip("-o addr show dev lo").contains("127.0.0.1")));

        let calls = plugins.calls();
        let [first, second] = calls.as_slice() else { panic!("{calls:?}") };
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-pod1;K8S_POD_INFRA_CONTAINER_ID=pod1;\
                    K8S_POD_UID=uid-pod1";
        for call in &calls {
            assert_eq!(call.env["CNI_COMMAND"], "ADD");
            assert_eq!(call.env["CNI_CONTAINERID"], "pod1");
            assert_eq!(call.env["CNI_NETNS"], pin.to_str().unwrap());
            assert_eq!(call.env["CNI_IFNAME"], "eth0");
            assert_eq!(call.env["CNI_ARGS"], args);
            assert!(call.env["CNI_PATH"].ends_with("/bin"));
            let strange: Vec<_> = call.env.keys().filter(|name| !name.starts_with("CNI_")).collect();
            assert!(strange.iter().all(|name| ["PATH", "PWD", "SHLVL", "_", "OLDPWD"].contains(&name.as_str())));
        }
        let expected =
            json!({"cniVersion": "1.0.0", "name": "net", "type": "first", "custom": {"deep": [1, 2.5, null]}});
        assert_eq!(first.input, expected);
        let burst = u32::MAX;
        let annotations = full_request().annotations;
        assert_eq!(
            second.input["runtimeConfig"],
            json!({
                "portMappings": [{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"}],
                "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": burst,
                    "egressRate": 1 << 30, "egressBurst": burst},
                "dns": {"servers": ["1.1.1.1"], "searches": ["x"], "options": []},
                "cgroupPath": "/kubepods/pod1",
                "io.kubernetes.cri.pod-annotations": annotations,
            })
        );
        assert_eq!(second.input["prevResult"]["ips"][2]["address"], "10.1.0.5/24");
        assert!(second.input.get("capabilities").is_none());

        network.check(&request("pod1"), &pod.record).await.unwrap();
        assert_eq!(plugins.verbs(), ["first CHECK", "second CHECK"]);
        let record = pod.record.clone();
        drop(pod);
        network.teardown(&request("pod1"), &record).await.unwrap();
        let calls = plugins.calls();
        assert_eq!(calls.iter().map(|call| call.plugin.as_str()).collect::<Vec<_>>(), ["second", "first"]);
        for call in &calls {
            assert_eq!((call.env["CNI_COMMAND"].as_str(), call.env["CNI_ARGS"].as_str()), ("DEL", args));
            assert_eq!(call.env["CNI_NETNS"], pin.to_str().unwrap());
            assert_eq!(call.input["prevResult"]["ips"][2]["address"], "10.1.0.5/24");
        }
        assert_eq!(calls[0].input["runtimeConfig"], second.input["runtimeConfig"]);
        assert_eq!(plugins.traces(), [] as [&Path; 0]);
        network.teardown(&request("pod1"), &record).await.unwrap();
        assert_eq!(plugins.verbs(), [] as [&str; 0], "what is detached is not detached again");
    });
}

#[test]
fn a_failed_add_is_undone() {
    private(|| async {
        let plugins = Plugins::new(&["first", "second"]);
        plugins.configure("net.conflist", &plugins.list("1.0.0", &["first", "second"]));
        let network = plugins.open().await;
        let failures = [
            (r#"echo '{"code": 11, "msg": "busy", "details": "come back"}'; exit 1"#, "busy: come back (code 11)"),
            ("echo no route >&2; exit 3", "exit status: 3: no route"),
            ("echo '{'; exit 0", "its result is not JSON"),
            ("exit 0", "it printed no result"),
            ("echo '{\"ips\": [{\"address\": \"x\"}]}'; exit 0", "has the address \"x\""),
            ("echo '{\"ips\": []}'; exit 0", "gave the pod no address on eth0"),
            ("kill -9 $$", "signal: 9"),
        ];
        for (script, message) in failures {
            plugins.behave("second", "ADD", script);
            let error = network.setup(request("pod1")).await.unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert!(
                message.contains("no address") || error.to_string().starts_with("CNI plugin second: ADD: "),
                "{error}"
            );
            assert_eq!(plugins.verbs(), ["first ADD", "second ADD", "second DEL", "first DEL"]);
            assert_eq!(plugins.traces(), [] as [&Path; 0]);
        }
        plugins.behave_well("second", "ADD");
        network.setup(request("pod1")).await.unwrap();
    });
}

#[test]
fn a_hanging_plugin_is_killed_with_its_children() {
    private(|| async {
        let plugins = Plugins::new(&["slow"]);
        plugins.configure("net.conflist", &plugins.list("1.0.0", &["slow"]));
        let mut config = plugins.config();
        config.cni.plugin_timeout_seconds = 1;
        let network = plugins.open_with(&config).await;
        plugins.behave("slow", "ADD", "sleep 1000 & echo $! > $dir/child; wait");
        let start = Instant::now();
        let error = network.setup(request("pod1")).await.unwrap_err();
        assert!(matches!(error, NetworkError::Cni(CniError::Timeout { seconds: 1, .. })), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
        let child = std::fs::read_to_string(plugins.path("child")).unwrap();
        let status = Path::new("/proc").join(child.trim()).join("status");
        eventually("the child is gone", || {
            std::fs::read_to_string(&status).map_or(true, |status| status.contains("State:\tZ"))
        })
        .await;
        // A child that outlives its plugin and holds its pipes does not hold us.
        plugins.behave("slow", "ADD", "sleep 5 &");
        let start = Instant::now();
        network.setup(request("pod2")).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(4));
    });
}

#[test]
fn a_failed_del_is_tried_again() {
    private(|| async {
        let plugins = Plugins::new(&["first", "second"]);
        plugins.configure("net.conflist", &plugins.list("1.0.0", &["first", "second"]));
        let network = plugins.open().await;
        let pod = network.setup(request("pod1")).await.unwrap();
        plugins.calls();
        plugins.behave("first", "DEL", "echo broken >&2; exit 1");
        for _ in 0..2 {
            let error = network.teardown(&request("pod1"), &pod.record).await.unwrap_err();
            assert_eq!(error.to_string(), "CNI plugin first: DEL: exit status: 1: broken");
            assert_eq!(plugins.verbs(), ["second DEL", "first DEL"]);
        }
        network.abandon(&request("pod1"), &pod.record).unwrap();
        assert!(!pod.record.netns_path.as_ref().unwrap().exists());
        plugins.behave_well("first", "DEL");
        let network = plugins.open().await;
        network.recover(&[]).await.unwrap();
        eventually("the next start detaches it", || plugins.traces().is_empty()).await;
        let calls = plugins.calls();
        assert_eq!(calls.len(), 2);
        assert!(calls.iter().all(|call| call.env["CNI_NETNS"].is_empty()), "the namespace is gone");
    });
}

#[test]
fn after_a_restart_pods_are_detached_as_they_were_attached() {
    private(|| async {
        let plugins = Plugins::new(&["old", "new"]);
        plugins.configure("net.conflist", &plugins.list("0.4.0", &["old"]));
        let network = plugins.open().await;
        let kept = network.setup(request("kept")).await.unwrap();
        let rebooted = network.setup(request("rebooted")).await.unwrap();
        let _lost = network.setup(request("lost")).await.unwrap();
        let damaged = network.setup(request("damaged")).await.unwrap();
        drop(network);
        plugins.calls();
        // Meanwhile the network is another one, a reboot took a pin away, a pod was forgotten, a file was damaged.
        plugins.configure("net.conflist", &plugins.list("1.1.0", &["new"]));
        let pin = plugins.path("state").join("netns/rebooted");
        rustix::mount::unmount(&pin, rustix::mount::UnmountFlags::DETACH).unwrap();
        std::fs::write(plugins.path("root").join("cni/attachments/damaged.eth0.json"), "{").unwrap();
        let network = plugins.open().await;
        let live = [("kept", &kept.record), ("rebooted", &rebooted.record), ("damaged", &damaged.record)];
        let live: Vec<(String, NetworkRecord)> =
            live.into_iter().map(|(id, record)| (id.to_owned(), record.clone())).collect();
        network.recover(&live).await.unwrap();
        eventually("the forgotten pod is detached", || !plugins.path("state").join("netns/lost").exists()).await;
        eventually("garbage is collected", || {
            std::fs::read_to_string(plugins.path("calls"))
                .is_ok_and(|calls| calls.contains("cni.dev/valid-attachments") && calls.ends_with("}\n"))
        })
        .await;
        let calls = plugins.calls();
        let del = calls.iter().find(|call| call.verb == "DEL").unwrap();
        assert_eq!((del.plugin.as_str(), del.env["CNI_CONTAINERID"].as_str()), ("old", "lost"));
        assert!(!del.env["CNI_NETNS"].is_empty());
        assert_eq!(del.input["cniVersion"], "0.4.0");
        let gc = calls.iter().find(|call| call.verb == "GC").unwrap();
        let valid: Vec<&str> = gc.input["cni.dev/valid-attachments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a["containerID"].as_str().unwrap())
            .collect();
        assert_eq!(valid, ["damaged", "kept", "rebooted"]);
        assert!(!gc.env.contains_key("CNI_CONTAINERID"));

        for (id, record) in live {
            network.teardown(&request(&id), &record).await.unwrap();
            let calls = plugins.calls();
            let call = &calls[0];
            assert_eq!(
                (calls.len(), call.verb.as_str(), call.env["CNI_CONTAINERID"].as_str()),
                (1, "DEL", id.as_str())
            );
            assert_eq!(call.plugin, if id == "damaged" { "new" } else { "old" });
            assert_eq!(call.env["CNI_NETNS"].is_empty(), id == "rebooted");
            assert_eq!(call.input.get("prevResult").is_none(), id == "damaged");
        }
        assert_eq!(plugins.traces(), [] as [&Path; 0]);
    });
}

#[test]
fn garbage_collection_can_be_switched_off() {
    private(|| async {
        let plugins = Plugins::new(&["first"]);
        let mut list = plugins.list("1.1.0", &["first"]);
        list["disableGC"] = true.into();
        list["disableCheck"] = true.into();
        plugins.configure("net.conflist", &list);
        let network = plugins.open().await;
        let pod = network.setup(request("a")).await.unwrap();
        network.recover(&[("a".to_owned(), pod.record.clone())]).await.unwrap();
        network.check(&request("a"), &pod.record).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(plugins.verbs(), ["first STATUS", "first ADD"]);
        network.teardown(&request("a"), &pod.record).await.unwrap();
    });
}

#[test]
fn readiness_is_true() {
    private(|| async {
        let plugins = Plugins::new(&["first"]);
        std::fs::remove_dir(plugins.path("conf")).unwrap();
        let network = plugins.open().await;
        let status = || network.status().map_err(|not| (not.reason, not.message));
        let (reason, message) = status().unwrap_err();
        assert_eq!(reason, "NetworkPluginNotReady");
        assert_eq!(message, format!("no CNI configuration in {}", plugins.path("conf").display()));
        assert!(matches!(network.setup(request("a")).await, Err(NetworkError::NotReady(_))));
        // The directory appears, empty, then with half a file, then with a whole one.
        std::fs::create_dir(plugins.path("conf")).unwrap();
        assert!(status().is_err());
        std::fs::write(plugins.path("conf").join("net.conflist"), "{\"name\":").unwrap();
        assert!(status().unwrap_err().1.contains("net.conflist"));
        plugins.configure("net.conflist", &plugins.list("1.0.0", &["first"]));
        status().unwrap();
        // It is removed and made anew, renamed over, and swapped as a link.
        std::fs::remove_dir_all(plugins.path("conf")).unwrap();
        assert!(status().is_err());
        std::fs::create_dir(plugins.path("conf")).unwrap();
        plugins.configure("net.conflist", &plugins.list("1.0.0", &["missing"]));
        assert!(status().unwrap_err().1.contains("CNI plugin \"missing\" of network \"net\" is not in"));
        plugins.install("missing");
        status().unwrap();
        std::fs::rename(plugins.path("conf"), plugins.path("one")).unwrap();
        assert!(status().is_err());
        std::os::unix::fs::symlink(plugins.path("one"), plugins.path("conf")).unwrap();
        status().unwrap();
        std::fs::create_dir(plugins.path("two")).unwrap();
        let other = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "absent"}]});
        std::fs::write(plugins.path("two").join("net.conflist"), other.to_string()).unwrap();
        std::os::unix::fs::symlink(plugins.path("two"), plugins.path("swap")).unwrap();
        std::fs::rename(plugins.path("swap"), plugins.path("conf")).unwrap();
        assert!(status().unwrap_err().1.contains("absent"));
    });
}

#[test]
fn a_config_map_mount_is_followed() {
    private(|| async {
        let plugins = Plugins::new(&["first", "second"]);
        for (version, plugin) in [("..v1", "first"), ("..v2", "second")] {
            std::fs::create_dir(plugins.path("conf").join(version)).unwrap();
            let list = plugins.list("1.0.0", &[plugin]).to_string();
            std::fs::write(plugins.path("conf").join(version).join("net.conflist"), list).unwrap();
        }
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, plugins.path("conf").join(name)).unwrap();
        link("..v1", "..data");
        link("..data/net.conflist", "net.conflist");
        let network = plugins.open().await;
        network.setup(request("a")).await.unwrap();
        link("..v2", "..data_tmp");
        std::fs::rename(plugins.path("conf/..data_tmp"), plugins.path("conf/..data")).unwrap();
        network.setup(request("b")).await.unwrap();
        assert_eq!(plugins.verbs(), ["first ADD", "second ADD"]);
    });
}

#[test]
fn plugins_say_whether_they_are_ready() {
    private(|| async {
        let plugins = Plugins::new(&["first"]);
        plugins.behave("first", "STATUS", r#"echo '{"code": 50, "msg": "daemon is down"}'; exit 1"#);
        plugins.configure("net.conflist", &plugins.list("1.1.0", &["first"]));
        let network = plugins.open().await;
        let message = network.status().unwrap_err().message;
        assert_eq!(message, "CNI plugin first: STATUS: daemon is down (code 50)");
        plugins.behave_well("first", "STATUS");
        let start = Instant::now();
        while network.status().is_err() {
            assert!(start.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let calls = plugins.calls();
        assert!(calls.iter().all(|call| call.verb == "STATUS" && call.input["name"] == "net"));
        assert!(calls.len() < 10, "an answer is kept for a while");
    });
}

#[test]
fn the_newest_common_version_is_spoken() {
    private(|| async {
        let plugins = Plugins::new(&["first", "second"]);
        let mut list = plugins.list("0.3.1", &["first", "second"]);
        list["cniVersions"] = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0", "9.0.0"]);
        plugins.configure("net.conflist", &list);
        plugins.behave("second", "VERSION", "echo '{\"supportedVersions\": [\"0.3.1\", \"0.4.0\"]}'; exit 0");
        let network = plugins.open().await;
        let pod = network.setup(request("a")).await.unwrap();
        let calls = plugins.calls();
        assert_eq!(calls.iter().filter(|call| call.verb == "VERSION").count(), 2, "asked once");
        assert!(calls.iter().filter(|call| call.verb == "ADD").all(|call| call.input["cniVersion"] == "0.4.0"));
        network.teardown(&request("a"), &pod.record).await.unwrap();
        assert!(plugins.calls().iter().all(|call| call.input["cniVersion"] == "0.4.0"));
        plugins.configure("net.conflist", &plugins.list("2.0.0", &["first"]));
        let message = network.status().unwrap_err().message;
        assert!(message.contains("CNI version 2.0.0 is not one that Orlop speaks"), "{message}");
    });
}

#[test]
fn results_of_every_version_are_read() {
    private(|| async {
        let plugins = Plugins::new(&["first"]);
        let cases = [
            (
                "0.2.0",
                r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.2.0.2/24","gateway":"10.2.0.1"},"ip6":{"ip":"fd00::2/64"}}"#,
            ),
            (
                "0.3.1",
                r#"{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.2.0.2/24"},
                    {"version":"6","address":"fd00::2/64"}]}"#,
            ),
            (
                "0.4.0",
                r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[
                    {"version":"4","address":"10.2.0.2/24","interface":0},
                    {"version":"6","address":"fd00::2/64","interface":0}]}"#,
            ),
            (
                "1.1.0",
                r#"{"interfaces":[{"name":"eth0","mtu":1500,"sandbox":"/x"}],"ips":[
                    {"address":"fd00::2/64","interface":0},{"address":"10.2.0.2/24","interface":0}]}"#,
            ),
        ];
        for (version, result) in cases {
            let conf = json!({"cniVersion": version, "name": "net", "type": "first"});
            plugins.configure("net.conf", &conf);
            plugins.behave("first", "ADD", &format!("echo '{result}'; exit 0"));
            for (preference, first) in
                [(IpPreference::Ipv4, "10.2.0.2"), (IpPreference::Ipv6, "fd00::2"), (IpPreference::Cni, "")]
            {
                let mut config = plugins.config();
                config.cni.ip_pref = preference;
                let network = plugins.open_with(&config).await;
                let pod = network.setup(request("a")).await.unwrap();
                assert_eq!(pod.record.ips.len(), 2);
                let first =
                    if first.is_empty() { if version == "1.1.0" { "fd00::2" } else { "10.2.0.2" } } else { first };
                assert_eq!(primary(&pod).to_string(), first, "{version}");
                network.teardown(&request("a"), &pod.record).await.unwrap();
            }
        }
    });
}

#[test]
fn the_first_file_by_name_counts() {
    private(|| async {
        let plugins = Plugins::new(&["first", "second", "extra"]);
        plugins.configure("00-broken.conf", &json!({"cniVersion": "1.0.0", "name": "../x", "type": "first"}));
        plugins
            .configure("20-b.conflist", &json!({"cniVersion": "1.0.0", "name": "b", "plugins": [{"type": "second"}]}));
        plugins.configure("10-a.json", &json!({"cniVersion": "1.0.0", "name": "a", "type": "first"}));
        plugins.configure("05-ignored.txt", &json!({}));
        let mut config = plugins.config();
        let network = plugins.open_with(&config).await;
        let pod = network.setup(request("one")).await.unwrap();
        assert_eq!(plugins.verbs(), ["first ADD"]);
        network.teardown(&request("one"), &pod.record).await.unwrap();
        plugins.calls();
        // More than one network: more than one interface.
        config.cni.max_conf_num = 0;
        let network = plugins.open_with(&config).await;
        let pod = network.setup(request("two")).await.unwrap();
        let interfaces: Vec<String> = plugins.calls().iter().map(|call| call.env["CNI_IFNAME"].clone()).collect();
        assert_eq!(interfaces, ["eth0", "eth1"]);
        let Provider::Cni { attachments } = &pod.record.provider else { panic!() };
        assert_eq!(attachments[1], Attachment { network: "b".to_owned(), interface: "eth1".to_owned() });
        network.teardown(&request("two"), &pod.record).await.unwrap();
        assert_eq!(plugins.verbs(), ["second DEL", "first DEL"]);
        // Plugins of the folder that has the network's name come after those of the file.
        std::fs::create_dir(plugins.path("conf/b")).unwrap();
        std::fs::write(plugins.path("conf/b/x.conf"), r#"{"type": "extra"}"#).unwrap();
        let pod = network.setup(request("three")).await.unwrap();
        assert_eq!(plugins.verbs(), ["first ADD", "second ADD", "extra ADD"]);
        network.teardown(&request("three"), &pod.record).await.unwrap();
    });
}

#[test]
fn bad_requests_are_refused_before_any_plugin_runs() {
    private(|| async {
        let plugins = Plugins::new(&["first"]);
        plugins.configure("net.conf", &json!({"cniVersion": "1.0.0", "name": "a", "type": "first"}));
        let network = plugins.open().await;
        let bandwidth = BTreeMap::from([("kubernetes.io/ingress-bandwidth".to_owned(), "1".to_owned())]);
        let bad = [
            PodNetworkRequest { id: "../../etc".to_owned(), ..request("x") },
            PodNetworkRequest { name: "a;b".to_owned(), ..request("x") },
            PodNetworkRequest { annotations: bandwidth, ..request("x") },
        ];
        for request in bad {
            network.setup(request).await.unwrap_err();
        }
        assert_eq!(plugins.verbs(), [] as [&str; 0]);
        assert_eq!(plugins.traces(), [] as [&Path; 0]);
    });
}

#[test]
fn fifty_pods_at_once() {
    private(|| async {
        let plugins = Plugins::new(&["first"]);
        plugins.configure("net.conf", &json!({"cniVersion": "1.0.0", "name": "a", "type": "first"}));
        let network = plugins.open().await;
        let ids: Vec<String> = (0..50).map(|number| format!("pod{number}")).collect();
        let start = Instant::now();
        let pods = futures_util::future::join_all(ids.iter().map(|id| network.setup(request(id)))).await;
        eprintln!("50 pods with one plugin: {:?}", start.elapsed());
        let pods: Vec<_> = pods.into_iter().map(Result::unwrap).collect();
        let torn = futures_util::future::join_all(
            ids.iter().zip(&pods).map(async |(id, pod)| network.teardown(&request(id), &pod.record).await),
        );
        torn.await.into_iter().for_each(Result::unwrap);
        assert_eq!(plugins.traces(), [] as [&Path; 0]);
    });
}
