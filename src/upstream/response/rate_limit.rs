//! The limits that an upstream announces beside its answers.
//!
//! Docker Hub says `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 76;w=21600` with every
//! manifest; an answer without them comes from an account without limits, or from elsewhere.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use http::HeaderMap;
use tokio::time::Instant;

use super::super::Principal;

/// The longest window that is believed, and that of a limit which tells none.
const MAX_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);
const USUAL_WINDOW: Duration = Duration::from_secs(6 * 60 * 60);
/// Of how many principals it is known at a time that little is left for them.
const MAX_PRINCIPALS: usize = 1024;

/// What an answer told of the limit, in pulls per window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct RateLimit {
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    pub window: Option<Duration>,
}

impl RateLimit {
    /// `None` when the answer says nothing of a limit.
    pub(in crate::upstream) fn of(headers: &HeaderMap) -> Option<Self> {
        let announced = Self {
            limit: quantity(headers, "ratelimit-limit"),
            remaining: quantity(headers, "ratelimit-remaining"),
            window: window(headers, "ratelimit-remaining").or_else(|| window(headers, "ratelimit-limit")),
        };
        (announced.limit.is_some() || announced.remaining.is_some()).then_some(announced)
    }
}

/// For which principals little is left of the limit at one host: less than a tenth.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Scarcity {
    /// Until when; `None`: forebay's own name.
    until: Mutex<HashMap<Option<Principal>, Instant>>,
    /// Whether there may be any: most hosts tell of no limit, and each request for a tag asks.
    any: AtomicBool,
}

impl Scarcity {
    pub(in crate::upstream) fn note(&self, principal: Option<Principal>, announced: RateLimit) {
        let RateLimit { limit: Some(limit), remaining: Some(remaining), window } = announced else { return };
        let is_scarce = remaining.saturating_mul(10) < limit;
        if !is_scarce && !self.any.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let mut all = self.until.lock();
        all.remove(&principal);
        if is_scarce {
            all.retain(|_, until| now < *until);
            if all.len() < MAX_PRINCIPALS {
                all.insert(principal, now + window.unwrap_or(USUAL_WINDOW).min(MAX_WINDOW));
            }
        }
        self.any.store(!all.is_empty(), Ordering::Relaxed);
    }

    /// As it was last told, for as long as the window of that.
    pub(in crate::upstream) fn is_scarce(&self, principal: Option<Principal>) -> bool {
        self.any.load(Ordering::Relaxed)
            && self.until.lock().get(&principal).is_some_and(|until| Instant::now() < *until)
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

    #[tokio::test(start_paused = true)]
    async fn less_than_a_tenth_is_scarce_for_as_long_as_its_window() {
        let scarcity = Scarcity::default();
        let told =
            |limit, remaining, seconds| RateLimit { limit, remaining, window: Some(Duration::from_secs(seconds)) };
        for (limit, remaining, is_scarce) in [
            (Some(100), Some(10), false),
            (Some(100), Some(9), true),
            // It says nothing new.
            (None, Some(50), true),
            (Some(100), None, true),
            (Some(100), Some(100), false),
            (Some(1), Some(0), true),
        ] {
            scarcity.note(None, told(limit, remaining, 60));
            assert_eq!(scarcity.is_scarce(None), is_scarce, "{remaining:?} of {limit:?}");
        }
        // Another principal has another limit.
        assert!(!scarcity.is_scarce(Some(Principal::ANONYMOUS)));
        scarcity.note(Some(Principal::ANONYMOUS), told(Some(100), Some(90), 60));
        assert!(scarcity.is_scarce(None));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(!scarcity.is_scarce(None));
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("ratelimit-limit"), HeaderValue::from_static("100;w=21600")),
            (HeaderName::from_static("ratelimit-remaining"), HeaderValue::from_static("9")),
        ]);
        assert_eq!(RateLimit::of(&headers), Some(told(Some(100), Some(9), 21_600)));
    }
}
