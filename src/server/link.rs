//! `Link: <…>; rel="next"`: the next page, as the client has to ask us for it (pure).

use http::HeaderValue;

/// The upstream's link with the path the client used, which may name the upstream; only its query is kept.
///
/// `None` for what is no link: it would lead nowhere.
pub fn rewrite(link: &HeaderValue, path: &str, namespace: Option<&str>) -> Option<HeaderValue> {
    let (target, parameters) = link.to_str().ok()?.trim().strip_prefix('<')?.split_once('>')?;
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let query = query.split('#').next().unwrap_or_default();
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    pairs.extend_pairs(url::form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key != "ns"));
    if let Some(namespace) = namespace {
        pairs.append_pair("ns", namespace);
    }
    HeaderValue::from_str(&format!("<{path}?{}>{parameters}", pairs.finish())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_comes_back_through_us() {
        let path = "/v2/ghcr.io/owner/image/tags/list";
        for (link, namespace, expected) in [
            (
                r#"</v2/owner/image/tags/list?last=1.2&n=5>; rel="next""#,
                None,
                Some(r#"</v2/ghcr.io/owner/image/tags/list?last=1.2&n=5>; rel="next""#),
            ),
            (
                r#"<https://ghcr.io/v2/owner/image/tags/list?n=5&last=a%2Bb>; rel="next""#,
                Some("ghcr.io"),
                Some(r#"</v2/ghcr.io/owner/image/tags/list?n=5&last=a%2Bb&ns=ghcr.io>; rel="next""#),
            ),
            ("nonsense", None, None),
            ("<unclosed", None, None),
        ] {
            let rewritten = rewrite(&HeaderValue::from_static(link), path, namespace);
            assert_eq!(rewritten.as_ref().map(|value| value.to_str().unwrap()), expected, "{link}");
        }
    }
}
