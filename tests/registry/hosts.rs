//! Which hosts are asked, in which order, and what each of them is told.

use std::time::{Duration, Instant};

use orlop::registry::{
    Capability, Client, ClientConfig, Credentials, ErrorKind, HostConfig, ManifestRef, MirrorConfig, Repository,
    Session, StaticCredentials,
};

use crate::common::{MANIFEST, config, digest, noise, read};
use crate::server::{Reply, Server};

const REGISTRY: &str = "registry.test:5000";

fn tag() -> ManifestRef {
    ManifestRef::tag("v1").unwrap()
}

fn user() -> Credentials {
    Credentials::basic("user", "hush-hush")
}

fn mirror(url: &str) -> MirrorConfig {
    MirrorConfig { url: url.to_owned(), ..MirrorConfig::default() }
}

/// A registry that is really `server`, with mirrors before it.
fn with_mirrors(server: &Server, mirrors: Vec<MirrorConfig>) -> ClientConfig {
    let mut config = config();
    config
        .hosts
        .insert(REGISTRY.to_owned(), HostConfig { server: Some(server.url("")), mirrors, ..HostConfig::default() });
    config
}

fn session(config: ClientConfig, credentials: Credentials) -> Session {
    Client::new(config).unwrap().session(Repository::new(REGISTRY, "team/app").unwrap(), credentials).unwrap()
}

fn good() -> Server {
    Server::start(|_| Reply::manifest(MANIFEST))
}

fn failing(status: u16) -> Server {
    Server::start(move |_| Reply::new(status, ""))
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_the_registry_last() {
    let (missing, broken, denied, upstream) = (failing(404), failing(500), failing(403), good());
    let mirrors = [&missing, &broken, &denied].iter().map(|m| mirror(&m.url(""))).collect();
    let session = session(with_mirrors(&upstream, mirrors), Credentials::Anonymous);
    session.manifest(&tag(), &[]).await.unwrap();
    for server in [&missing, &broken, &denied] {
        assert_eq!(server.seen().len(), 1);
        assert_eq!(server.seen()[0].target, "/v2/team/app/manifests/v1?ns=registry.test%3A5000");
    }

    let second = good();
    let mirrors = vec![mirror(&missing.url("")), mirror(&second.url(""))];
    let session = self::session(with_mirrors(&upstream, mirrors), Credentials::Anonymous);
    session.manifest(&tag(), &[]).await.unwrap();
    assert_eq!((second.seen().len(), upstream.seen().len()), (1, 1));
}

#[tokio::test]
async fn when_all_fail_the_registry_s_word_counts_and_the_others_are_named() {
    let (broken, upstream) = (failing(500), failing(404));
    let session = session(with_mirrors(&upstream, vec![mirror(&broken.url(""))]), Credentials::Anonymous);
    let error = session.manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.host(), upstream.host());
    assert!(error.to_string().contains(&format!("before that: {}: ", broken.host())), "{error}");
}

#[tokio::test]
async fn a_dead_mirror_costs_its_own_time_only_and_only_once() {
    // A listener that never accepts: connections are made by the kernel, answers never come.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = good();
    let mut config = with_mirrors(&upstream, vec![mirror(&format!("http://{}", dead.local_addr().unwrap()))]);
    config.timeouts.response = Duration::from_millis(400);
    let client = Client::new(config).unwrap();
    let begin = Instant::now();
    for _ in 0..3 {
        let session = client.session(Repository::new(REGISTRY, "team/app").unwrap(), Credentials::Anonymous).unwrap();
        session.manifest(&tag(), &[]).await.unwrap();
    }
    assert!(begin.elapsed() >= Duration::from_millis(400));
    assert_eq!(client.counters().snapshot().fallbacks, 1);
}

#[tokio::test]
async fn a_blob_goes_on_at_the_next_host() {
    let blob = noise(2_500_000);
    let (half, whole) = (blob.clone(), blob.clone());
    let breaking = Server::start(move |seen| match seen.range() {
        None => Reply::blob(&half, seen).cut(1_600_000),
        Some(_) => Reply::new(500, ""),
    });
    let upstream = Server::start(move |seen| Reply::blob(&whole, seen));
    let session = session(with_mirrors(&upstream, vec![mirror(&breaking.url(""))]), Credentials::Anonymous);
    assert_eq!(read(&session, &blob).await.unwrap(), blob);
    assert_eq!(upstream.seen()[0].range(), Some((1_600_000, Some(2_499_999))));
}

#[tokio::test]
async fn a_mirror_with_wrong_content_is_passed_over() {
    let (wrong, upstream) = (Server::start(|_| Reply::manifest("{\"layers\":[],\"x\":1}")), good());
    let session = session(with_mirrors(&upstream, vec![mirror(&wrong.url(""))]), Credentials::Anonymous);
    let by_digest = digest(MANIFEST.as_bytes());
    assert_eq!(session.manifest(&by_digest.into(), &[]).await.unwrap().bytes, MANIFEST);
    assert_eq!(wrong.seen().len(), 1);
}

#[tokio::test]
async fn capabilities_are_obeyed() {
    let (pull_only, upstream) = (good(), good());
    let only = MirrorConfig { capabilities: Some(vec![Capability::Pull]), ..mirror(&pull_only.url("")) };
    let session = session(with_mirrors(&upstream, vec![only]), Credentials::Anonymous);
    session.manifest(&tag(), &[]).await.unwrap();
    assert_eq!((pull_only.seen().len(), upstream.seen().len()), (0, 1));
    session.manifest(&digest(MANIFEST.as_bytes()).into(), &[]).await.unwrap();
    assert_eq!((pull_only.seen().len(), upstream.seen().len()), (1, 1));
}

fn asking() -> Server {
    Server::start(|seen| match seen.header("authorization") {
        Some(_) => Reply::manifest(MANIFEST),
        None => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
    })
}

#[tokio::test]
async fn mirrors_do_not_get_the_registry_s_credentials_unless_told() {
    let (cache, upstream) = (asking(), asking());
    let sent = |server: &Server| {
        server.seen().iter().filter_map(|s| s.header("authorization").map(str::to_owned)).collect::<Vec<_>>()
    };
    let plain = session(with_mirrors(&upstream, vec![mirror(&cache.url(""))]), user());
    plain.manifest(&tag(), &[]).await.unwrap();
    assert_eq!((sent(&cache).len(), sent(&upstream).len()), (0, 1));

    let own = StaticCredentials { username: "m".into(), password: "own".into(), ..StaticCredentials::default() };
    let own = MirrorConfig { credentials: Some(own), ..mirror(&cache.url("")) };
    session(with_mirrors(&upstream, vec![own]), user()).manifest(&tag(), &[]).await.unwrap();
    assert_eq!(sent(&cache), ["Basic bTpvd24="]);

    let forward = MirrorConfig { forward_credentials: true, ..mirror(&cache.url("")) };
    session(with_mirrors(&upstream, vec![forward]), user()).manifest(&tag(), &[]).await.unwrap();
    assert_eq!(sent(&cache)[1], "Basic dXNlcjpodXNoLWh1c2g=");
    assert_eq!(sent(&upstream).len(), 1);
}

#[tokio::test]
async fn paths_and_fields_of_mirrors() {
    let server = good();
    for (url, override_path, path) in [
        ("", false, "/v2/team/app/manifests/v1"),
        ("/", false, "/v2/team/app/manifests/v1"),
        ("/v2", false, "/v2/team/app/manifests/v1"),
        ("/cache", false, "/cache/v2/team/app/manifests/v1"),
        ("/v2/cache", false, "/v2/cache/team/app/manifests/v1"),
        ("/api/docker/x", true, "/api/docker/x/team/app/manifests/v1"),
    ] {
        let upstream = failing(404);
        let headers = [("X-Tenant".to_owned(), "blue".to_owned())].into();
        let entry = MirrorConfig { override_path, headers, ..mirror(&server.url(url)) };
        session(with_mirrors(&upstream, vec![entry]), Credentials::Anonymous).manifest(&tag(), &[]).await.unwrap();
        let seen = server.seen().last().unwrap().clone();
        assert_eq!(seen.path(), path);
        assert_eq!(seen.header("x-tenant"), Some("blue"));
        assert_eq!(upstream.seen().len(), 0);
    }
}

#[tokio::test]
async fn certs_d_is_read_anew_for_each_session() {
    let (first, second) = (good(), good());
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("registry.test_5000_");
    std::fs::create_dir(&folder).unwrap();
    let write = |text: String| std::fs::write(folder.join("hosts.toml"), text).unwrap();
    let client = Client::new(ClientConfig { certs_dirs: vec![dir.path().to_owned()], ..config() }).unwrap();
    let pull = async |credentials: Credentials| {
        let session = client.session(Repository::new(REGISTRY, "team/app").unwrap(), credentials)?;
        session.manifest(&tag(), &[]).await
    };
    write(format!("server = '{}'\n", first.url("")));
    pull(user()).await.unwrap();
    write(format!("server = '{}'\n[host.'{}']\ncapabilities = ['pull', 'resolve']\n", first.url(""), second.url("")));
    pull(user()).await.unwrap();
    assert_eq!((first.seen().len(), second.seen().len()), (1, 1));
    assert_eq!(second.seen()[0].query(), "ns=registry.test%3A5000");

    // A folder with a mistake in it is told, not passed over.
    write("server = ".to_owned());
    let error = pull(user()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("hosts.toml"), "{error}");

    // `server` of another host is no leave to send it the registry's credentials.
    let asking = asking();
    write(format!("server = '{}'\n", asking.url("")));
    assert_eq!(pull(user()).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    assert!(asking.seen().iter().all(|s| s.header("authorization").is_none()));
}

#[tokio::test]
async fn loopback_is_plain_and_everything_else_is_not() {
    let server = good();
    let plain = crate::common::session(&server.host());
    plain.manifest(&tag(), &[]).await.unwrap();
    assert_eq!(server.seen()[0].query(), "", "no ns for the registry itself");
    // The same server under a name that is not loopback: TLS is tried, and fails for lack of it.
    let mut strict = config();
    strict.retry.attempts = 1;
    strict.hosts.insert(server.host(), HostConfig { plain_http: Some(false), ..HostConfig::default() });
    let session = crate::common::session_with(strict, &server.host(), Credentials::Anonymous);
    let error = session.manifest(&tag(), &[]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Unavailable), "{error}");
    assert_eq!(server.seen().iter().filter(|s| s.method == "GET").count(), 1);
}

#[tokio::test]
async fn a_plain_registry_that_is_asked_by_tls_is_told_how_to_set_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = std::io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let mut config = config();
    config.hosts.insert(host.clone(), HostConfig { plain_http: Some(false), ..HostConfig::default() });
    let session = crate::common::session_with(config, &host, Credentials::Anonymous);
    let error = session.manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    assert!(error.to_string().contains("set \"plain_http\" for its host"), "{error}");
}

#[tokio::test]
async fn nobody_listens() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut config = config();
    config.retry.attempts = 2;
    let session = crate::common::session_with(config, &format!("127.0.0.1:{port}"), Credentials::Anonymous);
    let error = session.manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("refused"), "{error}");
}
