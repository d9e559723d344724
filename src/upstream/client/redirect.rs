//! Rules for redirects (pure).
//!
//! Registries redirect requests for blobs, and some of them for manifests, to a signed URL of another host. What must
//! hold: credentials are dropped for good as soon as scheme, host or port change; no redirect leads from https to http.
//! A redirect is never cached, since its signature expires within minutes. [`address_filter`] decides whether the
//! target's address may be dialled.
//!
//! [`address_filter`]: super::address_filter

use http::{HeaderMap, Method, StatusCode, header};
use reqwest::Url;

use super::super::{
    error::{Error, ErrorKind},
    redacted_url::RedactedUrl,
};

/// How many redirects are followed in a row: as many as Go's client follows, which the usual clients use.
pub(in crate::upstream) const MAX_REDIRECTS: usize = 10;

/// Whether the status is a redirect that may be followed.
pub(in crate::upstream) fn is_redirect(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

/// Whether the redirected request keeps its method. All redirects keep GET and HEAD; for other methods, 301, 302 and
/// 303 would make it a GET (RFC 9110 section 15.4).
pub(in crate::upstream) fn keeps_method(method: &Method, status: StatusCode) -> bool {
    matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT)
        || matches!(*method, Method::GET | Method::HEAD)
}

/// Whether both URLs have the same scheme, host and port: only then are credentials sent to both.
pub(in crate::upstream) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

/// The URL in `Location` of a redirect from `from`.
pub(in crate::upstream) fn target(from: &Url, headers: &HeaderMap) -> Result<Url, Error> {
    let nonsense = |why: &str| Error::new(ErrorKind::Protocol, format!("{} redirects {why}", RedactedUrl(from)));
    let location = headers.get(header::LOCATION).ok_or_else(|| nonsense("to nowhere"))?;
    let location = location.to_str().map_err(|_| nonsense("to something that is not a URL"))?;
    let mut url = from.join(location).map_err(|_| nonsense("to something that is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(nonsense("to something that is not an http or https URL"));
    }
    if from.scheme() == "https" && url.scheme() == "http" {
        return Err(nonsense("from https to http"));
    }
    // reqwest would send userinfo as an Authorization header. Neither call can fail on a URL with a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn redirected(from: &str, location: &str) -> Option<String> {
        let headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_str(location).unwrap())]);
        target(&Url::parse(from).unwrap(), &headers).ok().map(String::from)
    }

    #[test]
    fn locations() {
        let from = "https://gcr.io/v2/team/app/blobs/sha256:00";
        for (location, leads) in [
            ("https://cdn.example/b?sig=1%2F2", Some("https://cdn.example/b?sig=1%2F2")),
            ("/artifacts-downloads/namespaces/x", Some("https://gcr.io/artifacts-downloads/namespaces/x")),
            ("../other", Some("https://gcr.io/v2/team/app/other")),
            ("//cdn.example/b", Some("https://cdn.example/b")),
            ("?sig=1", Some("https://gcr.io/v2/team/app/blobs/sha256:00?sig=1")),
            ("https://user:pw@cdn.example/b#frag", Some("https://cdn.example/b")),
            ("http://cdn.example/b", None),
            ("http://gcr.io/b", None),
            ("ftp://cdn.example/b", None),
            ("file:///etc/passwd", None),
            ("https://", None),
            ("https://[::1", None),
        ] {
            assert_eq!(redirected(from, location).as_deref(), leads, "{location}");
        }
        assert_eq!(redirected("http://registry.lan/b", "https://cdn.lan/b").as_deref(), Some("https://cdn.lan/b"));
        assert_eq!(redirected("http://registry.lan/b", "http://cdn.lan/b").as_deref(), Some("http://cdn.lan/b"));
    }

    #[test]
    fn a_redirect_without_location_is_an_error() {
        let from = Url::parse("https://gcr.io/b").unwrap();
        assert_eq!(target(&from, &HeaderMap::new()).unwrap_err().kind, ErrorKind::Protocol);
    }

    proptest::proptest! {
        /// Never from https to http, and never with userinfo.
        #[test]
        fn any_location(location in "[ -~]{0,40}|(https?:|//|/|\\\\)[a-z@:/?#.\\[\\]%0-9]{0,30}") {
            let from = Url::parse("https://gcr.io/v2/a/blobs/b").unwrap();
            let headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_str(&location).unwrap())]);
            if let Ok(url) = target(&from, &headers) {
                assert_eq!(url.scheme(), "https");
                assert!(url.host().is_some() && url.username().is_empty() && url.password().is_none());
            }
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (a, b, same) in [
            ("https://gcr.io/a", "https://gcr.io:443/b?c", true),
            ("https://gcr.io/a", "https://GCR.io/b", true),
            ("https://gcr.io/a", "http://gcr.io:443/a", false),
            ("https://gcr.io/a", "https://gcr.io:8443/a", false),
            ("https://gcr.io/a", "https://eu.gcr.io/a", false),
            ("https://ccr.io/a", "https://hkccr.io/a", false),
            ("https://gcr.io/a", "https://gcr.io.evil.org/a", false),
        ] {
            assert_eq!(same_origin(&Url::parse(a).unwrap(), &Url::parse(b).unwrap()), same, "{a} {b}");
        }
    }
}
