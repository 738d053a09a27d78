//! `WWW-Authenticate`: what a registry asks for (RFC 9110, 11.6.1).

use hyper::header::{HeaderMap, WWW_AUTHENTICATE};

/// The answer to a request without (sufficient) credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    /// Get a token at `realm` and come back.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
    /// Another scheme, by its name.
    Other(String),
}

/// The best challenge that we can answer: Bearer, then Basic. `None`: the registry asked for nothing.
pub(crate) fn best(headers: &HeaderMap) -> Option<Challenge> {
    let mut found: Option<Challenge> = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        for challenge in value.to_str().map(parse).unwrap_or_default() {
            if rank(&challenge) > found.as_ref().map_or(0, rank) {
                found = Some(challenge);
            }
        }
    }
    found
}

fn rank(challenge: &Challenge) -> u8 {
    match challenge {
        Challenge::Bearer { .. } => 3,
        Challenge::Basic => 2,
        Challenge::Other(_) => 1,
    }
}

/// One header field may hold several challenges, with commas between them and between their parameters.
fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() {
        let (word, after) = token(rest);
        if word.is_empty() {
            break;
        }
        let next = after.trim_start_matches([' ', '\t']);
        if let Some(value_text) = next.strip_prefix('=')
            && let Some((_, parameters)) = challenges.last_mut()
        {
            let (value, after) = value(value_text.trim_start());
            parameters.push((word.to_ascii_lowercase(), value));
            rest = after;
        } else if next.starts_with('=') {
            break;
        } else {
            challenges.push((word.to_ascii_lowercase(), Vec::new()));
            rest = next;
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    challenges.into_iter().map(|(scheme, parameters)| challenge(scheme, &parameters)).collect()
}

fn challenge(scheme: String, parameters: &[(String, String)]) -> Challenge {
    let get = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).filter(|v| !v.is_empty());
    match scheme.as_str() {
        "basic" => Challenge::Basic,
        "bearer" => match get("realm") {
            Some(realm) => Challenge::Bearer { realm, service: get("service"), scope: get("scope") },
            None => Challenge::Other("bearer without realm".to_owned()),
        },
        _ => Challenge::Other(super::text::printable(&scheme, 40)),
    }
}

fn token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_whitespace() || matches!(c, '=' | ',' | '"')).unwrap_or(text.len());
    text.split_at(end)
}

fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut out = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                out.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (out, &quoted[at + 1..]),
            _ => out.push(c),
        }
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(Into::into), scope: scope.map(Into::into) }
    }

    #[test]
    fn forms_met_in_the_field() {
        for (text, wanted) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:a/b:pull,push"),
                )],
            ),
            (r#"BASIC realm="x, y""#, vec![Challenge::Basic]),
            ("Basic", vec![Challenge::Basic]),
            (r#"Bearer realm=https://a , service = "b\"c""#, vec![bearer("https://a", Some("b\"c"), None)]),
            (
                r#"Negotiate, Basic realm="x", Bearer realm="https://a""#,
                vec![Challenge::Other("negotiate".into()), Challenge::Basic, bearer("https://a", None, None)],
            ),
            (r#"Bearer error="invalid_token""#, vec![Challenge::Other("bearer without realm".into())]),
            ("", vec![]),
            ("=", vec![]),
            (r#"Bearer realm="unterminated"#, vec![bearer("unterminated", None, None)]),
        ] {
            assert_eq!(parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn bearer_goes_before_basic() {
        let mut headers = HeaderMap::new();
        assert_eq!(best(&headers), None);
        headers.append(WWW_AUTHENTICATE, "Basic realm=x".parse().unwrap());
        assert_eq!(best(&headers), Some(Challenge::Basic));
        headers.append(WWW_AUTHENTICATE, "Bearer realm=https://a".parse().unwrap());
        assert_eq!(best(&headers), Some(bearer("https://a", None, None)));
    }

    proptest! {
        #[test]
        fn anything_ends(text in ".{0,200}") {
            parse(&text);
        }
    }
}
