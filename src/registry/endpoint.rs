//! From a repository and the settings to the list of hosts to ask, in their order, each with its own TLS, header
//! fields and credentials.

use std::path::PathBuf;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Uri, http::uri::PathAndQuery};

use super::client::Inner;
use super::config::{Capability, ClientConfig, HostConfig, MirrorConfig};
use super::credentials::{Credentials, canonical_host};
use super::error::{Error, Result};
use super::hosts_toml::{self, HostTable, HostsFile};
use super::name::Repository;
use super::origin::{Origin, parse_base};
use super::tls::TlsMaterial;
use super::transport::{Http, Transport};

/// One host that can serve a repository.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) origin: Origin,
    /// The host for messages.
    pub(crate) name: String,
    /// `https://host/v2`, without a slash at the end.
    pub(crate) root: String,
    capabilities: Vec<Capability>,
    /// The registry itself, not a mirror.
    pub(crate) upstream: bool,
    /// The value of the `ns` parameter, for hosts that serve several registries.
    ns: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) credentials: Credentials,
    pub(crate) tls: TlsMaterial,
    pub(crate) connect: Duration,
    pub(crate) http: Http,
}

impl Endpoint {
    /// A place outside the registry, named by a descriptor: no credentials, no fields, no client certificate.
    pub(crate) fn foreign(inner: &Inner, uri: &Uri) -> Result<Self> {
        let origin = Origin::of(uri)?;
        let tls = TlsMaterial::default();
        let connect = inner.config.timeouts.connect;
        Ok(Self {
            name: origin.authority(),
            root: origin.to_string(),
            capabilities: vec![Capability::Pull],
            upstream: false,
            ns: None,
            headers: HeaderMap::new(),
            credentials: Credentials::Anonymous,
            http: inner.transport.pool(&tls, connect),
            tls,
            connect,
            origin,
        })
    }

    pub(crate) fn can(&self, what: Capability) -> bool {
        self.capabilities.contains(&what)
            || (what == Capability::Referrers && self.capabilities.contains(&Capability::Resolve))
    }

    /// The address of something in a repository: `manifests/latest`, `blobs/uploads/`.
    pub(crate) fn url(&self, repository: &str, rest: &str, query: &str) -> Result<Uri> {
        let mut query = query.to_owned();
        if let Some(ns) = &self.ns {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(&super::text::query([("ns", ns.as_str())]));
        }
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}/{repository}/{rest}{mark}{query}", self.root)
            .parse()
            .map_err(|_| Error::config(format!("repository \"{repository}\": makes an address that is too long")))
    }
}

/// A host as the settings describe it, whatever form they had.
#[derive(Debug)]
struct HostSpec {
    uri: Uri,
    override_path: bool,
    capabilities: Vec<Capability>,
    ca: Vec<PathBuf>,
    client: Option<(PathBuf, PathBuf)>,
    skip_verify: bool,
    headers: Vec<(String, String)>,
    connect: Option<Duration>,
    upstream: bool,
    credentials: Credentials,
}

const ALL: [Capability; 3] = [Capability::Pull, Capability::Resolve, Capability::Push];

/// The hosts for a repository: mirrors first, the registry itself last.
pub(crate) fn plan(
    config: &ClientConfig,
    transport: &Transport,
    repository: &Repository,
    credentials: &Credentials,
) -> Result<Vec<Endpoint>> {
    let specs = match config.host_config(repository.registry(), repository.path()) {
        Some(host) => from_config(host, repository, credentials)?,
        None => {
            let file = hosts_toml::find(&config.certs_dirs, repository.registry())?.unwrap_or_default();
            from_hosts_file(file, repository, credentials)?
        }
    };
    specs.into_iter().map(|spec| endpoint(spec, config, transport, repository)).collect()
}

/// docker.io answers somewhere else than its name says.
fn default_server(registry: &str) -> &str {
    if registry == "docker.io" || registry == "index.docker.io" { "registry-1.docker.io" } else { registry }
}

fn from_config(host: &HostConfig, repository: &Repository, credentials: &Credentials) -> Result<Vec<HostSpec>> {
    let mut specs = host.mirrors.iter().map(|m| mirror_spec(m, credentials)).collect::<Result<Vec<_>>>()?;
    let has_tls = !host.ca.is_empty() || host.client_cert.is_some() || host.skip_verify;
    let server = host.server.as_deref().unwrap_or_else(|| default_server(repository.registry()));
    specs.push(HostSpec {
        uri: parse_base(server, host.plain_http, has_tls)?,
        override_path: false,
        capabilities: ALL.to_vec(),
        ca: host.ca.clone(),
        client: client_files(host.client_cert.as_ref(), host.client_key.as_ref()),
        skip_verify: host.skip_verify,
        headers: pairs(&host.headers),
        connect: host.connect_timeout,
        upstream: true,
        credentials: credentials.clone(),
    });
    Ok(specs)
}

fn mirror_spec(mirror: &MirrorConfig, credentials: &Credentials) -> Result<HostSpec> {
    let has_tls = !mirror.ca.is_empty() || mirror.client_cert.is_some() || mirror.skip_verify;
    let own = mirror.credentials.as_ref().map(Credentials::from);
    let forwarded = mirror.forward_credentials.then(|| credentials.clone());
    Ok(HostSpec {
        uri: parse_base(&mirror.url, None, has_tls)?,
        override_path: mirror.override_path,
        capabilities: mirror.capabilities.clone().unwrap_or_else(|| vec![Capability::Pull, Capability::Resolve]),
        ca: mirror.ca.clone(),
        client: client_files(mirror.client_cert.as_ref(), mirror.client_key.as_ref()),
        skip_verify: mirror.skip_verify,
        headers: pairs(&mirror.headers),
        connect: mirror.connect_timeout,
        upstream: false,
        credentials: own.or(forwarded).unwrap_or_default(),
    })
}

fn from_hosts_file(file: HostsFile, repository: &Repository, credentials: &Credentials) -> Result<Vec<HostSpec>> {
    let mut specs = Vec::new();
    for (url, table) in file.hosts {
        specs.push(table_spec(&url, table, repository, credentials, false)?);
    }
    let server = file.server.as_deref().unwrap_or_else(|| default_server(repository.registry()));
    // The registry itself may be among the hosts; it is not asked twice.
    let spec = table_spec(server, file.settings, repository, credentials, true)?;
    if specs.iter().any(|s| s.uri == spec.uri && s.override_path == spec.override_path) {
        for same in specs.iter_mut().filter(|s| s.uri == spec.uri) {
            same.upstream = true;
        }
    } else {
        specs.push(spec);
    }
    Ok(specs)
}

fn table_spec(
    url: &str,
    table: HostTable,
    repository: &Repository,
    credentials: &Credentials,
    upstream: bool,
) -> Result<HostSpec> {
    let has_tls = !table.ca.is_empty() || table.client.is_some() || table.skip_verify;
    let uri = parse_base(url, None, has_tls)?;
    // Whatever the file calls its server: credentials go only to the host that they were given for.
    let same_host = canonical_host(&uri.to_string()) == canonical_host(repository.registry());
    Ok(HostSpec {
        override_path: table.override_path,
        capabilities: table.capabilities.unwrap_or_else(|| ALL.to_vec()),
        ca: table.ca,
        client: table.client,
        skip_verify: table.skip_verify,
        headers: table.headers,
        connect: table.dial_timeout,
        upstream,
        credentials: if same_host { credentials.clone() } else { Credentials::Anonymous },
        uri,
    })
}

fn endpoint(spec: HostSpec, config: &ClientConfig, transport: &Transport, repository: &Repository) -> Result<Endpoint> {
    let origin = Origin::of(&spec.uri)?;
    let client = spec.client.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
    let tls = TlsMaterial::read(&spec.ca, client, spec.skip_verify)?;
    let connect = spec.connect.unwrap_or(config.timeouts.connect);
    let is_registry = canonical_host(&spec.uri.to_string()) == canonical_host(repository.registry());
    Ok(Endpoint {
        name: origin.authority(),
        root: root(&spec.uri, spec.override_path),
        capabilities: spec.capabilities,
        upstream: spec.upstream,
        ns: (!is_registry).then(|| repository.registry().to_owned()),
        headers: header_map(&spec.headers, &origin)?,
        credentials: spec.credentials,
        http: transport.pool(&tls, connect),
        tls,
        connect,
        origin,
    })
}

fn root(uri: &Uri, override_path: bool) -> String {
    let path = uri.path_and_query().map_or("", PathAndQuery::path).trim_end_matches('/');
    let authority = uri.authority().map_or("", |a| a.as_str());
    let version =
        if override_path || path == "/v2" || path.ends_with("/v2") || path.contains("/v2/") { "" } else { "/v2" };
    format!("{}://{authority}{path}{version}", uri.scheme_str().unwrap_or("https"))
}

fn client_files(cert: Option<&PathBuf>, key: Option<&PathBuf>) -> Option<(PathBuf, PathBuf)> {
    cert.map(|cert| (cert.clone(), key.unwrap_or(cert).clone()))
}

fn pairs(headers: &std::collections::BTreeMap<String, String>) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn header_map(headers: &[(String, String)], origin: &Origin) -> Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let wrong = || {
            Error::config(format!("header \"{}\" for {origin}: not a header field", super::text::printable(name, 80)))
        };
        let name: HeaderName = name.parse().map_err(|_| wrong())?;
        let mut value: HeaderValue = value.parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        map.append(name, value);
    }
    Ok(map)
}
