//! `$(NAME)` in commands, arguments and environment values, as Kubernetes expands it.

use std::collections::BTreeMap;

/// `text` with every `$(NAME)` that `values` knows replaced. An unknown one stays as it is, and `$$` is a `$`.
pub(super) fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(further) = after.strip_prefix('$') {
            out.push('$');
            rest = further;
        } else if let Some((name, further)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match values.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = further;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}
