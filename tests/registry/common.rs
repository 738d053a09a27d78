//! What the tests of the client share.

use std::time::Duration;

use orlop::registry::{Client, ClientConfig, Credentials, Digest, Repository, RetryConfig, Session, Timeouts};

pub const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}"#;

/// Settings with short waits, and nothing of this machine in them.
pub fn config() -> ClientConfig {
    ClientConfig {
        certs_dirs: Vec::new(),
        proxy_from_environment: false,
        retry: RetryConfig {
            attempts: 4,
            base: Duration::from_millis(2),
            cap: Duration::from_millis(20),
            max_retry_after: Duration::from_secs(3),
        },
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            response: Duration::from_secs(5),
            stall_window: Duration::from_millis(300),
            min_rate: 1024,
        },
        ..ClientConfig::default()
    }
}

pub fn session_with(config: ClientConfig, host: &str, credentials: Credentials) -> Session {
    let client = Client::new(config).unwrap();
    client.session(Repository::new(host, "team/app").unwrap(), credentials).unwrap()
}

pub fn session(host: &str) -> Session {
    session_with(config(), host, Credentials::Anonymous)
}

pub fn digest(bytes: &[u8]) -> Digest {
    Digest::of(bytes)
}

/// Bytes that do not repeat soon.
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ size as u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(size)
    .collect()
}

pub async fn read(session: &Session, blob: &[u8]) -> Result<Vec<u8>, orlop::registry::Error> {
    let mut stream = session.blob(&digest(blob), blob.len() as u64, &[]);
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next_chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
