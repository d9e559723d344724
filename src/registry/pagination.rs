//! The query of a list, as the client and as the upstream see it (pure).
//!
//! What must hold: only `n`, `last` and, for referrers, `artifactType` tell pages apart, and equal pages have equal
//! queries, so that forebay does not request and cache a list anew for each `?x=1`. Some registries name the next page
//! by parameters of their own: forebay packs such a query into `last`, behind a character with which no tag and no
//! repository begins. So it keeps no state, and the query leads to the same page after a restart and at another
//! instance.

use std::{borrow::Cow, collections::BTreeSet};

use crate::{
    cache::List,
    oci::query::{NAMESPACE, encode, pairs},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// The first character of a `last` that has the upstream's own query.
const PACKED: char = '~';
const ARTIFACT_TYPE: &str = "artifactType";
/// Parameters that are never passed on: `ns` concerns only a client and a mirror, and a client must choose neither the
/// credentials (RFC 6750 section 2.3) nor the method of the upstream's request.
const NEVER_FORWARDED: [&str; 3] = [NAMESPACE, "access_token", "_method"];
/// The longest packed query, in bytes.
const MAX_PACKED: usize = 4096;
/// Sent in place of an `n` that is no number: registries refuse it, or ignore it.
const NO_NUMBER: &str = "-1";

/// The query for the upstream, made from the client's query.
pub(crate) fn upstream_query(list: &List, query: &str) -> String {
    let value = |name: &str| pairs(query).find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value);
    let last = value("last");
    if let Some(packed) = last.as_deref().and_then(unpack) {
        return packed;
    }
    let n = value("n").map(|n| n.parse::<u64>().map_or(NO_NUMBER.to_owned(), |n| n.to_string()));
    let mut page: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
    page.extend(n.map(|n| ("n".into(), n.into())));
    page.extend(last.map(|last| ("last".into(), last)));
    if matches!(list, List::Referrers { .. }) {
        let types: BTreeSet<_> =
            pairs(query).filter(|(key, value)| key == ARTIFACT_TYPE && !value.is_empty()).collect();
        page.extend(types);
    }
    encode(page)
}

/// The query for the client, made from the query by which the upstream names a page.
pub(crate) fn client_query(query: &str) -> String {
    let forwarded = || pairs(query).filter(|(key, _)| is_forwarded(key));
    let plain = encode(forwarded());
    let needs_no_packing = forwarded().all(|(key, value)| match &*key {
        "last" => !value.starts_with(PACKED),
        "n" | ARTIFACT_TYPE => true,
        _ => false,
    });
    if needs_no_packing {
        return plain;
    }
    encode([("last", format!("{PACKED}{}", URL_SAFE_NO_PAD.encode(plain)))])
}

fn unpack(last: &str) -> Option<String> {
    let query = URL_SAFE_NO_PAD.decode(last.strip_prefix(PACKED)?).ok().filter(|query| query.len() <= MAX_PACKED)?;
    // Encoded again, so that no other text gets into the request to the upstream.
    Some(encode(url::form_urlencoded::parse(&query).filter(|(key, _)| is_forwarded(key))))
}

fn is_forwarded(key: &str) -> bool {
    !NEVER_FORWARDED.iter().any(|never| key.trim().eq_ignore_ascii_case(never))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::form_urlencoded::Serializer;

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
