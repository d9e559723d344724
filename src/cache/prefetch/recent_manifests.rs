//! Which manifests each client has recently read, so that forebay prefetches the image that this client wants.
//!
//! What must hold: a note costs the response next to nothing (one store, no lock, no allocation), since every GET of an
//! image's manifest makes one. So the table has a fixed size, and a note may be overwritten by another: then forebay
//! knows nothing of that client's read, and prefetches nothing for it. A note is mistaken for another one only with a
//! probability of 2^-40.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    oci::{Digest, Repository},
    peer::PeerPrefix,
    upstream::Registry,
};

/// The number of slots; of two notes with the same slot, the later one stays.
const SLOTS: usize = 16 * 1024;
/// A client requests the configuration right after the manifest; it may have read an earlier manifest for another
/// reason.
const TTL: Duration = Duration::from_secs(60);
/// The lower bits of a note are its time, in seconds since the start; the other bits are those of its hash. The lower
/// bits of the hash, which are not in the note, choose the slot.
const SECONDS: u64 = (1 << 24) - 1;

/// The table of notes. A slot of 0 is free.
pub(crate) struct RecentManifests {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
    start: Instant,
}

/// A client's read of a manifest in a repository.
#[derive(Clone, Copy)]
pub(crate) struct Read<'a> {
    pub client: IpAddr,
    pub registry: &'a Registry,
    pub repository: &'a Repository,
    pub manifest: &'a Digest,
}

impl Default for RecentManifests {
    fn default() -> Self {
        let slots = std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect();
        Self { slots, hasher: RandomState::new(), start: Instant::now() }
    }
}

impl RecentManifests {
    /// Notes that a client reads this manifest.
    pub(crate) fn note(&self, read: Read<'_>) {
        self.note_at(read, self.now());
    }

    /// Whether a client has recently read this manifest; removes the note.
    pub(crate) fn take(&self, read: Read<'_>) -> bool {
        self.take_at(read, self.now())
    }

    fn note_at(&self, read: Read<'_>, now: u64) {
        let hash = self.hash(read);
        if let Some(slot) = self.slot(hash) {
            slot.store(note(hash, now), Ordering::Relaxed);
        }
    }

    fn take_at(&self, read: Read<'_>, now: u64) -> bool {
        let hash = self.hash(read);
        let Some(slot) = self.slot(hash) else { return false };
        let known = slot.load(Ordering::Relaxed);
        let is_it = known != 0 && known & !SECONDS == hash & !SECONDS;
        // Another client's note may have replaced it since.
        is_it
            && slot.compare_exchange(known, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && (now.wrapping_sub(known) & SECONDS) < TTL.as_secs()
    }

    fn hash(&self, read: Read<'_>) -> u64 {
        let Read { client, registry, repository, manifest } = read;
        let (peer, urls) = (PeerPrefix::from(client), registry.url_hashes());
        self.hasher.hash_one((peer, registry.name(), urls, repository.as_str(), manifest.as_str()))
    }

    fn slot(&self, hash: u64) -> Option<&AtomicU64> {
        usize::try_from(hash & SECONDS).ok().and_then(|place| self.slots.get(place % SLOTS))
    }

    /// Seconds since the start, plus 1 so that it is never 0.
    fn now(&self) -> u64 {
        self.start.elapsed().as_secs() + 1
    }
}

fn note(hash: u64, now: u64) -> u64 {
    (hash & !SECONDS) | (now & SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    fn registry(name: &str, host: &str) -> Registry {
        Registry::new(&name.into(), &[format!("https://{host}").parse().unwrap()])
    }

    #[test]
    fn a_read_is_known_once_to_its_client_and_place_alone() {
        let (reads, repository, other) =
            (RecentManifests::default(), "team/app".parse().unwrap(), "team/other".parse().unwrap());
        let (manifest, another) = (digest("one"), digest("another"));
        let client = IpAddr::from([192, 0, 2, 1]);
        let registry = registry("a.example", "a.example");
        let read = Read { client, registry: &registry, repository: &repository, manifest: &manifest };
        assert!(!reads.take(read));
        reads.note(read);
        for stranger in [
            Read { client: IpAddr::from([192, 0, 2, 2]), ..read },
            Read { registry: &self::registry("b.example", "a.example"), ..read },
            Read { registry: &self::registry("a.example", "b.example"), ..read },
            Read { repository: &other, ..read },
            Read { manifest: &another, ..read },
        ] {
            assert!(!reads.take(stranger));
        }
        assert!(reads.take(read));
        assert!(!reads.take(read));
        // All addresses of one IPv6 network count as one client.
        let [first, second] = ["2001:db8::1", "2001:db8::2:1"].map(|address| address.parse().unwrap());
        reads.note(Read { client: first, ..read });
        assert!(reads.take(Read { client: second, ..read }));
    }

    #[test]
    fn a_read_of_a_while_ago_says_nothing() {
        let (reads, repository, manifest) = (RecentManifests::default(), "team/app".parse().unwrap(), digest("one"));
        let client = IpAddr::from([192, 0, 2, 1]);
        let registry = registry("a.example", "a.example");
        let read = Read { client, registry: &registry, repository: &repository, manifest: &manifest };
        for begun in [1, SECONDS - 5, SECONDS, SECONDS + 1, 5 * SECONDS] {
            for (after, known) in [(0, true), (TTL.as_secs() - 1, true), (TTL.as_secs(), false), (SECONDS / 2, false)] {
                reads.note_at(read, begun);
                assert_eq!(reads.take_at(read, begun + after), known, "{begun} {after}");
            }
        }
    }
}
