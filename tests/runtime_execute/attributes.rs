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
