//! One request to one host: with log-in and redirects, without retries.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode, Uri};

use super::answer;
use super::auth::{self, Scope};
use super::challenge;
use super::client::Session;
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::error::{Error, ErrorKind, Result};
use super::origin::{Origin, redacted, resolve};
use super::source::SourcePart;
use super::transport::{Body, empty, full};

/// The body of a request; made anew each time that it is sent.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Empty,
    Bytes(Bytes),
    Part(SourcePart),
}

/// A request within a repository.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Where to, on the host.
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Payload,
    pub(crate) scope: Scope,
    /// Whether redirects are followed; if not, they count as success.
    pub(crate) follow: bool,
}

impl Call {
    pub(crate) fn new(method: Method, uri: Uri, scope: Scope) -> Self {
        Self { method, uri, headers: HeaderMap::new(), body: Payload::Empty, scope, follow: true }
    }
}

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;
/// Answers 401 in a row that are worth another try: one for no token or an old one, one for a fresh one that came to
/// a copy of the registry that does not know it yet.
const MAX_CHALLENGES: usize = 2;

impl Session {
    /// Sends the request and gives back an answer of 2xx; all others are errors.
    pub(crate) async fn exchange(&self, host: &Endpoint, call: &Call) -> Result<Response<Incoming>> {
        let mut authorization = auth::prepare(&self.inner, host, &call.scope).await?;
        let mut challenges = 0;
        loop {
            let response = self.follow(host, call, authorization.as_ref()).await?;
            let status = response.status();
            if status.is_success() || (status.is_redirection() && !call.follow) {
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED && challenges < MAX_CHALLENGES {
                challenges += 1;
                if let Some(challenge) = challenge::best(response.headers()) {
                    let refused = authorization.as_ref();
                    let next = auth::challenged(&self.inner, host, &call.scope, &challenge, refused).await?;
                    if next.is_some() && next != authorization {
                        authorization = next;
                        continue;
                    }
                }
            }
            self.inner.counters.add_failures(1);
            return Err(answer::refusal(response, &host.credentials, &self.inner.config).await);
        }
    }

    /// Sends the request and follows redirects. To another origin go neither credentials nor the configured fields.
    async fn follow(
        &self,
        host: &Endpoint,
        call: &Call,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>> {
        let mut uri = call.uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let origin = Origin::of(&uri)?;
            let own = origin == host.origin;
            let mut request = self.request(call, uri.clone());
            if own {
                add_own_fields(&mut request, host, authorization);
            }
            let http = self.inner.http_for(host, &origin)?;
            tracing::trace!(method = %call.method, uri = %redacted(&uri), "request");
            let response = http.send(request, self.inner.config.timeouts.response, &self.inner.counters).await?;
            if response.status().is_redirection() && !call.follow {
                return Ok(response);
            }
            let Some(target) = redirect(&uri, &call.method, &response)? else {
                if !own && response.status() == StatusCode::UNAUTHORIZED {
                    // A storage host asks for a log-in: its challenge must not get what is meant for the registry.
                    let error = answer::refusal(response, &Credentials::Anonymous, &self.inner.config).await;
                    return Err(error.at_host(&origin.authority()));
                }
                return Ok(response);
            };
            let next = Origin::of(&target)
                .map_err(|_| Error::invalid("the registry redirects to something that is not HTTP"))?;
            if origin.https && !next.https {
                return Err(Error::new(
                    ErrorKind::Tls,
                    format!("redirected from TLS to plain HTTP ({}); not followed", redacted(&target)),
                ));
            }
            uri = target;
        }
        Err(Error::invalid(format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn request(&self, call: &Call, uri: Uri) -> Request<Body> {
        let counters = &self.inner.counters;
        let body = match &call.body {
            Payload::Empty => empty(),
            Payload::Bytes(bytes) => {
                counters.add_bytes_sent(bytes.len() as u64);
                full(bytes.clone())
            }
            Payload::Part(part) => {
                counters.add_bytes_sent(part.length);
                part.body()
            }
        };
        let mut request = self.inner.request(call.method.clone(), uri, body);
        request.headers_mut().extend(call.headers.clone());
        if let Payload::Part(part) = &call.body {
            request.headers_mut().insert(CONTENT_LENGTH, part.length.into());
        }
        request
    }
}

fn add_own_fields(request: &mut Request<Body>, host: &Endpoint, authorization: Option<&HeaderValue>) {
    let headers = request.headers_mut();
    for (name, value) in &host.headers {
        headers.append(name, value.clone());
    }
    if let Some(value) = authorization {
        headers.insert(AUTHORIZATION, value.clone());
    }
}

/// Where the answer sends us, if it is a redirect that a client may follow by itself.
fn redirect(uri: &Uri, method: &Method, response: &Response<Incoming>) -> Result<Option<Uri>> {
    let followed = match response.status().as_u16() {
        301..=303 => matches!(*method, Method::GET | Method::HEAD),
        307 | 308 => true,
        _ => false,
    };
    if !followed {
        return Ok(None);
    }
    match response.headers().get(LOCATION).and_then(|l| l.to_str().ok()) {
        Some(location) => resolve(uri, location).map(Some),
        None => {
            Err(Error::invalid("the registry redirects without saying where to")
                .with_status(response.status().as_u16()))
        }
    }
}
