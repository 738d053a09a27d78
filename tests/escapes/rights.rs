//! Rights that a container must not have unless it is given them.

use serde_json::json;

use crate::bundle::Bundle;

#[test]
fn cve_2022_29162_and_27650_inheritable_capabilities_are_empty() {
    let show = "grep Cap /proc/self/status";
    let Some(mut bundle) = Bundle::new("caps", &format!("{show}; exec sleep 1000 > /dev/null")) else { return };
    let set = "00000000000004e1";
    let expected = format!("CapInh:\t{0:016}\nCapPrm:\t{set}\nCapEff:\t{set}\nCapBnd:\t{set}\nCapAmb:\t{0:016}\n", 0);
    bundle.script(show);
    assert_eq!(bundle.output(), expected);
    bundle.script("exec sleep 1000");
    bundle.run_detached();
    assert_eq!(bundle.exec(&["sh", "-c", show]).output(), expected);
    // A user that is not root gets nothing by executing.
    let none =
        expected.replace(&format!("CapPrm:\t{set}\nCapEff:\t{set}"), &format!("CapPrm:\t{0:016}\nCapEff:\t{0:016}", 0));
    let called = bundle.call(&["exec", "--user", "1000:1000", &bundle.id, "sh", "-c", show]);
    assert_eq!(called.output(), none);
}

#[test]
fn cve_2023_25173_groups_are_exactly_those_asked_for() {
    let groups = "grep Groups: /proc/self/status | cut -f2";
    let Some(mut bundle) = Bundle::new("groups", groups) else { return };
    // The caller is in a group, as the agents of an engine may be; the container must not be.
    let output = |bundle: &Bundle| {
        let command = bundle.command(&["run", &bundle.id]);
        let mut outer = std::process::Command::new("setpriv");
        outer.args(["--groups", "4,27,999"]).arg(command.get_program()).args(command.get_args());
        outer.current_dir(bundle.path()).stdin(std::process::Stdio::null());
        crate::bundle::finish(outer).output()
    };
    assert_eq!(output(&bundle).trim_end(), "");
    bundle.process()["user"] = json!({ "uid": 1000, "gid": 1000 });
    assert_eq!(output(&bundle).trim_end(), "");
    bundle.process()["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [7, 5] });
    assert_eq!(output(&bundle).trim_end(), "5 7");
}

#[test]
fn go_2022_0396_devices_are_a_list_of_what_is_allowed() {
    let Some(mut bundle) = Bundle::new("devices", "") else { return };
    bundle.capabilities(&["CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    // Memory, a random disk, and the console of the host; and what every container may use.
    bundle.script(
        "mknod /mem c 1 1 2>&1; mknod /disk b 8 0 2>&1; mknod /tty0 c 4 0 2>&1; mknod /kmsg c 1 11 2>&1; \
         for f in /mem /disk /tty0 /kmsg; do dd if=$f of=/dev/null count=0 2>&1 | grep -v records; done; \
         echo x > /dev/null && echo usable",
    );
    let mut lists = vec![json!(null), json!([])];
    lists.push(json!([{ "allow": false, "access": "rwm" }]));
    lists.push(json!([{ "allow": false, "type": "b", "access": "rwm" }]));
    lists.push(json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 1, "minor": 3,
        "access": "rwm" }]));
    for list in lists {
        bundle.linux()["resources"] = json!({ "devices": list });
        if list.is_null() {
            bundle.linux()["resources"] = json!({});
        }
        let called = bundle.run();
        assert!(called.status.success() && called.stdout.ends_with("usable\n"), "{list}: {called:#?}");
        for name in ["/mem", "/disk", "/tty0", "/kmsg"] {
            let open = format!("can't open '{name}': Operation not permitted");
            let made = format!("mknod: {name}: Operation not permitted");
            assert!(called.stdout.contains(&open) || called.stdout.contains(&made), "{list}: {called:#?}");
        }
    }
}

#[test]
fn cve_2023_25809_the_hosts_cgroups_are_not_written_to() {
    for own_namespace in [true, false] {
        let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/escaped 2>/dev/null && echo $d; \
            (echo 1 > $d/notify_on_release) 2>/dev/null && echo $d; (echo /x > $d/release_agent) 2>/dev/null && echo $d; \
            done; ls /sys/fs/cgroup | head -1; exit 0";
        let Some(mut bundle) = Bundle::new("cgroup-mount", script) else { return };
        bundle.capabilities(&["CAP_DAC_OVERRIDE", "CAP_CHOWN"]);
        let options = ["ro", "nosuid", "noexec", "nodev"];
        bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &options);
        if !own_namespace {
            bundle.no_namespace("cgroup");
        }
        let output = bundle.output();
        // Something is there, and nothing of it could be written to.
        assert_eq!(output.lines().count(), 1, "{output}");
        // What is seen is the container's own, not the host's tree.
        bundle.script("cat /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs 2>/dev/null; exit 0");
        let processes = bundle.output();
        assert!(processes.lines().all(|pid| pid.parse::<u32>().unwrap() < 10), "{processes}");
    }
}
