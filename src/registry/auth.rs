//! Log-in: Basic, and tokens of the "token authentication" of registries, by GET or by OAuth2 POST.
//!
//! Tokens are kept by host, credentials and scope. Two callers with different credentials never share one; two
//! requests of one caller wait for the same token instead of fetching it twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Deserialize;

use super::answer;
use super::challenge::Challenge;
use super::client::Inner;
use super::credentials::{Credentials, Fingerprint};
use super::endpoint::Endpoint;
use super::error::{Error, ErrorKind, Result, Retry};
use super::origin::{Origin, redacted};
use super::text;
use super::transport::{empty, full};

/// What a request needs of a repository, as the challenge's scope says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    /// `repository:library/busybox:pull`
    pub(crate) main: String,
    /// Another repository to read from (mounting a blob).
    pub(crate) also: Option<String>,
}

impl Scope {
    pub(crate) fn new(repository: &str, actions: &str) -> Self {
        Self { main: format!("repository:{repository}:{actions}"), also: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    root: String,
    who: Fingerprint,
    scope: Scope,
}

/// An `Authorization` and how long it is good for.
#[derive(Clone)]
struct Token {
    value: HeaderValue,
    until: Option<Instant>,
}

impl Token {
    fn fresh(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// The tokens of the process.
#[derive(Default)]
pub(crate) struct Tokens {
    slots: Mutex<HashMap<Key, Slot>>,
    /// What hosts asked for, so that the next request brings it along. Says nothing about any caller.
    challenges: Mutex<HashMap<(String, Scope), Challenge>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

/// More tokens than this are not kept; those past their time go first.
const MAX_SLOTS: usize = 2048;

/// A token's life, when the server does not say, and at least (distribution's token specification: 60 s).
const MIN_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in the last seconds of its life, for clocks differ and requests take time.
const MARGIN: Duration = Duration::from_secs(5);

impl Tokens {
    fn slot(&self, key: Key) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_SLOTS && !slots.contains_key(&key) {
            slots.retain(|_, slot| match slot.try_lock() {
                Ok(token) => token.as_ref().is_some_and(Token::fresh),
                Err(_) => true,
            });
            if slots.len() >= MAX_SLOTS {
                slots.clear();
            }
        }
        Arc::clone(slots.entry(key).or_default())
    }

    fn challenge(&self, root: &str, scope: &Scope) -> Option<Challenge> {
        let challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        challenges.get(&(root.to_owned(), scope.clone())).cloned()
    }

    fn remember(&self, root: &str, scope: &Scope, challenge: &Challenge) {
        let mut challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        if challenges.len() >= MAX_SLOTS {
            challenges.clear();
        }
        challenges.insert((root.to_owned(), scope.clone()), challenge.clone());
    }
}

/// The `Authorization` for a request, as far as it is known what the host wants. `None`: send it without.
pub(crate) async fn prepare(inner: &Inner, endpoint: &Endpoint, scope: &Scope) -> Result<Option<HeaderValue>> {
    if let Credentials::RegistryToken(token) = &endpoint.credentials {
        return bearer(token).map(Some);
    }
    match inner.tokens.challenge(&endpoint.root, scope) {
        None => Ok(None),
        Some(challenge) => answer_challenge(inner, endpoint, scope, &challenge, None).await,
    }
}

/// After a 401: the `Authorization` to try next. `None`: there is nothing better to show.
pub(crate) async fn challenged(
    inner: &Inner,
    endpoint: &Endpoint,
    scope: &Scope,
    challenge: &Challenge,
    refused: Option<&HeaderValue>,
) -> Result<Option<HeaderValue>> {
    if matches!(endpoint.credentials, Credentials::RegistryToken(_)) {
        return Ok(None);
    }
    inner.tokens.remember(&endpoint.root, scope, challenge);
    answer_challenge(inner, endpoint, scope, challenge, refused).await
}

async fn answer_challenge(
    inner: &Inner,
    endpoint: &Endpoint,
    scope: &Scope,
    challenge: &Challenge,
    refused: Option<&HeaderValue>,
) -> Result<Option<HeaderValue>> {
    match challenge {
        Challenge::Basic => {
            let Credentials::Basic { username, password } = &endpoint.credentials else { return Ok(None) };
            let value = basic(username, password)?;
            Ok((refused != Some(&value)).then_some(value))
        }
        Challenge::Bearer { realm, service, scope: asked } => {
            let who = endpoint.credentials.fingerprint(&inner.salt);
            let slot = inner.tokens.slot(Key { root: endpoint.root.clone(), who, scope: scope.clone() });
            let mut slot = slot.lock().await;
            if let Some(token) = slot.as_ref().filter(|t| t.fresh() && refused != Some(&t.value)) {
                return Ok(Some(token.value.clone()));
            }
            let request = TokenRequest { realm, service: service.as_deref(), scopes: scopes(scope, asked.as_deref()) };
            let token = request.fetch(inner, endpoint).await?;
            *slot = Some(token.clone());
            Ok(Some(token.value))
        }
        Challenge::Other(scheme) => Err(Error::new(
            ErrorKind::Unauthorized,
            format!("the registry wants a log-in by \"{scheme}\", which is not supported"),
        )),
    }
}

/// The scopes to ask a token for: what the registry named goes before what we think it is called, for behind a mirror
/// with a path of its own only the registry knows.
fn scopes(ours: &Scope, asked: Option<&str>) -> Vec<String> {
    let mut scopes: Vec<String> = match asked {
        Some(asked) => asked.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
        None => vec![ours.main.clone()],
    };
    for also in [ours.also.as_ref()].into_iter().flatten() {
        if !scopes.contains(also) {
            scopes.push(also.clone());
        }
    }
    scopes
}

struct TokenRequest<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    scopes: Vec<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// The largest answer of a token server.
const MAX_TOKEN: u64 = 1 << 20;

impl TokenRequest<'_> {
    async fn fetch(&self, inner: &Inner, endpoint: &Endpoint) -> Result<Token> {
        let realm = self.checked_realm(endpoint)?;
        let http = inner.http_for(endpoint, &Origin::of(&realm)?)?;
        let mut pause = inner.retrier(inner.config.retry.attempts.min(3));
        loop {
            let error = match self.fetch_once(inner, endpoint, &realm, &http).await {
                Ok(token) => return Ok(token),
                Err(error) => error.at_host(realm.authority().map_or("", |a| a.as_str())),
            };
            pause.wait_after(error, &inner.counters).await?;
        }
    }

    /// Credentials never travel in the clear when the registry itself is not asked in the clear.
    fn checked_realm(&self, endpoint: &Endpoint) -> Result<Uri> {
        let wrong = |why: &str| {
            Error::new(ErrorKind::Unauthorized, format!("the registry's token server {why}")).at_host(&endpoint.name)
        };
        let base: Uri = endpoint.origin.to_string().parse().map_err(|_| wrong("has no valid address"))?;
        let realm = super::origin::resolve(&base, self.realm).map_err(|_| wrong("has no valid address"))?;
        let origin = Origin::of(&realm).map_err(|_| wrong("has no valid address"))?;
        if !origin.https && endpoint.origin.https && !endpoint.credentials.is_anonymous() {
            return Err(wrong(&format!("{} is not reached by TLS; credentials are not sent there", redacted(&realm))));
        }
        Ok(realm)
    }

    async fn fetch_once(
        &self,
        inner: &Inner,
        endpoint: &Endpoint,
        realm: &Uri,
        http: &super::transport::Http,
    ) -> Result<Token> {
        let credentials = &endpoint.credentials;
        let request = match credentials {
            Credentials::IdentityToken(token) => {
                self.post(inner, realm, &[("grant_type", "refresh_token"), ("refresh_token", token)])?
            }
            _ => self.get(inner, realm, credentials)?,
        };
        let limit = inner.config.timeouts.response;
        let mut response = http.send(request, limit, &inner.counters).await?;
        let old_style = matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        if let Credentials::Basic { username, password } = credentials
            && old_style
        {
            let form = [("grant_type", "password"), ("username", username.as_str()), ("password", password.as_str())];
            response = http.send(self.post(inner, realm, &form)?, limit, &inner.counters).await?;
        }
        inner.counters.add_tokens(1);
        if !response.status().is_success() {
            let error = answer::refusal(response, credentials, &inner.config).await;
            // A token server that does not know the account answers 400, 401 or 403; all mean the same to the caller.
            return Err(match error.status() {
                Some(400 | 401) => error.into_kind(ErrorKind::Unauthorized, "the token server refuses the credentials"),
                _ => error,
            });
        }
        let (_, body) = answer::read_small(response, MAX_TOKEN, limit).await?;
        self.token(&body)
    }

    fn get(&self, inner: &Inner, realm: &Uri, credentials: &Credentials) -> Result<Request<super::transport::Body>> {
        let mut pairs = Vec::new();
        if let Credentials::Basic { username, .. } = credentials {
            pairs.push(("account", username.as_str()));
        }
        pairs.extend(self.service.map(|service| ("service", service)));
        pairs.extend(self.scopes.iter().map(|scope| ("scope", scope.as_str())));
        let uri = super::origin::with_query(realm, &text::query(pairs))?;
        let mut request = inner.request(Method::GET, uri, empty());
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Credentials::Basic { username, password } = credentials {
            request.headers_mut().insert(AUTHORIZATION, basic(username, password)?);
        }
        Ok(request)
    }

    /// OAuth2 (RFC 6749, 6 and 4.3), as registries understand it.
    fn post(&self, inner: &Inner, realm: &Uri, grant: &[(&str, &str)]) -> Result<Request<super::transport::Body>> {
        let scope = self.scopes.join(" ");
        let mut pairs = grant.to_vec();
        pairs.push(("client_id", "orlop"));
        pairs.extend(self.service.map(|service| ("service", service)));
        pairs.push(("scope", &scope));
        let mut request = inner.request(Method::POST, realm.clone(), full(Bytes::from(text::query(pairs))));
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        Ok(request)
    }

    fn token(&self, body: &[u8]) -> Result<Token> {
        let bad = |why: &str| Error::invalid(format!("the token server's answer {why}")).with_retry(Retry::No);
        let answer: TokenAnswer = serde_json::from_slice(body).map_err(|_| bad("is not a token in JSON"))?;
        let token =
            answer.token.or(answer.access_token).filter(|t| !t.is_empty()).ok_or_else(|| bad("has no token in it"))?;
        let life = answer.expires_in.map_or(MIN_LIFE, Duration::from_secs).clamp(MIN_LIFE, Duration::from_secs(86_400));
        Ok(Token { value: bearer(&token)?, until: Some(Instant::now() + life - MARGIN) })
    }
}

fn bearer(token: &str) -> Result<HeaderValue> {
    secret_value(&format!("Bearer {}", token.trim()))
}

fn basic(username: &str, password: &str) -> Result<HeaderValue> {
    secret_value(&format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"))
    ))
}

fn secret_value(text: &str) -> Result<HeaderValue> {
    let mut value: HeaderValue = text
        .parse()
        .map_err(|_| Error::new(ErrorKind::Unauthorized, "the token has characters that no token may have"))?;
    value.set_sensitive(true);
    Ok(value)
}
