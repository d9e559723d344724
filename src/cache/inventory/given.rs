//! Whether a GET of a manifest is a pull, and of which name.
//!
//! A pull is a GET by tag, or by a digest that this client was not just given. A client was given a digest if it has
//! read an index that names it, or a tag that has it, within a minute. If it has asked by HEAD for a tag that has the
//! digest, the first GET after that is a pull of the tag (containerd and BuildKit ask so), and the digest is given with
//! it.
//!
//! What must hold: a note costs the response next to nothing (a store for each manifest of an index, no allocation),
//! since every GET of a manifest makes some. So the tables have a fixed size, and a note may be overwritten by another:
//! then a GET counts as a pull that is none, or as one by digest. Notes are mistaken for one another with a probability
//! of 2^-40.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    oci::{Digest, Reference, Repository, Tag, is_referrers_tag},
    peer::PeerPrefix,
};

/// How many digests are remembered, of some 4 000 pulls a minute; of two with the same slot, the later one stays.
const SLOTS: usize = 64 * 1024;
/// How many tags are remembered that clients asked for by HEAD.
const HEADS: usize = 4 * 1024;
/// For how long a digest counts as given.
const TTL: Duration = Duration::from_secs(60);
/// The lower bits of a note are its time, in seconds since the start; the other bits are those of its hash. The lower
/// bits of the hash, which are not in the note, choose the slot.
const SECONDS: u64 = (1 << 24) - 1;
/// An odd number with bits all over (the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Which client asks for something of which repository, as a hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(u64);

/// The digests that clients were given. A slot of 0 is free.
pub(super) struct GivenDigests {
    slots: Box<[AtomicU64]>,
    heads: Box<[Mutex<Option<Head>>]>,
    hasher: RandomState,
    start: Instant,
}

/// A tag that a client asked for by HEAD.
struct Head {
    note: u64,
    tag: Tag,
}

impl Default for GivenDigests {
    fn default() -> Self {
        Self {
            slots: std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect(),
            heads: std::iter::repeat_with(Mutex::default).take(HEADS).collect(),
            hasher: RandomState::new(),
            start: Instant::now(),
        }
    }
}

impl GivenDigests {
    pub(super) fn place(&self, client: IpAddr, upstream: &str, repository: &Repository) -> Place {
        Place(self.hasher.hash_one((PeerPrefix::from(client), upstream, repository.as_str())))
    }

    /// A client gets the head of a manifest.
    pub(super) fn note_head(&self, place: Place, reference: &Reference, digest: &Digest) {
        self.note_head_at(self.now(), place, reference, digest);
    }

    /// A client gets a manifest, an index of `children` perhaps: whether that is a pull, and of what.
    pub(super) fn note_get(
        &self,
        place: Place,
        reference: &Reference,
        digest: &Digest,
        children: &[u64],
    ) -> Option<Reference> {
        self.note_get_at(self.now(), place, reference, digest, children)
    }

    fn note_head_at(&self, now: u64, place: Place, reference: &Reference, digest: &Digest) {
        let Reference::Tag(tag) = reference else { return };
        let hash = place.with(digest.front());
        if let Some(slot) = slot(&self.heads, hash)
            && !is_referrers_tag(tag)
        {
            *slot.lock() = Some(Head { note: note(hash, now), tag: tag.clone() });
        }
    }

    fn note_get_at(
        &self,
        now: u64,
        place: Place,
        reference: &Reference,
        digest: &Digest,
        children: &[u64],
    ) -> Option<Reference> {
        let own = place.with(digest.front());
        let named = self.take_tag_of_head(now, own);
        let is_by_tag = named.is_some() || matches!(reference, Reference::Tag(_));
        let pull = match (reference, named) {
            (Reference::Tag(tag), _) => (!is_referrers_tag(tag)).then(|| reference.clone()),
            (Reference::Digest(_), Some(tag)) => Some(Reference::Tag(tag)),
            (Reference::Digest(_), None) => (!self.is_given(now, own)).then(|| reference.clone()),
        };
        if is_by_tag {
            self.give(now, own);
        }
        children.iter().for_each(|child| self.give(now, place.with(*child)));
        pull
    }

    fn give(&self, now: u64, hash: u64) {
        if let Some(slot) = slot(&self.slots, hash) {
            slot.store(note(hash, now), Ordering::Relaxed);
        }
    }

    fn is_given(&self, now: u64, hash: u64) -> bool {
        slot(&self.slots, hash).is_some_and(|slot| is_of(slot.load(Ordering::Relaxed), now, hash))
    }

    /// The tag that the client asked for by HEAD; the first GET takes it.
    fn take_tag_of_head(&self, now: u64, hash: u64) -> Option<Tag> {
        let mut slot = slot(&self.heads, hash)?.lock();
        slot.take_if(|head| is_of(head.note, now, hash)).map(|head| head.tag)
    }

    /// Seconds since the start, plus 1 so that it is never 0.
    fn now(&self) -> u64 {
        self.start.elapsed().as_secs() + 1
    }
}

impl Place {
    /// The hash of a digest at this place. The place has a secret, so that no client chooses the slot.
    fn with(self, front: u64) -> u64 {
        let mixed = (self.0 ^ front).wrapping_mul(SPREAD);
        mixed ^ mixed >> 32
    }
}

fn slot<T>(slots: &[T], hash: u64) -> Option<&T> {
    usize::try_from(hash & SECONDS).ok().and_then(|place| slots.get(place % slots.len()))
}

fn note(hash: u64, now: u64) -> u64 {
    (hash & !SECONDS) | (now & SECONDS)
}

/// Whether a slot has the note of this hash, and it is not too old.
fn is_of(noted: u64, now: u64, hash: u64) -> bool {
    noted != 0 && noted & !SECONDS == hash & !SECONDS && (now.wrapping_sub(noted) & SECONDS) < TTL.as_secs()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::oci::Algorithm;

    const HEAD: bool = true;
    const GET: bool = false;

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    /// Two digests may share a slot, once in 65 536 times: then one of them is forgotten, as it should be, but not in a test.
    fn without_shared_slots(digests: &[Digest], place: impl Fn(&GivenDigests) -> Place) -> (GivenDigests, Place) {
        loop {
            let given = GivenDigests::default();
            let place = place(&given);
            let slots: HashSet<u64> =
                digests.iter().map(|digest| place.with(digest.front()) % SLOTS.min(HEADS) as u64).collect();
            if slots.len() == digests.len() {
                return (given, place);
            }
        }
    }

    /// What a sequence of requests of one client counts as: `tag`, or `@content` for a digest.
    fn pulls(requests: &[(bool, &str)]) -> Vec<Option<String>> {
        let repository = "team/app".parse().unwrap();
        let digests = ["index", "amd64", "arm64", "attestation", "other"].map(digest);
        let (given, place) =
            without_shared_slots(&digests, |given| given.place([192, 0, 2, 1].into(), "docker.io", &repository));
        // The tags name the index, of which these are the manifests.
        let children = ["amd64", "arm64", "attestation"].map(|child| digest(child).front());
        let request = |(is_head, reference): &(bool, &str)| {
            let (reference, digest) = match reference.strip_prefix('@') {
                Some(content) => (Reference::Digest(digest(content)), digest(content)),
                None => (Reference::Tag(reference.parse().unwrap()), digest("index")),
            };
            if *is_head {
                given.note_head(place, &reference, &digest);
                return None;
            }
            let children: &[u64] = if digest == self::digest("index") { &children } else { &[] };
            given.note_get(place, &reference, &digest, children)
        };
        let text = |reference: Reference| match reference {
            Reference::Tag(tag) => tag.to_string(),
            Reference::Digest(digest) => {
                let contents = ["index", "amd64", "arm64", "other"];
                format!("@{}", contents.iter().find(|content| self::digest(content) == digest).unwrap())
            }
        };
        requests.iter().map(|it| request(it).map(text)).collect()
    }

    #[test]
    fn each_client_pulls_once() {
        type Requests = &'static [(bool, &'static str)];
        let cases: [(&str, Requests, &[Option<&str>]); 14] = [
            ("docker", &[(GET, "1"), (GET, "@amd64")], &[Some("1"), None]),
            ("containerd", &[(HEAD, "1"), (GET, "@index"), (GET, "@amd64")], &[None, Some("1"), None]),
            // With the containerd image store, docker reads the attestation as well.
            (
                "BuildKit",
                &[(HEAD, "1"), (GET, "@index"), (GET, "@attestation"), (GET, "@amd64")],
                &[None, Some("1"), None, None],
            ),
            ("podman", &[(GET, "1"), (GET, "@amd64")], &[Some("1"), None]),
            ("by digest", &[(HEAD, "@index"), (GET, "@index"), (GET, "@arm64")], &[None, Some("@index"), None]),
            ("by the digest of a platform", &[(GET, "@amd64")], &[Some("@amd64")]),
            ("crane", &[(HEAD, "1"), (GET, "1"), (GET, "@amd64")], &[None, Some("1"), None]),
            (
                "a client that checks the digest of the HEAD and of the tag",
                &[(HEAD, "1"), (GET, "1"), (GET, "@index")],
                &[None, Some("1"), None],
            ),
            (
                "containerd after a broken response",
                &[(HEAD, "1"), (GET, "@index"), (GET, "@index"), (GET, "@amd64")],
                &[None, Some("1"), None, None],
            ),
            (
                "two pulls by containerd",
                &[(HEAD, "1"), (GET, "@index"), (HEAD, "1"), (GET, "@index")],
                &[None, Some("1"), None, Some("1")],
            ),
            ("skopeo copy --all", &[(GET, "1"), (GET, "@amd64"), (GET, "@arm64")], &[Some("1"), None, None]),
            ("a client that checks the tag's digest", &[(GET, "1"), (GET, "@index")], &[Some("1"), None]),
            ("two pulls of one tag", &[(GET, "1"), (GET, "1")], &[Some("1"), Some("1")]),
            // What belongs to a signature is no image.
            (
                "cosign",
                &[(HEAD, "1"), (GET, "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.sig")],
                &[None, None],
            ),
        ];
        for (client, requests, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|pull| pull.map(str::to_owned)).collect();
            assert_eq!(pulls(requests), expected, "{client}");
        }
    }

    #[test]
    fn a_digest_is_given_to_one_client_and_repository_for_a_while() {
        let (repository, other) = ("team/app".parse().unwrap(), "team/other".parse().unwrap());
        let client = IpAddr::from([192, 0, 2, 1]);
        let (tag, index, child): (Reference, _, _) = ("1".parse().unwrap(), digest("index"), digest("amd64"));
        let by_digest = Reference::Digest(child.clone());
        for begun in [1, SECONDS - 5, SECONDS, 5 * SECONDS] {
            let digests = [index.clone(), child.clone()];
            let (given, place) = without_shared_slots(&digests, |given| given.place(client, "a.example", &repository));
            assert!(given.note_get_at(begun, place, &tag, &index, &[child.front()]).is_some());
            for stranger in [
                given.place([192, 0, 2, 2].into(), "a.example", &repository),
                given.place(client, "b.example", &repository),
                given.place(client, "a.example", &other),
            ] {
                assert!(given.note_get_at(begun, stranger, &by_digest, &child, &[]).is_some());
            }
            for (after, is_pull) in [(0, false), (TTL.as_secs() - 1, false), (TTL.as_secs(), true)] {
                let pull = given.note_get_at(begun + after, place, &by_digest, &child, &[]);
                assert_eq!(pull.is_some(), is_pull, "{begun} {after}");
            }
            for (after, expected) in [(0, &tag), (TTL.as_secs() - 1, &tag), (TTL.as_secs(), &by_digest)] {
                let begun = begun + 10 * TTL.as_secs() + 100 * after;
                given.note_head_at(begun, place, &tag, &child);
                let pull = given.note_get_at(begun + after, place, &by_digest, &child, &[]);
                assert_eq!(pull.as_ref(), Some(expected), "{begun} {after}");
            }
        }
    }
}
