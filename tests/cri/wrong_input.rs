//! Fields that are wrong, missing or oversized: each gets InvalidArgument with its name, and the node is not asked.

use std::collections::BTreeMap;

use orlop::cri::v1;
use orlop::cri::v1::*;
use tonic::{Code, Status};

use crate::harness::Wire;
use crate::sample;

/// Which RPCs the tables below are about; the last test sees that none with a field to get wrong is left out.
const COVERED: [&str; 24] = [
    "Version",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "ContainerStatus",
    "ReopenContainerLog",
    "ExecSync",
    "ContainerStats",
    "ListContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "UpdateRuntimeConfig",
    // One bool: every value is right.
    "Status",
    "ListImages",
    "ImageStatus",
    "PullImage",
    "RemoveImage",
];

/// A table for one RPC: the field that the error must name, below `under` if given, and what is wrong with a request
/// that was right before.
macro_rules! wrong {
    ($wire:ident.$client:ident.$rpc:ident, $right:expr, { $($table:tt)+ }) => {
        wrong!($wire.$client.$rpc, $right, under "", { $($table)+ })
    };
    ($wire:ident.$client:ident.$rpc:ident, $right:expr, under $outer:literal, {
        $($field:literal: |$r:ident| $change:expr),+ $(,)?
    }) => {{
        $wire.$client.$rpc($right).await.expect("the request is right before it is made wrong");
        $wire.node.asked();
        $({
            #[allow(unused_mut)]
            let mut request = $right;
            { let $r = &mut request; $change; }
            let answer = $wire.$client.$rpc(request).await;
            refused(stringify!($rpc), concat!($outer, $field), stringify!($change), answer.err());
            assert!($wire.node.asked().is_empty(), "{} asked the node: {}", stringify!($rpc), stringify!($change));
        })+
    }};
}
pub(crate) use wrong;

pub fn refused(rpc: &str, field: &str, change: &str, error: Option<Status>) {
    let Some(error) = error else { panic!("{rpc} took {change}") };
    assert_eq!(error.code(), Code::InvalidArgument, "{rpc}, {change}: {error:?}");
    let named = error.message().split(": ").next().unwrap_or_default();
    let whole = error.message();
    assert_eq!(named, field, "{rpc}, {change}: {whole}");
    assert!(whole.len() > field.len() + 2 && whole.len() < 1000, "{whole}");
}

pub fn big(bytes: usize) -> String {
    "x".repeat(bytes)
}

pub fn one(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

pub fn many(bytes: usize) -> BTreeMap<String, String> {
    (0..bytes / 1000).map(|i| (format!("key-{i}"), big(1000))).collect()
}

#[tokio::test]
async fn ids() {
    let mut wire = Wire::new().await;
    macro_rules! id {
        ($rpc:ident, $request:ident, $field:ident $(, $more:ident: $value:expr)*) => {
            wrong!(wire.runtime.$rpc, $request { $field: sample::POD.into() $(, $more: $value)* }, {
                "id": |r| r.$field.clear(),
                "id": |r| r.$field = "a/../b".into(),
                "id": |r| r.$field = "..".into(),
                "id": |r| r.$field = "a\0".into(),
                "id": |r| r.$field = "a b".into(),
                "id": |r| r.$field = big(257),
            });
        };
    }
    // The field's own name is in the error; this table looks only at its end.
    fn refused(rpc: &str, _: &str, change: &str, error: Option<Status>) {
        let Some(error) = error else { panic!("{rpc} took {change}") };
        let field = if rpc.contains("pod_sandbox") { "pod_sandbox_id" } else { "container_id" };
        super::wrong_input::refused(rpc, field, change, Some(error));
    }
    id!(stop_pod_sandbox, StopPodSandboxRequest, pod_sandbox_id);
    id!(remove_pod_sandbox, RemovePodSandboxRequest, pod_sandbox_id);
    id!(pod_sandbox_status, PodSandboxStatusRequest, pod_sandbox_id, verbose: false);
    id!(pod_sandbox_stats, PodSandboxStatsRequest, pod_sandbox_id);
    id!(start_container, StartContainerRequest, container_id);
    id!(stop_container, StopContainerRequest, container_id, timeout: 0);
    id!(remove_container, RemoveContainerRequest, container_id);
    id!(container_status, ContainerStatusRequest, container_id, verbose: true);
    id!(container_stats, ContainerStatsRequest, container_id);
    id!(reopen_container_log, ReopenContainerLogRequest, container_id);
    id!(exec_sync, ExecSyncRequest, container_id, cmd: vec!["true".into()], timeout: 0);
}

#[tokio::test]
async fn times_and_commands() {
    let mut wire = Wire::new().await;
    wrong!(wire.runtime.stop_container, StopContainerRequest { container_id: "c".into(), timeout: 1 }, {
        "timeout": |r| r.timeout = -1,
        "timeout": |r| r.timeout = i64::MIN,
    });
    let exec = || ExecSyncRequest { container_id: "c".into(), cmd: vec!["true".into()], timeout: 1 };
    wrong!(wire.runtime.exec_sync, exec(), {
        "timeout": |r| r.timeout = -1,
        "cmd": |r| r.cmd.clear(),
        "cmd": |r| r.cmd[0].clear(),
        "cmd[0]": |r| r.cmd[0] = "a\0".into(),
        "cmd[0]": |r| r.cmd[0] = big(131_072),
        "cmd": |r| r.cmd = vec!["a".into(); 20_000],
    });
}

#[tokio::test]
async fn filters() {
    let mut wire = Wire::new().await;
    let pods = || ListPodSandboxRequest { filter: Some(sample::pod_filter()) };
    wrong!(wire.runtime.list_pod_sandbox, pods(), {
        "filter.state": |r| r.filter.as_mut().unwrap().state.as_mut().unwrap().state = 2,
        "filter.id": |r| r.filter.as_mut().unwrap().id = big(300),
        "filter.id": |r| r.filter.as_mut().unwrap().id = "a\0".into(),
        "filter.label_selector": |r| r.filter.as_mut().unwrap().label_selector = many(300_000),
    });
    let containers = || ListContainersRequest { filter: Some(sample::container_filter()) };
    wrong!(wire.runtime.list_containers, containers(), {
        "filter.state": |r| r.filter.as_mut().unwrap().state.as_mut().unwrap().state = -1,
        "filter.id": |r| r.filter.as_mut().unwrap().id = big(300),
        "filter.pod_sandbox_id": |r| r.filter.as_mut().unwrap().pod_sandbox_id = big(300),
        "filter.label_selector": |r| r.filter.as_mut().unwrap().label_selector = one("", "x"),
    });
    let stats = || ListContainerStatsRequest { filter: Some(Default::default()) };
    wrong!(wire.runtime.list_container_stats, stats(), {
        "filter.id": |r| r.filter.as_mut().unwrap().id = big(300),
        "filter.pod_sandbox_id": |r| r.filter.as_mut().unwrap().pod_sandbox_id = big(300),
        "filter.label_selector": |r| r.filter.as_mut().unwrap().label_selector = one("", "x"),
    });
    let stats = || ListPodSandboxStatsRequest { filter: Some(Default::default()) };
    wrong!(wire.runtime.list_pod_sandbox_stats, stats(), {
        "filter.id": |r| r.filter.as_mut().unwrap().id = big(300),
        "filter.label_selector": |r| r.filter.as_mut().unwrap().label_selector = one("", "x"),
    });
}

#[tokio::test]
async fn the_node_itself() {
    let mut wire = Wire::new().await;
    wrong!(wire.runtime.version, VersionRequest::default(), {
        "version": |r| r.version = big(300),
    });
    let update = || UpdateRuntimeConfigRequest {
        runtime_config: Some(v1::RuntimeConfig { network_config: Some(NetworkConfig::default()) }),
    };
    fn cidr(r: &mut UpdateRuntimeConfigRequest, cidr: &str) {
        let config = r.runtime_config.as_mut().unwrap();
        config.network_config = Some(NetworkConfig { pod_cidr: cidr.into() });
    }
    wrong!(wire.runtime.update_runtime_config, update(), {
        "runtime_config": |r| r.runtime_config = None,
        "runtime_config.network_config.pod_cidr": |r| cidr(r, "10.0.0.0"),
        "runtime_config.network_config.pod_cidr": |r| cidr(r, "10.0.0.0/33"),
        "runtime_config.network_config.pod_cidr": |r| cidr(r, "10.0.0.0/24,"),
        "runtime_config.network_config.pod_cidr": |r| cidr(r, "10.0.0.0/24,10.0.1.0/24"),
        "runtime_config.network_config.pod_cidr": |r| cidr(r, "10.0.0.0/24\0"),
        "runtime_config.network_config.pod_cidr": |r| cidr(r, &big(5000)),
    });
}

#[tokio::test]
async fn images() {
    let mut wire = Wire::new().await;
    fn auth(r: &mut PullImageRequest) -> &mut AuthConfig {
        r.auth.as_mut().unwrap()
    }
    fn image(image: &mut Option<ImageSpec>) -> &mut ImageSpec {
        image.as_mut().unwrap()
    }
    wrong!(wire.images.pull_image, sample::pull(), {
        "image": |r| r.image = None,
        "image.image": |r| image(&mut r.image).image.clear(),
        "image.image": |r| image(&mut r.image).image = "a b".into(),
        "image.image": |r| image(&mut r.image).image = "a\n".into(),
        "image.image": |r| image(&mut r.image).image = big(1025),
        "image.image_ref": |r| image(&mut r.image).image_ref = "a b".into(),
        "image.runtime_handler": |r| image(&mut r.image).runtime_handler = big(300),
        "image.annotations": |r| image(&mut r.image).annotations = many(1_100_000),
        "auth.auth": |r| auth(r).auth = "%%%".into(),
        "auth.auth": |r| auth(r).auth = "bm9jb2xvbg==".into(),
        "auth.username": |r| auth(r).username = big(300_000),
        "auth.password": |r| auth(r).password = "a\0".into(),
        "auth.identity_token": |r| auth(r).identity_token = big(300_000),
        "auth.registry_token": |r| auth(r).registry_token = big(300_000),
        "auth.server_address": |r| auth(r).server_address = big(2000),
    });
    let status = || ImageStatusRequest { image: Some(sample::image_spec()), verbose: false };
    wrong!(wire.images.image_status, status(), {
        "image": |r| r.image = None,
        "image.image": |r| image(&mut r.image).image.clear(),
        "image.image": |r| image(&mut r.image).image = big(1025),
    });
    let remove = || RemoveImageRequest { image: Some(sample::image_spec()) };
    wrong!(wire.images.remove_image, remove(), {
        "image": |r| r.image = None,
        "image.image": |r| image(&mut r.image).image.clear(),
        "image.image": |r| image(&mut r.image).image = "\u{7}".into(),
    });
    let list = || ListImagesRequest { filter: Some(ImageFilter { image: Some(sample::image_spec()) }) };
    wrong!(wire.images.list_images, list(), {
        "filter.image.image": |r| image(&mut r.filter.as_mut().unwrap().image).image = big(1025),
        "filter.image.image_ref": |r| image(&mut r.filter.as_mut().unwrap().image).image_ref = "a b".into(),
    });
}

/// Credentials never show in an error.
#[tokio::test]
async fn errors_keep_secrets() {
    let mut wire = Wire::new().await;
    let mut request = sample::pull();
    request.auth =
        Some(AuthConfig { auth: "c2VjcmV0LXdvcmQ=".into(), password: "hunter2\0".into(), ..Default::default() });
    let message = wire.images.pull_image(request).await.unwrap_err().message().to_owned();
    assert!(!message.contains("hunter2") && !message.contains("c2Vj") && !message.contains("secret-word"), "{message}");
}

#[test]
fn no_rpc_is_left_out() {
    use prost::Message;
    let set = prost_types::FileDescriptorSet::decode(orlop::cri::DESCRIPTORS).unwrap();
    let methods = set.file[0].service.iter().flat_map(|s| &s.method);
    let source = include_str!("round_trip.rs");
    for method in methods {
        let name = method.name();
        let later = source.contains(&format!("    \"{name}\",\n"));
        let request =
            set.file[0].message_type.iter().find(|m| method.input_type().ends_with(&format!(".{}", m.name())));
        let fields = request.unwrap().field.len();
        assert!(later || fields == 0 || COVERED.contains(&name), "{name} has {fields} fields and no table");
    }
}
