//! `Link: <…>; rel="next"`: the next page, as a URL of forebay (pure).
//!
//! Source: RFC 8288, section 3 and appendix B.2. What must hold: the link leads to forebay, whatever the upstream sent;
//! forebay passes on only the upstream's link to the next page.

use std::borrow::Cow;

use http::HeaderValue;

use super::pagination;
use crate::oci::{local_path, query};

/// The upstream's link to the next page with the path that the client used, which may name the upstream; only its query
/// is kept. `links` are all lines of the header.
///
/// `None` when there is no next page.
pub fn next_page<'a>(
    links: impl IntoIterator<Item = &'a HeaderValue>,
    path: &str,
    namespace: Option<&str>,
) -> Option<HeaderValue> {
    let lines: Vec<Cow<'_, str>> = links.into_iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    let target = lines.iter().find_map(|line| next_in(line))?;
    let target = target.split('#').next().unwrap_or_default();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let namespace = namespace.map(|namespace| (query::NAMESPACE.into(), namespace.into()));
    let query = pagination::client_query(query);
    let query = query::encode(query::pairs(&query).chain(namespace));
    HeaderValue::from_str(&format!("<{}?{query}>; rel=\"next\"", local_path(path))).ok()
}

/// The target of the first link in a line whose relation is `next`.
fn next_in(mut rest: &str) -> Option<&str> {
    loop {
        // Text that is no link is skipped, up to the place where the next link may begin.
        rest = rest.trim_start_matches(|between: char| between == ',' || between.is_ascii_whitespace());
        let Some(inside) = rest.strip_prefix('<') else {
            rest = parameters(rest).1.strip_prefix(',')?;
            continue;
        };
        let (target, after) = inside.split_once('>')?;
        let (is_next, after) = parameters(after);
        if is_next {
            return Some(target);
        }
        rest = after;
    }
}

/// Whether the parameters of a link say that it is the next page, and what follows the link.
fn parameters(mut rest: &str) -> (bool, &str) {
    let mut relation: Option<bool> = None;
    loop {
        rest = rest.trim_start_matches(|between: char| between == ';' || between.is_ascii_whitespace());
        if rest.is_empty() || rest.starts_with(',') {
            return (relation.unwrap_or(false), rest);
        }
        let end = rest.find(['=', ';', ',']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let Some(value) = after.strip_prefix('=') else {
            rest = after;
            continue;
        };
        let (value, after) = value_of(value.trim_start());
        // The first `rel` counts.
        if name.trim().eq_ignore_ascii_case("rel") && relation.is_none() {
            relation = Some(value.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next")));
        }
        rest = after;
    }
}

/// A token or a quoted string, and what follows it.
fn value_of(text: &str) -> (Cow<'_, str>, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        let (token, after) = text.split_at(end);
        return (token.trim_end().into(), after);
    };
    let (mut value, mut is_escaped) = (String::new(), false);
    for (at, character) in quoted.char_indices() {
        match character {
            _ if is_escaped => {
                is_escaped = false;
                value.push(character);
            }
            '\\' => is_escaped = true,
            '"' => return (value.into(), &quoted[at + 1..]),
            _ => value.push(character),
        }
    }
    // The quoted string is never closed: no text follows it.
    (value.into(), "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATH: &str = "/v2/ghcr.io/owner/image/tags/list";

    fn next(lines: &[&str], path: &str, namespace: Option<&str>) -> Option<String> {
        let lines: Vec<_> = lines.iter().map(|line| HeaderValue::from_str(line).unwrap()).collect();
        next_page(&lines, path, namespace).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_next_page_comes_back_through_us() {
        for (link, namespace, query) in [
            (r#"</v2/owner/image/tags/list?last=1.2&n=5>; rel="next""#, None, "last=1.2&n=5"),
            (
                r#"<https://ghcr.io/v2/owner/image/tags/list?n=5&last=a%2Bb>; rel="next""#,
                Some("ghcr.io"),
                "n=5&last=a%2Bb&ns=ghcr.io",
            ),
            // Relative to the request to the upstream, with an `ns=` of another upstream, with a fragment, without a
            // query.
            ("<list?n=5&last=1>; rel=next", None, "n=5&last=1"),
            ("<?last=1>;rel=\"next\"", None, "last=1"),
            ("</v2/x/tags/list?ns=evil.example&last=1#end>; rel=next", Some("ghcr.io"), "last=1&ns=ghcr.io"),
            ("</v2/x/tags/list#a?last=1>; rel=\"next\"", None, ""),
            ("</v2/x/tags/list>; rel=\"next\"", None, ""),
        ] {
            let expected = format!("<{PATH}?{query}>; rel=\"next\"");
            assert_eq!(next(&[link], PATH, namespace), Some(expected), "{link}");
        }
    }

    #[test]
    fn of_several_links_only_the_next_page_is_told() {
        for lines in [
            &[r#"<https://evil.example/?x>; rel="prev", </l?last=1>; rel="next", <//evil.example/>; rel="last""#][..],
            &[r#"</l?last=1>; rel="next", <https://evil.example/l?last=2>; rel="next""#],
            &["<https://evil.example/>; rel=first", "</l?last=1>; rel=next"],
            &[r#"<https://evil.example/a,b;rel=next>; rel=first,</l?last=1>;rel=next"#],
            &[r#"<https://evil.example/>; title="a, <b?c>; rel=next"; rel=prev, </l?last=1>; REL="prev NEXT""#],
            &[r#"<https://evil.example/>; title="\", <b?c>; rel=next"; rel=prev, </l?last=1>; rel = "next""#],
            &[r#"<https://evil.example/>; rel=prev; rel=next, </l?last=1>; rel=next; rel=prev"#],
            &[r#"nonsense; rel=next, ,, </l?last=1>; a; b=; rel="next";"#],
            &["</l?last=1>; title*=UTF-8''n%c3%a4chste; rel=Next"],
        ] {
            assert_eq!(next(lines, PATH, None), Some(format!("<{PATH}?last=1>; rel=\"next\"")), "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_next_page_is_left_out() {
        for line in [
            "nonsense",
            "<unclosed",
            "</l?last=1>",
            "</l?last=1>; rel=prev",
            "</l?last=1>; rel=nextish",
            "</l?last=1>; rel*=next",
            "</l?last=1>; rev=next",
            "</l?last=1>; title=\"rel=next",
            "",
        ] {
            assert_eq!(next(&[line], PATH, None), None, "{line}");
        }
    }

    #[test]
    fn a_path_that_looks_like_a_host_is_none() {
        for path in ["//evil.example/v2/a/tags/list", "/\\evil.example/v2/a/tags/list"] {
            let found = next(&["</l?last=1>; rel=next"], path, None).unwrap();
            assert_eq!(found, "</evil.example/v2/a/tags/list?last=1>; rel=\"next\"", "{path}");
        }
    }

    #[test]
    fn a_page_of_referrers_keeps_its_filter() {
        let link =
            r#"<https://ghcr.io/v2/a/referrers/sha256:0?artifactType=application%2Fx%2By&last=a/b==>; rel="next""#;
        assert_eq!(
            next(&[link], "/team/v2/ghcr.io/a/referrers/sha256:0", Some("ghcr.io")).unwrap(),
            "</team/v2/ghcr.io/a/referrers/sha256:0?artifactType=application%2Fx%2By&last=a%2Fb%3D%3D&ns=ghcr.io>; rel=\"next\""
        );
    }

    proptest! {
        #[test]
        fn whatever_is_said_one_link_leads_to_us(line in r#"[<>;,="\\ a-cnext?&#/:]{0,60}"#, tail in ".{0,10}") {
            if let Ok(value) = HeaderValue::from_bytes(format!("{line}{tail}").as_bytes())
                && let Some(next) = next_page([&value], PATH, None)
            {
                let next = next.to_str().unwrap();
                let query = next.strip_prefix(&format!("<{PATH}?")).and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
                prop_assert!(query.is_some_and(|query| !query.contains(['<', '>', '"', ',', ' '])), "{}", next);
            }
        }
    }
}
