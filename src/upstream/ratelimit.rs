//! The limits that an upstream announces beside its answers.
//!
//! Docker Hub says `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 76;w=21600` with every
//! manifest; an answer without them comes from an account without limits, or from elsewhere.

use http::HeaderMap;

/// What an answer told of the limit, in pulls per window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RateLimit {
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
}

impl RateLimit {
    /// `None` when the answer says nothing of a limit.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let announced =
            Self { limit: quantity(headers, "ratelimit-limit"), remaining: quantity(headers, "ratelimit-remaining") };
        (announced.limit.is_some() || announced.remaining.is_some()).then_some(announced)
    }
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
    fn limits() {
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
            assert_eq!(RateLimit::of(&map).map(|limit| (limit.limit, limit.remaining)), *expected, "{headers:?}");
        }
    }
}
