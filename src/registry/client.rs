//! The client of the process, and the session of one caller with one repository.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{ACCEPT_ENCODING, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};

use super::auth::Tokens;
use super::config::{Capability, ClientConfig};
use super::counters::Counters;
use super::credentials::Credentials;
use super::docker_config::AuthFile;
use super::endpoint::{self, Endpoint};
use super::error::{Error, ErrorKind, Result};
use super::name::Repository;
use super::origin::Origin;
use super::proxy::ProxyRules;
use super::retry::Retrier;
use super::transport::{Body, Http, Transport};

/// The registry client of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: ClientConfig,
    pub(crate) transport: Transport,
    pub(crate) tokens: Tokens,
    pub(crate) counters: Counters,
    pub(crate) salt: [u8; 16],
    user_agent: HeaderValue,
    /// Hosts that could not be reached, and until when they go behind the others.
    sour: Mutex<HashMap<Origin, Instant>>,
}

/// For how long a mirror that cannot be reached is asked last instead of in its turn.
const SOUR_TIME: Duration = Duration::from_secs(30);

impl Client {
    /// Makes the client. Nothing is connected and no certificate is read yet.
    ///
    /// # Errors
    /// A proxy variable of the environment that cannot be understood, or no random numbers.
    pub fn new(config: ClientConfig) -> Result<Self> {
        let proxy = if config.proxy_from_environment { ProxyRules::from_environment()? } else { ProxyRules::none() };
        Self::with_proxy(config, proxy)
    }

    pub(crate) fn with_proxy(config: ClientConfig, proxy: ProxyRules) -> Result<Self> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|e| Error::config(format!("no random numbers: {e}")))?;
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                transport: Transport::new(proxy),
                tokens: Tokens::default(),
                counters: Counters::default(),
                salt,
                user_agent: HeaderValue::from_static(concat!("orlop/", env!("CARGO_PKG_VERSION"))),
                sour: Mutex::default(),
            }),
        })
    }

    /// Begins a session with a repository. Where the caller has no credentials, those in the configured `auth_files`
    /// are looked for before the first request. Reads the settings of its hosts (mirrors, certificates) as they are now.
    ///
    /// # Errors
    /// Settings or certificate files that cannot be used; nothing was sent then.
    pub fn session(&self, repository: Repository, credentials: Credentials) -> Result<Session> {
        let hosts = endpoint::plan(&self.inner.config, &self.inner.transport, &repository, &credentials)
            .map_err(|e| e.about(&repository.to_string(), ""))?;
        let ask_files = credentials.is_anonymous() && !self.inner.config.auth_files.is_empty();
        Ok(Session {
            inner: Arc::clone(&self.inner),
            repository,
            hosts: Arc::new(hosts.into_iter().map(Arc::new).collect()),
            with_files: ask_files.then(Arc::default),
        })
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }
}

impl Inner {
    /// The credentials that the configured `auth_files` have for a repository.
    async fn local_credentials(&self, repository: &Repository) -> Result<Option<Credentials>> {
        for path in &self.config.auth_files {
            if let Some(file) = AuthFile::read(path)?
                && let Some(found) = file.credentials(repository).await?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    pub(crate) fn retrier(&self, attempts: u32) -> Retrier {
        Retrier::new(&self.config.retry, attempts)
    }

    /// A request with the fields that all have.
    pub(crate) fn request(&self, method: Method, uri: Uri, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, self.user_agent.clone());
        // A digest is over the bytes as they are stored; any coding on the way would have to be undone first.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        request
    }

    /// Connections to another host on behalf of an endpoint (token server, redirect): the endpoint's own ones for its
    /// own origin, else those with its authorities but without its client certificate.
    pub(crate) fn http_for(&self, endpoint: &Endpoint, origin: &Origin) -> Result<Http> {
        if *origin == endpoint.origin {
            return Ok(endpoint.http.clone());
        }
        Ok(self.transport.pool(&endpoint.tls.authorities_only(), endpoint.connect))
    }

    fn mark_sour(&self, origin: &Origin) {
        let mut sour = self.sour.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        sour.retain(|_, until| *until > now);
        sour.insert(origin.clone(), now + SOUR_TIME);
    }

    fn is_sour(&self, origin: &Origin) -> bool {
        let sour = self.sour.lock().unwrap_or_else(PoisonError::into_inner);
        sour.get(origin).is_some_and(|until| *until > Instant::now())
    }
}

/// What one caller does with one repository. Cheap to clone; its operations may run side by side.
#[derive(Clone, Debug)]
pub struct Session {
    pub(crate) inner: Arc<Inner>,
    pub(crate) repository: Repository,
    hosts: Hosts,
    /// For a caller without credentials: the same hosts with those of the machine's files, once these were read.
    /// Helpers take time, so they are asked by the first request and not by [`Client::session`].
    with_files: Option<Arc<tokio::sync::OnceCell<Hosts>>>,
}

type Hosts = Arc<Vec<Arc<Endpoint>>>;

impl Session {
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The hosts that can do something, in the order in which to ask them.
    pub(crate) async fn hosts_for(&self, what: Capability) -> Result<Vec<Arc<Endpoint>>> {
        let all = match &self.with_files {
            None => &self.hosts,
            Some(cell) => cell.get_or_try_init(|| self.hosts_with_files()).await?,
        };
        let mut hosts: Vec<_> = all.iter().filter(|host| host.can(what)).cloned().collect();
        if hosts.is_empty() {
            return Err(Error::config(format!(
                "no host is set up that may {what:?} (the \"capabilities\" of the registry and its mirrors)"
            )));
        }
        // A stable sort: the order of the settings holds among those that are well and those that are not.
        hosts.sort_by_key(|host| !host.upstream && self.inner.is_sour(&host.origin));
        Ok(hosts)
    }

    async fn hosts_with_files(&self) -> Result<Hosts> {
        let inner = &self.inner;
        match inner.local_credentials(&self.repository).await? {
            None => Ok(Arc::clone(&self.hosts)),
            Some(found) => {
                let hosts = endpoint::plan(&inner.config, &inner.transport, &self.repository, &found)?;
                Ok(Arc::new(hosts.into_iter().map(Arc::new).collect()))
            }
        }
    }

    /// Runs an operation at one host after the other until one succeeds. The last host gets all the attempts of the
    /// settings; those before it are left at once for the next.
    pub(crate) async fn on_hosts<T, F, Fut>(&self, what: Capability, reference: &str, operation: F) -> Result<T>
    where
        F: Fn(Arc<Endpoint>) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let repository = self.repository.path();
        let hosts = self.hosts_for(what).await.map_err(|e| e.about(repository, reference))?;
        let mut earlier = Vec::new();
        for (at, host) in hosts.iter().enumerate() {
            let last = at + 1 == hosts.len();
            let mut retrier = self.inner.retrier(if last { self.inner.config.retry.attempts } else { 1 });
            let error = loop {
                match operation(Arc::clone(host)).await {
                    Ok(value) => return Ok(value),
                    Err(error) => {
                        if let Err(error) = retrier.wait_after(error, &self.inner.counters).await {
                            break error;
                        }
                    }
                }
            };
            let error = error.at_host(&host.name).about(repository, reference);
            if last {
                return Err(error.after(earlier));
            }
            self.leave(host, &error);
            earlier.push(error.brief());
        }
        Err(Error::new(ErrorKind::Config, "no host to ask"))
    }

    /// Notes that another host is asked instead of this one.
    pub(crate) fn leave(&self, host: &Endpoint, error: &Error) {
        self.inner.counters.add_fallbacks(1);
        if error.is_transport() {
            self.inner.mark_sour(&host.origin);
        }
        tracing::info!(repository = %self.repository, %error, "going on to the next host");
    }
}
