//! Why a registry operation failed: one error type, with a kind that callers act on.

use std::fmt;
use std::time::Duration;

/// What kind of failure it is, in the terms that a caller acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The repository, manifest or blob does not exist there.
    NotFound,
    /// No credentials, or the registry refuses those that it got (HTTP 401).
    Unauthorized,
    /// The credentials are good, but not for this (HTTP 403).
    Forbidden,
    /// The registry cannot be reached, breaks off, stalls, or answers 5xx: the same request may succeed later.
    Unavailable,
    /// Too many requests (HTTP 429), beyond what the retries could wait for.
    RateLimited,
    /// What came is not what was asked for: wrong digest, wrong size, wrong type, a body that is too large.
    InvalidContent,
    /// The TLS handshake failed, or the certificate is not trusted.
    Tls,
    /// The registry does not offer the operation (HTTP 405, or deletion switched off).
    Unsupported,
    /// A name, a setting, a certificate file or a credential helper is wrong; nothing was sent.
    Config,
    /// The operation was broken off from inside, for example because the program ends.
    Canceled,
    /// Another refusal of the registry (4xx).
    Refused,
}

/// An error code and message as the registry gave them, made safe to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryMessage {
    /// `MANIFEST_UNKNOWN`, `DENIED`, … as in the distribution-spec, "Error Codes".
    pub code: String,
    pub message: String,
}

/// May the same request be tried again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    No,
    /// After the usual back-off.
    Backoff,
    /// Not before this time, as the registry asked.
    After(Duration),
}

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    host: String,
    repository: String,
    reference: String,
    status: Option<u16>,
    registry: Option<RegistryMessage>,
    detail: String,
    earlier: Vec<String>,
    retry: Retry,
    /// The failure is one of the connection, not an answer.
    transport: bool,
}

/// A failed registry operation. Never holds a secret: no header, no query string, no credential.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

/// What the registry client returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            host: String::new(),
            repository: String::new(),
            reference: String::new(),
            status: None,
            registry: None,
            detail: detail.into(),
            earlier: Vec::new(),
            retry: Retry::No,
            transport: false,
        }))
    }

    pub(crate) fn config(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, detail)
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidContent, detail)
    }

    /// The connection failed, broke or stalled.
    pub(crate) fn transport(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let mut error = Self::new(kind, detail);
        error.0.transport = true;
        if kind == ErrorKind::Unavailable {
            error.0.retry = Retry::Backoff;
        }
        error
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    pub(crate) fn with_registry(mut self, message: Option<RegistryMessage>) -> Self {
        self.0.registry = message;
        self
    }

    pub(crate) fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// The same failure, seen as another kind.
    pub(crate) fn into_kind(mut self, kind: ErrorKind, detail: &str) -> Self {
        self.0.kind = kind;
        detail.clone_into(&mut self.0.detail);
        self
    }

    /// Names the host, unless one is named already: the innermost knows best.
    pub(crate) fn at_host(mut self, host: &str) -> Self {
        if self.0.host.is_empty() {
            host.clone_into(&mut self.0.host);
        }
        self
    }

    pub(crate) fn about(mut self, repository: &str, reference: &str) -> Self {
        if self.0.repository.is_empty() {
            repository.clone_into(&mut self.0.repository);
        }
        if self.0.reference.is_empty() {
            reference.clone_into(&mut self.0.reference);
        }
        self
    }

    /// Adds what other hosts answered before this one.
    pub(crate) fn after(mut self, earlier: Vec<String>) -> Self {
        self.0.earlier.extend(earlier);
        self
    }

    /// One line for a list of failed hosts.
    pub(crate) fn brief(&self) -> String {
        format!("{}: {}", self.0.host, self.reason())
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The host that failed, with its port if that is not the usual one; empty if none was asked.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// The path of the repository, without the host; empty if the failure is not about one.
    pub fn repository(&self) -> &str {
        &self.0.repository
    }

    /// The tag or the digest that was asked for; may be empty.
    pub fn reference(&self) -> &str {
        &self.0.reference
    }

    /// The HTTP status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The registry's own code and message, if it gave one.
    pub fn registry_message(&self) -> Option<&RegistryMessage> {
        self.0.registry.as_ref()
    }

    /// How long the registry asked to wait, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.0.retry {
            Retry::After(time) => Some(time),
            Retry::No | Retry::Backoff => None,
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        self.0.retry
    }

    pub(crate) fn is_transport(&self) -> bool {
        self.0.transport
    }

    fn reason(&self) -> String {
        let mut text = self.0.detail.clone();
        if let Some(status) = self.0.status {
            text.push_str(&format!(" (HTTP {status})"));
        }
        if let Some(message) = &self.0.registry {
            text.push_str(": ");
            text.push_str(&message.code);
            if !message.code.is_empty() && !message.message.is_empty() {
                text.push_str(", ");
            }
            text.push_str(&message.message);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if !inner.host.is_empty() {
            write!(f, "registry {}: ", inner.host)?;
        }
        if !inner.repository.is_empty() {
            f.write_str(&inner.repository)?;
            if !inner.reference.is_empty() {
                let separator = if inner.reference.contains(':') { '@' } else { ':' };
                write!(f, "{separator}{}", inner.reference)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.reason())?;
        if !inner.earlier.is_empty() {
            write!(f, "; before that: {}", inner.earlier.join("; "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
