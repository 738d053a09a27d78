//! Manifests in, requests out; and what is refused, by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::cri::v1::{NamespaceMode, Protocol};

const WEB: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: demo
  labels: {app: web}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 3
  shareProcessNamespace: true
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  initContainers:
  - {name: first, image: '127.0.0.1:5000/web:1', command: [\"true\"]}
  containers:
  - name: web
    image: 127.0.0.1:5000/web:1
    command: [httpd]
    args: ['-p', $(PORT), $$(PORT), $(OTHER)]
    env:
    - {name: PORT, value: '8080'}
    - {name: URL, value: 'http://x:$(PORT)'}
    ports:
    - {name: http, containerPort: 8080, hostPort: 18080}
    - {containerPort: 53, protocol: UDP}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: etc, mountPath: /host, readOnly: true}
    resources:
      requests: {cpu: 250m}
      limits: {cpu: 1, memory: 64Mi}
    securityContext:
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: etc, hostPath: {path: /etc}}
";

fn around() -> Surroundings {
    Surroundings {
        uid: "u".to_owned(),
        dir: PathBuf::from("/run-dir/u"),
        host_resolv_conf: "nameserver 10.0.0.1\nsearch a\nsearch b c\noptions ndots:2\n".to_owned(),
    }
}

fn refusal(text: &str) -> String {
    format!("{:#}", parse(text).unwrap_err())
}

#[test]
fn a_manifest_becomes_a_sandbox() {
    let pod = parse(WEB).unwrap();
    let sandbox = convert::sandbox(&pod, &around()).unwrap();
    let metadata = sandbox.metadata.unwrap();
    assert_eq!((metadata.name.as_str(), metadata.namespace.as_str(), metadata.uid.as_str()), ("demo", "default", "u"));
    assert_eq!((sandbox.hostname.as_str(), sandbox.log_directory.as_str()), ("demo", "/run-dir/u/logs"));
    assert_eq!(sandbox.labels["app"], "web");
    assert_eq!(sandbox.labels["io.kubernetes.pod.name"], "demo");
    let ports: Vec<(i32, i32, i32)> =
        sandbox.port_mappings.iter().map(|p| (p.protocol, p.container_port, p.host_port)).collect();
    assert_eq!(ports, [(Protocol::Tcp as i32, 8080, 18080), (Protocol::Udp as i32, 53, 0)]);
    let security = sandbox.linux.unwrap().security_context.unwrap();
    assert_eq!(security.namespace_options.unwrap().pid, NamespaceMode::Pod as i32);
    assert_eq!(security.supplemental_groups, [2000]);
    assert!(sandbox.dns_config.is_none());
}

#[test]
fn a_manifest_becomes_a_container() {
    let pod = parse(WEB).unwrap();
    let config = convert::container(&pod, &pod.spec.containers[0], &around()).unwrap();
    assert_eq!(config.args, ["-p", "8080", "$(PORT)", "$(OTHER)"]);
    let url = config.envs.iter().find(|env| env.key == "URL").unwrap();
    assert_eq!(url.value, b"http://x:8080");
    let mounts: Vec<(&str, &str, bool)> =
        config.mounts.iter().map(|m| (m.host_path.as_str(), m.container_path.as_str(), m.readonly)).collect();
    assert_eq!(mounts, [("/run-dir/u/volumes/scratch", "/scratch", false), ("/etc", "/host", true)]);
    assert_eq!(config.log_path, "web/0.log");
    assert_eq!(grace_of(&config.annotations), 3);
    let linux = config.linux.unwrap();
    let resources = linux.resources.unwrap();
    assert_eq!((resources.cpu_shares, resources.cpu_quota, resources.cpu_period), (256, 100_000, 100_000));
    assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
    let security = linux.security_context.unwrap();
    assert!(security.no_new_privs && !security.masked_paths.is_empty());
    assert_eq!(security.run_as_user.unwrap().value, 1000);
    assert_eq!(security.capabilities.unwrap().drop_capabilities, ["ALL"]);
}

#[test]
fn what_is_not_supported_is_named_with_its_line() {
    let config_map = WEB.replace("hostPath: {path: /etc}", "configMap: {name: x}");
    let error = refusal(&config_map);
    assert!(error.contains("line 36: field \"configMap\" is not supported by `orlop run`"), "{error}");
    let probe = WEB.replace("    command: [httpd]\n", "    livenessProbe: {}\n");
    assert!(refusal(&probe).contains("\"livenessProbe\""), "{}", refusal(&probe));
    let from = WEB.replace("value: '8080'", "valueFrom: {}");
    assert!(refusal(&from).contains("\"valueFrom\""), "{}", refusal(&from));
}

#[test]
fn what_kubectl_run_prints_is_understood() {
    let printed = "apiVersion: v1\nkind: Pod\nmetadata:\n  creationTimestamp: null\n  labels:\n    run: web\n  name: web\nspec:\n  \
                   containers:\n  - image: a:1\n    name: web\n    resources: {}\n  dnsPolicy: ClusterFirst\n  \
                   restartPolicy: Always\nstatus: {}\n";
    assert_eq!(parse(printed).unwrap().metadata.name, "web");
}

#[test]
fn what_cannot_be_a_pod_is_refused() {
    assert!(refusal(&WEB.replace("kind: Pod", "kind: Deployment")).contains("this is Deployment of v1"));
    assert!(refusal(&WEB.replace("name: first", "name: web")).contains("two containers are called \"web\""));
    assert!(refusal(&WEB.replace("name: first", "name: ../x")).contains("\"../x\" is not a name"));
    assert!(refusal("kind: Pod").contains("apiVersion"), "{}", refusal("kind: Pod"));
    assert!(refusal("- a").contains("line 1"), "{}", refusal("- a"));
    let error = |text: &str| {
        let pod = parse(text).unwrap();
        let around = around();
        let result = convert::sandbox(&pod, &around).map(drop);
        format!("{:#}", result.and_then(|()| convert::container(&pod, &pod.spec.containers[0], &around)).unwrap_err())
    };
    assert!(error(&WEB.replace("memory: 64Mi", "memory: lots")).contains("resources.limits.memory: \"lots\""));
    assert!(error(&WEB.replace("memory: 64Mi", "gpu: 1")).contains("resources.limits.gpu is not supported"));
    assert!(error(&WEB.replace("{name: scratch, mount", "{name: other, mount")).contains("has no \"other\""));
}

#[test]
fn dns_is_the_hosts_and_what_the_manifest_adds() {
    let dns = |lines: &str| {
        let pod = parse(&WEB.replace("  restartPolicy: Never\n", lines)).unwrap();
        convert::sandbox(&pod, &around()).map(|sandbox| sandbox.dns_config)
    };
    let added =
        dns("  dnsConfig: {nameservers: [10.0.0.2], options: [{name: timeout, value: '1'}]}\n").unwrap().unwrap();
    assert_eq!(added.servers, ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(
        (added.searches.as_slice(), added.options.as_slice()),
        (&["b", "c"].map(String::from)[..], &["ndots:2", "timeout:1"].map(String::from)[..])
    );
    let own = dns("  dnsPolicy: None\n  dnsConfig: {nameservers: [10.0.0.2]}\n").unwrap().unwrap();
    assert_eq!((own.servers.as_slice(), own.searches.len()), (&["10.0.0.2".to_owned()][..], 0));
    assert!(dns("  dnsPolicy: None\n").unwrap_err().to_string().contains("spec.dnsConfig.nameservers"));
}

#[test]
fn quantities() {
    for (text, scale, expected) in [
        ("1", 1000, Some(1000)),
        ("500m", 1000, Some(500)),
        ("0.5", 1000, Some(500)),
        ("1.0001", 1000, Some(1001)),
        ("64Mi", 1, Some(64 << 20)),
        ("1.5Gi", 1, Some(3 << 29)),
        ("2k", 1, Some(2000)),
        ("2e3", 1, Some(2000)),
        ("1E", 1, Some(1_000_000_000_000_000_000)),
        ("100n", 1000, Some(1)),
        ("-1", 1, Some(-1)),
        ("", 1, None),
        ("x", 1, None),
        ("1Zi", 1, None),
        ("99999999999999999999", 1, None),
    ] {
        assert_eq!(quantity::parse(text, scale), expected, "{text}");
    }
}

#[test]
fn expansion() {
    let values = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
    for (text, expected) in
        [("$(A)", "1"), ("a$(A)b$(A)", "a1b1"), ("$$(A)", "$(A)"), ("$(B)", "$(B)"), ("$A $", "$A $"), ("$(A", "$(A")]
    {
        assert_eq!(expand::expand(text, &values), expected);
    }
}

#[test]
fn the_manifests_of_the_repository_can_be_run() {
    for name in ["sample-pod.yaml", "demo-pod.yaml"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(name);
        let pod = read(&path).unwrap();
        convert::sandbox(&pod, &around()).unwrap();
        for container in &pod.spec.containers {
            convert::container(&pod, container, &around()).unwrap();
        }
    }
}
