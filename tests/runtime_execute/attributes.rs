//! What a process is given: ids, capabilities, limits, environment, namespaces.

use std::os::fd::AsFd;

use serde_json::json;

use crate::support::{Bundle, alone};

#[test]
fn a_shell_runs_as_first_process_of_its_own_namespaces() {
    alone("attributes::a_shell_runs_as_first_process_of_its_own_namespaces", || {
        let outcome = Bundle::shell("echo $$; hostname; pwd; cat /proc/sys/kernel/hostname; ls /proc/self/fd").run();
        let output = outcome.output();
        // The fourth descriptor of ls is the directory that it reads.
        assert_eq!(output, "1\ninside\n/\ninside\n0\n1\n2\n3\n");
    });
}

#[test]
fn an_exec_joins_the_container() {
    alone("attributes::an_exec_joins_the_container", || {
        let bundle = Bundle::shell("sleep 1000");
        let running = bundle.start();
        assert_eq!(running.settle(), (vec![], None));
        let process = json!({ "args": ["sh", "-c", "hostname; ls /proc | grep -c '^[0-9]'; readlink /proc/self/ns/pid"],
            "cwd": "/tmp", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } });
        let output = bundle.exec(running.spawned.pidfd.as_fd(), process).output();
        let namespace = std::fs::read_link(format!("/proc/{}/ns/pid", running.spawned.pid)).unwrap();
        let lines: Vec<_> = output.lines().collect();
        assert_eq!(lines[0], "inside");
        assert!(lines[1].parse::<u32>().unwrap() >= 3);
        assert_eq!(lines[2], namespace.to_str().unwrap());
        // Ours is what it was.
        assert_ne!(std::fs::read_link("/proc/self/ns/pid_for_children").unwrap(), namespace);
        running.kill();
    });
}

#[test]
fn the_user_has_exactly_the_groups_and_capabilities_that_were_asked_for() {
    alone("attributes::the_user_has_exactly_the_groups_and_capabilities_that_were_asked_for", || {
        let script =
            "id; umask; grep -E '^(Cap|NoNewPrivs|Groups)' /proc/self/status; echo $HOME; echo x > /dev/stdout";
        let mut bundle = Bundle::shell(script);
        let user = json!({ "uid": 1000, "gid": 1001, "additionalGids": [7, 1001], "umask": 0o27 });
        bundle.process()["user"] = user;
        let output = bundle.run().output();
        let expected = "uid=1000(user) gid=1001 groups=7,1001\n0027\nGroups:\t7 1001 \nCapInh:\t0000000000000000\n\
            CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000000004e1\n\
            CapAmb:\t0000000000000000\nNoNewPrivs:\t1\n/home/user\nx\n";
        assert_eq!(output, expected);

        // Root without further groups has none of ours either; ambient capabilities reach a user.
        bundle.process()["user"] = json!({ "uid": 0, "gid": 0 });
        let output = bundle.run().output();
        assert!(output.contains("uid=0(root) gid=0\n0022\nGroups:\t \n"), "{output}");
        assert!(output.contains("CapPrm:\t00000000000004e1\nCapEff:\t00000000000004e1\n"), "{output}");
        assert!(output.contains("/root\n"), "{output}");

        bundle.process()["user"] = json!({ "uid": 1000, "gid": 1000 });
        for set in ["ambient", "inheritable"] {
            bundle.process()["capabilities"][set] = json!(["CAP_NET_BIND_SERVICE"]);
        }
        bundle.process()["noNewPrivileges"] = json!(false);
        let output = bundle.run().output();
        assert!(output.contains("CapInh:\t0000000000000400\nCapPrm:\t0000000000000400\n"), "{output}");
        assert!(output.contains("CapAmb:\t0000000000000400\nNoNewPrivs:\t0\n"), "{output}");
    });
}

#[test]
fn no_capabilities_in_the_specification_are_none() {
    alone("attributes::no_capabilities_in_the_specification_are_none", || {
        let mut bundle = Bundle::shell("grep -c '^Cap.*0000000000000000' /proc/self/status");
        bundle.process().as_object_mut().unwrap().remove("capabilities");
        assert_eq!(bundle.run().output(), "5\n");
    });
}

#[test]
fn what_the_machine_does_not_grant_is_left_out_with_a_warning() {
    alone("attributes::what_the_machine_does_not_grant_is_left_out_with_a_warning", || {
        let mut bundle = Bundle::shell("cat /proc/self/oom_score_adj; grep CapEff /proc/self/status; ulimit -n");
        let all = json!(["CAP_SYS_RESOURCE", "CAP_CHOWN"]);
        for set in ["bounding", "effective", "permitted"] {
            bundle.process()["capabilities"][set] = all.clone();
        }
        bundle.process()["oomScoreAdj"] = json!(-998);
        let wanted = 1 << 30;
        bundle.process()["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": wanted, "hard": wanted }]);
        let outcome = bundle.run();
        assert!(outcome.failure.is_none(), "{outcome:#?}");
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let mask = status.lines().find_map(|l| l.strip_prefix("CapEff:\t")).unwrap();
        let granted = u64::from_str_radix(mask, 16).unwrap() & (1 << 24) != 0;
        if granted {
            eprintln!("skipped: CAP_SYS_RESOURCE is there, nothing has to be left out");
            return;
        }
        assert_eq!(outcome.warnings.len(), 3, "{outcome:#?}");
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        assert!(outcome.stdout.starts_with(&own), "{outcome:#?}");
        assert!(outcome.stdout.contains("CapEff:\t0000000000000001\n"), "{outcome:#?}");
    });
}

#[test]
fn limits_and_oom_score_are_set() {
    alone("attributes::limits_and_oom_score_are_set", || {
        let mut bundle = Bundle::shell("cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn; ulimit -c");
        bundle.process()["oomScoreAdj"] = json!(987);
        bundle.process()["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }]);
        assert_eq!(bundle.run().output(), "987\n100\n200\n0\n");
    });
}

#[test]
fn programs_are_found_as_the_user_and_failures_have_the_known_words() {
    alone("attributes::programs_are_found_as_the_user_and_failures_have_the_known_words", || {
        let mut bundle = Bundle::shell("");
        let mode = |name: &str, mode: u32, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = bundle.rootfs().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("bin/secret", 0o700, "#!/bin/sh\n");
        mode("bin/plain", 0o644, "");
        mode("bin/lost", 0o755, "#!/no/interpreter\n");
        mode("bin/garbage", 0o755, "garbage");
        bundle.process()["user"] = json!({ "uid": 1000, "gid": 1000 });
        for (program, text) in [
            ("missing", "exec: \"missing\": executable file not found in $PATH"),
            ("/bin/missing", "exec: \"/bin/missing\": stat /bin/missing: no such file or directory"),
            ("secret", "exec: \"secret\": permission denied"),
            ("/bin/plain", "exec: \"/bin/plain\": permission denied"),
            ("/etc", "exec: \"/etc\": permission denied"),
            ("lost", "exec /bin/lost: no such file or directory"),
            ("garbage", "exec /bin/garbage: exec format error"),
            ("/etc/passwd/x", "exec: \"/etc/passwd/x\": stat /etc/passwd/x: no such file or directory"),
        ] {
            bundle.process()["args"] = json!([program]);
            assert_eq!(bundle.run().failed(), text);
        }
        bundle.process()["args"] = json!(["true"]);
        bundle.process()["env"] = json!([]);
        assert_eq!(bundle.run().failed(), "exec: \"true\": executable file not found in $PATH");
    });
}

#[test]
fn exit_codes_and_signals_are_the_programs() {
    alone("attributes::exit_codes_and_signals_are_the_programs", || {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(Bundle::shell("exit 7").run().status.code(), Some(7));
        let mut bundle = Bundle::shell("kill -9 $$");
        // The first process of a PID namespace cannot kill itself.
        bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
        assert_eq!(bundle.run().status.signal(), Some(9));
    });
}

#[test]
fn signals_are_neither_blocked_nor_ignored() {
    alone("attributes::signals_are_neither_blocked_nor_ignored", || {
        crate::sys::disturb_signals();
        let mut bundle = Bundle::shell("");
        bundle.process()["args"] = json!(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
        let output = bundle.run().output();
        assert_eq!(output, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    });
}

#[test]
fn a_session_keyring_is_the_containers_own() {
    alone("attributes::a_session_keyring_is_the_containers_own", || {
        let mut bundle = Bundle::shell("cat /proc/keys; sleep 1000");
        bundle.spec["linux"]["maskedPaths"] = json!([]);
        bundle.host.keyring = Some(format!("_ses.test{}", std::process::id()));
        let running = bundle.start();
        assert_eq!(running.settle(), (vec![], None));
        let process = json!({ "args": ["cat", "/proc/keys"], "cwd": "/", "env": ["PATH=/bin"],
            "user": { "uid": 0, "gid": 0 } });
        let output = bundle.exec(running.spawned.pidfd.as_fd(), process).output();
        assert!(output.contains(bundle.host.keyring.as_ref().unwrap()), "{output}");
        running.kill();
    });
}

#[test]
fn a_gate_holds_the_program_back() {
    alone("attributes::a_gate_holds_the_program_back", || {
        use orlop::runtime::execute::{Attached, Report, read_status};
        use rustix::fs::{Mode, OFlags};
        let mut bundle = Bundle::shell("echo ran");
        let fifo = bundle.directory.path().join("gate");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
        let gate = rustix::fs::open(&fifo, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let fds = Attached { gate: Some(gate.as_fd()), ..Attached::default() };
        let (header, plan) = bundle.compile(bundle.overlay(false));
        let running = crate::support::start(&header, &plan, fds);
        assert!(matches!(read_status(running.spawned.status.as_fd()).unwrap(), Report::Ready));
        assert!(orlop::runtime::execute::never_executed(running.spawned.pid).unwrap());
        rustix::io::write(&gate, b"x").unwrap();
        assert_eq!(running.finish().output(), "ran\n");

        // What cannot run is refused before, not after.
        bundle.process()["args"] = json!(["missing"]);
        let (header, plan) = bundle.compile(bundle.overlay(false));
        let text = crate::support::start(&header, &plan, fds).finish().failed();
        assert_eq!(text, "exec: \"missing\": executable file not found in $PATH");
    });
}

#[test]
fn seccomp_filters_hold_with_and_without_no_new_privileges() {
    alone("attributes::seccomp_filters_hold_with_and_without_no_new_privileges", || {
        let mut bundle =
            Bundle::shell("grep -E '^Seccomp:' /proc/self/status; mkdir /x 2>&1; chmod 700 /tmp 2>&1; id -u");
        bundle.spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
                { "names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO",
                  "args": [{ "index": 1, "value": 0o700, "op": "SCMP_CMP_EQ" }] },
            ],
        });
        for no_new_privileges in [true, false] {
            bundle.process()["noNewPrivileges"] = json!(no_new_privileges);
            bundle.process()["user"] = json!({ "uid": 1000, "gid": 1000 });
            let output = bundle.run().output();
            let expected = "Seccomp:\t2\nmkdir: can't create directory '/x': No space left on device\n\
                chmod: /tmp: Operation not permitted\n1000\n";
            assert_eq!(output, expected);
        }
    });
}

#[test]
fn the_default_seccomp_profile_lets_a_container_live() {
    alone("attributes::the_default_seccomp_profile_lets_a_container_live", || {
        let profile = orlop::runtime::seccomp::default_profile(0xa804_25fb);
        let mut bundle = Bundle::shell("id -u; ls / | wc -l; mount -t tmpfs x /tmp 2>&1; test -e /bin/sh && echo ok");
        bundle.host.seccomp = Some(orlop::runtime::seccomp::compile(&profile).unwrap());
        for no_new_privileges in [true, false] {
            bundle.process()["noNewPrivileges"] = json!(no_new_privileges);
            let output = bundle.run().output();
            assert_eq!(output, "0\n6\nmount: permission denied (are you root?)\nok\n");
        }
        // Its errors are told to the runtime all the same.
        bundle.process()["args"] = json!(["missing"]);
        assert!(bundle.run().failed().contains("not found in $PATH"));
    });
}

/// A cgroup of version 2 of our own.
struct Unified(std::path::PathBuf);

impl Unified {
    fn new(name: &str) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let Some(mount) = mounts.lines().find(|l| l.contains(" cgroup2 ")).and_then(|l| l.split(' ').nth(1)) else {
            eprintln!("skipped: no cgroup v2 is mounted");
            return None;
        };
        let path = std::path::Path::new(mount).join(format!("orlop-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Some(Self(path))
    }

    fn open(&self) -> std::os::fd::OwnedFd {
        use rustix::fs::{Mode, OFlags};
        rustix::fs::open(&self.0, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }
}

impl Drop for Unified {
    fn drop(&mut self) {
        while std::fs::remove_dir(&self.0).is_err_and(|e| e.kind() == std::io::ErrorKind::ResourceBusy) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

#[test]
fn a_container_is_born_in_its_cgroup() {
    alone("attributes::a_container_is_born_in_its_cgroup", || {
        use orlop::runtime::execute::{Attached, never_executed};
        let Some(cgroup) = Unified::new("born") else { return };
        let mut bundle = Bundle::shell("grep '^0:' /proc/self/cgroup; exec sleep 1000");
        bundle.host.into_cgroup = true;
        bundle.host.cgroup = orlop::runtime::plan::CgroupEntry::V2;
        let directory = cgroup.open();
        let fds = Attached { cgroup_dir: Some(directory.as_fd()), ..Attached::default() };
        let (header, plan) = bundle.compile(bundle.overlay(false));
        let running = crate::support::start(&header, &plan, fds);
        assert_eq!(running.settle(), (vec![], None));
        let own = std::fs::read_to_string(format!("/proc/{}/cgroup", running.spawned.pid)).unwrap();
        assert!(own.contains("orlop-test-born"), "{own}");
        assert!(!never_executed(running.spawned.pid).unwrap());
        while std::fs::read_to_string(format!("/proc/{}/comm", running.spawned.pid)).unwrap() != "sleep\n" {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        std::fs::write(cgroup.0.join("cgroup.kill"), "1").unwrap();
        let outcome = running.finish();
        // The cgroup namespace is rooted there, not where the caller is.
        assert_eq!(outcome.stdout, "0::/\n", "{outcome:#?}");

        // Some kernels kill what is born in such a cgroup ever after; then that is told from a program that ran.
        let (header, plan) = bundle.compile(bundle.overlay(false));
        let running = crate::support::start(&header, &plan, fds);
        assert_eq!(running.settle(), (vec![], None));
        let killed = never_executed(running.spawned.pid).unwrap();
        eprintln!("a child born after cgroup.kill {}", if killed { "is killed" } else { "lives" });
        if !killed {
            std::fs::write(cgroup.0.join("cgroup.kill"), "1").unwrap();
        }
        running.finish();
    });
}

#[test]
fn containers_share_a_pid_namespace_and_enter_others_by_path() {
    alone("attributes::containers_share_a_pid_namespace_and_enter_others_by_path", || {
        use orlop::runtime::execute::Attached;
        let first = Bundle::shell("sleep 1000");
        let init = first.start();
        assert_eq!(init.settle(), (vec![], None));
        let mut second = Bundle::shell("cat /proc/1/comm; hostname; readlink /proc/self/ns/net; echo $$");
        let path = |kind: &str| json!(format!("/proc/{}/ns/{kind}", init.spawned.pid));
        second.spec.as_object_mut().unwrap().remove("hostname");
        second.spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "pid", "path": path("pid") },
            { "type": "uts", "path": path("uts") }, { "type": "network", "path": path("net") }, { "type": "ipc" }]);
        let fds = Attached { pid_namespace: Some(init.spawned.pidfd.as_fd()), ..Attached::default() };
        let (header, plan) = second.compile(second.overlay(false));
        let output = crate::support::start(&header, &plan, fds).finish().output();
        let lines: Vec<_> = output.lines().collect();
        let net = std::fs::read_link(format!("/proc/{}/ns/net", init.spawned.pid)).unwrap();
        assert_eq!(lines[..3], ["sleep", "inside", net.to_str().unwrap()], "{output}");
        assert_ne!(lines[3], "1");
        init.kill();
    });
}

#[test]
fn what_spawn_needs_and_does_not_get_is_an_error() {
    alone("attributes::what_spawn_needs_and_does_not_get_is_an_error", || {
        use orlop::runtime::execute::{Attached, Stdio3, spawn};
        use orlop::runtime::plan::SpawnHeader;
        let null = std::fs::File::open("/dev/null").unwrap();
        let io = Stdio3 { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() };
        for header in [
            SpawnHeader { join_pid_namespace: true, ..SpawnHeader::default() },
            SpawnHeader { into_cgroup: true, ..SpawnHeader::default() },
        ] {
            let error = spawn(&header, null.as_fd(), io, Attached::default()).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        }
        // A plan that is none is told by the child.
        let spawned = spawn(&SpawnHeader::default(), null.as_fd(), io, Attached::default()).unwrap();
        let report = orlop::runtime::execute::read_status(spawned.status.as_fd()).unwrap();
        assert!(
            matches!(report, orlop::runtime::execute::Report::Failure(n) if n.detail.starts_with("decode the plan"))
        );
    });
}

#[test]
fn scheduling_is_the_programs() {
    alone("attributes::scheduling_is_the_programs", || {
        let mut bundle = Bundle::shell("uname -m; cut -d' ' -f19,41 /proc/self/stat; ionice");
        for applet in ["uname", "cut", "ionice"] {
            std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin").join(applet)).unwrap();
        }
        bundle.process()["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 7 });
        bundle.process()["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
        bundle.spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
        let output = bundle.run().output();
        let machine = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
        assert_eq!(output, format!("{machine}\n7 3\nbest-effort: prio 6\n"));
    });
}
