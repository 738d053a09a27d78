//! Manifests and blobs: what is checked, and how a download goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use orlop::registry::{ErrorKind, ManifestRef, media_type};
use proptest::prelude::*;

use crate::common::{MANIFEST, config, digest, noise, read, session, session_with};
use crate::server::{Reply, Server};

fn tag() -> ManifestRef {
    ManifestRef::tag("v1").unwrap()
}

#[tokio::test]
async fn manifests_come_by_tag_and_by_digest() {
    let server = Server::start(|seen| match seen.path() {
        "/v2/team/app/manifests/v1" => {
            Reply::manifest(MANIFEST).header("docker-content-digest", digest(MANIFEST.as_bytes()).as_str())
        }
        path if path.ends_with(digest(MANIFEST.as_bytes()).as_str()) => Reply::manifest(MANIFEST),
        _ => Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
    });
    let session = session(&server.host());
    let manifest = session.manifest(&tag(), &[]).await.unwrap();
    assert_eq!(manifest.bytes, MANIFEST);
    assert_eq!(manifest.media_type, media_type::OCI_MANIFEST);
    assert_eq!(session.manifest(&manifest.digest.clone().into(), &[]).await.unwrap(), manifest);
    let head = session.manifest_head(&tag(), &[]).await.unwrap();
    assert_eq!((head.digest, head.size), (Some(manifest.digest), Some(MANIFEST.len() as u64)));

    let seen = &server.seen()[0];
    let accept: Vec<_> = seen.headers.iter().filter(|(n, _)| n == "accept").map(|(_, v)| v.as_str()).collect();
    assert_eq!(accept, media_type::ALL);
    assert!(seen.header("user-agent").unwrap().starts_with("orlop/"));
    assert_eq!(seen.query(), "");

    let error = session.manifest(&ManifestRef::tag("none").unwrap(), &[]).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::NotFound, Some(404)));
    assert_eq!(error.registry_message().unwrap().code, "MANIFEST_UNKNOWN");
    assert_eq!((error.host(), error.repository(), error.reference()), (server.host().as_str(), "team/app", "none"));
    assert!(error.to_string().contains("team/app:none: not found (HTTP 404): MANIFEST_UNKNOWN"), "{error}");
}

#[tokio::test]
async fn a_manifest_that_is_not_what_was_asked_for_is_refused() {
    for (name, reply) in [
        ("wrong named digest", Reply::manifest(MANIFEST).header("docker-content-digest", digest(b"x").as_str())),
        ("digest that is none", Reply::manifest(MANIFEST).header("docker-content-digest", "sha256:xyz")),
        ("other type outside", Reply::new(200, MANIFEST).header("content-type", media_type::OCI_INDEX)),
        ("no JSON", Reply::manifest("<html>")),
        ("ambiguous", Reply::manifest(r#"{"layers":[],"manifests":[]}"#)),
        ("no type at all", Reply::new(200, "{}").header("content-type", "text/plain")),
        ("too large", Reply::manifest("").header("content-length", "99999999")),
        ("too large, unannounced", {
            let mut reply = Reply::manifest(&" ".repeat(9 << 20));
            reply.unannounced = true;
            reply
        }),
    ] {
        let server = Server::start(move |_| reply.clone());
        let error = session(&server.host()).manifest(&tag(), &[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidContent, "{name}: {error}");
        assert_eq!(server.seen().len(), 1, "{name}");
    }
    let server = Server::start(|_| Reply::manifest(MANIFEST));
    let error = session(&server.host()).manifest(&digest(b"other").into(), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidContent);
    for (outside, body) in [("application/json", MANIFEST), ("", r#"{"layers":[]}"#)] {
        let server = Server::start(move |_| Reply::new(200, body).header("content-type", outside));
        let manifest = session(&server.host()).manifest(&tag(), &[]).await.unwrap();
        assert_eq!(manifest.media_type, media_type::OCI_MANIFEST);
    }
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_fetched_again() {
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply { hang_up: true, ..Reply::new(200, "") },
        1 => Reply::manifest(MANIFEST).cut(10),
        2 => Reply::new(502, "<html>bad gateway"),
        _ => Reply::manifest(MANIFEST),
    });
    assert_eq!(session(&server.host()).manifest(&tag(), &[]).await.unwrap().bytes, MANIFEST);
    // hyper itself sends a request again whose pooled connection turns out to be closed.
    assert!(server.seen().len() >= 4);
}

#[tokio::test]
async fn blobs_are_streamed_in_large_chunks() {
    let blob = noise((3 << 20) + 17);
    let wanted = blob.clone();
    let server = Server::start(move |seen| Reply::blob(&blob, seen));
    let session = session(&server.host());
    let stream = session.blob(&digest(&wanted), wanted.len() as u64, &[]);
    let chunks: Vec<_> = stream.map(Result::unwrap).collect().await;
    assert_eq!(chunks.concat(), wanted);
    assert!(
        chunks[..chunks.len() - 1].iter().all(|c| c.len() >= 128 << 10),
        "{:?}",
        chunks.iter().map(|c| c.len()).collect::<Vec<_>>()
    );
    assert_eq!(server.seen()[0].header("accept-encoding"), Some("identity"));
    assert_eq!(server.seen()[0].header("range"), None);

    let empty = session.blob_bytes(&digest(b""), 0).await.unwrap();
    assert!(empty.is_empty());
}

#[tokio::test]
async fn wrong_blobs_never_come_to_their_end() {
    let blob = noise(700_000);
    let other = noise(700_001);
    for (name, size, reply) in [
        ("wrong digest", blob.len(), Reply::new(200, &other[..blob.len()])),
        ("announced as longer", blob.len(), Reply::new(200, other.clone())),
        ("announced as shorter", blob.len(), Reply::new(200, &blob[1..])),
        (
            "longer, unannounced",
            blob.len(),
            Reply { unannounced: true, ..Reply::new(200, [&blob[..], &noise(600_000)].concat()) },
        ),
        ("in another coding", blob.len(), Reply::new(200, blob.clone()).header("content-encoding", "gzip")),
        ("no body at all", blob.len(), Reply::new(204, "")),
    ] {
        let server = Server::start(move |_| reply.clone());
        let mut stream = session(&server.host()).blob(&digest(&blob), size as u64, &[]);
        let mut got = 0;
        let error = loop {
            match stream.next_chunk().await {
                Ok(Some(chunk)) => got += chunk.len(),
                Ok(None) => panic!("{name}: ended well"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::InvalidContent, "{name}: {error}");
        assert!(got < blob.len(), "{name}");
        assert_eq!(stream.next_chunk().await.unwrap(), None, "{name}");
        assert!(error.to_string().contains(digest(&blob).as_str()), "{name}: {error}");
    }
}

#[tokio::test]
async fn an_unverified_stream_leaves_the_digest_to_the_caller() {
    let server = Server::start(|_| Reply::new(200, "abc"));
    let mut stream = session(&server.host()).blob(&digest(b"xyz"), 3, &[]).unverified();
    assert_eq!(stream.next_chunk().await.unwrap().unwrap(), "abc");
    assert_eq!(stream.next_chunk().await.unwrap(), None);
}

/// A server that closes the connection after each of `cuts` bytes.
fn cutting(
    blob: Vec<u8>,
    cuts: Vec<usize>,
    answer: impl Fn(&[u8], &crate::server::Seen) -> Reply + Send + Sync + 'static,
) -> Server {
    let tries = AtomicUsize::new(0);
    Server::start(move |seen| {
        let reply = answer(&blob, seen);
        match cuts.get(tries.fetch_add(1, Ordering::SeqCst)) {
            Some(cut) => reply.cut(*cut),
            None => reply,
        }
    })
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_download_goes_on_at_any_cut(size in 1_usize..900_000, cuts in proptest::collection::vec(0_usize..900_000, 0..4)) {
        let blob = noise(size);
        let cuts: Vec<usize> = cuts.into_iter().map(|c| c % size).collect();
        let server = cutting(blob.clone(), cuts.clone(), Reply::blob);
        let got = run(read(&session(&server.host()), &blob)).unwrap();
        prop_assert!(got == blob);
        // Each later request asks exactly for what is missing, with both ends.
        for seen in &server.seen()[1..] {
            if let Some((start, end)) = seen.range() {
                prop_assert!(start > 0 && end == Some(size - 1));
            }
        }
    }

    #[test]
    fn a_server_without_ranges_is_good_too(size in 1_usize..600_000, cuts in proptest::collection::vec(0_usize..600_000, 0..4)) {
        let blob = noise(size);
        let cuts: Vec<usize> = cuts.into_iter().map(|c| c % size).collect();
        let server = cutting(blob.clone(), cuts, |blob, _| Reply::new(200, blob));
        prop_assert!(run(read(&session(&server.host()), &blob)).unwrap() == blob);
    }
}

#[tokio::test]
async fn answers_to_ranges_are_checked() {
    let blob = noise(300_000);
    for (name, reply) in [
        ("no Content-Range", Reply::new(206, &blob[100_000..])),
        ("another start", Reply::new(206, &blob[100_001..]).header("content-range", "bytes 100001-299999/300000")),
        ("another size", Reply::new(206, &blob[100_000..]).header("content-range", "bytes 100000-299999/300001")),
        ("an end beyond", Reply::new(206, &blob[100_000..]).header("content-range", "bytes 100000-300000/*")),
    ] {
        let whole = blob.clone();
        let server = Server::start(move |seen| match seen.range() {
            None => Reply::new(200, whole.clone()).cut(100_000),
            Some(_) => reply.clone(),
        });
        let error = read(&session(&server.host()), &blob).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidContent, "{name}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_ranges_sends_it_all_again() {
    let blob = noise(300_000);
    let whole = blob.clone();
    let server = Server::start(move |seen| match (seen.range(), seen.header("x")) {
        (Some(_), _) => Reply::new(416, ""),
        _ => Reply::new(200, whole.clone()),
    });
    let first = AtomicUsize::new(0);
    let whole = blob.clone();
    let cutting = Server::start(move |seen| match (first.fetch_add(1, Ordering::SeqCst), seen.range()) {
        (0, _) => Reply::new(200, whole.clone()).cut(1000),
        (_, Some(_)) => Reply::new(416, ""),
        _ => Reply::new(200, whole.clone()),
    });
    assert_eq!(read(&session(&server.host()), &blob).await.unwrap(), blob);
    assert_eq!(read(&session(&cutting.host()), &blob).await.unwrap(), blob);
}

#[tokio::test]
async fn a_server_that_always_breaks_off_is_given_up() {
    let blob = noise(5000);
    let whole = blob.clone();
    let server = Server::start(move |seen| Reply::blob(&whole, seen).cut(1));
    let error = read(&session(&server.host()), &blob).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(server.seen().len() <= 8, "{}", server.seen().len());
}

#[tokio::test]
async fn a_stalled_download_goes_on_elsewhere() {
    let blob = noise(400_000);
    let whole = blob.clone();
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |seen| {
        let reply = Reply::blob(&whole, seen);
        if tries.fetch_add(1, Ordering::SeqCst) == 0 { reply.stall(150_000, Duration::from_secs(20)) } else { reply }
    });
    let begin = Instant::now();
    let session = session(&server.host());
    assert_eq!(read(&session, &blob).await.unwrap(), blob);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(server.seen()[1].range(), Some((150_000, Some(399_999))));
}

#[tokio::test]
async fn a_slow_reader_is_not_a_stalled_registry() {
    let blob = noise(900_000);
    let whole = blob.clone();
    let server = Server::start(move |seen| Reply::blob(&whole, seen));
    let mut stream = session(&server.host()).blob(&digest(&blob), blob.len() as u64, &[]);
    let mut got = 0;
    while let Some(chunk) = stream.next_chunk().await.unwrap() {
        got += chunk.len();
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(got, blob.len());
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn no_answer_at_all_ends_in_time() {
    let server = Server::start(|_| {
        std::thread::sleep(Duration::from_secs(3));
        Reply::new(200, "")
    });
    let mut config = config();
    config.timeouts.response = Duration::from_millis(100);
    config.retry.attempts = 2;
    let session = session_with(config, &server.host(), orlop::registry::Credentials::Anonymous);
    let error = session.manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no answer within 100ms"), "{error}");
}

#[tokio::test]
async fn rates_are_respected() {
    let tries = AtomicUsize::new(0);
    let begin = Instant::now();
    let server = Server::start(move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(429, r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#).header("retry-after", "1"),
        1 => Reply::new(503, "").header("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"),
        _ => Reply::manifest(MANIFEST),
    });
    session(&server.host()).manifest(&tag(), &[]).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1));

    let server = Server::start(|_| Reply::new(429, "").header("retry-after", "3600"));
    let error = session(&server.host()).manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::RateLimited, Some(Duration::from_secs(3600))));
    assert_eq!(server.seen().len(), 1);

    let server = Server::start(|_| Reply::new(429, ""));
    let error = session(&server.host()).manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!((error.kind(), server.seen().len()), (ErrorKind::RateLimited, 4));
}

#[tokio::test]
async fn redirects_carry_no_credentials_away() {
    let blob = noise(100_000);
    let whole = blob.clone();
    let storage = Server::start(move |seen| Reply::blob(&whole, seen));
    let target = storage.url("/store/x?signature=hush");
    let registry = Server::start(move |seen| match seen.header("authorization") {
        None => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
        Some(_) if seen.path().contains("/blobs/") => Reply::redirect(307, "/moved"),
        Some(_) => Reply::redirect(302, &target),
    });
    let mut config = config();
    let host = orlop::registry::HostConfig {
        headers: [("X-Own".to_owned(), "hush2".to_owned())].into(),
        ..Default::default()
    };
    config.hosts.insert(registry.host(), host);
    let credentials = orlop::registry::Credentials::basic("user", "hush-hush");
    let session = session_with(config, &registry.host(), credentials);
    assert_eq!(read(&session, &blob).await.unwrap(), blob);
    let moved = registry.seen().into_iter().find(|s| s.path() == "/moved").unwrap();
    assert!(moved.header("authorization").is_some() && moved.header("x-own") == Some("hush2"));
    let away = &storage.seen()[0];
    assert_eq!(away.target, "/store/x?signature=hush");
    for (name, value) in &away.headers {
        assert!(!matches!(name.as_str(), "authorization" | "cookie" | "x-own"), "{name}");
        assert!(!value.contains("hush") && !value.contains("dXNlcj"), "{name}");
    }
}

#[tokio::test]
async fn a_storage_host_gets_no_login_and_its_answers_are_not_quoted() {
    let storage = Server::start(|_| Reply::new(401, "internal").header("www-authenticate", "Basic realm=y"));
    let target = storage.url("/x?sig=hush");
    let registry = Server::start(move |_| Reply::redirect(307, &target));
    let credentials = orlop::registry::Credentials::basic("user", "hush-hush");
    let session = session_with(config(), &registry.host(), credentials);
    let error = read(&session, b"abc").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(error.host(), storage.host());
    assert_eq!(storage.seen().len(), 1);
    let text = format!("{error} {error:?}");
    assert!(!text.contains("hush") && !text.contains("internal"), "{text}");
}

#[tokio::test]
async fn redirects_end() {
    for (name, reply) in [
        ("round and round", Reply::redirect(302, "/v2/team/app/manifests/v1")),
        ("to nowhere", Reply::new(302, "")),
        ("to a file", Reply::redirect(302, "file:///etc/passwd")),
    ] {
        let server = Server::start(move |_| reply.clone());
        let error = session(&server.host()).manifest(&tag(), &[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidContent, "{name}: {error}");
        assert!(server.seen().len() <= 11, "{name}");
    }
}

#[tokio::test]
async fn foreign_urls_are_asked_after_the_registry_and_without_credentials() {
    let blob = noise(10_000);
    let whole = blob.clone();
    let foreign = Server::start(move |seen| Reply::blob(&whole, seen));
    let registry = Server::start(|seen| match seen.header("authorization") {
        None => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
        Some(_) => Reply::new(404, ""),
    });
    let session = session_with(config(), &registry.host(), orlop::registry::Credentials::basic("user", "hush-hush"));
    let urls = [foreign.url("/elsewhere")];
    let mut stream = session.blob(&digest(&blob), blob.len() as u64, &urls);
    assert_eq!(stream.next_chunk().await.unwrap().unwrap(), blob);
    assert!(foreign.seen()[0].header("authorization").is_none());
    assert_eq!(foreign.seen()[0].target, "/elsewhere");
    // Without urls nobody else is asked.
    assert_eq!(read(&session, &blob).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(foreign.seen().len(), 1);
    let mut stream = session.blob(&digest(&blob), blob.len() as u64, &["ftp://x/y".to_owned()]);
    assert!(stream.next_chunk().await.is_err());
}

#[tokio::test]
async fn many_downloads_side_by_side_share_connections() {
    let blob = Arc::new(noise(400_000));
    let whole = Arc::clone(&blob);
    let server = Server::start(move |seen| Reply::blob(&whole, seen));
    let session = session(&server.host());
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let (session, blob) = (session.clone(), Arc::clone(&blob));
        tasks.push(tokio::spawn(async move { read(&session, &blob).await.unwrap() == *blob }));
    }
    for task in tasks {
        assert!(task.await.unwrap());
    }
}
