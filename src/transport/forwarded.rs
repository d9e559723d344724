//! Whether a proxy passed a request on (pure).

use http::{HeaderMap, header};

/// What proxies name the client or themselves in, beside `Via` and `Forwarded`.
const X_REAL_IP: &str = "x-real-ip";
/// `X-Forwarded-For`, `-Host`, `-Proto` and their like.
const X_FORWARDED: &str = "x-forwarded-";

/// Whether a proxy passed the request on, so that its client is not the peer of the connection: it may be anywhere, and one of
/// many. A proxy that sends none of these headers is not noticed.
///
/// Source: RFC 9110, section 7.6.3; RFC 7239.
pub(crate) fn is_forwarded(headers: &HeaderMap) -> bool {
    let is_of_proxy = |name: &str| name == X_REAL_IP || name.starts_with(X_FORWARDED);
    headers.contains_key(header::VIA)
        || headers.contains_key(header::FORWARDED)
        || headers.keys().any(|name| is_of_proxy(name.as_str()))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_request_that_a_proxy_passed_on_is_noticed() {
        for (name, expected) in [
            ("via", true),
            ("forwarded", true),
            ("x-forwarded-for", true),
            ("x-forwarded-proto", true),
            ("x-forwarded-client-cert", true),
            ("x-real-ip", true),
            ("x-forwarded", false),
            ("x-request-id", false),
            ("authorization", false),
        ] {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("x"))]);
            assert_eq!(is_forwarded(&headers), expected, "{name}");
        }
        assert!(!is_forwarded(&HeaderMap::new()));
    }
}
