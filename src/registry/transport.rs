//! Connections: one pool for each kind of TLS that is in use, shared by all sessions of the process.
//!
//! A pool knows nothing of credentials; they are header fields of single requests. Only client certificates belong to
//! connections, and those are part of what makes a pool another pool.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Request, Response, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::Service;

use super::counters::Counters;
use super::dial::{BoxError, Dialer, Greedy};
use super::error::{Error, ErrorKind, Result};
use super::proxy::ProxyRules;
use super::tls::TlsMaterial;

/// The body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Connections for one kind of TLS.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: HyperClient<Connector, Body>,
    proxy: Arc<ProxyRules>,
}

impl Http {
    /// Sends a request and waits for the head of the answer, for no longer than `limit`.
    pub(crate) async fn send(
        &self,
        mut request: Request<Body>,
        limit: Duration,
        counters: &Counters,
    ) -> Result<Response<Incoming>> {
        counters.add_requests(1);
        // Through a tunnel the proxy was told when it was opened; a plain request has to tell it by itself.
        if request.uri().scheme_str() == Some("http")
            && let Some(secret) = self.proxy.for_uri(request.uri()).and_then(|proxy| proxy.authorization)
            && let Ok(mut value) = HeaderValue::from_str(&secret)
        {
            value.set_sensitive(true);
            request.headers_mut().insert(PROXY_AUTHORIZATION, value);
        }
        let host = request.uri().authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
        let result = match tokio::time::timeout(limit, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(classify(&error).at_host(&host)),
            Err(_) => Err(Error::transport(
                ErrorKind::Unavailable,
                format!("no answer within {}", super::config::span::print(limit)),
            )
            .at_host(&host)),
        };
        if result.is_err() {
            counters.add_failures(1);
        }
        result
    }
}

/// Turns an error of hyper or of what lies below it into ours, by its causes.
pub(crate) fn classify(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut kind = ErrorKind::Unavailable;
    let mut plain = false;
    let mut texts: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return ours.clone();
        }
        if error.downcast_ref::<rustls::Error>().is_some_and(|e| !is_broken_off(e)) {
            kind = ErrorKind::Tls;
            plain |= matches!(error.downcast_ref(), Some(rustls::Error::InvalidMessage(_)));
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            kind = ErrorKind::Canceled;
        }
        let io = error.downcast_ref::<std::io::Error>();
        let text = error.to_string();
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
        // An io::Error shows its payload only through get_ref, not as its source.
        cause = match io.and_then(|e| e.get_ref()) {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    let mut text = super::text::printable(&texts.join(": "), 400);
    if plain {
        text.push_str("; if the registry speaks HTTP without TLS, set \"plain_http\" for its host");
    }
    let error = Error::transport(kind, text);
    if kind == ErrorKind::Canceled { error.with_retry(super::error::Retry::Backoff) } else { error }
}

/// Errors of rustls that mean a broken connection, not a certificate that is wrong.
fn is_broken_off(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::AlertReceived(rustls::AlertDescription::CloseNotify | rustls::AlertDescription::InternalError)
    )
}

/// By content of the TLS settings and time limit for connecting: the pool and when it was last asked for.
type Pools = HashMap<([u8; 32], Duration), (Http, Instant)>;

/// Makes and keeps the pools.
#[derive(Debug)]
pub(crate) struct Transport {
    proxy: Arc<ProxyRules>,
    pools: Mutex<Pools>,
}

/// Pools beyond this number are closed, the longest unused first. Only exchanged certificates ever make many.
const MAX_POOLS: usize = 64;

impl Transport {
    pub(crate) fn new(proxy: ProxyRules) -> Self {
        Self { proxy: Arc::new(proxy), pools: Mutex::default() }
    }

    /// The pool for this TLS and this time limit for connecting.
    pub(crate) fn pool(&self, tls: &TlsMaterial, connect: Duration) -> Http {
        let key = (tls.key(), connect);
        let mut pools = self.lock();
        if let Some((http, used)) = pools.get_mut(&key) {
            *used = Instant::now();
            return http.clone();
        }
        if pools.len() >= MAX_POOLS {
            let oldest = pools.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                pools.remove(&oldest);
            }
        }
        let proxy = Arc::clone(&self.proxy);
        let http = Http { client: build(tls.clone(), connect, Arc::clone(&proxy)), proxy };
        pools.insert(key, (http.clone(), Instant::now()));
        http
    }

    fn lock(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn build(tls: TlsMaterial, connect: Duration, proxy: Arc<ProxyRules>) -> HyperClient<Connector, Body> {
    let connector = Connector { dialer: Dialer::new(connect, proxy), connect, tls: Arc::new(LazyTls::new(tls)) };
    HyperClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        // Shorter than what load balancers usually allow, so that a pooled connection is seldom found dead.
        .pool_idle_timeout(Duration::from_secs(20))
        .pool_max_idle_per_host(8)
        // Grows with the speed of the connection; large reads mean few wake-ups.
        .http1_max_buf_size(READ_BUFFER)
        .http2_initial_stream_window_size(4 << 20)
        .http2_initial_connection_window_size(16 << 20)
        .http2_max_frame_size(256 << 10)
        .http2_max_header_list_size(64 << 10)
        // One connection carries many streams, and a time-out of one does not close it: a peer that went away without
        // a word has to be noticed, or each retry would go down the same dead pipe. No pings while nothing is asked.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .build(connector)
}

const READ_BUFFER: usize = 256 << 10;

/// TLS settings that are only made when the first connection needs them: reading the machine's authorities costs
/// milliseconds and memory that a node with a plain registry never pays.
struct LazyTls {
    material: TlsMaterial,
    config: OnceLock<std::result::Result<Arc<rustls::ClientConfig>, Error>>,
}

impl LazyTls {
    fn new(material: TlsMaterial) -> Self {
        Self { material, config: OnceLock::new() }
    }

    fn get(&self) -> Result<Arc<rustls::ClientConfig>> {
        self.config.get_or_init(|| self.material.build().map(Arc::new)).clone()
    }
}

/// Connects: name, proxy, TCP, TLS, all within one time limit.
#[derive(Clone)]
struct Connector {
    dialer: Dialer,
    connect: Duration,
    tls: Arc<LazyTls>,
}

impl Service<Uri> for Connector {
    type Response = Greedy;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = std::result::Result<Greedy, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::result::Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { dialer, connect, tls } = self.clone();
        Box::pin(async move {
            // A plain connection goes through the same type; its TLS settings are never looked at.
            let config = if uri.scheme_str() == Some("https") { tls.get()? } else { plain_placeholder()? };
            let mut https = HttpsConnector::from((dialer, config));
            match tokio::time::timeout(connect, https.call(uri)).await {
                Ok(result) => result.map(Greedy::new),
                Err(_) => {
                    let text = format!("no connection within {}", super::config::span::print(connect));
                    Err(Error::transport(ErrorKind::Unavailable, text).into())
                }
            }
        })
    }
}

/// A TLS configuration that trusts nobody.
fn plain_placeholder() -> Result<Arc<rustls::ClientConfig>> {
    static NONE: OnceLock<std::result::Result<Arc<rustls::ClientConfig>, Error>> = OnceLock::new();
    NONE.get_or_init(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|b| Arc::new(b.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()))
            .map_err(|e| Error::config(format!("TLS cannot be set up: {e}")))
    })
    .clone()
}
