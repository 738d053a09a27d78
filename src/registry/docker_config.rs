//! Credentials kept on this machine: Docker's `config.json`, containers' `auth.json`, and credential helpers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::credentials::{AuthFields, Credentials, canonical_host};
use super::error::{Error, Result};
use super::name::Repository;
use super::text::printable;

/// A file with credentials, as `docker login`, `podman login` and the like write it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AuthFile {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credsStore")]
    store: String,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(hidden)")
    }
}

/// The largest file that is read.
const MAX_FILE: u64 = 4 << 20;
/// How long a credential helper may take, and how much it may say.
const HELPER_TIME: Duration = Duration::from_secs(30);
const MAX_HELPER_OUTPUT: u64 = 1 << 20;

impl AuthFile {
    /// Reads a file. `None`: there is none.
    ///
    /// # Errors
    /// A file that cannot be read or is not what its name says.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let wrong = |why: String| Error::config(format!("{}: {why}", path.display()));
        match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(wrong(format!("cannot be read: {e}"))),
            Ok(meta) if meta.len() > MAX_FILE => return Err(wrong("too large for a file with credentials".to_owned())),
            Ok(_) => {}
        }
        let text = std::fs::read(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        // The parser's own message could quote a secret; the place is enough.
        let mut file: Self = serde_json::from_slice(&text)
            .map_err(|e| wrong(format!("not a file with credentials (line {}, column {})", e.line(), e.column())))?;
        path.clone_into(&mut file.path);
        Ok(Some(file))
    }

    /// Where such files usually are for the user who runs this program: `$DOCKER_CONFIG/config.json`,
    /// `$REGISTRY_AUTH_FILE`, `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.docker/config.json`.
    pub fn usual_paths() -> Vec<PathBuf> {
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let mut paths = Vec::new();
        paths.extend(variable("REGISTRY_AUTH_FILE"));
        paths.extend(variable("DOCKER_CONFIG").map(|dir| dir.join("config.json")));
        paths.extend(variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")));
        paths.extend(variable("HOME").map(|dir| dir.join(".docker/config.json")));
        paths
    }

    /// The credentials for a repository: from the helper of its registry, from the common helper, or from the file
    /// itself, where the longest key that fits counts (`registry.io/team` before `registry.io`).
    ///
    /// # Errors
    /// A helper that fails; that it knows no credentials is no failure.
    pub async fn credentials(&self, repository: &Repository) -> Result<Option<Credentials>> {
        let host = canonical_host(repository.registry());
        let helper = self.helpers.iter().find(|(key, _)| canonical_host(key) == host);
        if let Some((key, helper)) = helper {
            return self.ask(helper, key).await;
        }
        if let Some(entry) = self.entry(&host, repository.path()) {
            let fields = AuthFields {
                username: &entry.username,
                password: &entry.password,
                auth: &entry.auth,
                server_address: "",
                identity_token: &entry.identitytoken,
                registry_token: &entry.registrytoken,
            };
            let found = Credentials::from_fields(&fields, repository.registry())?;
            if !found.is_anonymous() {
                return Ok(Some(found));
            }
        }
        if self.store.is_empty() {
            return Ok(None);
        }
        // Docker keeps its own registry under an address of old.
        let server = if host == "docker.io" { "https://index.docker.io/v1/" } else { host.as_str() };
        self.ask(&self.store, server).await
    }

    fn entry(&self, host: &str, path: &str) -> Option<&Entry> {
        let fits = |key: &str| {
            let namespace = key_namespace(key);
            let inside = namespace.is_empty()
                || path.strip_prefix(namespace).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            (canonical_host(key) == host && inside).then_some(namespace.len())
        };
        self.auths
            .iter()
            .filter_map(|(key, entry)| fits(key).map(|length| (length, entry)))
            .max_by_key(|(l, _)| *l)
            .map(|(_, e)| e)
    }

    async fn ask(&self, helper: &str, server: &str) -> Result<Option<Credentials>> {
        ask_helper(helper, server).await.map_err(|why| {
            Error::config(format!("{}: credential helper \"{}\": {why}", self.path.display(), printable(helper, 80)))
        })
    }
}

/// The path in a key, without the version of an API: `https://r.io/v1/` has none, `r.io/team` has `team`.
fn key_namespace(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path).trim_matches('/');
    if matches!(path, "v1" | "v2") { "" } else { path }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Runs `docker-credential-<name> get` with the server on its standard input.
async fn ask_helper(name: &str, server: &str) -> std::result::Result<Option<Credentials>, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(plain) {
        return Err("not a name".to_owned());
    }
    run_helper(&format!("docker-credential-{name}"), server).await
}

async fn run_helper(program: &str, server: &str) -> std::result::Result<Option<Credentials>, String> {
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{program} cannot be started: {e}"))?;
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that answers without reading closes the pipe; that is its right.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_HELPER_OUTPUT).read_to_end(&mut output).await.map_err(|e| e.to_string())?;
        }
        let status = child.wait().await.map_err(|e| e.to_string())?;
        Ok::<_, String>((status, output))
    };
    let (status, output) = tokio::time::timeout(HELPER_TIME, talk)
        .await
        .map_err(|_| format!("no answer within {} s", HELPER_TIME.as_secs()))??;
    if !status.success() {
        let text = printable(&String::from_utf8_lossy(&output), 200);
        return if text.contains("credentials not found") { Ok(None) } else { Err(format!("{status}: {text}")) };
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output).map_err(|_| "its answer is not what helpers say".to_owned())?;
    if answer.username.is_empty() && answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(Credentials::basic(&answer.username, &answer.secret)))
}

#[cfg(test)]
mod tests;
