//! Which host a request is for (pure).
//!
//! What must hold: a request that two readers could take for requests to different hosts is refused.
//!
//! Source: RFC 9112 sections 3.2 and 3.2.2; RFC 9113 section 8.3.1.

use http::{HeaderMap, Uri, Version, header};

use crate::oci::host::Authority;

/// Why the host of a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("the request names no host: HTTP/1.1 needs a Host header")]
    Missing,
    #[error("the request has several Host headers")]
    Several,
    #[error("the request's host is no name or address with an optional port")]
    Invalid,
    #[error("the request's :authority and Host differ")]
    Differ,
}

/// The host that a request names; `None` where HTTP/1.0 names none.
pub fn request_host<'a>(version: Version, uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<&'a str>, HostError> {
    let mut fields = headers.get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(HostError::Several);
    }
    let field = field.map(|field| field.to_str().map_err(|_| HostError::Invalid)).transpose()?;
    let field = field.map(|text| read(text).map(|host| (text, host))).transpose()?;
    let target = uri.authority().map(http::uri::Authority::as_str);
    let target = target.map(|text| read(text).map(|host| (text, host))).transpose()?;
    match (target, field) {
        (Some((text, asked)), Some((_, host))) if version == Version::HTTP_2 => {
            let port = match uri.scheme_str() {
                Some("https") => 443,
                _ => 80,
            };
            let is_same = asked.name == host.name && asked.port.unwrap_or(port) == host.port.unwrap_or(port);
            if is_same { Ok(Some(text)) } else { Err(HostError::Differ) }
        }
        (Some(_), None) if version == Version::HTTP_11 => Err(HostError::Missing),
        (Some((text, _)), _) | (None, Some((text, _))) => Ok(Some(text)),
        (None, None) if version < Version::HTTP_11 => Ok(None),
        (None, None) => Err(HostError::Missing),
    }
}

fn read(text: &str) -> Result<Authority, HostError> {
    Authority::of_request(text).ok_or(HostError::Invalid)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const OLD: Version = Version::HTTP_10;
    const ONE: Version = Version::HTTP_11;
    const TWO: Version = Version::HTTP_2;

    #[test]
    fn a_request_names_one_host_or_is_refused() {
        use HostError::{Differ, Invalid, Missing, Several};
        for (version, uri, hosts, expected) in [
            (OLD, "/v2/", &[][..], Ok(None)),
            (OLD, "/v2/", &["a.lan"], Ok(Some("a.lan"))),
            (OLD, "/v2/", &["a b"], Err(Invalid)),
            (OLD, "http://b.lan/v2/", &[], Ok(Some("b.lan"))),
            (ONE, "/v2/", &[], Err(Missing)),
            (ONE, "/v2/", &["A.lan:5000"], Ok(Some("A.lan:5000"))),
            (ONE, "/v2/", &["a.lan", "a.lan"], Err(Several)),
            (OLD, "/v2/", &["a.lan", "b.lan"], Err(Several)),
            // Of an absolute form the host counts; what Host has to be, it has to be all the same.
            (ONE, "http://b.lan/v2/", &["a.lan"], Ok(Some("b.lan"))),
            (ONE, "http://b.lan/v2/", &[], Err(Missing)),
            (ONE, "http://b.lan/v2/", &["a b"], Err(Invalid)),
            (ONE, "http://b.lan/v2/", &["a.lan", "a.lan"], Err(Several)),
            (ONE, "http://user@b.lan/v2/", &["b.lan"], Err(Invalid)),
            (TWO, "http://a.lan:5000/v2/", &[], Ok(Some("a.lan:5000"))),
            (TWO, "http://a.lan/v2/", &["A.LAN"], Ok(Some("a.lan"))),
            (TWO, "http://a.lan/v2/", &["a.lan:80"], Ok(Some("a.lan"))),
            (TWO, "https://a.lan:443/v2/", &["a.lan"], Ok(Some("a.lan:443"))),
            (TWO, "https://a.lan/v2/", &["a.lan:80"], Err(Differ)),
            (TWO, "http://a.lan/v2/", &["b.lan"], Err(Differ)),
            (TWO, "http://a.lan:5000/v2/", &["a.lan:5001"], Err(Differ)),
            (TWO, "http://a.lan/v2/", &["a.lan", "a.lan"], Err(Several)),
            (TWO, "/v2/", &["a.lan"], Ok(Some("a.lan"))),
            (TWO, "/v2/", &[], Err(Missing)),
        ] {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_static(host));
            }
            let uri = uri.parse().unwrap();
            assert_eq!(request_host(version, &uri, &headers), expected, "{version:?} {uri} {hosts:?}");
        }
    }

    #[test]
    fn what_is_no_host() {
        let uri = Uri::from_static("/v2/");
        for (host, is_one) in [
            (&b"a.lan"[..], true),
            (b"a.lan.", true),
            (b"a_b", true),
            (b"10.0.0.1:5000", true),
            (b"[::1]:5000", true),
            (b"[::1]", true),
            // RFC 3986 section 3.2.3: a port may be empty.
            (b"a.lan:", true),
            (b"[::1]:", true),
            (b"", false),
            (b":5000", false),
            (b"a,b", false),
            (b"a, b", false),
            (b"a/b", false),
            (b"http://a", false),
            (b"user@a", false),
            (b"a:b", false),
            (b"a:65536", false),
            (b"a:1:2", false),
            (b"a::", false),
            (b"::1", false),
            (b"[::1", false),
            (b"a..b", false),
            (b"a%2eb", false),
            ("é.lan".as_bytes(), false),
            (b"\xff", false),
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_bytes(host).unwrap())]);
            let read = request_host(ONE, &uri, &headers).is_ok();
            assert_eq!(read, is_one, "{}", host.escape_ascii());
        }
    }
}
