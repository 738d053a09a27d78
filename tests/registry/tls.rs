//! TLS: who is trusted, what is shown, and HTTP/2.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use orlop::registry::{ClientConfig, Credentials, ErrorKind, HostConfig, ManifestRef, Session};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::common::{MANIFEST, config, digest, noise, read, session_with};
use crate::server::{Reply, Server};

/// An authority, a server certificate for loopback and a client certificate, made by `openssl`.
struct Pki(tempfile::TempDir);

impl Pki {
    /// `None` where there is no `openssl` command.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let pki = Self(dir);
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("skipped: there is no openssl command");
            return None;
        }
        pki.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt");
        pki.issue("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth");
        pki.issue("client", "extendedKeyUsage=clientAuth");
        Some(pki)
    }

    fn issue(&self, name: &str, extensions: &str) {
        std::fs::write(self.path(&format!("{name}.ext")), extensions).unwrap();
        self.openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        self.openssl(&format!("x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.crt"));
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn server(&self, ask_client: bool) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
        let builder = if ask_client {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(cert(&self.path("ca.crt"))).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_file(self.path("server.key")).unwrap();
        builder.with_single_cert(vec![cert(&self.path("server.crt"))], key).unwrap()
    }
}

fn cert(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

fn tag() -> ManifestRef {
    ManifestRef::tag("v1").unwrap()
}

fn with_host(host: &str, settings: HostConfig) -> ClientConfig {
    let mut config = config();
    config.retry.attempts = 2;
    config.hosts.insert(host.to_owned(), settings);
    config
}

fn session(host: &str, settings: HostConfig) -> Session {
    session_with(with_host(host, settings), host, Credentials::Anonymous)
}

fn tls(settings: HostConfig) -> HostConfig {
    HostConfig { plain_http: Some(false), ..settings }
}

#[tokio::test]
async fn only_known_authorities_are_trusted() {
    let Some(pki) = Pki::new() else { return };
    let server = Server::start_tls(Arc::new(pki.server(false)), |_| Reply::manifest(MANIFEST));
    let host = server.host();
    let trusting = session(&host, HostConfig { ca: vec![pki.path("ca.crt")], ..HostConfig::default() });
    trusting.manifest(&tag(), &[]).await.unwrap();

    let stranger = session(&host, tls(HostConfig::default()));
    let error = stranger.manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    assert_eq!(server.seen().len(), 1);

    let careless = session(&host, HostConfig { skip_verify: true, ..HostConfig::default() });
    careless.manifest(&tag(), &[]).await.unwrap();

    // Trusted, but for another name.
    let other = format!("127.0.0.2:{}", server.addr.port());
    let ca = vec![pki.path("ca.crt")];
    let settings = HostConfig {
        server: Some(format!("https://localhost.localdomain:{}", server.addr.port())),
        ca,
        ..HostConfig::default()
    };
    let error = session(&other, settings).manifest(&tag(), &[]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Unavailable), "{error}");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let Some(pki) = Pki::new() else { return };
    let make = |settings: HostConfig| {
        let client = orlop::registry::Client::new(with_host("r.test", settings)).unwrap();
        client.session(orlop::registry::Repository::new("r.test", "a").unwrap(), Credentials::Anonymous)
    };
    let missing = make(HostConfig { ca: vec![pki.path("none.crt")], ..HostConfig::default() }).unwrap_err();
    assert!(missing.kind() == ErrorKind::Config && missing.to_string().contains("none.crt"), "{missing}");

    let server = Server::start_tls(Arc::new(pki.server(false)), |_| Reply::manifest(MANIFEST));
    let no_cert = HostConfig { ca: vec![pki.path("ca.key")], ..HostConfig::default() };
    let error = session(&server.host(), no_cert).manifest(&tag(), &[]).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("ca.key"), "{error}");
}

#[tokio::test]
async fn client_certificates_are_shown_to_their_host_only() {
    let Some(pki) = Pki::new() else { return };
    let blob = noise(50_000);
    let whole = blob.clone();
    let storage = Server::start_tls(Arc::new(pki.server(false)), move |seen| Reply::blob(&whole, seen));
    let target = format!("https://{}/x", storage.addr);
    let registry = Server::start_tls(Arc::new(pki.server(true)), move |_| Reply::redirect(307, &target));
    let settings = HostConfig {
        ca: vec![pki.path("ca.crt")],
        client_cert: Some(pki.path("client.crt")),
        client_key: Some(pki.path("client.key")),
        ..HostConfig::default()
    };
    let session = session(&registry.host(), settings.clone());
    assert_eq!(read(&session, &blob).await.unwrap(), blob);
    assert!(registry.seen()[0].client_cert);
    assert!(!storage.seen()[0].client_cert);

    let without = HostConfig { client_cert: None, client_key: None, ..settings };
    let error = self::session(&registry.host(), without).manifest(&tag(), &[]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Unavailable), "{error}");
}

#[tokio::test]
async fn certs_d_with_bare_certificates() {
    let Some(pki) = Pki::new() else { return };
    let server = Server::start_tls(Arc::new(pki.server(true)), |seen| {
        if seen.client_cert { Reply::manifest(MANIFEST) } else { Reply::new(403, "") }
    });
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(server.host());
    std::fs::create_dir(&folder).unwrap();
    for (from, to) in [("ca.crt", "ca.crt"), ("client.crt", "node.cert"), ("client.key", "node.key")] {
        std::fs::copy(pki.path(from), folder.join(to)).unwrap();
    }
    let config = ClientConfig { certs_dirs: vec![dir.path().to_owned()], ..config() };
    session_with(config, &server.host(), Credentials::Anonymous).manifest(&tag(), &[]).await.unwrap();
}

#[tokio::test]
async fn nothing_goes_from_tls_to_the_clear() {
    let Some(pki) = Pki::new() else { return };
    let plain = Server::start(|_| Reply::new(200, r#"{"token":"x"}"#));
    let settings = || HostConfig { ca: vec![pki.path("ca.crt")], ..HostConfig::default() };

    let target = plain.url("/x");
    let redirecting = Server::start_tls(Arc::new(pki.server(false)), move |_| Reply::redirect(307, &target));
    let error = session(&redirecting.host(), settings()).manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");

    let realm = format!("Bearer realm=\"{}\"", plain.url("/token"));
    let asking =
        Server::start_tls(Arc::new(pki.server(false)), move |_| Reply::new(401, "").header("www-authenticate", &realm));
    let host = asking.host();
    let user = session_with(with_host(&host, settings()), &host, Credentials::basic("user", "hush-hush"));
    let error = user.manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert_eq!(plain.seen().len(), 0);
}

#[tokio::test]
async fn records_are_joined_to_large_chunks() {
    let Some(pki) = Pki::new() else { return };
    let blob = noise(3_000_000);
    let whole = blob.clone();
    let server = Server::start_tls(Arc::new(pki.server(false)), move |seen| Reply::blob(&whole, seen));
    let session = session(&server.host(), HostConfig { ca: vec![pki.path("ca.crt")], ..HostConfig::default() });
    let mut stream = session.blob(&digest(&blob), blob.len() as u64, &[]);
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.next_chunk().await.unwrap() {
        chunks.push(chunk.len());
    }
    // Not 183 of 16 KiB.
    assert!(chunks.len() <= 23 && chunks.iter().sum::<usize>() == blob.len(), "{chunks:?}");
}

/// A server of HTTP/2 over TLS that answers each request with the same bytes.
async fn http2_server(pki: &Pki, body: Vec<u8>) -> (std::net::SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let mut config = pki.server(false);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let (acceptor, body) = (acceptor.clone(), body.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let body = bytes::Bytes::from(body.clone());
                    async move {
                        assert_eq!(request.version(), hyper::Version::HTTP_2);
                        Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(body)))
                    }
                });
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (addr, connections)
}

#[tokio::test]
async fn http2_is_used_where_it_is_offered() {
    let Some(pki) = Pki::new() else { return };
    let blob = noise(3_000_000);
    let (addr, connections) = http2_server(&pki, blob.clone()).await;
    let host = addr.to_string();
    let session = session(&host, HostConfig { ca: vec![pki.path("ca.crt")], ..HostConfig::default() });
    assert_eq!(read(&session, &blob).await.unwrap(), blob);
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let (session, wanted, size) = (session.clone(), digest(&blob), blob.len() as u64);
            tokio::spawn(async move {
                let mut stream = session.blob(&wanted, size, &[]);
                while stream.next_chunk().await.unwrap().is_some() {}
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 1, "one connection carries all");
}
