//! `process`: ids, capabilities, limits, scheduling, environment, terminal.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::bundle::{Bundle, skip};

#[test]
fn the_user_its_groups_and_its_umask() {
    let script = "id -u; id -g; id -G; umask; pwd; echo $HOME";
    let Some(mut bundle) = Bundle::new("user", script) else { return };
    bundle.process()["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o27 });
    bundle.process()["cwd"] = json!("/srv/here");
    assert_eq!(bundle.output(), "1000\n1001\n1001 7 8\n0027\n/srv/here\n/home/user\n");
    bundle.nothing_left();
    bundle.process()["user"] = json!({ "uid": 0, "gid": 0, "umask": 0o1000 });
    assert!(bundle.fails().contains("process.user.umask"));
}

#[test]
fn the_environment_has_each_name_once_with_its_last_value() {
    let Some(mut bundle) = Bundle::new("environment", "") else { return };
    bundle.process()["args"] = json!(["env"]);
    bundle.process()["env"] = json!(["A=1", "PATH=/bin", "B=x=y", "A=2", "EMPTY="]);
    assert_eq!(bundle.output(), "A=2\nPATH=/bin\nB=x=y\nEMPTY=\nHOME=/root\n");
    bundle.process()["env"] = json!(["nothing"]);
    assert!(bundle.fails().contains("process.env"));
}

#[test]
fn args_and_cwd_are_demanded() {
    let Some(mut bundle) = Bundle::new("demanded", "true") else { return };
    bundle.process()["args"] = json!([]);
    assert!(bundle.fails().contains("process.args"));
    bundle.process()["args"] = json!(["true"]);
    bundle.process()["cwd"] = json!("relative");
    assert!(bundle.fails().contains("process.cwd"));
    bundle.process()["cwd"] = json!("/proc/self/fd/7");
    assert!(bundle.fails().contains("cwd"));
}

#[test]
fn limits_are_set_and_none_twice() {
    let script = "ulimit -n; ulimit -Hn; ulimit -c; grep -E 'Max (stack|pending)' /proc/self/limits | tr -s ' '";
    let Some(mut bundle) = Bundle::new("limits", script) else { return };
    bundle.process()["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        { "type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 1 << 21 },
        { "type": "RLIMIT_SIGPENDING", "soft": 5, "hard": 6 },
    ]);
    let expected = "100\n200\n0\nMax stack size 1048576 2097152 bytes \nMax pending signals 5 6 signals \n";
    assert_eq!(bundle.output(), expected);
    bundle.process()["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
        { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
    ]);
    assert!(bundle.fails().contains("RLIMIT_NOFILE is there twice"));
    bundle.process()["rlimits"] = json!([{ "type": "RLIMIT_TIME", "soft": 1, "hard": 1 }]);
    assert!(bundle.fails().contains("RLIMIT_TIME"));
}

#[test]
fn the_oom_score_is_set_or_not_touched() {
    let Some(mut bundle) = Bundle::new("oom", "cat /proc/self/oom_score_adj") else { return };
    assert_eq!(bundle.output(), fs::read_to_string("/proc/self/oom_score_adj").unwrap());
    bundle.process()["oomScoreAdj"] = json!(700);
    assert_eq!(bundle.output(), "700\n");
    bundle.process()["oomScoreAdj"] = json!(1001);
    assert!(bundle.fails().contains("process.oomScoreAdj"));
}

#[test]
fn the_five_sets_of_capabilities_and_no_new_privileges() {
    let Some(mut bundle) = Bundle::new("capabilities", "") else { return };
    bundle.process()["args"] = json!(["grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status"]);
    bundle.process()["user"] = json!({ "uid": 1000, "gid": 1000 });
    bundle.process()["noNewPrivileges"] = json!(false);
    bundle.process()["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], "effective": ["CAP_KILL"],
        "permitted": ["CAP_KILL", "CAP_CHOWN"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    let expected = "CapInh:\t0000000000000020\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\n\
        CapBnd:\t0000000000002021\nCapAmb:\t0000000000000020\nNoNewPrivs:\t0\n";
    assert_eq!(bundle.output(), expected);
    bundle.process()["noNewPrivileges"] = json!(true);
    assert!(bundle.output().ends_with("NoNewPrivs:\t1\n"));
}

#[test]
fn what_cannot_be_granted_is_a_warning() {
    let Some(mut bundle) = Bundle::new("ungranted", "grep CapBnd /proc/self/status") else { return };
    bundle.capabilities(&["CAP_KILL", "CAP_OF_THE_FUTURE"]);
    let called = bundle.run();
    assert!(called.status.success(), "{called:?}");
    assert_eq!(called.stdout, "CapBnd:\t0000000000000020\n");
    let lines: Vec<_> = called.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{called:?}");
    assert!(lines.iter().all(|l| l.contains("warning") && l.contains("CAP_OF_THE_FUTURE")), "{called:?}");
}

/// Fields of /proc/PID/stat from the third on.
fn stat(text: &str) -> Vec<&str> {
    text.rsplit_once(") ").unwrap().1.split_ascii_whitespace().collect()
}

const NICE: usize = 18 - 2;
const RT_PRIORITY: usize = 39 - 2;
const POLICY: usize = 40 - 2;

#[test]
fn every_scheduler_policy() {
    let Some(mut bundle) = Bundle::new("scheduler", "") else { return };
    bundle.process()["args"] = json!(["cat", "/proc/self/stat"]);
    let cases = [
        (json!({ "policy": "SCHED_OTHER", "nice": 7 }), [("nice", "7"), ("policy", "0")]),
        (json!({ "policy": "SCHED_BATCH", "nice": 3 }), [("nice", "3"), ("policy", "3")]),
        (json!({ "policy": "SCHED_IDLE" }), [("priority", "0"), ("policy", "5")]),
        (json!({ "policy": "SCHED_FIFO", "priority": 5 }), [("priority", "5"), ("policy", "1")]),
        (
            json!({ "policy": "SCHED_RR", "priority": 9, "flags": ["SCHED_FLAG_RESET_ON_FORK"] }),
            [("priority", "9"), ("policy", "2")],
        ),
        (
            json!({ "policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 50_000_000, "period": 100_000_000,
                "flags": ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"] }),
            [("priority", "0"), ("policy", "6")],
        ),
    ];
    for (scheduler, expected) in cases {
        bundle.process()["scheduler"] = scheduler.clone();
        let called = bundle.run();
        if !called.status.success() && called.stderr.contains("operation not permitted") {
            // Real-time groups without a budget (cgroup v1), or no CAP_SYS_NICE.
            skip(&format!("{scheduler} is not permitted here"));
            continue;
        }
        let output = called.output();
        let fields = stat(&output);
        for (what, value) in expected {
            let at = match what {
                "nice" => NICE,
                "priority" => RT_PRIORITY,
                _ => POLICY,
            };
            assert_eq!(fields[at], value, "{what} of {scheduler}: {output}");
        }
    }
    for wrong in [
        json!({ "policy": "SCHED_OTHER", "nice": 20 }),
        json!({ "policy": "SCHED_OTHER", "priority": 1 }),
        json!({ "policy": "SCHED_FIFO", "runtime": 1 }),
    ] {
        bundle.process()["scheduler"] = wrong;
        assert!(bundle.fails().contains("process.scheduler"));
    }
    bundle.process()["scheduler"] = json!({ "policy": "SCHED_UNKNOWN" });
    assert!(bundle.fails().contains("SCHED_UNKNOWN"));
}

#[test]
fn the_io_priority_is_that_of_the_process_group() {
    let Some(mut bundle) = Bundle::new("ioprio", "ionice -p $$; ionice -p 1") else { return };
    for (class, priority, text) in [
        ("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"),
        ("IOPRIO_CLASS_IDLE", 3, "idle"),
        ("IOPRIO_CLASS_RT", 1, "realtime: prio 1"),
    ] {
        bundle.process()["ioPriority"] = json!({ "class": class, "priority": priority });
        assert_eq!(bundle.output(), format!("{text}\n{text}\n"));
    }
    bundle.process()["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 });
    assert!(bundle.fails().contains("process.ioPriority"));
}

#[test]
fn the_personality_is_that_of_32_bits() {
    let Some(mut bundle) = Bundle::new("personality", "uname -m") else { return };
    bundle.linux()["personality"] = json!({ "domain": "LINUX" });
    let machine = bundle.output();
    assert_eq!(machine.trim(), std::env::consts::ARCH);
    bundle.linux()["personality"] = json!({ "domain": "LINUX32" });
    let expected = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
    assert_eq!(bundle.output().trim(), expected);
    bundle.linux()["personality"] = json!({ "domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"] });
    assert!(bundle.fails().contains("linux.personality.flags"));
}

#[test]
fn the_memory_policy_is_in_force() {
    let Some(mut bundle) = Bundle::new("memory", "") else { return };
    if !Path::new("/proc/self/numa_maps").exists() {
        return skip("the kernel knows no NUMA");
    }
    // Of some mapping of the program: "address policy …".
    bundle.process()["args"] = json!(["grep", "-m1", "heap\\|stack", "/proc/self/numa_maps"]);
    let policy = |bundle: &Bundle| bundle.output().split(' ').nth(1).unwrap().to_owned();
    assert_eq!(policy(&bundle), "default");
    for (mode, nodes, flags, expected) in [
        ("MPOL_DEFAULT", "", json!([]), "default"),
        ("MPOL_BIND", "0", json!([]), "bind:0"),
        ("MPOL_BIND", "0", json!(["MPOL_F_STATIC_NODES"]), "bind=static:0"),
        ("MPOL_INTERLEAVE", "0-0", json!(["MPOL_F_RELATIVE_NODES"]), "interleave=relative:0"),
        ("MPOL_PREFERRED", "0", json!([]), "prefer:0"),
        ("MPOL_LOCAL", "", json!([]), "local"),
    ] {
        bundle.linux()["memoryPolicy"] = json!({ "mode": mode, "nodes": nodes, "flags": flags });
        assert_eq!(policy(&bundle), expected, "{mode} {nodes} {flags}");
    }
    // Nodes and flags may be missing altogether.
    bundle.linux()["memoryPolicy"] = json!({ "mode": "MPOL_LOCAL" });
    assert_eq!(policy(&bundle), "local");
    // Not on every kernel.
    for (mode, expected) in [("MPOL_PREFERRED_MANY", "prefer (many):0"), ("MPOL_WEIGHTED_INTERLEAVE", "weighted")] {
        bundle.linux()["memoryPolicy"] = json!({ "mode": mode, "nodes": "0" });
        let called = bundle.run();
        match called.status.success() {
            true => assert!(called.stdout.contains(expected), "{called:?}"),
            false => assert!(called.stderr.contains("linux.memoryPolicy"), "{called:?}"),
        }
    }
    for (wrong, text) in [
        (json!({ "mode": "MPOL_BIND", "nodes": "" }), "linux.memoryPolicy: set the memory policy: invalid argument"),
        (json!({ "mode": "MPOL_BIND", "nodes": "3-1" }), "linux.memoryPolicy.nodes"),
        (json!({ "mode": "MPOL_BIND", "nodes": "0,x" }), "linux.memoryPolicy.nodes"),
        (json!({ "mode": "MPOL_SOME" }), "MPOL_SOME"),
        (json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_OTHER"] }), "MPOL_F_OTHER"),
    ] {
        bundle.linux()["memoryPolicy"] = wrong;
        let error = bundle.fails();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn an_exec_has_the_memory_policy_too() {
    let Some(mut bundle) = Bundle::new("memory-exec", "exec sleep 1000") else { return };
    if !Path::new("/proc/self/numa_maps").exists() {
        return skip("the kernel knows no NUMA");
    }
    bundle.linux()["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0" });
    bundle.run_detached();
    let output = bundle.exec(&["grep", "-m1", "heap\\|stack", "/proc/self/numa_maps"]).output();
    assert_eq!(output.split(' ').nth(1), Some("bind:0"));
}

#[test]
fn the_cpu_affinity_is_that_of_an_exec_alone() {
    let Some(mut bundle) = Bundle::new("affinity", "exec sleep 1000") else { return };
    let allowed = |status: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap();
        line.trim().to_owned()
    };
    let own = allowed(&fs::read_to_string("/proc/self/status").unwrap());
    if !own.starts_with("0-") {
        return skip("one processor has no affinity");
    }
    // Not for the container's first process.
    bundle.process()["execCPUAffinity"] = json!({ "initial": "0", "final": "0" });
    let pid = bundle.run_detached();
    assert_eq!(allowed(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap()), own);
    let run = |affinity: serde_json::Value| {
        let process = json!({ "args": ["cat", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"],
            "user": { "uid": 0, "gid": 0 }, "execCPUAffinity": affinity });
        bundle.exec_process(&process)
    };
    assert_eq!(allowed(&run(json!({})).output()), own);
    // Entering a cgroup with a cpuset takes it back on kernels before 6.2: what lasts is the final one.
    let initial = allowed(&run(json!({ "initial": "1" })).output());
    assert!(initial == "1" || initial == own, "{initial}");
    assert_eq!(allowed(&run(json!({ "initial": "0", "final": "1" })).output()), "1");
    assert_eq!(allowed(&run(json!({ "initial": "", "final": "0-1" })).output()), "0-1");
    // From the container's own process, where no other is given.
    assert_eq!(allowed(&bundle.exec(&["cat", "/proc/self/status"]).output()), "0");
    for (field, wrong) in [("initial", json!({ "initial": "8191" })), ("final", json!({ "final": "8191" }))] {
        let error = run(wrong).failed();
        assert!(error.contains(&format!("process.execCPUAffinity.{field}")), "{error}");
    }
    assert!(run(json!({ "final": "1-" })).failed().contains("execCPUAffinity"));
}

#[test]
fn the_terminal_has_the_size_that_was_asked_for() {
    use std::io::Read;
    let Some(mut bundle) = Bundle::new("console", "tty; stty size; ls -l /dev/console; exec sleep 1000") else {
        return;
    };
    bundle.process()["terminal"] = json!(true);
    bundle.process()["consoleSize"] = json!({ "height": 23, "width": 97 });
    let socket = bundle.path().join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    bundle.options = vec!["--console-socket".into(), socket.to_str().unwrap().into()];
    bundle.run_detached();
    let (connection, _) = listener.accept().unwrap();
    let mut master = receive(&connection);
    let mut text = String::new();
    let mut buffer = [0; 256];
    while text.lines().count() < 3 || !text.ends_with('\n') {
        let n = master.read(&mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["/dev/pts/0", "23 97"]);
    // The terminal itself, bound there.
    assert!(lines[2].starts_with("crw") && lines[2].contains("136,   0"), "{text}");
}

/// The descriptor that comes over a console socket.
fn receive(socket: &std::os::unix::net::UnixStream) -> fs::File {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 64];
    recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::empty()).unwrap();
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.unwrap().into()
}
