//! The small HTTP server that lets the agent be watched.
//!
//! | path | answer |
//! |---|---|
//! | /metrics | OpenMetrics text |
//! | /healthz | 200 `ok`, or 503 with the reason |
//! | /pulls | JSON list of the pulls under way, for the progress bar of `orlop pull` |
//!
//! The same answers come over TCP (where `metrics.address` says) and over `http.sock` beside the CRI socket.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::Metrics;

/// Connections that are served at one time; more wait.
const CONNECTIONS: usize = 32;
/// A client that has not sent its request by then is let go.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

type Health = Box<dyn Fn() -> Result<(), String> + Send + Sync>;
type Pulls = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What the answers are made of.
pub struct Sources {
    pub metrics: Arc<Metrics>,
    /// Whether the agent can do its work; if not, why.
    pub health: Health,
    /// The pulls under way, as JSON.
    pub pulls: Pulls,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// Binds `address`; separate from serving, so that a port in use is an error of the start.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Binds a socket file that only its owner can open. A file left by a process that died is replaced.
///
/// # Errors
/// The file cannot be replaced, bound or protected.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers on `listener` until the task is dropped.
pub async fn serve_tcp(listener: TcpListener, sources: Arc<Sources>) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => spawn(stream, &sources, permit),
            Err(error) => pause(&error).await,
        }
    }
}

/// Answers on `listener` until the task is dropped.
pub async fn serve_unix(listener: UnixListener, sources: Arc<Sources>) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => spawn(stream, &sources, permit),
            Err(error) => pause(&error).await,
        }
    }
}

/// accept(2) fails at once, again and again, when descriptors run out; this keeps it from spinning.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "metrics: a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn spawn<S>(stream: S, sources: &Arc<Sources>, permit: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let sources = Arc::clone(sources);
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let answer = answer(&sources, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut server = hyper::server::conn::http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        // A client that goes away in the middle is no news.
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
        drop(permit);
    });
}

fn answer(sources: &Sources, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            reply(StatusCode::OK, kind, sources.metrics.text())
        }
        "/healthz" => match (sources.health)() {
            Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        "/pulls" => reply(StatusCode::OK, "application/json", (sources.pulls)().to_string()),
        path => text(StatusCode::NOT_FOUND, format!("{path} is not here; /metrics, /healthz and /pulls are\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", body)
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
