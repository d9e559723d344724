//! Which requests are one pull: those of one client for one repository, in one go.
//!
//! A pull has the id of its first request. It ends a minute after its last response, and a request for a tag begins
//! another one once the pull has gone on to digests.
//!
//! What must hold: a hit that goes on with a pull writes nothing within the same few seconds and takes no lock; the memory
//! is fixed; a peer displaces only pulls of peers in its own row.

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    oci::{Reference, is_referrers_tag},
    peer::PeerPrefix,
    route::Operation,
};

/// 128 KiB in all. A peer shares its row with one of a thousand others.
const ROWS: usize = 1024;
/// How many pulls a row remembers.
const PULLS: usize = 16;
/// How long after its last response a pull goes on.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The unit of time in a slot, in seconds.
const TICK: u64 = 4;
/// How often a request tries to note itself while others write to the same slot.
const MAX_TRIES: usize = 4;

/// What a request does in its pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It resolves a tag, as a pull begins.
    Tag,
    /// It asks for what a tag led to, or changes something.
    Content,
    /// It may come at any time.
    Other,
}

impl Step {
    pub(super) fn of(operation: &Operation) -> Self {
        match operation {
            // Tags of signatures and referrers come after the manifest that they belong to.
            Operation::Manifest { reference: Reference::Tag(tag), .. } if !is_referrers_tag(tag) => Self::Tag,
            Operation::Manifest { .. } | Operation::Blob { .. } | Operation::Write { .. } => Self::Content,
            Operation::List(_) => Self::Other,
        }
    }
}

/// Whose pull it is, and of what.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct PullKey<'a> {
    pub peer: IpAddr,
    /// `None`: the client is anonymous.
    pub user: Option<&'a str>,
    pub upstream: &'a str,
    pub repository: &'a str,
}

/// The pull of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pull {
    /// The number of its first request.
    pub first: u64,
    row: usize,
    mark: u16,
}

/// The pulls in progress.
pub(super) struct Pulls {
    rows: Box<[Row]>,
    /// Has no secret: all that a client gets by a collision is a wrong id in the log.
    hasher: BuildHasherDefault<DefaultHasher>,
    started: Instant,
}

#[repr(align(64))]
struct Row([AtomicU64; PULLS]);

/// One pull in a row: the mark of its key (16 bits, never 0), whether it has gone on to content (1 bit), the time of its
/// last use (15 bits), and the low half of its first request's number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot(u64);

const HAS_CONTENT: u64 = 1 << 47;
const TICKS: u64 = 0x7fff;

impl Slot {
    fn new(mark: u16, has_content: bool, tick: u64, first: u64) -> Self {
        let content = if has_content { HAS_CONTENT } else { 0 };
        Self(u64::from(mark) << 48 | content | (tick & TICKS) << 32 | first & u64::from(u32::MAX))
    }

    fn mark(self) -> u16 {
        (self.0 >> 48) as u16
    }

    fn has_content(self) -> bool {
        self.0 & HAS_CONTENT != 0
    }

    /// How many ticks ago it was used. The clock of a slot goes round in a day and a half.
    fn age(self, tick: u64) -> u64 {
        tick.wrapping_sub(self.0 >> 32) & TICKS
    }

    fn is_in_progress(self, tick: u64) -> bool {
        self.0 != 0 && self.age(tick) <= MAX_PAUSE.as_secs() / TICK
    }

    /// The number of its first request, which is less than 2^31 from `number`: of two requests that come together, the later
    /// one may be the first here.
    fn first(self, number: u64) -> u64 {
        let later = (number as u32).wrapping_sub(self.0 as u32).cast_signed();
        number.saturating_add_signed(-i64::from(later))
    }

    fn used_at(self, tick: u64, has_content: bool) -> Self {
        let content = if has_content { HAS_CONTENT } else { 0 };
        Self(self.0 & !(TICKS << 32) | (tick & TICKS) << 32 | content)
    }
}

impl Pulls {
    pub(super) fn new() -> Self {
        let row = || Row([const { AtomicU64::new(0) }; PULLS]);
        Self {
            rows: (0..ROWS).map(|_| row()).collect(),
            hasher: BuildHasherDefault::default(),
            started: Instant::now(),
        }
    }

    /// The pull of the request `number`, which came at `now`.
    pub(super) fn join(&self, key: PullKey<'_>, step: Step, number: u64, now: Instant) -> Pull {
        let (hash, tick) = (self.hasher.hash_one(key), self.tick(now));
        // Not 0, which marks a free slot.
        let mark = (hash as u16).max(1);
        let row = (self.hasher.hash_one(PeerPrefix::from(key.peer)) % ROWS as u64) as usize;
        let pull = |first| Pull { first, row, mark };
        let Some(Row(slots)) = self.rows.get(row) else { return pull(number) };
        for _ in 0..MAX_TRIES {
            let read = slots.each_ref().map(|slot| Slot(slot.load(Ordering::Relaxed)));
            let is_known = |slot: &Slot| slot.mark() == mark && slot.is_in_progress(tick);
            // A free slot, or that of the pull which was used the longest time ago.
            let staleness = |slot: &Slot| if slot.is_in_progress(tick) { slot.age(tick) } else { u64::MAX };
            let oldest = read.iter().enumerate().max_by_key(|(_, slot)| staleness(slot)).map_or(0, |(index, _)| index);
            let known = read.iter().position(is_known);
            let before = known.map_or(read[oldest], |index| read[index]);
            let goes_on = known.is_some() && !(step == Step::Tag && before.has_content());
            let after = match goes_on {
                true => before.used_at(tick, step == Step::Content),
                false => Slot::new(mark, step == Step::Content, tick, number),
            };
            let first = if goes_on { before.first(number) } else { number };
            let slot = &slots[known.unwrap_or(oldest)];
            if after == before || swap(slot, before, after) {
                return pull(first);
            }
        }
        pull(number)
    }

    /// A response of the pull has ended at `now`.
    pub(super) fn note_end(&self, pull: Pull, now: Instant) {
        let tick = self.tick(now);
        let Some(Row(slots)) = self.rows.get(pull.row) else { return };
        for slot in slots {
            let before = Slot(slot.load(Ordering::Relaxed));
            if before.mark() == pull.mark && before.0 as u32 == pull.first as u32 {
                let after = before.used_at(tick, false);
                // If another request of the pull comes first, it notes a time that is as good.
                if after != before {
                    swap(slot, before, after);
                }
                return;
            }
        }
    }

    fn tick(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / TICK
    }
}

/// Whether the slot was still as before.
fn swap(slot: &AtomicU64, before: Slot, after: Slot) -> bool {
    slot.compare_exchange(before.0, after.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key<'a>(peer: &str, user: Option<&'a str>, repository: &'a str) -> PullKey<'a> {
        PullKey { peer: peer.parse().unwrap(), user, upstream: "docker.io", repository }
    }

    const CLIENT: &str = "10.0.0.1";

    /// The numbers of the first requests of the pulls that requests of one client for one repository belong to: each
    /// with its second and its step.
    fn firsts(requests: &[(u64, Step)]) -> Vec<u64> {
        let pulls = Pulls::new();
        let at = |second| pulls.started + Duration::from_secs(second);
        let join = |(number, &(second, step)): (usize, &(u64, Step))| {
            pulls.join(key(CLIENT, None, "library/app"), step, number as u64, at(second)).first
        };
        requests.iter().enumerate().map(join).collect()
    }

    #[test]
    fn a_pull_has_the_number_of_its_first_request() {
        use Step::{Content, Other, Tag};
        for (requests, expected) in [
            // docker: HEAD and GET of the tag, manifests by digest, blobs.
            (&[(0, Tag), (0, Tag), (1, Content), (2, Content), (9, Content)][..], &[0, 0, 0, 0, 0][..]),
            // The same image again, within a minute.
            (&[(0, Tag), (1, Content), (5, Tag), (6, Content), (6, Other)], &[0, 0, 2, 2, 2]),
            // A pull by digest, and signatures.
            (&[(0, Content), (1, Content), (2, Other), (3, Content)], &[0, 0, 0, 0]),
            // A list before it.
            (&[(0, Other), (1, Tag), (2, Content)], &[0, 0, 0]),
            (&[(0, Content), (60, Content), (119, Content), (190, Content)], &[0, 0, 0, 3]),
            (&[(0, Tag), (300, Tag)], &[0, 1]),
        ] {
            assert_eq!(firsts(requests), expected, "{requests:?}");
        }
    }

    #[test]
    fn pulls_of_other_clients_and_repositories_are_others() {
        let pulls = Pulls::new();
        let keys = [
            key(CLIENT, None, "library/app"),
            key(CLIENT, None, "library/other"),
            key(CLIENT, Some("ann"), "library/app"),
            key("10.0.0.2", None, "library/app"),
            PullKey { upstream: "ghcr.io", ..key(CLIENT, None, "library/app") },
        ];
        for round in 0..3 {
            for (number, key) in keys.iter().enumerate() {
                let number = number as u64;
                let pull = pulls.join(*key, Step::Content, round * 10 + number, pulls.started);
                assert_eq!(pull.first, number, "{key:?}");
            }
        }
    }

    #[test]
    fn a_pull_goes_on_after_a_long_response() {
        let pulls = Pulls::new();
        let (key, hour) = (key(CLIENT, None, "library/app"), Duration::from_secs(3600));
        let pull = pulls.join(key, Step::Content, 7, pulls.started);
        pulls.note_end(pull, pulls.started + hour);
        let later = pulls.started + hour + Duration::from_secs(30);
        assert_eq!(pulls.join(key, Step::Content, 8, later).first, 7);
        // The end of a response does not prolong the pull that came in its place.
        let next = pulls.join(key, Step::Tag, 9, later);
        pulls.note_end(pull, later + hour);
        assert_eq!(next.first, 9);
        assert_eq!(pulls.join(key, Step::Content, 10, later + hour).first, 10);
    }

    #[test]
    fn the_whole_number_of_a_first_request_is_known() {
        let pulls = Pulls::new();
        let key = key(CLIENT, None, "library/app");
        for first in [0, 5, u64::from(u32::MAX), 1 << 32, (7 << 32) - 1] {
            let now = pulls.started + Duration::from_secs(first % 1000 * 100);
            let begun = pulls.join(key, Step::Tag, first, now);
            let pull = pulls.join(key, Step::Content, first + 3, now);
            assert_eq!((begun.first, pull.first), (first, first));
            let overtaken = pulls.join(key, Step::Content, first.saturating_sub(2), now);
            assert_eq!(overtaken.first, first);
        }
    }

    #[test]
    fn a_peer_displaces_its_own_oldest_pull() {
        let pulls = Pulls::new();
        let names: Vec<String> = (0..40).map(|number| format!("team/{number}")).collect();
        let second = |number: u64| pulls.started + Duration::from_secs(number / 4 * TICK);
        for (number, name) in names.iter().enumerate() {
            pulls.join(key("2001:db8::1", None, name), Step::Content, number as u64, second(number as u64));
        }
        let known = |number: u64| {
            let key = key("2001:db8::1", None, &names[usize::try_from(number).unwrap()]);
            pulls.join(key, Step::Content, 100 + number, second(39)).first == number
        };
        assert!((36..40).all(known));
        let is_used = |row: &&Row| row.0.iter().any(|slot| slot.load(Ordering::Relaxed) != 0);
        assert_eq!(pulls.rows.iter().filter(is_used).count(), 1);
        assert_eq!(pulls.rows.len() * size_of::<Row>(), 128 * 1024);
    }

    #[test]
    fn concurrent_requests_of_a_pull_agree() {
        let pulls = Pulls::new();
        let key = key(CLIENT, None, "library/app");
        let firsts: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4u64)
                .map(|number| {
                    let pulls = &pulls;
                    scope.spawn(move || pulls.join(key, Step::Content, number, pulls.started).first)
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(firsts.iter().all(|first| *first == firsts[0]), "{firsts:?}");
    }
}
