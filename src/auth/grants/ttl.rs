//! How long a grant holds (pure).

use std::time::Duration;

use crate::{
    cache::freshness::Freshness,
    upstream::{Access, Principal, Upstream},
};

/// How long a grant holds.
#[derive(Clone, Copy)]
pub(super) struct GrantTtl {
    /// Without asking the upstream again: `access_ttl`.
    pub ttl: Duration,
    /// While the upstream fails: `access_grace`.
    pub grace: Duration,
}

impl GrantTtl {
    pub(super) fn judge_grant(self, age: Option<Duration>) -> Freshness {
        judge(age, self.ttl, self.grace)
    }

    /// That a repository has a digest is the same for all clients, and does not change within seconds. It is checked
    /// again early enough to hold in an outage.
    pub(super) fn judge_location(self, age: Option<Duration>) -> Freshness {
        judge(age, (self.grace / 2).max(self.ttl), self.grace)
    }
}

/// The client, and how long its grants hold; `None` if the upstream does not authorize each client.
pub(super) fn client_of(upstream: &Upstream) -> Option<(Principal, GrantTtl)> {
    match upstream.access() {
        Access::Client { ttl, grace } => {
            Some((upstream.principal().unwrap_or(Principal::ANONYMOUS), GrantTtl { ttl, grace }))
        }
        Access::Shared => None,
    }
}

fn judge(age: Option<Duration>, ttl: Duration, grace: Duration) -> Freshness {
    match age {
        Some(age) if age < ttl => Freshness::Fresh,
        Some(age) if age < grace => Freshness::Stale,
        Some(_) | None => Freshness::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_fresh_then_stale_then_gone() {
        let (ttl, grace) = (Duration::from_secs(60), Duration::from_secs(3600));
        for (age, expected) in [
            (None, Freshness::Missing),
            (Some(0), Freshness::Fresh),
            (Some(59), Freshness::Fresh),
            (Some(60), Freshness::Stale),
            (Some(3599), Freshness::Stale),
            (Some(3600), Freshness::Missing),
        ] {
            assert_eq!(judge(age.map(Duration::from_secs), ttl, grace), expected, "{age:?}");
        }
        assert_eq!(judge(Some(Duration::ZERO), Duration::ZERO, Duration::ZERO), Freshness::Missing);
    }

    #[test]
    fn a_location_is_checked_again_at_half_the_grace() {
        for (ttl, age, expected) in [
            (60, 1799, Freshness::Fresh),
            (60, 1800, Freshness::Stale),
            (60, 3599, Freshness::Stale),
            (60, 3600, Freshness::Missing),
            (3000, 2999, Freshness::Fresh),
            (3000, 3000, Freshness::Stale),
        ] {
            let ttl = GrantTtl { ttl: Duration::from_secs(ttl), grace: Duration::from_secs(3600) };
            assert_eq!(ttl.judge_location(Some(Duration::from_secs(age))), expected, "{age} of {:?}", ttl.ttl);
        }
    }
}
