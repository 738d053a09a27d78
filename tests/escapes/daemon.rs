//! An agent's sockets, directories, requests and answers.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use orlop::cri::v1;
use tonic::Code;

use crate::support::agent::{in_netns, shim_of};
use crate::support::kubelet::code;
use crate::support::rig::{Rig, image, int, security};

#[test]
fn cve_2020_15257_no_abstract_sockets_and_no_open_directories() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        rig.run("main", |_| {}).await;
        // Abstract sockets belong to the network namespace, which a pod may share.
        let sockets = fs::read_to_string("/proc/self/net/unix").unwrap();
        let named = sockets.lines().filter_map(|line| line.split_ascii_whitespace().nth(7));
        let abstract_ones: Vec<_> = named.filter(|name| name.starts_with('@')).collect();
        assert!(abstract_ones.is_empty(), "{abstract_ones:?}");
        closed_to_others(&rig.agent.dir.join("run"), 0);
        closed_to_others(&rig.agent.dir.join("root"), 0);
        let socket = fs::metadata(rig.agent.socket()).unwrap();
        assert_eq!(socket.mode() & 0o007, 0);
        // A user of the node cannot connect.
        let denied = std::process::Command::new("setpriv")
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                env!("CARGO_BIN_EXE_orlop"),
                "version",
                "--socket",
            ])
            .arg(rig.agent.socket())
            .output()
            .unwrap();
        assert!(!denied.status.success(), "{denied:?}");
        rig.end().await;
    });
}

/// CVE-2021-41103 and CVE-2024-25621 were directories of other runtimes that every user could look into.
fn closed_to_others(path: &Path, depth: usize) {
    let stat = fs::symlink_metadata(path).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (0, 0), "{}", path.display());
    if stat.is_symlink() {
        return;
    }
    assert_eq!(stat.mode() & 0o022, 0, "{} can be written to by others", path.display());
    if stat.is_dir() {
        if stat.mode() & 0o007 == 0 && depth > 0 {
            return;
        }
        assert_eq!(stat.mode() & 0o006, 0, "{} can be listed by others", path.display());
        for entry in fs::read_dir(path).unwrap() {
            closed_to_others(&entry.unwrap().path(), depth + 1);
        }
    } else if stat.is_file() {
        assert_eq!(stat.mode() & 0o007, 0, "{} can be read by others", path.display());
    }
}

#[test]
fn cve_2021_41103_and_2024_25621_directories_under_an_open_umask() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        rig.run("main", |_| {}).await;
        for top in ["root", "run"] {
            let mode = fs::metadata(rig.agent.dir.join(top)).unwrap().mode() & 0o7777;
            assert!(matches!(mode, 0o700 | 0o711), "{top}: {mode:o}");
        }
        // What a container's set-user-ID programs are in is behind a closed door.
        let closed =
            |path: &Path| path.ancestors().any(|dir| fs::metadata(dir).is_ok_and(|stat| stat.mode() & 0o001 == 0));
        let mut upper = Vec::new();
        find(&rig.agent.dir.join("root"), "upper", &mut upper);
        find(&rig.agent.dir.join("root"), "busybox", &mut upper);
        assert!(upper.len() >= 2, "{upper:?}");
        for path in upper {
            assert!(closed(&path), "{} can be reached by every user", path.display());
        }
        rig.end().await;
    });
}

fn find(path: &Path, name: &str, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_name() == name {
            found.push(entry.path());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&entry.path(), name, found);
        }
    }
}

#[test]
fn cve_2022_31030_and_1708_output_without_end() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let id = rig.run("main", |_| {}).await;
        let peak = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
        };
        rig.sh(&id, "true").await;
        let before = peak(rig.agent.pid());
        let script = "head -c 400000000 /dev/zero; head -c 100000000 /dev/zero >&2";
        let (exit, out, err) = rig.kubelet.exec_for(&id, &["sh", "-c", script], 60).await.unwrap();
        assert_eq!(exit, 0);
        assert!(out.len() + err.len() <= 16 << 20);
        let after = peak(rig.agent.pid());
        assert!(after < before + 96, "from {before} to {after} MiB");
        rig.end().await;
    });
}

#[test]
fn cve_2025_0750_logs_outside_of_their_directory() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let dir = rig.agent.dir.clone();
        for path in ["../escaped.log", "../../escaped.log", "a/../../escaped.log", "/escaped.log", "..", "x\0y"] {
            let refused = rig.try_run("bad", |spec| spec.log_path = path.into()).await;
            assert_eq!(code(refused), Code::InvalidArgument, "{path}");
        }
        assert!(!dir.join("escaped.log").exists() && !dir.join("logs/escaped.log").exists());
        // The file is a link to one of the host's.
        let victim = dir.join("victim");
        fs::write(&victim, "mine").unwrap();
        fs::create_dir_all(dir.join("logs/pod")).unwrap();
        symlink(&victim, dir.join("logs/pod/link.log")).unwrap();
        rig.try_run("link", |spec| spec.command = vec!["echo".into(), "injected".into()]).await.unwrap_err();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        let config = v1::PodSandboxConfig { log_directory: "/var/log/../../tmp/x".into(), ..rig.kubelet.pod("climbs") };
        assert_eq!(code(rig.kubelet.run_pod(&config).await), Code::InvalidArgument);
        rig.end().await;
    });
}

#[test]
fn cve_2022_0811_and_0532_sysctls_of_pods() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let with = |config: &mut v1::PodSandboxConfig, name: &str, value: &str| {
            config.linux.as_mut().unwrap().sysctls = [(name.to_owned(), value.to_owned())].into();
        };
        let before = fs::read("/proc/sys/kernel/core_pattern").unwrap();
        for (name, value) in [
            ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil"),
            ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/evil"),
            ("kernel.shm_rmid_forced", "1=2"),
            ("kernel.core_pattern", "|/evil"),
            ("kernel/core_pattern", "|/evil"),
            ("net/../kernel/core_pattern", "|/evil"),
            ("net.ipv4/../../kernel/core_pattern", "|/evil"),
            ("vm.overcommit_memory", "0"),
        ] {
            let mut config = rig.kubelet.pod("sysctl");
            with(&mut config, name, value);
            rig.kubelet.run_pod(&config).await.expect_err(name);
        }
        assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
        // With the host's namespaces, what belongs to them is refused. The values are those that the host has.
        for (name, network) in [("net.ipv4.ip_forward", true), ("kernel.shmmni", false)] {
            let mut config = rig.kubelet.pod("host");
            let value = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).unwrap();
            with(&mut config, name, value.trim());
            let options =
                config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options.as_mut().unwrap();
            match network {
                true => options.network = v1::NamespaceMode::Node.into(),
                false => options.ipc = v1::NamespaceMode::Node.into(),
            }
            rig.kubelet.run_pod(&config).await.expect_err(name);
        }
        rig.end().await;
    });
}

#[test]
fn cve_2023_25173_and_2022_2995_groups_of_containers() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let groups = "grep ^Groups: /proc/1/status | cut -f2";
        let id = rig.run("root", |_| {}).await;
        assert_eq!(rig.sh(&id, groups).await.trim(), "0");
        let id = rig
            .run("user", |spec| (security(spec).run_as_user, security(spec).run_as_group) = (int(4242), int(4343)))
            .await;
        assert_eq!(rig.sh(&id, groups).await.trim(), "4343");
        // An exec has the same.
        assert_eq!(rig.sh(&id, &groups.replace("/1/", "/self/")).await.trim(), "4343");
        rig.end().await;
    });
}

#[test]
fn cve_2023_6476_and_2024_3154_annotations_do_nothing() {
    in_netns(|| async {
        let annotations = [
            ("org.systemd.property.ExecStartPre", "['/bin/sh', '-c', 'touch /evil']"),
            ("org.criu.config", "/etc/shadow"),
            ("io.kubernetes.cri-o.Devices", "/dev/mem"),
            ("io.kubernetes.cri-o.userns-mode", "auto"),
            ("io.kubernetes.cri-o.UnifiedCgroup.main", "bWVtb3J5Lm1heD0x"),
            ("run.oci.handler", "krun"),
            ("run.oci.hooks.stdout", "/etc/evil"),
            ("run.oci.keep_original_groups", "1"),
            ("cdi.k8s.io/x", "vendor.com/device=all"),
        ];
        let annotations: std::collections::BTreeMap<String, String> =
            annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let pod = annotations.clone();
        let mut rig = Rig::with_pod(image(), |config| config.annotations = pod).await;
        let plain = rig.run("plain", |_| {}).await;
        let id = rig.run("annotated", |spec| spec.annotations = annotations).await;
        let facts = "grep -E '^(Cap|Groups|Seccomp|NoNew|Uid)' /proc/1/status; ls /dev; cat /sys/fs/cgroup/*/memory.limit_in_bytes 2>/dev/null; cut -d' ' -f4- /proc/1/mountinfo | grep -v upperdir | cut -d' ' -f2-3 | sort";
        assert_eq!(rig.sh(&id, facts).await, rig.sh(&plain, facts).await);
        rig.end().await;
    });
}

#[test]
fn cve_2019_5736_the_program_of_the_shim() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let id = rig.run("main", |_| {}).await;
        let shim = shim_of(&rig.pod).unwrap();
        let path = format!("/proc/{}/exe", shim.as_raw_nonzero());
        let program = fs::File::open(&path).unwrap();
        let seals = rustix::fs::fcntl_get_seals(&program).unwrap();
        use rustix::fs::SealFlags;
        assert!(seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL), "{seals:?}");
        assert!(fs::OpenOptions::new().write(true).open(&path).is_err());
        // Nothing of the agent or the shim is open in a container, nor in an exec.
        let list = "for p in 1 self; do for n in $(seq 3 99); do [ -e /proc/$p/fd/$n ] && readlink /proc/$p/fd/$n; done; done; exit 0";
        let open: Vec<_> =
            rig.sh(&id, list).await.lines().filter(|line| !line.starts_with("pipe:")).map(str::to_owned).collect();
        assert!(open.is_empty(), "{open:?}");
        rig.end().await;
    });
}

#[test]
fn go_2023_2412_power_meters_are_hidden() {
    if !Path::new("/sys/devices/virtual/powercap").exists() {
        eprintln!("skipped: this machine has no power meters to hide");
        return;
    }
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let paths = orlop::node::spec::default_masked_paths();
        let id = rig.run("main", |spec| security(spec).masked_paths = paths).await;
        assert_eq!(rig.sh(&id, "ls /sys/devices/virtual/powercap").await, "");
        rig.end().await;
    });
}
