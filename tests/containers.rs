//! What a container is given: user, rights, mounts, limits, namespaces. Through the CRI socket of a real agent.

#![allow(clippy::unwrap_used)] // It is all test code.

mod support;

use orlop::cri::v1;
use serde_json::json;
use support::agent::in_netns;
use support::kubelet::code;
use support::rig::{Rig, image, int, mount, security};
use tonic::Code;

#[test]
fn users_and_groups_are_those_of_request_and_image() {
    in_netns(|| async {
        let mut rig = Rig::new(json!({ "Env": ["PATH=/bin"], "User": "web", "WorkingDir": "/var/www" })).await;
        let id = rig.run("image", |_| {}).await;
        assert_eq!(
            rig.sh(&id, "id; pwd; echo $HOME").await,
            "uid=1000(web) gid=1000(web) groups=1000(web),2000(extra)\n/var/www\n/var/www"
        );
        let user = rig.kubelet.status(&id).await.unwrap().user.unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1000, vec![1000, 2000]));
        let id = rig
            .run("request", |spec| {
                let security = security(spec);
                (security.run_as_user, security.run_as_group) = (int(1000), int(3000));
                security.supplemental_groups = vec![4000];
                security.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict.into();
            })
            .await;
        assert_eq!(rig.sh(&id, "id -u; id -g; id -G").await, "1000\n3000\n3000 4000");
        let wrong = rig.try_run("wrong", |spec| security(spec).run_as_username = "nobody-there".into()).await;
        assert_eq!(code(wrong), Code::InvalidArgument);
        rig.end().await;
    });
}

#[test]
fn rights_are_few_unless_asked_for() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let status = "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/1/status | awk '{print $2}' | tr '\\n' ' '";
        let id = rig.run("default", |_| {}).await;
        assert_eq!(
            rig.sh(&id, status).await.trim(),
            "0000000000000000 00000000a80425fb 00000000a80425fb 00000000a80425fb 0000000000000000 0 0"
        );
        let id = rig
            .run("tight", |spec| {
                let security = security(spec);
                security.no_new_privs = true;
                let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
                security.capabilities = Some(v1::Capability {
                    add_capabilities: names(&["NET_ADMIN"]),
                    drop_capabilities: names(&["ALL"]),
                    ..Default::default()
                });
                security.seccomp = Some(v1::SecurityProfile {
                    profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
                    ..Default::default()
                });
            })
            .await;
        assert_eq!(
            rig.sh(&id, status).await.trim(),
            "0000000000000000 0000000000001000 0000000000001000 0000000000001000 0000000000000000 1 2"
        );
        // An exec has no more than its container.
        assert_eq!(
            rig.sh(&id, &status.replace("/proc/1/", "/proc/self/")).await.trim(),
            "0000000000000000 0000000000001000 0000000000001000 0000000000001000 0000000000000000 1 2"
        );
        let (exit, _, _) = rig.kubelet.exec(&id, &["unshare", "-U", "true"]).await.unwrap();
        assert_ne!(exit, 0, "RuntimeDefault forbids new user namespaces");
        let refused = rig.try_run("privileged", |spec| security(spec).privileged = true).await;
        assert_eq!(code(refused), Code::InvalidArgument, "the pod is not privileged");
        let unknown = rig
            .try_run("unknown", |spec| {
                security(spec).capabilities =
                    Some(v1::Capability { add_capabilities: vec!["FLY".into()], ..Default::default() });
            })
            .await;
        assert_eq!(code(unknown), Code::InvalidArgument);
        rig.end().await;
    });
}

#[test]
fn a_seccomp_profile_of_the_host_is_obeyed() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let profile = rig.agent.dir.join("seccomp.json");
        let text = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["sethostname", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }],
        });
        std::fs::write(&profile, text.to_string()).unwrap();
        let localhost = |path: String| v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::Localhost.into(),
            localhost_ref: path,
        };
        let path = profile.display().to_string();
        let id = rig.run("main", |spec| security(spec).seccomp = Some(localhost(path))).await;
        let (exit, _, err) = rig.kubelet.exec(&id, &["mkdir", "/tmp/x"]).await.unwrap();
        assert_ne!(exit, 0);
        assert!(err.contains("not implemented"), "{err}");
        let missing =
            rig.try_run("missing", |spec| security(spec).seccomp = Some(localhost("/no/such.json".into()))).await;
        assert_eq!(code(missing), Code::InvalidArgument);
        rig.end().await;
    });
}

#[test]
fn a_privileged_container_has_the_devices_and_the_rights_of_the_host() {
    in_netns(|| async {
        let privileged_pod = |config: &mut v1::PodSandboxConfig| {
            config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        };
        let mut rig = Rig::with_pod(image(), privileged_pod).await;
        let id = rig
            .run("main", |spec| {
                security(spec).privileged = true;
                security(spec).masked_paths = vec!["/proc/kcore".into()];
            })
            .await;
        assert_eq!(rig.sh(&id, "test -c /dev/kmsg && echo yes").await, "yes");
        assert_eq!(
            rig.sh(
                &id,
                "mkdir /sys/fs/cgroup/x 2>&1 | grep -c Read-only || true; mount -t tmpfs x /tmp && echo mounted"
            )
            .await,
            "0\nmounted"
        );
        rig.sh(&id, "for d in /sys/fs/cgroup/x /sys/fs/cgroup/*/x; do rmdir $d 2>/dev/null; done; true").await;
        rig.end().await;
    });
}

#[test]
fn hidden_and_protected_paths_are_so() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let id = rig
            .run("main", |spec| {
                let security = security(spec);
                security.masked_paths = vec!["/proc/kcore".into(), "/sys/firmware".into(), "/not/there".into()];
                security.readonly_paths = vec!["/proc/sys".into(), "/data".into()];
                security.readonly_rootfs = true;
            })
            .await;
        assert_eq!(rig.sh(&id, "cat /proc/kcore | wc -c; ls /sys/firmware | wc -l").await, "0\n0");
        for script in ["echo 1 > /proc/sys/kernel/panic", "touch /data/x", "touch /x", "touch /etc/hosts"] {
            let (exit, _, err) = rig.kubelet.exec(&id, &["sh", "-c", script]).await.unwrap();
            assert!(exit != 0 && (err.contains("Read-only") || err.contains("nonexistent")), "{script}: {exit} {err}");
        }
        rig.sh(&id, "touch /dev/shm/x && echo > /dev/null").await;
        rig.end().await;
    });
}

#[test]
fn devices_are_given_with_their_rights_and_no_others() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let id = rig
            .run("main", |spec| {
                spec.devices = vec![v1::Device {
                    container_path: "/dev/noise".into(),
                    host_path: "/dev/kmsg".into(),
                    permissions: "w".into(),
                }];
                // So that nothing but the device rules keeps it from reading.
                let capabilities = v1::Capability { add_capabilities: vec!["SYSLOG".into()], ..Default::default() };
                security(spec).capabilities = Some(capabilities);
            })
            .await;
        assert_eq!(rig.sh(&id, "exec 3>/dev/noise && echo open").await, "open");
        let (exit, _, _) = rig.kubelet.exec(&id, &["sh", "-c", "exec 3</dev/noise"]).await.unwrap();
        assert_ne!(exit, 0, "only writing was granted");
        let (exit, _, _) =
            rig.kubelet.exec(&id, &["sh", "-c", "mknod /dev/disk b 254 0 && head -c1 /dev/disk"]).await.unwrap();
        assert_ne!(exit, 0, "a node that the container makes gives no access");
        for device in ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "stdin", "stdout", "stderr"] {
            rig.sh(&id, &format!("test -e /dev/{device} || test -L /dev/{device}")).await;
        }
        let missing = rig
            .try_run("missing", |spec| {
                spec.devices = vec![v1::Device { host_path: "/dev/none".into(), ..Default::default() }];
            })
            .await;
        assert_eq!(code(missing), Code::InvalidArgument);
        rig.end().await;
    });
}

#[test]
fn limits_are_in_force_and_reported() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        // The unified map is of cgroup v2 alone.
        let unified = !std::path::Path::new("/sys/fs/cgroup/memory").exists();
        let wanted = v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: 500,
            unified: if unified { [("pids.max".to_owned(), "77".to_owned())].into() } else { Default::default() },
            ..Default::default()
        };
        let limits = wanted.clone();
        let id = rig.run("main", move |spec| spec.linux.as_mut().unwrap().resources = Some(limits)).await;
        assert_eq!(rig.sh(&id, "cat /proc/1/oom_score_adj").await, "500");
        let group = format!("{}/{id}", rig.config.linux.as_ref().unwrap().cgroup_parent);
        let read = |controller: &str, file: &str| {
            let v1 = format!("/sys/fs/cgroup/{controller}{group}/{file}");
            std::fs::read_to_string(&v1).unwrap_or_else(|cause| panic!("{v1}: {cause}")).trim().to_owned()
        };
        if !unified {
            assert_eq!(read("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
            assert_eq!((read("cpu", "cpu.cfs_quota_us"), read("cpu", "cpu.shares")), ("50000".into(), "512".into()));
        } else {
            assert_eq!(read(".", "memory.max"), (64 << 20).to_string());
            assert_eq!((read(".", "cpu.max"), read(".", "pids.max")), ("50000 100000".into(), "77".into()));
        }
        let reported = rig.kubelet.status(&id).await.unwrap().resources.unwrap().linux.unwrap();
        assert_eq!(reported.memory_limit_in_bytes, wanted.memory_limit_in_bytes);
        assert_eq!((reported.cpu_quota, reported.cpu_shares), (50_000, 512));
        let stats = rig.kubelet.runtime.container_stats(v1::ContainerStatsRequest { container_id: id.clone() }).await;
        let stats = stats.unwrap().into_inner().stats.unwrap();
        let memory = stats.memory.unwrap();
        assert!(memory.usage_bytes.unwrap().value > 0);
        let available = memory.available_bytes.unwrap().value;
        assert!(available > 0 && available <= 64 << 20, "{available}");
        assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
        assert!(stats.writable_layer.unwrap().inodes_used.is_some());
        rig.end().await;
    });
}

#[test]
fn oom_scores_that_the_machine_does_not_allow_are_clamped() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let id = rig
            .run("main", |spec| {
                let resources = v1::LinuxContainerResources { oom_score_adj: -999, ..Default::default() };
                spec.linux.as_mut().unwrap().resources = Some(resources);
            })
            .await;
        let score: i32 = rig.sh(&id, "cat /proc/1/oom_score_adj").await.parse().unwrap();
        assert!((-999..=0).contains(&score), "{score}");
        rig.end().await;
    });
}

#[test]
fn pid_namespaces_are_the_containers_the_pods_the_targets_or_the_hosts() {
    in_netns(|| async {
        let pod_pids = |config: &mut v1::PodSandboxConfig| {
            let linux = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            linux.namespace_options.as_mut().unwrap().pid = v1::NamespaceMode::Pod.into();
        };
        let mut rig = Rig::with_pod(image(), pod_pids).await;
        let with = |mode: v1::NamespaceMode, target: &str| {
            let target = target.to_owned();
            move |spec: &mut v1::ContainerConfig| {
                let options = security(spec).namespace_options.as_mut().unwrap();
                options.pid = mode.into();
                options.target_id = target;
            }
        };
        let namespace = "readlink /proc/self/ns/pid";
        let own = rig.run("own", with(v1::NamespaceMode::Container, "")).await;
        let one = rig.run("one", with(v1::NamespaceMode::Pod, "")).await;
        let two = rig.run("two", with(v1::NamespaceMode::Pod, "")).await;
        let target = rig.run("target", with(v1::NamespaceMode::Target, &own)).await;
        let host = rig.run("host", with(v1::NamespaceMode::Node, "")).await;
        let own_ns = rig.sh(&own, namespace).await;
        let pod_ns = rig.sh(&one, namespace).await;
        assert_eq!(rig.sh(&two, namespace).await, pod_ns);
        assert_eq!(rig.sh(&target, namespace).await, own_ns);
        assert_eq!(
            std::fs::read_link("/proc/self/ns/pid").unwrap().display().to_string(),
            rig.sh(&host, namespace).await
        );
        assert_ne!(own_ns, pod_ns);
        assert_eq!(rig.sh(&own, "cat /proc/1/comm").await, "sleep");
        assert_eq!(rig.sh(&one, "ps | grep -c '[s]leep 1000'").await, "2", "the pod's processes see each other");
        // A container that leaves processes in a shared namespace takes them along when it ends.
        let leaves = rig
            .run("leaves", |spec| {
                with(v1::NamespaceMode::Pod, "")(spec);
                spec.command = ["sh", "-c", "sleep 54321 & exit 0"].map(str::to_owned).to_vec();
            })
            .await;
        rig.kubelet.ended(&leaves).await;
        assert_eq!(rig.sh(&one, "ps | grep -c '[s]leep 54321' || true").await, "0");
        rig.end().await;
    });
}

#[test]
fn ipc_and_memory_are_shared_in_a_pod() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let one = rig.run("one", |_| {}).await;
        let two = rig.run("two", |_| {}).await;
        let namespace = "readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; readlink /proc/self/ns/net";
        assert_eq!(rig.sh(&one, namespace).await, rig.sh(&two, namespace).await);
        rig.sh(&one, "echo shared > /dev/shm/x").await;
        assert_eq!(rig.sh(&two, "cat /dev/shm/x").await, "shared");
        assert!(rig.sh(&one, "df -k /dev/shm | tail -1").await.contains("65536"));
        rig.end().await;
    });
}

#[test]
fn the_pods_files_say_what_was_asked_for() {
    in_netns(|| async {
        let change = |config: &mut v1::PodSandboxConfig| {
            config.dns_config = Some(v1::DnsConfig {
                servers: vec!["10.9.8.7".into()],
                searches: vec!["svc.local".into()],
                options: vec!["ndots:5".into()],
            });
            let linux = config.linux.as_mut().unwrap();
            linux.sysctls = [
                ("net.ipv4.ip_local_port_range".to_owned(), "20000 30000".to_owned()),
                ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
            ]
            .into();
        };
        let mut rig = Rig::with_pod(image(), change).await;
        let id = rig.run("main", |_| {}).await;
        assert_eq!(rig.sh(&id, "cat /etc/resolv.conf").await, "search svc.local\nnameserver 10.9.8.7\noptions ndots:5");
        assert_eq!(
            rig.sh(&id, "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced").await,
            "20000\t30000\n1"
        );
        assert!(rig.sh(&id, "cat /etc/hosts").await.contains("localhost"));
        let mine = rig.agent.dir.join("hosts");
        std::fs::write(&mine, "1.2.3.4 mine\n").unwrap();
        let id = rig.run("mounted", |spec| spec.mounts = vec![mount(&mine, "/etc/hosts")]).await;
        assert_eq!(rig.sh(&id, "cat /etc/hosts").await, "1.2.3.4 mine");
        rig.end().await;
    });
}

#[test]
fn a_terminal_is_one_stream() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let id = rig
            .run("main", |spec| {
                spec.tty = true;
                spec.command = ["sh", "-c", "test -t 0 && test -t 1 && echo terminal; echo err >&2; tty"]
                    .map(str::to_owned)
                    .to_vec();
            })
            .await;
        rig.kubelet.ended(&id).await;
        let log = rig.kubelet.log("pod", "main");
        let lines: Vec<_> = log.iter().map(|line| (line.0.as_str(), line.2.trim_end())).collect();
        assert_eq!(lines, [("stdout", "terminal"), ("stdout", "err"), ("stdout", "/dev/pts/0")]);
        rig.end().await;
    });
}

#[test]
fn the_hosts_network_is_shared_when_it_is_asked_for() {
    in_netns(|| async {
        let host = |config: &mut v1::PodSandboxConfig| {
            config.hostname.clear();
            let linux = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            linux.namespace_options.as_mut().unwrap().network = v1::NamespaceMode::Node.into();
        };
        let mut rig = Rig::with_pod(image(), host).await;
        let id = rig
            .run("main", |spec| {
                security(spec).namespace_options.as_mut().unwrap().network = v1::NamespaceMode::Node.into();
            })
            .await;
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap().display().to_string();
        assert_eq!(rig.sh(&id, "readlink /proc/self/ns/net").await, own);
        let uts = std::fs::read_link("/proc/thread-self/ns/uts").unwrap().display().to_string();
        assert_eq!(rig.sh(&id, "readlink /proc/self/ns/uts").await, uts);
        let status = rig.kubelet.pod_status(&rig.pod.clone()).await.unwrap().status.unwrap();
        assert!(status.network.is_none_or(|network| network.ip.is_empty()));
        rig.end().await;
    });
}
