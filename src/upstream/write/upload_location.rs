//! Where an upload continues (pure).
//!
//! What must hold: it continues on the upstream's own origin, whatever the upstream says.

use http::HeaderValue;
use reqwest::Url;

use super::super::{
    client::redirect,
    error::{Error, ErrorKind},
    redacted_url::RedactedUrl,
};

/// The longest path and query of an upload, in bytes; forebay's own form of it has to fit a client's request.
const MAX_TARGET: usize = 4 * 1024;

/// The URL of an upload, which is on the origin of `base` whatever `target` is.
///
/// # Errors
/// `target` is no path.
pub fn url_of(base: &Url, target: &str) -> Result<Url, Error> {
    let not_a_path = || Error::new(ErrorKind::NotFound, "the upload's place is no path");
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if !path.starts_with('/') {
        return Err(not_a_path());
    }
    let mut url = base.clone();
    url.set_path(path);
    url.set_query(query);
    url.set_fragment(None);
    if redirect::same_origin(&url, base) { Ok(url) } else { Err(not_a_path()) }
}

/// Path and query of the `Location` of a response from `from`, which must be on the upstream's own origin.
///
/// A registry behind a TLS proxy may call itself http: the next request goes to the configured scheme.
///
/// # Errors
/// The location is on another origin, no URL, or too long.
pub fn target_of(base: &Url, from: &Url, location: &HeaderValue) -> Result<String, Error> {
    let refuse =
        |why: &str| Error::new(ErrorKind::Protocol, format!("{} has an upload go on {why}", RedactedUrl(from)));
    let url = location.to_str().ok().and_then(|location| from.join(location).ok());
    let url = url.ok_or_else(|| refuse("at something that is not a URL"))?;
    let same_name = url.host() == base.host();
    let renamed =
        same_name && url.scheme() == "http" && base.scheme() == "https" && matches!(url.port(), None | Some(443));
    if !redirect::same_origin(&url, base) && !renamed {
        return Err(refuse("at another host, which is not asked"));
    }
    let target = path_and_query(&url);
    if target.len() > MAX_TARGET {
        return Err(refuse("at a place with too long a name"));
    }
    Ok(target)
}

/// Path and query of the `Location` of new content, on whatever host.
pub(super) fn path_of(from: &Url, location: &HeaderValue) -> Option<String> {
    let url = from.join(location.to_str().ok()?).ok()?;
    Some(path_and_query(&url))
}

fn path_and_query(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn an_upload_stays_on_the_upstreams_origin() {
        let (base, asked) = (url("https://ghcr.io/p"), url("https://ghcr.io/p/v2/a/blobs/uploads/"));
        for (location, target) in [
            ("/p/v2/a/blobs/uploads/1?_state=a%2Fb", Some("/p/v2/a/blobs/uploads/1?_state=a%2Fb")),
            ("https://ghcr.io/u/1", Some("/u/1")),
            ("https://GHCR.io:443/u/1", Some("/u/1")),
            ("1", Some("/p/v2/a/blobs/uploads/1")),
            ("?x", Some("/p/v2/a/blobs/uploads/?x")),
            ("http://ghcr.io/u/1", Some("/u/1")),
            ("http://ghcr.io:443/u/1", Some("/u/1")),
            ("http://ghcr.io:8080/u/1", None),
            ("https://evil.example/u/1", None),
            ("//evil.example/u/1", None),
            ("https://ghcr.io:8443/u/1", None),
            ("https://169.254.169.254/", None),
            ("ftp://ghcr.io/u/1", None),
            ("https://[", None),
        ] {
            let found = target_of(&base, &asked, &HeaderValue::from_str(location).unwrap());
            assert_eq!(found.ok().as_deref(), target, "{location}");
        }
        let long = HeaderValue::from_str(&"x".repeat(MAX_TARGET)).unwrap();
        assert!(target_of(&base, &asked, &long).is_err());
    }

    #[test]
    fn the_url_of_an_upload_is_on_the_base_origin() {
        let base = url("https://ghcr.io/p");
        for (target, expected) in [
            (
                "/v2/a/blobs/uploads/1?_state=a%2Fb&digest=x",
                Some("https://ghcr.io/v2/a/blobs/uploads/1?_state=a%2Fb&digest=x"),
            ),
            ("//evil.example/u", Some("https://ghcr.io//evil.example/u")),
            ("/@evil.example/u", Some("https://ghcr.io/@evil.example/u")),
            ("evil", None),
            ("", None),
        ] {
            assert_eq!(url_of(&base, target).ok().as_ref().map(Url::as_str), expected, "{target}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_target_is_on_the_same_origin(target in "[ -~]{0,40}") {
            let base = url("https://ghcr.io");
            if let Ok(url) = url_of(&base, &target) {
                assert!(redirect::same_origin(&url, &base) && url.username().is_empty() && url.password().is_none());
            }
        }
    }
}
