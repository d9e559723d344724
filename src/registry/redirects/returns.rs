//! Clients that come back for what they were redirected to.
//!
//! A client that cannot reach the store, or gets wrong bytes there, tries again: it requests the same bytes of the same blob. It
//! is served from here that time, so that its pull succeeds. The next request is redirected again, so that many clients behind
//! one address get half of what they request from the store at least.
//!
//! What must hold: memory is bounded for any requests of clients.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    num::NonZeroUsize,
    time::Duration,
};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::oci::{ByteRange, Digest};

/// A client that cannot connect waits for up to half a minute, and pauses before it tries again.
const MIN_TIME: Duration = Duration::from_secs(90);
/// A client finds out about wrong bytes at their end. In bytes per second.
const SLOW: u64 = 4_000_000;
/// So many requests are remembered: some 60 bytes each.
const MAX_REQUESTS: NonZeroUsize = match NonZeroUsize::new(50_000) {
    Some(count) => count,
    None => NonZeroUsize::MIN,
};

/// The requests that were redirected lately.
pub(in crate::registry) struct Returns {
    /// By their hashes: a mistake costs a redirect.
    redirected: Mutex<LruCache<Request, Instant>>,
    hasher: RandomState,
}

/// Which bytes a client requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::registry) struct Request(u64);

impl Default for Returns {
    fn default() -> Self {
        Self { redirected: Mutex::new(LruCache::new(MAX_REQUESTS)), hasher: RandomState::new() }
    }
}

impl Returns {
    pub(in crate::registry) fn request(&self, client: IpAddr, digest: &Digest, range: Option<ByteRange>) -> Request {
        Request(self.hasher.hash_one((client, digest, range)))
    }

    /// A request for so many bytes is redirected.
    pub(in crate::registry) fn note(&self, request: Request, bytes: u64, now: Instant) {
        let until = now + MIN_TIME + Duration::from_secs(bytes / SLOW);
        self.redirected.lock().put(request, until);
    }

    /// Whether it was redirected lately. It is forgotten.
    pub(in crate::registry) fn has(&self, request: &Request, now: Instant) -> bool {
        self.redirected.lock().pop(request).is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_client_that_comes_back_is_served_once() {
        let (returns, now) = (Returns::default(), Instant::now());
        let digest = Digest::of(Algorithm::Sha256, b"a");
        let request = |client: &str, digest, range| returns.request(client.parse().unwrap(), digest, range);
        let first = request("10.0.0.1", &digest, None);
        assert!(!returns.has(&first, now));
        returns.note(first, 1, now);
        for other in [
            request("10.0.0.2", &digest, None),
            request("10.0.0.1", &Digest::of(Algorithm::Sha256, b"b"), None),
            // It got a part of it there.
            request("10.0.0.1", &digest, Some(ByteRange::From { first: 7 })),
        ] {
            assert!(!returns.has(&other, now));
        }
        assert!(returns.has(&first, now));
        assert!(!returns.has(&first, now), "the next one is redirected again");
    }

    #[test]
    fn a_long_blob_may_take_its_client_long() {
        let returns = Returns::default();
        let second = Duration::from_secs(1);
        for (bytes, time) in [(0, MIN_TIME), (100 * SLOW, MIN_TIME + second * 100)] {
            for (age, expected) in [(time - second, true), (time, false)] {
                let now = Instant::now();
                returns.note(Request(bytes), bytes, now);
                assert_eq!(returns.has(&Request(bytes), now + age), expected, "{bytes} {age:?}");
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (returns, now) = (Returns::default(), Instant::now());
        for number in 0..MAX_REQUESTS.get() as u64 + 100 {
            returns.note(Request(number), 1, now);
        }
        assert_eq!(returns.redirected.lock().len(), MAX_REQUESTS.get());
    }
}
