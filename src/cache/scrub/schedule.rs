//! When an object is due to be verified again, and how fast the scrub walks (pure).
//!
//! A walk through the cache takes an eighth of `verify_every`. Each object is due at an age of its own, between four
//! and seven eighths, so that objects that were cached together are not due together; with the following walk added, no
//! verification grows older than `verify_every`.

use std::time::{Duration, SystemTime};

const WALKS: u32 = 8;
/// The first walk after its verification in which an object can be due, and how many such walks there are.
const FIRST: u32 = 4;
const SPREAD: u32 = 3;
/// However short `verify_every` is, a walk takes at least this long.
const MIN_WALK: Duration = Duration::from_millis(200);
/// A time further ahead of the clock than this was written by a wrong clock.
const MAX_AHEAD: Duration = Duration::from_secs(60);
/// The cost of looking at an object, in bytes read.
const LOOK: u64 = 64 * 1024;

/// How long a walk takes.
pub(super) fn walk_time(verify_every: Duration) -> Duration {
    (verify_every / WALKS).max(MIN_WALK)
}

/// The cost of verifying objects, in bytes read.
pub(super) fn cost(bytes: u64, objects: u64) -> u64 {
    bytes.saturating_add(objects.saturating_mul(LOOK))
}

/// The time from the start of a walk at which, at an even pace, it has `passed` this much of its `total` cost.
#[expect(clippy::cast_precision_loss, reason = "it is a ramp")]
pub(super) fn due_after(walk: Duration, passed: u64, total: u64) -> Duration {
    if passed >= total { walk } else { walk.mul_f64(passed as f64 / total as f64) }
}

/// Whether an object is due in this walk. `share` is any number of the object's own.
///
/// If the time of the last verification is not known, the object is due in one of several walks.
pub(super) fn is_due(
    verified: Option<SystemTime>,
    now: SystemTime,
    verify_every: Duration,
    share: u32,
    walk: u32,
) -> bool {
    let age = match verified.map(|verified| now.duration_since(verified)) {
        Some(Ok(age)) => Some(age),
        Some(Err(ahead)) if ahead.duration() <= MAX_AHEAD => Some(Duration::ZERO),
        Some(Err(_)) | None => None,
    };
    let walks = f64::from(FIRST) + f64::from(SPREAD) * f64::from(share) / f64::from(u32::MAX);
    match age {
        Some(age) => age >= verify_every.mul_f64(walks / f64::from(WALKS)),
        None => share % (FIRST + SPREAD) == walk % (FIRST + SPREAD),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn at(days: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY + days * DAY
    }

    #[test]
    fn an_object_is_due_at_an_age_of_its_own() {
        for (age, share, due) in [
            (0, 0, false),
            (3, 0, false),
            (4, 0, true),
            (6, u32::MAX, false),
            (7, u32::MAX, true),
            (5, u32::MAX / 2, false),
            (6, u32::MAX / 2, true),
        ] {
            assert_eq!(is_due(Some(at(0)), at(age), 8 * DAY, share, 0), due, "{age} days, {share}");
        }
    }

    #[test]
    fn what_is_not_known_is_verified_once_in_seven_walks() {
        // The time of a wrong clock counts as unknown, too.
        for verified in [None, Some(at(400))] {
            for share in [0, 1, 6, 7, u32::MAX] {
                let walks = (0..7).filter(|walk| is_due(verified, at(0), 8 * DAY, share, *walk));
                assert_eq!(walks.count(), 1, "{share}");
            }
        }
        assert!(!is_due(Some(at(0)), at(0) - Duration::from_secs(50), 8 * DAY, 0, 0));
    }

    #[test]
    fn a_walk_goes_on_evenly_and_comes_to_an_end() {
        for (passed, total, seconds) in [(0, 100, 0), (50, 100, 30), (100, 100, 60), (200, 100, 60), (0, 0, 60)] {
            assert_eq!(due_after(Duration::from_secs(60), passed, total), Duration::from_secs(seconds));
        }
        assert_eq!(walk_time(Duration::from_nanos(1)), MIN_WALK);
        assert_eq!(walk_time(8 * DAY), DAY);
    }

    proptest! {
        /// With one check per walk, no verification grows older than `verify_every`, and no object is verified in every
        /// walk.
        #[test]
        fn no_verification_grows_too_old(share: u32, phase in 0u32..1000, known: bool) {
            let (every, walk) = (8 * DAY, DAY);
            let mut verified = at(0);
            for number in 0..50u32 {
                let now = at(0) + walk.mul_f64(f64::from(phase) / 1000.0) + walk * number;
                let age = now.duration_since(verified).unwrap();
                prop_assert!(age <= every);
                if is_due(known.then_some(verified), now, every, share, number) {
                    prop_assert!(number < 7 || age >= every / 2);
                    verified = now;
                }
            }
        }
    }
}
