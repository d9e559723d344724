//! What upstreams send in addition to content: warnings for clients, and the media type of a manifest that a client
//! requests as a blob.
//!
//! What must hold: forebay repeats these notes only to clients to which the upstream would send them, by registry,
//! client and repository. They are in memory, and bounded.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use moka::sync::Cache;

use crate::{
    bounded_cache,
    oci::{Digest, Repository},
    upstream::{ContentNotes, Principal, Registry, Upstream},
};

/// The maximum memory of all notes, in bytes.
const MAX_MEMORY: u64 = 2 * 1024 * 1024;
/// The memory of one note in addition to its texts, in bytes.
const WEIGHT: usize = 512;

#[derive(Clone, PartialEq, Eq, Hash)]
struct NotesKey {
    registry: Registry,
    principal: Option<Principal>,
    repository: Repository,
    digest: Digest,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Warnings {
    notes: Cache<NotesKey, ContentNotes>,
    /// Whether there were ever any notes. Most upstreams send none, and then a hit does not look for them.
    is_used: Arc<AtomicBool>,
}

impl Default for Warnings {
    fn default() -> Self {
        let notes = bounded_cache::lru(MAX_MEMORY, |_, notes: &ContentNotes| WEIGHT + notes.size());
        Self { notes, is_used: Arc::default() }
    }
}

impl Warnings {
    /// The notes of the upstream's last response, which may be empty.
    pub(crate) fn note(&self, upstream: &Upstream, repository: &Repository, digest: &Digest, notes: &ContentNotes) {
        if !notes.is_empty() {
            self.notes.insert(NotesKey::of(upstream, repository, digest), notes.clone());
            self.is_used.store(true, Ordering::Release);
        } else if self.is_used.load(Ordering::Acquire) {
            self.notes.invalidate(&NotesKey::of(upstream, repository, digest));
        }
    }

    pub(crate) fn of(&self, upstream: &Upstream, repository: &Repository, digest: &Digest) -> ContentNotes {
        let key = self.is_used.load(Ordering::Acquire).then(|| NotesKey::of(upstream, repository, digest));
        key.and_then(|key| self.notes.get(&key)).unwrap_or_default()
    }
}

impl NotesKey {
    fn of(upstream: &Upstream, repository: &Repository, digest: &Digest) -> Self {
        let (registry, principal) = (upstream.registry().clone(), upstream.principal());
        Self { registry, principal, repository: repository.clone(), digest: digest.clone() }
    }
}
