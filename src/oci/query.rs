//! Query strings of requests (pure).

use std::borrow::Cow;

use http::Uri;
use url::form_urlencoded::{Parse, Serializer, parse};

/// The parameter by which containerd names the upstream to a mirror. forebay sends it to no registry.
pub(crate) const NAMESPACE: &str = "ns";

/// The parameters of a query, decoded.
pub(crate) fn pairs(query: &str) -> Parse<'_> {
    parse(query.as_bytes())
}

/// The parameters of a URI's query, decoded.
pub(crate) fn pairs_of(uri: &Uri) -> Parse<'_> {
    pairs(uri.query().unwrap_or_default())
}

/// The first value of a parameter, decoded.
pub(crate) fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<Cow<'a, str>> {
    pairs_of(uri).find(|(key, _)| key == name).map(|(_, value)| value)
}

/// The encoded query of these parameters; empty if there are none.
pub(crate) fn encode<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> String {
    Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Appends a query to a path that may have one. The path's own query stays unchanged byte for byte: it may be signed.
pub(crate) fn append(mut path: String, query: &str) -> String {
    if !query.is_empty() {
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(query);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_of_a_parameter_is_decoded() {
        let uri = Uri::from_static("/v2/?a=1&ns=a%2Fb+c&ns=d&e");
        assert_eq!(parameter(&uri, NAMESPACE).as_deref(), Some("a/b c"));
        assert_eq!(parameter(&uri, "e").as_deref(), Some(""));
        assert_eq!(parameter(&uri, "x"), None);
        assert_eq!(parameter(&Uri::from_static("/v2/"), "a"), None);
    }

    #[test]
    fn a_query_is_appended_behind_another() {
        assert_eq!(append("/a".to_owned(), ""), "/a");
        assert_eq!(append("/a".to_owned(), &encode([("b", "c/d")])), "/a?b=c%2Fd");
        assert_eq!(append("/a?s=%2f".to_owned(), "b=1"), "/a?s=%2f&b=1");
    }
}
