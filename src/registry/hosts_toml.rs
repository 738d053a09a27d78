//! Directories in the style of `certs.d`: a folder a registry, with `hosts.toml` or with bare certificates in it.
//!
//! The form is containerd's (its docs/hosts.md), so that a node keeps its mirrors when it changes the runtime. Read
//! for each session: the files are small, and a change counts from the next pull on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::config::{Capability, span};
use super::error::{Error, Result};
use super::name::split_port;

/// What a folder says: the hosts in their order, and the registry's own settings.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct HostsFile {
    /// The URL in `server`, if there is one.
    pub(crate) server: Option<String>,
    pub(crate) settings: HostTable,
    pub(crate) hosts: Vec<(String, HostTable)>,
}

/// The settings of one host.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct HostTable {
    pub(crate) capabilities: Option<Vec<Capability>>,
    pub(crate) ca: Vec<PathBuf>,
    /// Certificate and key; the same file twice if both are in one.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    pub(crate) skip_verify: bool,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) override_path: bool,
    pub(crate) dial_timeout: Option<Duration>,
}

/// Finds the folder for a registry and reads it. `None`: no directory has one.
pub(crate) fn find(certs_dirs: &[PathBuf], registry: &str) -> Result<Option<HostsFile>> {
    for name in folder_names(registry) {
        for dir in certs_dirs {
            let folder = dir.join(&name);
            if folder.is_dir() {
                return read_folder(&folder).map(Some);
            }
        }
    }
    Ok(None)
}

fn folder_names(registry: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let (host, Some(port)) = split_port(registry) {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    names
}

fn read_folder(folder: &Path) -> Result<HostsFile> {
    let path = folder.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(&text, folder).map_err(|why| Error::config(format!("{}: {why}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Ok(HostsFile { settings: bare_certificates(folder)?, ..HostsFile::default() })
        }
        Err(e) => Err(Error::config(format!("{}: cannot be read: {e}", path.display()))),
    }
}

/// Docker's form: `*.crt` are authorities, `x.cert` with `x.key` is the client's certificate.
fn bare_certificates(folder: &Path) -> Result<HostTable> {
    let wrong = |e: std::io::Error| Error::config(format!("{}: cannot be read: {e}", folder.display()));
    let mut table = HostTable::default();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrong)? {
        files.push(entry.map_err(wrong)?.path());
    }
    files.sort();
    for path in files {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => table.ca.push(path),
            Some("cert") if table.client.is_none() => {
                let key = path.with_extension("key");
                if !key.is_file() {
                    return Err(Error::config(format!("{}: there is no {} beside it", path.display(), key.display())));
                }
                table.client = Some((path, key));
            }
            _ => {}
        }
    }
    Ok(table)
}

#[derive(Deserialize)]
struct RawFile {
    server: Option<String>,
    // The order of hosts matters and a map forgets it; the place in the file does not.
    #[serde(default)]
    host: BTreeMap<Spanned<String>, RawTable>,
    #[serde(flatten)]
    settings: RawTable,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawTable {
    capabilities: Option<Vec<Capability>>,
    ca: Option<OneOrMany>,
    client: Option<RawClient>,
    skip_verify: bool,
    header: BTreeMap<String, OneOrMany>,
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawClient {
    One(String),
    Many(Vec<OneOrMany>),
}

fn parse(text: &str, folder: &Path) -> std::result::Result<HostsFile, String> {
    let raw: RawFile = toml::from_str(text).map_err(|e| e.to_string().trim().to_owned())?;
    let mut hosts: Vec<_> = raw.host.into_iter().collect();
    hosts.sort_by_key(|(key, _)| key.span().start);
    let hosts = hosts
        .into_iter()
        .map(|(key, table)| {
            let url = key.into_inner();
            table_of(table, folder).map(|table| (url.clone(), table)).map_err(|why| format!("[host.\"{url}\"]: {why}"))
        })
        .collect::<std::result::Result<_, _>>()?;
    let server = raw.server.filter(|s| !s.is_empty());
    Ok(HostsFile { server, settings: table_of(raw.settings, folder)?, hosts })
}

fn table_of(raw: RawTable, folder: &Path) -> std::result::Result<HostTable, String> {
    let dial_timeout = match raw.dial_timeout {
        None => None,
        Some(text) => Some(span::parse(&text).ok_or_else(|| format!("dial_timeout = \"{text}\" is no span of time"))?),
    };
    let mut headers = Vec::new();
    for (name, values) in raw.header {
        headers.extend(values.into_vec().into_iter().map(|value| (name.clone(), value)));
    }
    Ok(HostTable {
        capabilities: raw.capabilities,
        ca: raw.ca.map(OneOrMany::into_vec).unwrap_or_default().iter().map(|path| folder.join(path)).collect(),
        client: client_pair(raw.client, folder)?,
        skip_verify: raw.skip_verify,
        headers,
        override_path: raw.override_path,
        dial_timeout,
    })
}

/// A file, a list of files, or a list of pairs. Only one certificate is shown to a host: the first.
fn client_pair(raw: Option<RawClient>, folder: &Path) -> std::result::Result<Option<(PathBuf, PathBuf)>, String> {
    let first = match raw {
        None => return Ok(None),
        Some(RawClient::One(file)) => vec![file],
        Some(RawClient::Many(list)) => match list.into_iter().next() {
            None => return Ok(None),
            Some(item) => item.into_vec(),
        },
    };
    match first.as_slice() {
        [cert, key] if !key.is_empty() => Ok(Some((folder.join(cert), folder.join(key)))),
        [cert] | [cert, _] => Ok(Some((folder.join(cert), folder.join(cert)))),
        _ => Err("client: each entry is a file or a pair of files".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> HostsFile {
        parse(text, Path::new("/certs/x")).unwrap()
    }

    #[test]
    fn hosts_keep_their_order_and_settings() {
        let file = read(
            r#"
server = "https://registry-1.docker.io"
ca = "own.crt"

[host."https://z.example"]
  capabilities = ["pull"]
  ca = ["/abs/a.crt", "rel/b.crt"]
  dial_timeout = "3s"
  [host."https://z.example".header]
    x-one = "1"
    x-two = ["2", "3"]

[host."http://a.example:5000/v2/cache"]
  skip_verify = true
  override_path = true
  some_future_key = 1
"#,
        );
        assert_eq!(file.server.as_deref(), Some("https://registry-1.docker.io"));
        assert_eq!(file.settings.ca, [PathBuf::from("/certs/x/own.crt")]);
        let urls: Vec<_> = file.hosts.iter().map(|(url, _)| url.as_str()).collect();
        assert_eq!(urls, ["https://z.example", "http://a.example:5000/v2/cache"]);
        let z = &file.hosts[0].1;
        assert_eq!(z.capabilities, Some(vec![Capability::Pull]));
        assert_eq!(z.ca, [PathBuf::from("/abs/a.crt"), PathBuf::from("/certs/x/rel/b.crt")]);
        assert_eq!(z.dial_timeout, Some(Duration::from_secs(3)));
        assert_eq!(z.headers.len(), 3);
        assert!(file.hosts[1].1.skip_verify && file.hosts[1].1.override_path);
    }

    #[test]
    fn clients_in_all_forms() {
        let client = |text: &str| read(text).settings.client;
        let pair = |a: &str, b: &str| Some((PathBuf::from(a), PathBuf::from(b)));
        assert_eq!(client("client = '/c.pem'"), pair("/c.pem", "/c.pem"));
        assert_eq!(client("client = ['/c.pem', '/d.pem']"), pair("/c.pem", "/c.pem"));
        assert_eq!(client("client = [['/c.crt', 'c.key'], ['/d.pem', '']]"), pair("/c.crt", "/certs/x/c.key"));
        assert_eq!(client("client = [['/d.pem', '']]"), pair("/d.pem", "/d.pem"));
        assert_eq!(client(""), None);
    }

    #[test]
    fn mistakes_are_told() {
        for text in [
            "server = 1",
            "[host.x]\ndial_timeout = 'soon'",
            "[host.x]\ncapabilities = ['fly']",
            "[host",
            "client = [[]]",
        ] {
            assert!(parse(text, Path::new("/")).is_err(), "{text}");
        }
    }

    #[test]
    fn folders_are_found_by_all_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("none"), dir.path().to_owned()];
        let write = |name: &str, server: &str| {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("hosts.toml"), format!("server = '{server}'")).unwrap();
        };
        let server = |registry: &str| find(&dirs, registry).unwrap().and_then(|file| file.server);
        assert_eq!(server("r.io:5000"), None);
        write("_default", "default");
        assert_eq!(server("r.io:5000").as_deref(), Some("default"));
        write("r.io:5000", "colon");
        assert_eq!(server("r.io:5000").as_deref(), Some("colon"));
        write("r.io_5000_", "underscore");
        assert_eq!(server("r.io:5000").as_deref(), Some("underscore"));
        assert_eq!(server("r.io").as_deref(), Some("default"));

        let bare = dir.path().join("bare.io");
        std::fs::create_dir(&bare).unwrap();
        for file in ["b.crt", "a.crt", "c.cert", "c.key", "README"] {
            std::fs::write(bare.join(file), "").unwrap();
        }
        let table = find(&dirs, "bare.io").unwrap().unwrap().settings;
        assert_eq!(table.ca, [bare.join("a.crt"), bare.join("b.crt")]);
        assert_eq!(table.client, Some((bare.join("c.cert"), bare.join("c.key"))));
        std::fs::remove_file(bare.join("c.key")).unwrap();
        assert!(find(&dirs, "bare.io").is_err());
    }
}
