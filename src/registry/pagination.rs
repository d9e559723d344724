//! Which part of a list is asked for (pure): equal parts are spelled alike, whatever else their clients say.
//!
//! What must hold: only `n`, `last` and, for referrers, `artifactType` tell lists apart, so that a list is not asked for,
//! kept and sent anew for each `?x=1`. Some registries have the next page asked for by parameters of their own: all of
//! such a query goes into `last`, behind a sign with which no tag and no repository begins. So it needs nothing to be
//! remembered here, and leads to the same page after a restart and at another instance.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use url::form_urlencoded::{Serializer, parse};

use crate::cache::List;

/// What begins a `last` that has the upstream's own query.
const PACKED: char = '~';
const ARTIFACT_TYPE: &str = "artifactType";
/// What no page is asked for by: `ns` is between us and either, and a client must not choose in whose name (RFC 6750,
/// section 2.3), or by which method, the upstream is asked.
const NEVER_PASSED: [&str; 3] = ["ns", "access_token", "_method"];
/// The longest query of an upstream's own that a client can bring back, in bytes.
const MAX_PACKED: usize = 4096;
/// What registries are asked instead of any `n` that is no number: they refuse it, or take no notice.
const NO_NUMBER: &str = "-1";

/// The query as the upstream gets it, of the one that a client sent.
pub(crate) fn upstream_query(list: &List, query: &str) -> String {
    let value = |name: &str| parse(query.as_bytes()).find(|(key, value)| key == name && !value.is_empty());
    let last = value("last").map(|(_, last)| last.into_owned());
    if let Some(packed) = last.as_deref().and_then(unpack) {
        return packed;
    }
    let mut pairs = Serializer::new(String::new());
    if let Some((_, n)) = value("n") {
        match n.parse::<u64>() {
            Ok(n) => pairs.append_pair("n", &n.to_string()),
            Err(_) => pairs.append_pair("n", NO_NUMBER),
        };
    }
    pairs.extend_pairs(last.map(|last| ("last", last)));
    if matches!(list, List::Referrers { .. }) {
        let types: BTreeSet<_> =
            parse(query.as_bytes()).filter(|(key, value)| key == ARTIFACT_TYPE && !value.is_empty()).collect();
        pairs.extend_pairs(types);
    }
    pairs.finish()
}

/// The query by which a client asks us for what the upstream has asked for by this one. `ns=` is between us and either.
pub(crate) fn client_query(query: &str) -> String {
    let pairs = || parse(query.as_bytes()).filter(|(key, _)| is_passed(key));
    let plain = Serializer::new(String::new()).extend_pairs(pairs()).finish();
    let is_ours = pairs().all(|(key, value)| match &*key {
        "last" => !value.starts_with(PACKED),
        "n" | ARTIFACT_TYPE => true,
        _ => false,
    });
    if is_ours {
        return plain;
    }
    Serializer::new(String::new()).append_pair("last", &format!("{PACKED}{}", URL_SAFE_NO_PAD.encode(plain))).finish()
}

fn unpack(last: &str) -> Option<String> {
    let query = URL_SAFE_NO_PAD.decode(last.strip_prefix(PACKED)?).ok().filter(|query| query.len() <= MAX_PACKED)?;
    // Spelled as we spell it: nothing else gets into the request to the upstream.
    Some(Serializer::new(String::new()).extend_pairs(parse(&query).filter(|(key, _)| is_passed(key))).finish())
}

fn is_passed(key: &str) -> bool {
    !NEVER_PASSED.iter().any(|never| key.trim().eq_ignore_ascii_case(never))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags() -> List {
        List::Tags("a/b".parse().unwrap())
    }

    fn referrers() -> List {
        let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        List::Referrers { repository: "a/b".parse().unwrap(), digest }
    }

    #[test]
    fn equal_parts_are_spelled_alike() {
        for (query, expected) in [
            ("", ""),
            ("ns=ghcr.io&x=1&N=5&artifactType=a/b&next_page=3", ""),
            ("n=0&ns=ghcr.io", "n=0"),
            ("n=01", "n=1"),
            ("%6E=%31&&n=2&n=x", "n=1"),
            ("n=&last=&n=7", "n=7"),
            ("n=x", "n=-1"),
            ("n=-5", "n=-1"),
            ("n=99999999999999999999", "n=-1"),
            ("last=a%2fb&n=5&last=c", "n=5&last=a%2Fb"),
            ("n=5&last=a/b&ns=", "n=5&last=a%2Fb"),
            ("last=~no base64", "last=%7Eno+base64"),
        ] {
            assert_eq!(upstream_query(&tags(), query), expected, "{query}");
        }
        for (query, expected) in [
            ("artifactType=b&artifactType=a/x%2By&artifactType=b", "artifactType=a%2Fx%2By&artifactType=b"),
            ("artifactType=a&artifacttype=c&x=1&artifactType=", "artifactType=a"),
            ("artifactType=A&n=3", "n=3&artifactType=A"),
        ] {
            assert_eq!(upstream_query(&referrers(), query), expected, "{query}");
        }
    }

    #[test]
    fn a_page_by_parameters_of_the_upstreams_own_is_found_again() {
        for query in
            ["next_page=a%2Bb&n=5", "artifactType=x%2Fy&nextToken=%3D%3D", "last=%7Ea&n=1", "orderby=&last=b&n=2"]
        {
            let by_us = client_query(query);
            assert!(by_us.starts_with("last=%7E") && !by_us.contains('&'), "{by_us}");
            assert_eq!(upstream_query(&tags(), &by_us), query);
            // Through two mirrors.
            assert_eq!(upstream_query(&tags(), &upstream_query(&tags(), &client_query(&by_us))), query);
        }
        assert_eq!(client_query("n=5&last=a/b&ns=evil.example"), "n=5&last=a%2Fb");
    }

    #[test]
    fn a_client_packs_no_credentials_and_nothing_endless() {
        let packed = |query: &str| format!("n=1&last={PACKED}{}", URL_SAFE_NO_PAD.encode(query));
        for (query, expected) in [
            ("page=2&access_token=stolen&ns=evil.example&_method=DELETE", "page=2"),
            ("Access_Token=a& access_token=b&NS=c&%5fmethod=d&page=2", "page=2"),
            ("page=2\r\nHost: evil.example#x", "page=2%0D%0AHost%3A+evil.example%23x"),
            ("/../../other?page=2", "%2F..%2F..%2Fother%3Fpage=2"),
        ] {
            assert_eq!(upstream_query(&tags(), &packed(query)), expected, "{query}");
            assert!(!client_query(query).contains("access_token"));
        }
        let long = packed(&format!("page={}", "a".repeat(MAX_PACKED)));
        assert!(upstream_query(&tags(), &long).starts_with("n=1&last=%7E"), "it is a name like any other");
    }

    proptest! {
        #[test]
        fn whatever_is_asked_it_is_asked_alike_the_second_time(query in "[nlast~=&%0-9a-f]{0,40}") {
            let first = upstream_query(&tags(), &query);
            if !query.contains('~') && !first.contains("%7E") {
                prop_assert_eq!(upstream_query(&tags(), &first), first);
            }
        }

        #[test]
        fn every_page_is_found_again(pairs in prop::collection::vec(("[a-z~]{1,4}", ".{0,6}"), 1..4)) {
            let query = Serializer::new(String::new()).append_pair("other", "").extend_pairs(pairs.iter().filter(|(key, _)| key != "ns")).finish();
            prop_assert_eq!(upstream_query(&tags(), &client_query(&query)), query);
        }
    }
}
