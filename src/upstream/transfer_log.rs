//! Where the bytes of one download came from: it decides who is to blame if they are wrong, and who uploads them.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use crate::{oci::Digest, store::ObjectName};

/// A download that the store broke so often goes on at the registry.
const MAX_BREAKS: u32 = 3;

/// Where bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteSource {
    Registry = 1,
    Peer = 2,
    Store = 4,
}

/// Where the bytes of one download came from.
#[derive(Debug)]
pub(crate) struct TransferLog {
    digest: Digest,
    /// The object that may have the blob; `None`: the store is not asked.
    object: Option<ObjectName>,
    /// The sources of bytes: a bit for each.
    sources: AtomicU8,
    /// Which source told first how long the blob is: a bit as above; 0: none has.
    length_of: AtomicU8,
    /// The store was found to be wrong before all bytes came.
    is_store_wrong: AtomicBool,
    /// How often the store broke the transfer.
    breaks: AtomicU32,
}

impl TransferLog {
    pub(super) fn new(digest: Digest, object: Option<ObjectName>) -> Self {
        Self {
            digest,
            object,
            sources: AtomicU8::new(0),
            length_of: AtomicU8::new(0),
            is_store_wrong: AtomicBool::new(false),
            breaks: AtomicU32::new(0),
        }
    }

    /// The object to ask for this blob now.
    pub(super) fn object_for(&self, digest: &Digest) -> Option<&ObjectName> {
        let asks = *digest == self.digest && self.breaks.load(Ordering::Relaxed) < MAX_BREAKS;
        self.object.as_ref().filter(|_| asks)
    }

    pub(super) fn note(&self, source: ByteSource) {
        self.sources.fetch_or(source as u8, Ordering::Relaxed);
    }

    pub(super) fn has(&self, source: ByteSource) -> bool {
        self.sources.load(Ordering::Relaxed) & source as u8 != 0
    }

    /// A response told how long the blob is. The first one counts.
    pub(super) fn note_length(&self, source: ByteSource) {
        let _ = self.length_of.compare_exchange(0, source as u8, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the store was the first to tell how long the blob is.
    pub(super) fn is_length_of_store(&self) -> bool {
        self.length_of.load(Ordering::Relaxed) == ByteSource::Store as u8
    }

    pub(super) fn note_store_is_wrong(&self) {
        self.is_store_wrong.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_store_wrong(&self) -> bool {
        self.is_store_wrong.load(Ordering::Relaxed)
    }

    /// The store broke a body.
    pub(super) fn note_break(&self) {
        self.breaks.fetch_add(1, Ordering::Relaxed);
    }

    /// The store is not asked again.
    pub(super) fn leave_store(&self) {
        self.breaks.store(MAX_BREAKS, Ordering::Relaxed);
    }

    /// The object that bytes came from.
    pub(super) fn used_object(&self) -> Option<&ObjectName> {
        self.object.as_ref().filter(|_| self.has(ByteSource::Store))
    }

    /// Who is to blame for wrong bytes. A peer comes before the store: without it the next download shows which of both
    /// it was, and a good object stays.
    pub(super) fn suspect(&self) -> ByteSource {
        let suspects = [ByteSource::Peer, ByteSource::Store];
        suspects.into_iter().find(|source| self.has(*source)).unwrap_or(ByteSource::Registry)
    }

    /// Whether this forebay is to upload the blob: what came from the store is there, and what came from peers is for
    /// the owner to upload, and for the one that got it from the registry.
    pub(super) fn is_to_be_uploaded(&self, is_owner: bool) -> bool {
        !self.has(ByteSource::Store) && (self.has(ByteSource::Registry) || !self.has(ByteSource::Peer) || is_owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{oci::Algorithm, store::Pool};

    fn log(sources: &[ByteSource]) -> TransferLog {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let log = TransferLog::new(digest.clone(), Some(ObjectName::blob(Pool::Shared, &digest)));
        sources.iter().for_each(|source| log.note(*source));
        log
    }

    #[test]
    fn what_came_from_the_store_is_not_uploaded_again() {
        use ByteSource::{Peer, Registry, Store};
        for (sources, by_owner, by_others) in [
            (&[][..], true, true),
            (&[Registry], true, true),
            (&[Peer], true, false),
            (&[Peer, Registry], true, true),
            (&[Store], false, false),
            (&[Store, Registry], false, false),
        ] {
            assert_eq!(log(sources).is_to_be_uploaded(true), by_owner, "{sources:?}");
            assert_eq!(log(sources).is_to_be_uploaded(false), by_others, "{sources:?}");
        }
    }

    #[test]
    fn a_peer_is_suspected_before_the_store_is() {
        use ByteSource::{Peer, Registry, Store};
        for (sources, expected) in [
            (&[][..], Registry),
            (&[Registry], Registry),
            (&[Store, Registry], Store),
            (&[Store, Peer], Peer),
            (&[Peer, Registry], Peer),
        ] {
            assert_eq!(log(sources).suspect(), expected, "{sources:?}");
        }
    }

    #[test]
    fn the_first_length_is_the_one_to_blame() {
        for (told, expected) in [
            (&[][..], false),
            (&[ByteSource::Store], true),
            (&[ByteSource::Store, ByteSource::Registry], true),
            (&[ByteSource::Registry, ByteSource::Store], false),
            (&[ByteSource::Peer, ByteSource::Store], false),
        ] {
            let log = log(&[]);
            told.iter().for_each(|source| log.note_length(*source));
            assert_eq!(log.is_length_of_store(), expected, "{told:?}");
        }
    }

    #[test]
    fn a_store_that_breaks_again_and_again_is_left() {
        let (log, digest) = (log(&[]), Digest::of(Algorithm::Sha256, b"x"));
        assert_eq!(log.object_for(&Digest::of(Algorithm::Sha256, b"y")), None);
        for _ in 0..MAX_BREAKS {
            assert!(log.object_for(&digest).is_some());
            log.note_break();
        }
        assert_eq!(log.object_for(&digest), None);
        assert_eq!(log.used_object(), None);
    }
}
