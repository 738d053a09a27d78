//! Answers of a registry: reading small bodies within bounds, and turning refusals into errors.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HeaderMap, RETRY_AFTER};
use hyper::http::response::Parts;
use hyper::{Response, StatusCode};
use serde::Deserialize;

use super::config::ClientConfig;
use super::credentials::Credentials;
use super::error::{Error, ErrorKind, RegistryMessage, Result, Retry};
use super::text::printable;
use super::transport::classify;

/// Reads a whole body of at most `limit` bytes within `time`.
pub(crate) async fn read_small(response: Response<Incoming>, limit: u64, time: Duration) -> Result<(Parts, Bytes)> {
    let (parts, mut body) = response.into_parts();
    let too_large =
        |size: u64| Error::invalid(format!("the answer has {size} bytes or more; at most {limit} are taken"));
    let announced = content_length(&parts.headers);
    if let Some(size) = announced.filter(|size| *size > limit) {
        return Err(too_large(size));
    }
    let read = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| classify(&e))?;
            let Ok(data) = frame.into_data() else { continue };
            if (bytes.len() + data.len()) as u64 > limit {
                return Err(too_large((bytes.len() + data.len()) as u64));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    match tokio::time::timeout(time, read).await {
        Ok(bytes) => Ok((parts, bytes?)),
        Err(_) => Err(Error::transport(ErrorKind::Unavailable, "the answer does not end in time")),
    }
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

#[derive(Deserialize)]
struct Refusals {
    #[serde(default)]
    errors: Vec<Refusal>,
    /// Token servers: OAuth2 (RFC 6749, 5.2), and older ones of Docker.
    error: Option<String>,
    error_description: Option<String>,
    details: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: serde_json::Value,
    #[serde(default)]
    message: serde_json::Value,
}

/// The largest body of a refusal that is looked at.
const MAX_REFUSAL: u64 = 64 << 10;

/// The error for an answer that is not a success. Only what has the form of a registry's error is quoted, so that
/// nothing else that an address may lead to ends up in messages.
pub(crate) async fn refusal(response: Response<Incoming>, credentials: &Credentials, config: &ClientConfig) -> Error {
    let status = response.status();
    let retry = retry_of(status, response.headers(), config);
    let body = read_small(response, MAX_REFUSAL, Duration::from_secs(10)).await;
    let message = body.ok().and_then(|(_, body)| registry_message(&body, credentials));
    let code = message.as_ref().map_or("", |m| m.code.as_str());
    let (kind, detail) = kind_of(status, code);
    let mut detail = detail.to_owned();
    if let Retry::After(time) = retry {
        detail.push_str(&format!("; try again in {}", super::config::span::print(time)));
    }
    Error::new(kind, detail).with_status(status.as_u16()).with_registry(message).with_retry(retry)
}

fn kind_of(status: StatusCode, code: &str) -> (ErrorKind, &'static str) {
    match status.as_u16() {
        401 => (ErrorKind::Unauthorized, "the registry refuses access: no credentials, or wrong ones"),
        403 => (ErrorKind::Forbidden, "the registry denies access with these credentials"),
        404 | 410 => (ErrorKind::NotFound, "not found"),
        405 => (ErrorKind::Unsupported, "the registry does not offer this"),
        400 if code == "UNSUPPORTED" => (ErrorKind::Unsupported, "the registry does not offer this"),
        429 => (ErrorKind::RateLimited, "the registry limits the rate of requests"),
        408 | 499 | 500..=599 => (ErrorKind::Unavailable, "the registry cannot serve this now"),
        _ => (ErrorKind::Refused, "the registry refuses the request"),
    }
}

fn registry_message(body: &[u8], credentials: &Credentials) -> Option<RegistryMessage> {
    let refusals: Refusals = serde_json::from_slice(body).ok()?;
    let clean = |text: &str, limit: usize| credentials.scrub(printable(text, limit));
    let plain = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(first) = refusals.errors.first() {
        return Some(RegistryMessage {
            code: clean(&plain(&first.code), 64),
            message: clean(&plain(&first.message), 300),
        });
    }
    let message = refusals.error_description.or(refusals.details).unwrap_or_default();
    refusals.error.map(|error| RegistryMessage { code: clean(&error, 64), message: clean(&message, 300) })
}

fn retry_of(status: StatusCode, headers: &HeaderMap, config: &ClientConfig) -> Retry {
    if !matches!(status.as_u16(), 408 | 429 | 499 | 500 | 502 | 503 | 504 | 522) {
        return Retry::No;
    }
    let after = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(parse_retry_after);
    match after {
        // The caller of the client comes back by itself, and later than that.
        Some(time) if time > config.retry.max_retry_after => Retry::After(time),
        Some(time) => Retry::After(time),
        None => Retry::Backoff,
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3).
fn parse_retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(86_400 * 7)));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    let wait = date.timestamp().duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(wait).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_both_forms() {
        assert_eq!(parse_retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse_retry_after("soon"), None);
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(90);
        let text = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&later).unwrap();
        let wait = parse_retry_after(&text).unwrap();
        assert!(wait > Duration::from_secs(85) && wait <= Duration::from_secs(91), "{wait:?}");
    }

    #[test]
    fn messages_are_bounded_and_clean() {
        let secret = Credentials::basic("u", "hush-hush");
        let body = format!(r#"{{"errors":[{{"code":"DENIED","message":"hush-hush\r\n{}"}}]}}"#, "x".repeat(1000));
        let message = registry_message(body.as_bytes(), &secret).unwrap();
        assert_eq!(message.code, "DENIED");
        assert!(message.message.len() < 320 && message.message.starts_with("(hidden)  xxx"), "{}", message.message);
        assert!(registry_message(b"<html>metadata</html>", &secret).is_none());
        assert!(registry_message(br#"{"secret":"value"}"#, &secret).is_none());
        let oauth = registry_message(br#"{"error":"invalid_grant","error_description":"no"}"#, &secret).unwrap();
        assert_eq!((oauth.code.as_str(), oauth.message.as_str()), ("invalid_grant", "no"));
    }
}
