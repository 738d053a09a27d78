//! A real registry for tests: Debian's docker-registry on loopback, with content in a directory of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use orlop::registry::{
    BlobPush, Client, ClientConfig, Credentials, Digest, ManifestRef, Repository, Session, UploadMode, media_type,
};

/// A running registry. Stopped, and its content removed, when dropped.
pub struct TestRegistry {
    child: Child,
    addr: SocketAddr,
    credentials: Credentials,
    dir: tempfile::TempDir,
}

pub const USER: &str = "user";
pub const PASSWORD: &str = "hush-hush";
/// bcrypt of `PASSWORD`.
const HTPASSWD: &str = "user:$2y$05$VvPZe5W7P.dvWPkoPr7Bi.Ji8P3Nkjs56DeDef/Xa8MQ0cBJE6pUi\n";

impl TestRegistry {
    /// Starts a registry that asks for no log-in. `None`, with a word on standard error, where the program is missing.
    pub fn start() -> Option<Self> {
        Self::launch(false)
    }

    /// Starts a registry that asks for [`USER`] and [`PASSWORD`].
    pub fn start_with_login() -> Option<Self> {
        Self::launch(true)
    }

    fn launch(login: bool) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: '{root}/data'}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n"
        );
        if login {
            std::fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
            config.push_str(&format!("auth: {{htpasswd: {{realm: test, path: '{root}/htpasswd'}}}}\n"));
        }
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let spawned = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: docker-registry cannot be started: {error}");
                return None;
            }
        };
        let addr = listening(&mut child);
        let credentials = if login { Credentials::basic(USER, PASSWORD) } else { Credentials::Anonymous };
        Some(Self { child, addr, credentials, dir })
    }

    /// `127.0.0.1:port`
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the registry keeps its files.
    pub fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// A session with the registry's own credentials.
    pub fn session(&self, path: &str) -> Session {
        let config = ClientConfig { certs_dirs: Vec::new(), proxy_from_environment: false, ..ClientConfig::default() };
        let repository = Repository::new(&self.host(), path).unwrap();
        Client::new(config).unwrap().session(repository, self.credentials.clone()).unwrap()
    }

    pub async fn push_blob(&self, path: &str, blob: &[u8]) -> Digest {
        let digest = Digest::of(blob);
        let push = BlobPush {
            digest: &digest,
            size: blob.len() as u64,
            source: Bytes::copy_from_slice(blob).into(),
            mount_from: None,
            mode: UploadMode::Whole,
        };
        self.session(path).push_blob(&push).await.unwrap();
        digest
    }

    /// Pushes an OCI image: its config (JSON) and its layers, each with its media type. Returns the manifest's digest.
    pub async fn push_image(&self, path: &str, tag: &str, config: &[u8], layers: &[(&str, &[u8])]) -> Digest {
        let mut entries = Vec::new();
        for (layer_type, layer) in layers {
            let digest = self.push_blob(path, layer).await;
            entries.push(serde_json::json!({"mediaType": layer_type, "digest": digest.as_str(), "size": layer.len()}));
        }
        let config_digest = self.push_blob(path, config).await;
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest.as_str(),
                "size": config.len(),
            },
            "layers": entries,
        });
        self.push_manifest(path, tag, media_type::OCI_MANIFEST, manifest.to_string().as_bytes()).await
    }

    /// Pushes a manifest or an index under a tag or a digest.
    pub async fn push_manifest(&self, path: &str, reference: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let reference = ManifestRef::parse(reference).unwrap();
        self.session(path).push_manifest(&reference, media_type, Bytes::copy_from_slice(bytes)).await.unwrap()
    }
}

/// Waits for the registry to say where it listens; its later words are read and dropped.
fn listening(child: &mut Child) -> SocketAddr {
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut all = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() == 0 {
            panic!("docker-registry ended: {all}");
        }
        if let Some((_, rest)) = line.split_once("listening on ") {
            let addr: String = rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            return addr.parse().unwrap();
        }
        all.push_str(&line);
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A last write of the registry may still be under way when the directory is removed.
        std::thread::sleep(Duration::from_millis(1));
    }
}
