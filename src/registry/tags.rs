//! Lists of tags, page after page.

use std::sync::Arc;

use hyper::header::{HeaderMap, LINK};
use hyper::{Method, Uri};
use serde::Deserialize;

use super::answer;
use super::auth::Scope;
use super::client::Session;
use super::config::Capability;
use super::endpoint::Endpoint;
use super::error::{Error, Result};
use super::exchange::Call;
use super::origin;

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

/// Tags asked for with one request.
const PAGE: &str = "n=1000";

impl Session {
    /// The tags of the repository in the registry's order, at most `limit` of them.
    pub async fn tags(&self, limit: usize) -> Result<Vec<String>> {
        let once = async |host: Arc<Endpoint>| self.tags_at(&host, limit).await;
        self.on_hosts(Capability::Resolve, "", once).await
    }

    async fn tags_at(&self, host: &Endpoint, limit: usize) -> Result<Vec<String>> {
        let path = self.repository.path();
        let mut next = Some(host.url(path, "tags/list", PAGE)?);
        let mut tags: Vec<String> = Vec::new();
        while let Some(uri) = next {
            let response = self.exchange(host, &Call::new(Method::GET, uri.clone(), Scope::new(path, "pull"))).await?;
            let config = &self.inner.config;
            let (parts, body) =
                answer::read_small(response, config.max_manifest_size, config.timeouts.response).await?;
            let page: TagList =
                serde_json::from_slice(&body).map_err(|_| Error::invalid("the registry's list of tags is not one"))?;
            let page = page.tags.unwrap_or_default();
            // A page without anything new would lead to the next for ever.
            let fresh = page.last().is_some_and(|last| tags.last() != Some(last));
            tags.extend(page);
            next = if fresh && tags.len() < limit { next_page(&uri, &parts.headers)? } else { None };
        }
        tags.truncate(limit);
        Ok(tags)
    }
}

/// `Link: <…>; rel="next"` (RFC 8288).
pub(crate) fn next_page(base: &Uri, headers: &HeaderMap) -> Result<Option<Uri>> {
    for value in headers.get_all(LINK) {
        let Ok(text) = value.to_str() else { continue };
        for link in text.split(",<").flat_map(|part| part.split(", <")) {
            let link = link.trim().trim_start_matches('<');
            let Some((target, parameters)) = link.split_once('>') else { continue };
            let is_next = parameters.split(';').any(|p| {
                let p = p.trim().to_ascii_lowercase().replace('"', "");
                p == "rel=next"
            });
            if is_next {
                let next = origin::resolve(base, target)?;
                return Ok((next != *base).then_some(next));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        let base: Uri = "https://r.io/v2/a/tags/list?n=2".parse().unwrap();
        let next = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, text.parse().unwrap());
            next_page(&base, &headers).unwrap().map(|u| u.to_string())
        };
        let wanted = Some("https://r.io/v2/a/tags/list?n=2&last=b".to_owned());
        assert_eq!(next(r#"</v2/a/tags/list?n=2&last=b>; rel="next""#), wanted);
        assert_eq!(next("</x>; rel=prev, <?n=2&last=b>; title=x; rel=next"), wanted);
        assert_eq!(next("</x>; rel=prev"), None);
        assert_eq!(next("nonsense"), None);
        assert_eq!(next("</v2/a/tags/list?n=2>; rel=next"), None, "a link to itself is no next page");
    }
}
