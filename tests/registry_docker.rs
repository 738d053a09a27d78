//! The registry client against Debian's docker-registry.
#![allow(clippy::unwrap_used)] // Outside of test functions too: all of it is test code.

mod support;

use std::io::Write as _;

use bytes::Bytes;
use orlop::registry::{
    BlobPush, BlobPushed, Client, ClientConfig, Credentials, Digest, ErrorKind, ManifestRef, Repository, UploadMode,
    media_type,
};
use support::registry::TestRegistry;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn blob(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8 ^ (i >> 9) as u8).collect()
}

fn push<'a>(digest: &'a Digest, bytes: &[u8], mode: UploadMode) -> BlobPush<'a> {
    BlobPush { digest, size: bytes.len() as u64, source: Bytes::copy_from_slice(bytes).into(), mount_from: None, mode }
}

#[tokio::test]
async fn an_image_goes_there_and_back() {
    for registry in [TestRegistry::start(), TestRegistry::start_with_login()] {
        let Some(registry) = registry else { return };
        let layers = [blob(3_000_000), blob(10), Vec::new()];
        let list: Vec<(&str, &[u8])> = layers.iter().map(|l| (LAYER, l.as_slice())).collect();
        let digest = registry.push_image("team/app", "v1", b"{}", &list).await;

        let session = registry.session("team/app");
        let by_tag = session.manifest(&ManifestRef::tag("v1").unwrap(), &[]).await.unwrap();
        assert_eq!((by_tag.media_type.as_str(), &by_tag.digest), (media_type::OCI_MANIFEST, &digest));
        assert_eq!(session.manifest(&digest.clone().into(), &[]).await.unwrap(), by_tag);
        let head = session.manifest_head(&ManifestRef::tag("v1").unwrap(), &[]).await.unwrap();
        assert_eq!(head.digest, Some(digest));
        for layer in &layers {
            let wanted = Digest::of(layer);
            assert_eq!(session.blob_bytes(&wanted, layer.len() as u64).await.unwrap(), layer);
        }
        let missing = session.blob_bytes(&Digest::of(b"missing"), 7).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_eq!(missing.registry_message().unwrap().code, "BLOB_UNKNOWN");
    }
}

#[tokio::test]
async fn the_door_is_closed_without_a_key() {
    let Some(registry) = TestRegistry::start_with_login() else { return };
    registry.push_image("team/app", "v1", b"{}", &[(LAYER, b"x")]).await;
    let client = Client::new(ClientConfig { certs_dirs: Vec::new(), ..ClientConfig::default() }).unwrap();
    let repository = Repository::new(&registry.host(), "team/app").unwrap();
    for (credentials, good) in [
        (Credentials::basic("user", "hush-hush"), true),
        (Credentials::Anonymous, false),
        (Credentials::basic("user", "other"), false),
    ] {
        let session = client.session(repository.clone(), credentials).unwrap();
        let result = session.manifest(&ManifestRef::tag("v1").unwrap(), &[]).await;
        assert_eq!(result.is_ok(), good);
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        }
    }
}

#[tokio::test]
async fn blobs_are_pushed_in_every_way() {
    let Some(registry) = TestRegistry::start() else { return };
    let session = registry.session("team/app");
    let bytes = blob(2_500_000);
    let digest = Digest::of(&bytes);
    assert!(!session.blob_exists(&digest).await.unwrap());
    let chunked = push(&digest, &bytes, UploadMode::Chunked(1_000_000));
    assert_eq!(session.push_blob(&chunked).await.unwrap(), BlobPushed::Uploaded);
    assert!(session.blob_exists(&digest).await.unwrap());
    assert_eq!(session.push_blob(&chunked).await.unwrap(), BlobPushed::Existed);

    // Another repository takes it over without a byte sent.
    let other = registry.session("team/other");
    let mount = BlobPush { mount_from: Some("team/app"), ..push(&digest, &bytes, UploadMode::Whole) };
    assert_eq!(other.push_blob(&mount).await.unwrap(), BlobPushed::Mounted);
    let gone = BlobPush { mount_from: Some("team/nothing"), ..push(&digest, &bytes, UploadMode::Whole) };
    assert_eq!(registry.session("team/third").push_blob(&gone).await.unwrap(), BlobPushed::Uploaded);

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes[1..]).unwrap();
    let digest = Digest::of(&bytes[1..]);
    let size = bytes.len() as u64 - 1;
    let from_file = BlobPush { digest: &digest, size, source: file.into(), mount_from: None, mode: UploadMode::Whole };
    assert_eq!(session.push_blob(&from_file).await.unwrap(), BlobPushed::Uploaded);
    assert_eq!(session.blob_bytes(&digest, size).await.unwrap(), &bytes[1..]);

    // The registry checks, and so do we.
    let wrong = Digest::of(b"other");
    let error = session.push_blob(&push(&wrong, &bytes, UploadMode::Whole)).await.unwrap_err();
    assert_eq!(error.registry_message().unwrap().code, "DIGEST_INVALID", "{error}");
    let short = BlobPush { size: 4_000_000, ..push(&wrong, &bytes, UploadMode::Whole) };
    assert_eq!(session.push_blob(&short).await.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test]
async fn tags_are_listed_and_deleted() {
    let Some(registry) = TestRegistry::start() else { return };
    let session = registry.session("team/app");
    assert_eq!(session.tags(10).await.unwrap_err().kind(), ErrorKind::NotFound);
    let digest = registry.push_image("team/app", "v1", b"{}", &[(LAYER, b"x")]).await;
    let manifest = session.manifest(&digest.clone().into(), &[]).await.unwrap();
    for tag in ["v2", "v3"] {
        registry.push_manifest("team/app", tag, &manifest.media_type, &manifest.bytes).await;
    }
    assert_eq!(session.tags(10).await.unwrap(), ["v1", "v2", "v3"]);
    assert_eq!(session.tags(2).await.unwrap().len(), 2);

    session.delete_manifest(&digest.clone().into()).await.unwrap();
    let gone = session.manifest(&ManifestRef::tag("v1").unwrap(), &[]).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let layer = Digest::of(b"x");
    session.delete_blob(&layer).await.unwrap();
    assert!(!session.blob_exists(&layer).await.unwrap());
    assert_eq!(session.delete_blob(&layer).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn referrers_are_kept_under_a_tag_where_there_is_no_api() {
    let Some(registry) = TestRegistry::start() else { return };
    let subject = registry.push_image("team/app", "v1", b"{}", &[(LAYER, b"x")]).await;
    let session = registry.session("team/app");
    assert_eq!(session.referrers(&subject, None).await.unwrap(), []);
    let mut pushed = Vec::new();
    for kind in ["application/x.signature", "application/x.sbom"] {
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}").as_str(), "size": 2},
            "layers": [], "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": subject.as_str(), "size": 1},
            "annotations": {"by": kind},
        });
        let text = manifest.to_string();
        let digest = Digest::of(text.as_bytes());
        for _ in 0..2 {
            registry.push_manifest("team/app", digest.as_str(), media_type::OCI_MANIFEST, text.as_bytes()).await;
        }
        pushed.push(digest);
    }
    let all = session.referrers(&subject, None).await.unwrap();
    assert_eq!(all.iter().map(|d| d.digest.as_str()).collect::<Vec<_>>(), [pushed[0].as_str(), pushed[1].as_str()]);
    assert_eq!(all[1].annotations.as_ref().unwrap()["by"], "application/x.sbom");
    let some = session.referrers(&subject, Some("application/x.sbom")).await.unwrap();
    assert_eq!(some.len(), 1);

    session.delete_manifest(&pushed[0].clone().into()).await.unwrap();
    let left = session.referrers(&subject, None).await.unwrap();
    assert_eq!(left.iter().map(|d| d.digest.as_str()).collect::<Vec<_>>(), [pushed[1].as_str()]);
}
