//! Whether a request can be answered with a redirect (pure).
//!
//! What must hold: no credential of a client reaches the store, and no client is led from https to http.

use http::{HeaderMap, header};
use url::Url;

use crate::{
    oci::{ByteRange, Ranges, host::Authority},
    transport::is_forwarded,
};

/// The range that is requested, `None` within for the whole blob; `None`: the client is served from here.
///
/// A range goes along: the client repeats it at the store. Several do not: S3 sends the whole blob for them, and clients expect
/// parts. Nor does a range with a condition, since the store has other ETags. A client behind a proxy, or behind another
/// forebay, is somewhere else than its address says, and may not reach the store.
pub(super) fn range(headers: &HeaderMap) -> Option<Option<ByteRange>> {
    if is_forwarded(headers) || headers.contains_key(header::IF_RANGE) {
        return None;
    }
    let mut ranges = headers.get_all(header::RANGE).iter();
    match (ranges.next(), ranges.next()) {
        (None, _) => Some(None),
        (Some(range), None) => match Ranges::parse(range)? {
            Ranges::One(range) => Some(Some(range)),
            Ranges::Several(_) => None,
        },
        (Some(_), Some(_)) => None,
    }
}

/// Where a redirect leads.
#[derive(Debug)]
pub(super) struct Target<'a> {
    is_https: bool,
    host: &'a str,
}

impl<'a> Target<'a> {
    pub(super) fn of(url: &'a Url) -> Self {
        Self { is_https: url.scheme() == "https", host: url.host_str().unwrap_or_default() }
    }

    /// Whether a client may be led there that came over TLS or not, and that named this `host`.
    ///
    /// Clients in Go send the credentials of a request also to where it is redirected if that is the same host, on any
    /// port, or a host below it; and S3 refuses a signed URL that comes with other credentials.
    ///
    /// Source: Go, `net/http`, `shouldCopyHeaderOnRedirect`.
    pub(super) fn suits(&self, is_tls: bool, host: Option<&str>, headers: &HeaderMap) -> bool {
        let has_credentials = headers.contains_key(header::AUTHORIZATION) || headers.contains_key(header::COOKIE);
        let goes_along = || match host.and_then(Authority::of_request) {
            Some(Authority { name, .. }) => is_same_or_below(self.host, &name),
            None => true,
        };
        (self.is_https || !is_tls) && !(has_credentials && goes_along())
    }
}

/// Both in lower case.
fn is_same_or_below(host: &str, above: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.strip_suffix(above).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn one_range_goes_along_and_others_are_served_here() {
        let forwarded = HeaderName::from_static("x-forwarded-for");
        for (lines, expected) in [
            (&[][..], Some(None)),
            (&[(header::RANGE, "bytes=5-")], Some(Some(ByteRange::From { first: 5 }))),
            (&[(header::RANGE, "bytes=5-6")], Some(Some(ByteRange::Bounded { first: 5, last: 6 }))),
            (&[(header::RANGE, "bytes=0-1,5-6")], None),
            (&[(header::RANGE, "bytes=0-1"), (header::RANGE, "bytes=5-6")], None),
            (&[(header::RANGE, "lines=1")], None),
            (&[(header::RANGE, "bytes=5-"), (header::IF_RANGE, "\"x\"")], None),
            (&[(header::VIA, "1.1 proxy")], None),
            (&[(forwarded, "10.0.0.1")], None),
            (&[(header::AUTHORIZATION, "Basic eA==")], Some(None)),
        ] {
            assert_eq!(range(&headers(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn no_credential_goes_along_and_https_stays_https() {
        let credentials = || headers(&[(header::AUTHORIZATION, "Basic eA==")]);
        let cookie = || headers(&[(header::COOKIE, "a=b")]);
        let none = HeaderMap::new;
        for (url, tls, host, headers, expected) in [
            ("https://s3.example/b", true, Some("mirror.lan"), none(), true),
            ("https://s3.example/b", false, Some("mirror.lan"), none(), true),
            ("http://s3.example/b", false, Some("mirror.lan"), none(), true),
            ("http://s3.example/b", true, Some("mirror.lan"), none(), false),
            ("https://s3.example/b", true, Some("mirror.lan"), credentials(), true),
            ("https://s3.mirror.lan/b", true, Some("mirror.lan"), none(), true),
            ("https://s3.mirror.lan/b", true, Some("Mirror.LAN:5000"), credentials(), false),
            ("https://s3.mirror.lan/b", true, Some("mirror.lan"), cookie(), false),
            ("https://s3mirror.lan/b", true, Some("mirror.lan"), credentials(), true),
            ("https://mirror.lan/b", true, Some("s3.mirror.lan"), credentials(), true),
            ("http://127.0.0.1:8333/b", false, Some("127.0.0.1:5000"), credentials(), false),
            ("http://127.0.0.1:8333/b", false, Some("127.0.0.1:5000"), none(), true),
            ("http://[::1]:8333/b", false, Some("[::1]:5000"), credentials(), false),
            ("https://s3.example/b", true, None, credentials(), false),
            ("https://s3.example/b", true, None, none(), true),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(Target::of(&url).suits(tls, host, &headers), expected, "{url} {tls} {host:?} {headers:?}");
        }
    }
}
