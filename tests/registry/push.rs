//! Pushing to registries with quirks, and the lists of tags and referrers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use orlop::registry::{
    BlobPush, BlobPushed, Credentials, Digest, Error, ErrorKind, ManifestRef, UploadMode, media_type,
};

use crate::common::{MANIFEST, config, digest, noise, session, session_with};
use crate::server::{Reply, Seen, Server};

async fn push(host: &str, blob: &[u8], mode: UploadMode) -> Result<BlobPushed, Error> {
    let digest = digest(blob);
    let source = Bytes::copy_from_slice(blob).into();
    let push = BlobPush { digest: &digest, size: blob.len() as u64, source, mount_from: None, mode };
    session(host).push_blob(&push).await
}

/// A registry with one upload. `spoil` may answer in its place.
struct Uploads {
    server: Server,
    stored: Arc<Mutex<Vec<u8>>>,
    closed: Arc<AtomicBool>,
}

fn uploads(
    least_chunk: usize,
    spoil: impl Fn(&Seen, &mut Vec<u8>) -> Option<Reply> + Send + Sync + 'static,
) -> Uploads {
    let stored = Arc::new(Mutex::new(Vec::new()));
    let closed = Arc::new(AtomicBool::new(false));
    let (store, close) = (Arc::clone(&stored), Arc::clone(&closed));
    let server = Server::start(move |seen| {
        let mut stored = store.lock().unwrap();
        if let Some(reply) = spoil(seen, &mut stored) {
            return reply;
        }
        let at = format!("0-{}", stored.len().saturating_sub(1));
        match seen.method.as_str() {
            "HEAD" => Reply::new(if close.load(Ordering::SeqCst) { 200 } else { 404 }, ""),
            "POST" => {
                stored.clear();
                Reply::new(202, "")
                    .header("location", "/upload/1?state=a%20b")
                    .header("oci-chunk-min-length", &least_chunk.to_string())
            }
            "GET" => Reply::new(204, "").header("location", "/upload/1?state=c").header("range", &at),
            "PATCH" => {
                let start: usize = seen.header("content-range").unwrap().split('-').next().unwrap().parse().unwrap();
                if start != stored.len() {
                    return Reply::new(416, "").header("range", &at);
                }
                stored.extend_from_slice(&seen.body);
                let at = format!("0-{}", stored.len() - 1);
                Reply::new(202, "").header("location", "/upload/1?state=b").header("range", &at)
            }
            "PUT" => {
                stored.extend_from_slice(&seen.body);
                close.store(true, Ordering::SeqCst);
                Reply::new(201, "")
            }
            _ => Reply::new(204, ""),
        }
    });
    Uploads { server, stored, closed }
}

impl Uploads {
    fn has(&self, blob: &[u8]) -> bool {
        self.closed.load(Ordering::SeqCst) && *self.stored.lock().unwrap() == blob
    }

    fn requests(&self, method: &str) -> Vec<Seen> {
        self.server.seen().into_iter().filter(|s| s.method == method).collect()
    }
}

#[tokio::test]
async fn chunks_are_as_large_as_the_registry_wants() {
    let blob = noise(1_000_000);
    let uploads = uploads(300_000, |_, _| None);
    push(&uploads.server.host(), &blob, UploadMode::Chunked(1)).await.unwrap();
    assert!(uploads.has(&blob));
    let ranges: Vec<_> =
        uploads.requests("PATCH").iter().map(|s| s.header("content-range").unwrap().to_owned()).collect();
    assert_eq!(ranges, ["0-299999", "300000-599999", "600000-899999", "900000-999999"]);
    let put = &uploads.requests("PUT")[0];
    assert!(put.target.starts_with("/upload/1?state=b&digest=sha256%3A"), "{}", put.target);
}

#[tokio::test]
async fn a_chunk_that_half_arrived_is_continued() {
    let blob = noise(900_000);
    let first = AtomicBool::new(true);
    let uploads = uploads(0, move |seen, stored| {
        if seen.method == "PATCH" && stored.len() == 300_000 && first.swap(false, Ordering::SeqCst) {
            stored.extend_from_slice(&seen.body[..100_000]);
            return Some(Reply { hang_up: true, ..Reply::new(202, "") });
        }
        None
    });
    push(&uploads.server.host(), &blob, UploadMode::Chunked(300_000)).await.unwrap();
    assert!(uploads.has(&blob));
    assert_eq!(uploads.requests("POST").len(), 1);
}

#[tokio::test]
async fn a_whole_upload_begins_anew_or_turns_out_to_have_arrived() {
    let blob = noise(400_000);
    let first = AtomicBool::new(true);
    let breaking = uploads(0, move |seen, _| {
        (seen.method == "PUT" && first.swap(false, Ordering::SeqCst)).then(|| Reply::new(502, ""))
    });
    assert_eq!(push(&breaking.server.host(), &blob, UploadMode::Whole).await.unwrap(), BlobPushed::Uploaded);
    assert!(breaking.has(&blob));
    assert_eq!((breaking.requests("POST").len(), breaking.requests("DELETE").len()), (2, 1));

    // Stored, but the answer is lost.
    let lost = Arc::new(AtomicBool::new(false));
    let lose = Arc::clone(&lost);
    let server = Server::start(move |seen| match seen.method.as_str() {
        "HEAD" => Reply::new(if lose.load(Ordering::SeqCst) { 200 } else { 404 }, ""),
        "POST" => Reply::new(202, "").header("location", "/upload/1"),
        _ => {
            lose.store(true, Ordering::SeqCst);
            Reply { hang_up: true, ..Reply::new(201, "") }
        }
    });
    push(&server.host(), &blob, UploadMode::Whole).await.unwrap();
    assert_eq!(server.seen().iter().filter(|s| s.method == "POST").count(), 1);
}

#[tokio::test]
async fn a_refused_upload_is_withdrawn() {
    let refusing = uploads(0, |seen, _| {
        (seen.method == "PATCH")
            .then(|| Reply::new(400, r#"{"errors":[{"code":"BLOB_UPLOAD_INVALID","message":"no"}]}"#))
    });
    let error = push(&refusing.server.host(), b"abc", UploadMode::Chunked(2)).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Refused, Some(400)));
    assert_eq!(refusing.requests("DELETE").len(), 1);
}

#[tokio::test]
async fn an_upload_elsewhere_gets_no_credentials() {
    let storage = Server::start(|_| Reply::new(201, ""));
    let target = storage.url("/put?sig=hush");
    let registry = Server::start(move |seen| match (seen.header("authorization"), seen.method.as_str()) {
        (None, _) => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
        (_, "HEAD") => Reply::new(404, ""),
        _ => Reply::new(202, "").header("location", &target),
    });
    let session = session_with(config(), &registry.host(), Credentials::basic("user", "hush-hush"));
    let digest = digest(b"abc");
    let source = Bytes::from_static(b"abc").into();
    let push = BlobPush { digest: &digest, size: 3, source, mount_from: None, mode: UploadMode::Whole };
    session.push_blob(&push).await.unwrap();
    let put = &storage.seen()[0];
    assert!(put.target.starts_with("/put?sig=hush&digest="), "{}", put.target);
    assert_eq!((put.body.as_slice(), put.header("authorization")), (&b"abc"[..], None));
}

#[tokio::test]
async fn a_blob_that_is_kept_elsewhere_exists() {
    let registry = Server::start(|_| Reply::redirect(307, "http://127.0.0.1:1/signed"));
    assert!(session(&registry.host()).blob_exists(&digest(b"x")).await.unwrap());
}

#[tokio::test]
async fn scopes_name_what_is_needed() {
    let server = Server::start(|seen| match (seen.path(), seen.header("authorization"), seen.method.as_str()) {
        ("/token", _, _) => Reply::new(200, r#"{"token":"t"}"#),
        (_, None, _) => Reply::new(401, "").header("www-authenticate", "Bearer realm=\"/token\""),
        (_, _, "HEAD") => Reply::new(404, ""),
        (_, _, "POST") => Reply::new(201, ""),
        _ => Reply::new(202, ""),
    });
    let session = session(&server.host());
    let digest = digest(b"abc");
    let source = Bytes::from_static(b"abc").into();
    let push = BlobPush { digest: &digest, size: 3, source, mount_from: Some("base/image"), mode: UploadMode::Whole };
    assert_eq!(session.push_blob(&push).await.unwrap(), BlobPushed::Mounted);
    session.delete_blob(&digest).await.unwrap();
    let scopes: Vec<_> =
        server.seen().into_iter().filter(|s| s.path() == "/token").map(|s| s.query().to_owned()).collect();
    let own = "scope=repository%3Ateam%2Fapp%3Apull%2Cpush";
    assert_eq!(
        scopes,
        [own, &format!("{own}&scope=repository%3Abase%2Fimage%3Apull"), "scope=repository%3Ateam%2Fapp%3Adelete"]
    );
    let mount = server.seen().into_iter().find(|s| s.method == "POST" && s.header("authorization").is_some()).unwrap();
    assert!(mount.query().contains("from=base%2Fimage"), "{}", mount.target);
    let escape = BlobPush { mount_from: Some("../x?y"), ..push };
    assert_eq!(session.push_blob(&escape).await.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test]
async fn tags_come_page_by_page() {
    let server = Server::start(|seen| match seen.query() {
        "n=1000" => {
            Reply::new(200, r#"{"tags":["a","b"]}"#).header("link", "</v2/team/app/tags/list?last=b>; rel=\"next\"")
        }
        "last=b" => {
            Reply::new(200, r#"{"tags":["c"]}"#).header("link", "</v2/team/app/tags/list?last=c>; rel=\"next\"")
        }
        "last=c" => {
            Reply::new(200, r#"{"tags":["c"]}"#).header("link", "</v2/team/app/tags/list?last=d>; rel=\"next\"")
        }
        "last=d" => Reply::new(200, r#"{"tags":null}"#).header("link", "</v2/team/app/tags/list?last=b>; rel=\"next\""),
        _ => Reply::new(400, ""),
    });
    let session = session(&server.host());
    assert_eq!(session.tags(3).await.unwrap(), ["a", "b", "c"]);
    // A registry that goes round in a circle is left.
    assert_eq!(session.tags(100).await.unwrap(), ["a", "b", "c", "c"]);
}

fn entry(kind: &str, of: &str) -> String {
    format!(
        r#"{{"mediaType":"{}","digest":"{}","size":1,"artifactType":"{kind}"}}"#,
        media_type::OCI_MANIFEST,
        digest(of.as_bytes())
    )
}

fn index(entries: &[String]) -> Reply {
    let text =
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#, media_type::OCI_INDEX, entries.join(","));
    Reply::new(200, text).header("content-type", media_type::OCI_INDEX)
}

#[tokio::test]
async fn referrers_by_api() {
    let server = Server::start(|seen| match seen.query() {
        "artifactType=sig" => index(&[entry("sig", "1")]).header("oci-filters-applied", "artifactType"),
        "page=2" => index(&[entry("sig", "3")]),
        _ => index(&[entry("sig", "1"), entry("sbom", "2")]).header("link", "<?page=2>; rel=next"),
    });
    let session = session(&server.host());
    let subject = digest(b"subject");
    assert_eq!(session.referrers(&subject, None).await.unwrap().len(), 3);
    assert_eq!(session.referrers(&subject, Some("sig")).await.unwrap().len(), 1);
    // The filter is applied here if it was not there.
    assert_eq!(session.referrers(&subject, Some("sbom")).await.unwrap().len(), 1);
    assert!(server.seen().iter().all(|s| s.path() == format!("/v2/team/app/referrers/{subject}")));
}

#[tokio::test]
async fn referrers_without_api() {
    for (name, api) in [
        ("404", Reply::new(404, "404 page not found")),
        ("a page", Reply::new(200, "<html>").header("content-type", "text/html")),
    ] {
        let fallback = format!("/manifests/sha256-{}", digest(b"subject").hex());
        let tag = fallback.clone();
        let reply = api.clone();
        let server =
            Server::start(
                move |seen| {
                    if seen.path().ends_with(&tag) { index(&[entry("sig", "1")]) } else { reply.clone() }
                },
            );
        let list = session(&server.host()).referrers(&digest(b"subject"), None).await.unwrap();
        assert_eq!(list.len(), 1, "{name}");

        // GitLab gives the subject itself under that tag (oras-go#1396).
        let reply = api.clone();
        let server =
            Server::start(
                move |seen| if seen.path().ends_with(&fallback) { Reply::manifest(MANIFEST) } else { reply.clone() },
            );
        let subject: Digest = digest(b"subject");
        assert_eq!(session(&server.host()).referrers(&subject, None).await.unwrap(), [], "{name}");
    }
}

#[tokio::test]
async fn a_registry_with_the_api_keeps_its_lists_itself() {
    let text = format!(r#"{{"subject":{{"digest":"{}"}},"layers":[]}}"#, digest(b"subject"));
    let server = Server::start(|seen| match seen.method.as_str() {
        "PUT" => Reply::new(201, "").header("oci-subject", digest(b"subject").as_str()),
        _ => Reply::new(404, ""),
    });
    let tag = ManifestRef::tag("v1").unwrap();
    session(&server.host()).push_manifest(&tag, media_type::OCI_MANIFEST, Bytes::from(text)).await.unwrap();
    assert_eq!(server.seen().len(), 1);
    assert_eq!(server.seen()[0].header("content-type"), Some(media_type::OCI_MANIFEST));

    let lying = Server::start(|_| Reply::new(201, "").header("docker-content-digest", digest(b"other").as_str()));
    let session = session(&lying.host());
    let error = session.push_manifest(&tag, media_type::OCI_MANIFEST, Bytes::from_static(b"{}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidContent);
    let wrong = session.push_manifest(&digest(b"x").into(), media_type::OCI_MANIFEST, Bytes::from_static(b"{}")).await;
    assert_eq!(wrong.unwrap_err().kind(), ErrorKind::InvalidContent);
    assert_eq!(lying.seen().len(), 1);
}

#[tokio::test]
async fn registries_that_do_not_delete() {
    let server = Server::start(|_| Reply::new(405, r#"{"errors":[{"code":"UNSUPPORTED","message":"disabled"}]}"#));
    let error = session(&server.host()).delete_manifest(&ManifestRef::tag("v1").unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(server.seen().len(), 1);
}
