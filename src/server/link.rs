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
            // Relative to what the upstream was asked, with another one's `ns=`, with a fragment, with nothing to go on.
            ("<list?n=5&last=1>; rel=next", None, Some("</v2/ghcr.io/owner/image/tags/list?n=5&last=1>; rel=next")),
            ("<?last=1>;rel=\"next\"", None, Some("</v2/ghcr.io/owner/image/tags/list?last=1>;rel=\"next\"")),
            (
                "</v2/x/tags/list?ns=evil.example&last=1#end>; rel=\"next\"",
                Some("ghcr.io"),
                Some(r#"</v2/ghcr.io/owner/image/tags/list?last=1&ns=ghcr.io>; rel="next""#),
            ),
            ("</v2/x/tags/list>; rel=\"next\"", None, Some(r#"</v2/ghcr.io/owner/image/tags/list?>; rel="next""#)),
            ("nonsense", None, None),
            ("<unclosed", None, None),
        ] {
            let rewritten = rewrite(&HeaderValue::from_static(link), path, namespace);
            assert_eq!(rewritten.as_ref().map(|value| value.to_str().unwrap()), expected, "{link}");
        }
    }

    #[test]
    fn a_page_of_referrers_keeps_its_filter() {
        let link =
            r#"<https://ghcr.io/v2/a/referrers/sha256:0?artifactType=application%2Fx%2By&nextToken=a/b==>; rel="next""#;
        let path = "/team/v2/ghcr.io/a/referrers/sha256:0";
        assert_eq!(
            rewrite(&HeaderValue::from_static(link), path, Some("ghcr.io")).unwrap(),
            "</team/v2/ghcr.io/a/referrers/sha256:0?artifactType=application%2Fx%2By&nextToken=a%2Fb%3D%3D&ns=ghcr.io>; rel=\"next\""
        );
    }
}
