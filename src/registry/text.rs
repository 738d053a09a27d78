//! Small tools for text that comes from elsewhere: made printable, bounded, percent-encoded.

/// The text without control characters and cut to about `limit` bytes, for messages and logs.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for c in text.trim().chars() {
        if out.len() + c.len_utf8() > limit {
            out.push('…');
            break;
        }
        // Bidirectional controls can reorder a log line on a terminal.
        let hidden =
            c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        out.push(if hidden { ' ' } else { c });
    }
    out
}

/// Percent-encodes one value of a query or of a form (RFC 3986, unreserved characters stay).
pub(crate) fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `key=value&key=value`.
pub(crate) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let parts: Vec<String> =
        pairs.into_iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    parts.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_tamed() {
        assert_eq!(printable("a\r\nb\u{1b}[31m\u{202e}c", 100), "a  b [31m c");
        assert_eq!(printable(&"ä".repeat(100), 5), "ää…");
        assert_eq!(encode("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
        assert_eq!(query([("scope", "a b"), ("n", "1")]), "scope=a%20b&n=1");
    }
}
