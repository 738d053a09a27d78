//! Addresses: the origin (scheme, host, port) that decides who may see credentials, and where a redirect leads.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::Uri;

use super::error::{Error, Result};
use super::name::split_port;

/// Scheme, host and port. Two addresses with the same origin are the same party; others get no credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) https: bool,
    /// Lower-case; an IPv6 address in brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    pub(crate) fn of(uri: &Uri) -> Result<Self> {
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(Error::config(format!("address \"{}\": neither http:// nor https://", redacted(uri)))),
        };
        let authority = uri.authority().ok_or_else(|| Error::config("an address without a host"))?;
        if authority.as_str().contains('@') {
            return Err(Error::config(format!("address of {}: a user name in it is not allowed", authority.host())));
        }
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { https, host: authority.host().to_ascii_lowercase(), port })
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// `host`, or `host:port` if the port is not the usual one.
    pub(crate) fn authority(&self) -> String {
        let usual = if self.https { 443 } else { 80 };
        if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}

/// `localhost`, `*.localhost`, `127.0.0.0/8`, `::1`; without a port.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|a| a.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|a| a == Ipv6Addr::LOCALHOST)
}

/// An address from a setting: with a scheme, or the scheme that goes without saying for such a host.
pub(crate) fn parse_base(text: &str, plain_http: Option<bool>, has_tls_settings: bool) -> Result<Uri> {
    let wrong = |why: &str| Error::config(format!("address \"{}\": {why}", super::text::printable(text, 200)));
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        let (host, port) = split_port(text.split('/').next().unwrap_or_default());
        let plain = plain_http.unwrap_or(is_loopback(host) && !has_tls_settings && port != Some("443"));
        format!("{}://{text}", if plain { "http" } else { "https" })
    };
    let uri: Uri = full.parse().map_err(|_| wrong("not a URL"))?;
    if uri.query().is_some() {
        return Err(wrong("a query is not allowed here"));
    }
    Origin::of(&uri)?;
    Ok(uri)
}

/// For logs and errors: no query, for that of a signed URL is as good as a password.
pub(crate) fn redacted(uri: &Uri) -> String {
    let origin = match (uri.scheme_str(), uri.authority()) {
        (Some(scheme), Some(authority)) => {
            let host = authority.as_str().rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}")
        }
        _ => String::new(),
    };
    let query = if uri.query().is_some() { "?…" } else { "" };
    super::text::printable(&format!("{origin}{}{query}", uri.path()), 300)
}

/// Where a `Location` (or `Link`) leads, seen from the address that answered with it (RFC 9110, 10.2.2).
pub(crate) fn resolve(base: &Uri, location: &str) -> Result<Uri> {
    let wrong = || Error::invalid("the registry redirects to something that is no address");
    let location = escape_illegal(location.trim());
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = match (base.scheme_str(), base.authority()) {
        (Some(scheme), Some(authority)) => (scheme, authority),
        _ => return Err(wrong()),
    };
    let full = if location.contains("://") && !location.starts_with(['/', '?']) {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    full.parse().map_err(|_| wrong())
}

/// Some storage services leave characters in their addresses that do not belong there.
fn escape_illegal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            0x21..=0x7e if !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') => {
                out.push(byte as char)
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Adds pairs to the query of an address.
pub(crate) fn with_query(uri: &Uri, more: &str) -> Result<Uri> {
    if more.is_empty() {
        return Ok(uri.clone());
    }
    let separator = if uri.query().is_some() { '&' } else { '?' };
    format!("{uri}{separator}{more}").parse().map_err(|_| Error::invalid("an address that is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_that_go_without_saying() {
        let scheme = |text: &str, plain, tls| parse_base(text, plain, tls).unwrap().scheme_str().unwrap().to_owned();
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.3.2.1", "[::1]:5000", "a.localhost:80"] {
            assert_eq!(scheme(host, None, false), "http", "{host}");
            assert_eq!(scheme(host, None, true), "https", "{host}");
            assert_eq!(scheme(host, Some(false), false), "https", "{host}");
        }
        for host in
            ["example.com", "10.0.0.1:5000", "localhost.example.com", "128.0.0.1", "[::2]:5000", "127.0.0.1:443"]
        {
            assert_eq!(scheme(host, None, false), "https", "{host}");
            assert_eq!(scheme(host, Some(true), false), "http", "{host}");
        }
        for wrong in ["ftp://x", "https://u:p@x", "https://", "https://x?y", "https://x y"] {
            assert!(parse_base(wrong, None, false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn where_redirects_lead() {
        let base: Uri = "https://r.io:5000/v2/a/blobs/x?ns=y".parse().unwrap();
        for (location, to) in [
            ("https://cdn.io/x?sig=1", "https://cdn.io/x?sig=1"),
            ("//cdn.io/x", "https://cdn.io/x"),
            ("/y?u=http://z", "https://r.io:5000/y?u=http://z"),
            ("y", "https://r.io:5000/v2/a/blobs/y"),
            ("?n=2", "https://r.io:5000/v2/a/blobs/x?n=2"),
            ("https://cdn.io/a b{c}#frag", "https://cdn.io/a%20b%7Bc%7D"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), to);
        }
        assert!(resolve(&base, "https://").is_err());
    }

    #[test]
    fn origins_and_redaction() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap()).unwrap();
        assert_eq!(origin("https://R.io/x"), origin("https://r.io:443/y"));
        assert_ne!(origin("https://r.io"), origin("http://r.io"));
        assert_ne!(origin("https://r.io"), origin("https://r.io:444"));
        let signed: Uri = "https://cdn.io/x?X-Signature=secret".parse().unwrap();
        assert_eq!(redacted(&signed), "https://cdn.io/x?…");
    }
}
