//! Messages of unusual size and content.

use orlop::cri::v1;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::fake::Asked;
use crate::harness::Wire;
use crate::sample;

/// A container with `count` variables of 100 kB each.
fn large(count: usize) -> v1::CreateContainerRequest {
    let mut request = sample::create_container();
    request.config.as_mut().unwrap().envs =
        (0..count).map(|i| v1::KeyValue { key: format!("V{i}"), value: vec![b'x'; 100_000] }).collect();
    request
}

#[tokio::test]
async fn five_megabytes_are_taken() {
    let mut wire = Wire::new().await;
    wire.runtime.create_container(large(50)).await.unwrap();
    let Asked::CreateContainer(_, config, _) = wire.node.only() else { panic!() };
    assert_eq!(config.envs.iter().map(|e| e.value.len()).sum::<usize>(), 5_000_000);
}

#[tokio::test]
async fn sixteen_mebibytes_are_the_most() {
    let mut wire = Wire::new().await;
    let error = wire.runtime.create_container(large(200)).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error:?}");
    assert!(wire.node.asked().is_empty());
    // The connection is none the worse.
    wire.runtime.create_container(large(150)).await.unwrap();
}

#[tokio::test]
async fn replies_have_no_limit_here() {
    let mut wire = Wire::new().await;
    let mut image = sample::image();
    image.repo_tags = (0..100).map(|i| format!("{i:0>1000}")).collect();
    wire.node.set_images(vec![image; 200]);
    let images = wire.images.list_images(v1::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(images.len(), 200);
    assert!(images.iter().flat_map(|i| &i.repo_tags).map(String::len).sum::<usize>() >= 20_000_000);
}

/// A request whose id is bytes, which the contract has as text.
#[derive(Clone, PartialEq, prost::Message)]
struct Raw {
    #[prost(bytes = "vec", tag = "1")]
    pod_sandbox_id: Vec<u8>,
}

#[tokio::test]
async fn what_is_no_message_is_refused() {
    let mut wire = Wire::new().await;
    let mut grpc = Grpc::new(wire.channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/StopPodSandbox");
    let request = Request::new(Raw { pod_sandbox_id: vec![0xff, 0xfe] });
    let error = grpc.unary(request, path, ProstCodec::<Raw, ()>::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal, "{error:?}");
    assert!(wire.node.asked().is_empty());
    wire.runtime.version(v1::VersionRequest::default()).await.unwrap();
}

#[tokio::test]
async fn what_is_no_call_is_refused() {
    let mut wire = Wire::new().await;
    let mut grpc = Grpc::new(wire.channel.clone());
    for path in ["/runtime.v1.RuntimeService/Nonsense", "/runtime.v1alpha2.RuntimeService/Version", "/"] {
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<(), ()>::default();
        let error = grpc.unary(Request::new(()), PathAndQuery::from_static(path), codec).await.unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented, "{path}: {error:?}");
    }
    wire.runtime.version(v1::VersionRequest::default()).await.unwrap();
}
