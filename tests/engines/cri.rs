//! containerd's CRI, with `BinaryName` set to our program, driven by our own client commands.

use crate::bundle::{Called, finish, wait_until};
use crate::containerd::Daemon;
use crate::place::IMAGE;

/// Our client, talking to containerd.
fn orlop(daemon: &Daemon, arguments: &[&str]) -> Called {
    let mut command = daemon.place.command(&daemon.place.text("bin/orlop"), arguments);
    command
        .env("ORLOP_ENDPOINT", format!("unix://{}", daemon.socket()))
        .env("ORLOP_RUN_DIR", daemon.place.path("pods"));
    finish(command)
}

#[track_caller]
fn ok(daemon: &Daemon, arguments: &[&str]) -> String {
    let called = orlop(daemon, arguments);
    assert!(called.status.success(), "{called:#?}\n{}", daemon.log());
    called.stdout
}

#[test]
fn cri_runs_pods() {
    let Some(daemon) = Daemon::start("cri") else { return };
    daemon.ok(&["--namespace", "k8s.io", "images", "import", "image.tar"]);
    // In the network namespace of the daemon, which is the test's own.
    let manifest = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: demo}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: {IMAGE}
    imagePullPolicy: Never
    command: [sh, -c, 'echo a line; echo another >&2; while :; do sleep 0.1; done']
    resources: {{limits: {{memory: 64Mi, cpu: 500m}}}}
  - name: side
    image: {IMAGE}
    imagePullPolicy: Never
    command: [sleep, '1000']
    securityContext: {{runAsUser: 1000, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false}}
"
    );
    std::fs::write(daemon.place.path("pod.yaml"), manifest).unwrap();
    ok(&daemon, &["run", "pod.yaml"]);
    assert!(ok(&daemon, &["pods"]).contains("demo"));
    let listed = ok(&daemon, &["ps"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    wait_until("both lines are in the log", || {
        let logs = orlop(&daemon, &["logs", "demo/web"]);
        (logs.stdout.as_str(), logs.stderr.as_str()) == ("a line\n", "another\n")
    });
    let called = orlop(&daemon, &["exec", "demo/web", "--", "sh", "-c", "echo inside; exit 5"]);
    assert_eq!((called.status.code(), called.stdout.as_str()), (Some(5), "inside\n"), "{called:#?}");
    assert_eq!(ok(&daemon, &["exec", "demo/side", "--", "id", "-u"]), "1000\n");
    assert!(!orlop(&daemon, &["exec", "demo/side", "--", "touch", "/x"]).status.success());
    assert!(ok(&daemon, &["stats"]).contains("web"));
    ok(&daemon, &["stop", "demo"]);
    ok(&daemon, &["rm", "demo"]);
    assert_eq!(ok(&daemon, &["ps", "-a"]).lines().count(), 1);
    let runc = daemon.place.runc();
    let left = daemon.place.call(&runc, &["--root", "/run/containerd/runc/k8s.io", "list", "-q"]).output();
    assert_eq!(left, "", "states are left");
    // The parent that containerd gives to cgroups of pods without one of their own.
    daemon.remove_cgroups_of_pods();
}
