//! What the node says of itself, of images and of statistics, and how its failures travel.

use orlop::cri::v1;
use orlop::node::error::ErrorKind;
use tonic::Code;

use crate::fake::Asked;
use crate::harness::{Wire, asked};
use crate::sample;

#[tokio::test]
async fn stats_of_containers_and_pods() {
    let mut wire = Wire::new().await;
    let container_id = sample::CONTAINER.to_owned();
    let answer = wire.runtime.container_stats(v1::ContainerStatsRequest { container_id }).await.unwrap().into_inner();
    asked!(wire, Asked::ContainerStats(id) => assert_eq!(id, sample::CONTAINER));
    check_container_stats(&answer.stats.unwrap());
    let filter = v1::ContainerStatsFilter {
        id: "fedc".into(),
        pod_sandbox_id: sample::POD.into(),
        label_selector: sample::labels(),
    };
    let request = v1::ListContainerStatsRequest { filter: Some(filter) };
    let list = wire.runtime.list_container_stats(request).await.unwrap().into_inner().stats;
    check_container_stats(&list[0]);
    asked!(wire, Asked::ListContainerStats(f) => {
        assert_eq!((f.id.as_deref(), f.pod_id.as_deref(), f.state), (Some("fedc"), Some(sample::POD), None));
        assert_eq!(f.labels, sample::labels());
    });
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: sample::POD.into() };
    let pod = wire.runtime.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap();
    asked!(wire, Asked::PodStats(id) => assert_eq!(id, sample::POD));
    let attributes = pod.attributes.unwrap();
    assert_eq!((attributes.id.as_str(), attributes.metadata), (sample::POD, sample::pod_request().metadata));
    let linux = pod.linux.unwrap();
    let network = linux.network.unwrap();
    assert_eq!(network.default_interface.as_ref().unwrap().name, "eth0");
    assert_eq!(network.interfaces.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["eth1"]);
    assert_eq!(network.interfaces[0].tx_errors, Some(v1::UInt64Value { value: 63 }));
    assert_eq!(linux.process.unwrap().process_count, Some(v1::UInt64Value { value: 3 }));
    assert_eq!(linux.io.unwrap().psi.unwrap().full.unwrap().total, 42);
    check_container_stats(&linux.containers[0]);
    let filter = v1::PodSandboxStatsFilter { id: "01".into(), label_selector: sample::labels() };
    let request = v1::ListPodSandboxStatsRequest { filter: Some(filter) };
    assert_eq!(wire.runtime.list_pod_sandbox_stats(request).await.unwrap().into_inner().stats.len(), 1);
    asked!(wire, Asked::ListPodStats(f) => {
        assert_eq!((f.id.as_deref(), f.state, f.labels), (Some("01"), None, sample::labels()));
    });
}

fn check_container_stats(s: &v1::ContainerStats) {
    let some = |value| Some(v1::UInt64Value { value });
    let attributes = s.attributes.as_ref().unwrap();
    assert_eq!((attributes.id.as_str(), &attributes.labels), (sample::CONTAINER, &sample::labels()));
    let cpu = s.cpu.as_ref().unwrap();
    assert_eq!((cpu.timestamp, cpu.usage_core_nano_seconds, cpu.usage_nano_cores), (11, some(12), some(13)));
    let psi = cpu.psi.unwrap().some.unwrap();
    assert_eq!((psi.total, psi.avg10, psi.avg60, psi.avg300), (14, 1.5, 0.25, 0.01));
    let memory = s.memory.as_ref().unwrap();
    assert_eq!((memory.working_set_bytes, memory.available_bytes), (some(22), some(23)));
    assert_eq!((memory.usage_bytes, memory.rss_bytes), (some(24), some(25)));
    assert_eq!((memory.page_faults, memory.major_page_faults), (some(26), some(27)));
    let swap = s.swap.as_ref().unwrap();
    assert_eq!((swap.swap_usage_bytes, swap.swap_available_bytes), (some(28), None));
    let layer = s.writable_layer.as_ref().unwrap();
    assert_eq!((layer.used_bytes, layer.inodes_used), (some(6), some(7)));
    assert_eq!(s.io.as_ref().unwrap().psi.unwrap().some.unwrap().total, 30);
}

#[tokio::test]
async fn the_node_tells_of_itself() {
    let mut wire = Wire::new().await;
    let v = wire.runtime.version(v1::VersionRequest { version: "0.1.0".into() }).await.unwrap().into_inner();
    assert_eq!((v.version.as_str(), v.runtime_name.as_str(), v.runtime_api_version.as_str()), ("0.1.0", "orlop", "v1"));
    assert_eq!(v.runtime_version, env!("CARGO_PKG_VERSION"));

    let quiet = wire.runtime.status(v1::StatusRequest { verbose: false }).await.unwrap().into_inner();
    asked!(wire, Asked::Status(verbose) => assert!(!verbose));
    assert!(quiet.info.is_empty());
    let conditions = quiet.status.unwrap().conditions;
    assert_eq!((conditions[0].r#type.as_str(), conditions[0].status), ("RuntimeReady", true));
    assert_eq!((conditions[1].r#type.as_str(), conditions[1].status), ("NetworkReady", false));
    assert_eq!(conditions[1].reason, "NetworkPluginNotReady");
    assert_eq!(quiet.runtime_handlers[0].name, "orlop");
    assert!(quiet.runtime_handlers[0].features.unwrap().recursive_read_only_mounts);
    assert!(quiet.features.unwrap().supplemental_groups_policy);
    let verbose = wire.runtime.status(v1::StatusRequest { verbose: true }).await.unwrap().into_inner();
    assert_eq!(verbose.info["info"], r#"{"pid":1}"#);
    wire.node.asked();

    let config = wire.runtime.runtime_config(v1::RuntimeConfigRequest {}).await.unwrap().into_inner();
    assert_eq!(config.linux.unwrap().cgroup_driver(), v1::CgroupDriver::Cgroupfs);
    wire.node.asked();
    for (cidr, expected) in [
        (None, None),
        (Some(""), None),
        (Some("10.244.1.0/24"), Some("10.244.1.0/24")),
        (Some("10.244.1.0/24,fd00:1::/64"), Some("10.244.1.0/24,fd00:1::/64")),
    ] {
        let network_config = cidr.map(|c| v1::NetworkConfig { pod_cidr: c.to_owned() });
        let request = v1::UpdateRuntimeConfigRequest { runtime_config: Some(v1::RuntimeConfig { network_config }) };
        wire.runtime.update_runtime_config(request).await.unwrap();
        asked!(wire, Asked::UpdateRuntimeConfig(cidr) => assert_eq!(cidr.as_deref(), expected));
    }
}

#[tokio::test]
async fn images_are_pulled_shown_listed_removed() {
    let mut wire = Wire::new().await;
    assert_eq!(wire.images.pull_image(sample::pull()).await.unwrap().into_inner().image_ref, sample::IMAGE);
    asked!(wire, Asked::PullImage(image, auth, pod) => {
        assert_eq!(image.image, "registry.local/nginx:1");
        let auth = auth.unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("me", "secret"));
        assert_eq!((auth.auth.as_str(), auth.server_address.as_str()), ("bWU6c2VjcmV0", "registry.local"));
        assert_eq!((auth.identity_token.as_str(), auth.registry_token.as_str()), ("it", "rt"));
        assert_eq!(pod.unwrap().metadata.namespace, "default");
    });
    // An empty message is no credentials.
    let anonymous = v1::PullImageRequest { auth: Some(Default::default()), sandbox_config: None, ..sample::pull() };
    wire.images.pull_image(anonymous).await.unwrap();
    asked!(wire, Asked::PullImage(_, auth, pod) => assert!(auth.is_none() && pod.is_none()));

    let request = v1::ImageStatusRequest { image: Some(sample::image_spec()), verbose: true };
    let answer = wire.images.image_status(request.clone()).await.unwrap().into_inner();
    asked!(wire, Asked::ImageStatus(image) => assert_eq!(image.image, sample::IMAGE));
    assert_eq!(answer.info["imageSpec"], "{}");
    let image = answer.image.unwrap();
    assert_eq!((image.id.as_str(), image.size, image.pinned), (sample::IMAGE, 1234, true));
    assert_eq!((image.uid, image.username.as_str()), (Some(v1::Int64Value { value: 0 }), ""));
    assert_eq!((image.repo_tags.len(), image.repo_digests.len()), (1, 1));
    let quiet = v1::ImageStatusRequest { verbose: false, ..request.clone() };
    assert!(wire.images.image_status(quiet).await.unwrap().into_inner().info.is_empty());
    wire.node.set_images(Vec::new());
    let absent = wire.images.image_status(request).await.unwrap().into_inner();
    assert_eq!(absent, v1::ImageStatusResponse::default());
    wire.node.set_images(vec![sample::image()]);
    wire.node.asked();

    let all = wire.images.list_images(v1::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(all.len(), 1);
    asked!(wire, Asked::ListImages(image) => assert!(image.is_none()));
    for filter in [v1::ImageFilter { image: None }, v1::ImageFilter { image: Some(Default::default()) }] {
        wire.images.list_images(v1::ListImagesRequest { filter: Some(filter) }).await.unwrap();
        asked!(wire, Asked::ListImages(image) => assert!(image.is_none()));
    }
    let filter = Some(v1::ImageFilter { image: Some(sample::image_spec()) });
    wire.images.list_images(v1::ListImagesRequest { filter }).await.unwrap();
    asked!(wire, Asked::ListImages(image) => assert_eq!(image.unwrap().image, sample::IMAGE));

    wire.images.remove_image(v1::RemoveImageRequest { image: Some(sample::image_spec()) }).await.unwrap();
    asked!(wire, Asked::RemoveImage(image) => assert_eq!(image.image, sample::IMAGE));
    let usage = wire.images.image_fs_info(v1::ImageFsInfoRequest {}).await.unwrap().into_inner();
    asked!(wire, Asked::ImageFsInfo => ());
    assert_eq!(usage.image_filesystems[0].fs_id.as_ref().unwrap().mountpoint, "/images");
    assert_eq!(usage.container_filesystems[0].fs_id.as_ref().unwrap().mountpoint, "/containers");
    assert_eq!(usage.image_filesystems[0].inodes_used, Some(v1::UInt64Value { value: 7 }));
}

#[tokio::test]
async fn every_kind_of_failure_has_its_code() {
    let mut wire = Wire::new().await;
    let kinds = [
        (ErrorKind::NotFound, Code::NotFound),
        (ErrorKind::InvalidArgument, Code::InvalidArgument),
        (ErrorKind::FailedPrecondition, Code::FailedPrecondition),
        (ErrorKind::AlreadyExists, Code::AlreadyExists),
        (ErrorKind::DeadlineExceeded, Code::DeadlineExceeded),
        (ErrorKind::Unavailable, Code::Unavailable),
        (ErrorKind::ResourceExhausted, Code::ResourceExhausted),
        (ErrorKind::PermissionDenied, Code::PermissionDenied),
        (ErrorKind::Known, Code::Unknown),
        (ErrorKind::Internal, Code::Internal),
    ];
    for (kind, code) in kinds {
        // Kubelets look for the word at the beginning of the text.
        wire.node.fail(kind, "RegistryUnavailable: registry.local: ünreachable\nsecond line");
        let mutating = wire.images.remove_image(v1::RemoveImageRequest { image: Some(sample::image_spec()) }).await;
        let asking = wire.images.pull_image(sample::pull()).await;
        for status in [mutating.unwrap_err(), asking.unwrap_err()] {
            assert_eq!(status.code(), code);
            assert_eq!(status.message(), "RegistryUnavailable: registry.local: ünreachable\nsecond line");
        }
    }
    wire.node.fail(ErrorKind::Internal, &"ä".repeat(100_000));
    let status = wire.images.image_fs_info(v1::ImageFsInfoRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().len() < 3000 && status.message().ends_with('…'));
}
