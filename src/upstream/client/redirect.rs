//! Where an upstream's redirect leads, and what may go along.
//!
//! Registries answer blobs, and some of them manifests, with a redirect to a signed URL elsewhere.
//! It is followed by hand: the credentials stay behind as soon as scheme, host or port change, for
//! good, and the way never leads from https to http. A redirect is never remembered, since its
//! signature dies within minutes. Whether the target's address may be dialled is [`address`]'s.
//!
//! [`address`]: super::address_filter

use http::{HeaderMap, StatusCode, header};
use reqwest::Url;

use super::super::error::{Error, ErrorKind, Shown};

/// How many redirects are followed in a row: as many as Go's client follows, which the usual clients are made with.
pub(in crate::upstream) const MAX_HOPS: usize = 10;

/// Whether the status asks to repeat the same request elsewhere. The methods used here are GET and
/// HEAD, which every one of these keeps (RFC 9110 §15.4).
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

/// Whether both URLs have the same scheme, host and port: only then credentials may go along.
pub(in crate::upstream) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

/// The URL that `Location` of an answer from `from` names.
pub(in crate::upstream) fn target(from: &Url, headers: &HeaderMap) -> Result<Url, Error> {
    let nonsense = |why: &str| Error::new(ErrorKind::Protocol, format!("{} redirects {why}", Shown(from)));
    let location = headers.get(header::LOCATION).ok_or_else(|| nonsense("to nowhere"))?;
    let location = location.to_str().map_err(|_| nonsense("to something that is not a URL"))?;
    let mut url = from.join(location).map_err(|_| nonsense("to something that is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(nonsense("to something that is not an http or https URL"));
    }
    if from.scheme() == "https" && url.scheme() == "http" {
        return Err(nonsense("from https to http"));
    }
    // Userinfo would become an Authorization header that nobody here meant to send. Neither call
    // can fail on a URL with a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn led(from: &str, location: &str) -> Option<String> {
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
            assert_eq!(led(from, location).as_deref(), leads, "{location}");
        }
        assert_eq!(led("http://registry.lan/b", "https://cdn.lan/b").as_deref(), Some("https://cdn.lan/b"));
        assert_eq!(led("http://registry.lan/b", "http://cdn.lan/b").as_deref(), Some("http://cdn.lan/b"));
    }

    #[test]
    fn a_redirect_without_location_is_nonsense() {
        let from = Url::parse("https://gcr.io/b").unwrap();
        assert_eq!(target(&from, &HeaderMap::new()).unwrap_err().kind, ErrorKind::Protocol);
    }

    proptest::proptest! {
        /// Whatever a Location says: http or https, never down, nobody's name or password in it.
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
