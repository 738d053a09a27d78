//! Proxies from the environment: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, and `NO_PROXY` for the exceptions.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use hyper::Uri;

use super::error::{Error, Result};
use super::name::split_port;
use super::origin::is_loopback;

/// A proxy, and what it wants to see.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Without user name and password.
    pub(crate) uri: Uri,
    /// The value of `Proxy-Authorization`.
    pub(crate) authorization: Option<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.uri)
    }
}

/// Which proxy is for which host.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProxyRules {
    http: Option<Proxy>,
    https: Option<Proxy>,
    except: Vec<Exception>,
}

#[derive(Clone, Debug, PartialEq)]
enum Exception {
    All,
    Address(ipnet::IpNet),
    /// The host itself and all below it, with the port if one is given.
    Host(String, Option<u16>),
}

impl ProxyRules {
    /// No proxy for anything.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    pub(crate) fn from_environment() -> Result<Self> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Small letters go first, as is usual. In a CGI environment `HTTP_PROXY` is a request header, so it is ignored.
    pub(crate) fn from_lookup(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name: &str| get(name).or_else(|| get(&name.to_uppercase())).filter(|v| !v.trim().is_empty());
        let proxy = |name: &str| variable(name).map(|value| parse_proxy(name, &value)).transpose();
        let all = proxy("all_proxy")?;
        let http = if get("REQUEST_METHOD").is_some() { None } else { proxy("http_proxy")? };
        let except = variable("no_proxy").unwrap_or_default();
        Ok(Self {
            http: http.or_else(|| all.clone()),
            https: proxy("https_proxy")?.or(all),
            except: except.split([',', ' ']).filter_map(parse_exception).collect(),
        })
    }

    /// The proxy for this address. Never one for loopback.
    pub(crate) fn for_uri(&self, uri: &Uri) -> Option<Proxy> {
        let https = uri.scheme_str() == Some("https");
        let proxy = if https { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        if is_loopback(&host) || self.except.iter().any(|e| e.covers(&host, port)) {
            return None;
        }
        Some(proxy.clone())
    }
}

impl Exception {
    fn covers(&self, host: &str, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Address(net) => host.parse::<IpAddr>().is_ok_and(|a| net.contains(&a)),
            Self::Host(name, only) => {
                only.is_none_or(|p| p == port)
                    && (host == name || host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.')))
            }
        }
    }
}

fn parse_exception(text: &str) -> Option<Exception> {
    let text = text.trim().to_ascii_lowercase();
    if text.is_empty() {
        return None;
    }
    if text == "*" {
        return Some(Exception::All);
    }
    if let Ok(net) = text.parse::<ipnet::IpNet>() {
        return Some(Exception::Address(net));
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(Exception::Address(address.into()));
    }
    let (name, port) = split_port(&text);
    let name = name.trim_start_matches('*').trim_start_matches('.');
    Some(Exception::Host(name.to_owned(), port.and_then(|p| p.parse().ok())))
}

fn parse_proxy(name: &str, value: &str) -> Result<Proxy> {
    let wrong = |why: &str| Error::config(format!("environment variable {name}: {why}"));
    let value = value.trim();
    let rest = match value.split_once("://") {
        None => value,
        Some(("http", rest)) => rest,
        Some((scheme, _)) => {
            return Err(wrong(&format!(
                "a proxy by {} is not supported; only http://",
                super::text::printable(scheme, 20)
            )));
        }
    };
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, rest),
    };
    let uri =
        format!("http://{}/", host.trim_end_matches('/')).parse().map_err(|_| wrong("not the address of a proxy"))?;
    let authorization = user.map(|user| {
        let plain = percent_decode(user);
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain))
    });
    Ok(Proxy { uri, authorization })
}

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = text.get(i + 1..i + 3).filter(|_| bytes[i] == b'%').and_then(|h| u8::from_str_radix(h, 16).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(pairs: &[(&str, &str)]) -> ProxyRules {
        ProxyRules::from_lookup(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())).unwrap()
    }

    #[test]
    fn who_goes_through_a_proxy() {
        let rules = rules(&[
            ("HTTPS_PROXY", "http://us%40er:pass@proxy:3128"),
            ("http_proxy", "plain:8080"),
            ("NO_PROXY", "10.0.0.0/8, .corp.example,registry.test:5000, [fd00::1]"),
        ]);
        let get = |uri: &str| rules.for_uri(&uri.parse().unwrap()).map(|p| p.uri.to_string());
        assert_eq!(get("https://docker.io/x").as_deref(), Some("http://proxy:3128/"));
        assert_eq!(get("http://docker.io/x").as_deref(), Some("http://plain:8080/"));
        assert_eq!(get("https://registry.test/").as_deref(), Some("http://proxy:3128/"));
        assert_eq!(get("https://notcorp.example/").as_deref(), Some("http://proxy:3128/"));
        for direct in [
            "https://10.1.2.3:5000/",
            "https://corp.example/",
            "https://a.corp.example/",
            "https://registry.test:5000/",
            "http://localhost:5000/",
            "http://127.0.0.2/",
            "https://[::1]/",
            "https://[fd00::1]/",
        ] {
            assert_eq!(get(direct), None, "{direct}");
        }
        let secret = rules.for_uri(&"https://x/".parse().unwrap()).unwrap().authorization.unwrap();
        assert_eq!(secret, "Basic dXNAZXI6cGFzcw==");
        assert!(!format!("{rules:?}").contains("pass"));
    }

    #[test]
    fn all_and_none() {
        assert!(rules(&[]).for_uri(&"https://x/".parse().unwrap()).is_none());
        let all = rules(&[("ALL_PROXY", "p:1"), ("no_proxy", "*")]);
        assert!(all.for_uri(&"https://x/".parse().unwrap()).is_none());
        let cgi = rules(&[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "p:1")]);
        assert!(cgi.for_uri(&"http://x/".parse().unwrap()).is_none());
        assert!(ProxyRules::from_lookup(|_| Some("socks5://x".into())).is_err());
    }
}
