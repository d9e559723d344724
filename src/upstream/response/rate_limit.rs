//! The rate limit that an upstream announces in the head of a response (pure).
//!
//! Docker Hub sends `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 76;w=21600` with every manifest; a
//! response without them comes from an account without limits, or from another host.

use std::time::Duration;

use http::HeaderMap;

/// The announced limit, in pulls per window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct RateLimit {
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    pub window: Option<Duration>,
}

impl RateLimit {
    /// `None` when the response announces no limit.
    pub(in crate::upstream) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let announced = Self {
            limit: quantity(headers, "ratelimit-limit"),
            remaining: quantity(headers, "ratelimit-remaining"),
            window: window(headers, "ratelimit-remaining").or_else(|| window(headers, "ratelimit-limit")),
        };
        (announced.limit.is_some() || announced.remaining.is_some()).then_some(announced)
    }
}

/// `w=21600`, in seconds.
fn window(headers: &HeaderMap, name: &str) -> Option<Duration> {
    let text = headers.get(name)?.to_str().ok()?;
    let seconds = text.split([';', ',']).find_map(|parameter| parameter.trim().strip_prefix("w="))?;
    Some(Duration::from_secs(seconds.parse().ok()?))
}

/// The number before the parameters, as in `100;w=21600`.
fn quantity(headers: &HeaderMap, name: &str) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?;
    text.split([';', ',']).next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn announced_limits() {
        type Case = (&'static [(&'static str, &'static str)], Option<(Option<u64>, Option<u64>)>);
        let cases: &[Case] = &[
            (&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "76;w=21600")], Some((Some(100), Some(76)))),
            (&[("ratelimit-limit", "200"), ("ratelimit-remaining", " 0 ;w=60")], Some((Some(200), Some(0)))),
            (&[("ratelimit-remaining", "3, 3;w=1")], Some((None, Some(3)))),
            (&[("ratelimit-limit", "many")], None),
            (&[], None),
        ];
        for (headers, expected) in cases {
            let map = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
            assert_eq!(
                RateLimit::from_headers(&map).map(|limit| (limit.limit, limit.remaining)),
                *expected,
                "{headers:?}"
            );
        }
    }

    #[test]
    fn a_window_may_stand_beside_either_number() {
        let told = RateLimit { limit: Some(100), remaining: Some(9), window: Some(Duration::from_secs(21_600)) };
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("ratelimit-limit"), HeaderValue::from_static("100;w=21600")),
            (HeaderName::from_static("ratelimit-remaining"), HeaderValue::from_static("9")),
        ]);
        assert_eq!(RateLimit::from_headers(&headers), Some(told));
    }
}
