//! A change that forebay requests from the upstream: the caches learn of it once the upstream made it, or may have made
//! it.
//!
//! What must hold: a client that leaves before the response, or before the caches have learnt of the change, leaves
//! nothing outdated in them.

use http::Uri;

use super::{Caches, Deleted, Push, created_by, tags};
use crate::{
    cache::ManifestCache,
    oci::{Digest, Reference, Repository, Tag},
    route::Write,
    upstream::Upstream,
};

/// If dropped before its end, the change counts as one that the upstream may have made.
pub(super) struct Change(Option<Pending>);

/// The result of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The upstream made the change. `created`: it created an object by the change, and it said that this is its digest.
    Made {
        created: bool,
        digest: Option<Digest>,
    },
    /// The upstream answered that the object to delete does not exist.
    Missing,
    /// The upstream did not answer the request.
    Unknown,
    NotMade,
}

struct Pending {
    write: Write,
    uri: Uri,
    repository: Repository,
    upstream: Upstream,
    caches: Caches,
}

impl Change {
    pub(super) fn of(push: Push<'_>, caches: &Caches) -> Self {
        Self(Some(Pending {
            write: push.write.clone(),
            uri: push.head.uri.clone(),
            repository: push.repository.clone(),
            upstream: push.upstream.clone(),
            caches: caches.clone(),
        }))
    }

    /// Informs the caches and waits for them. They are informed even if the client leaves meanwhile.
    pub(super) async fn end(mut self, end: End) {
        if let Some(change) = self.0.take().filter(|_| end != End::NotMade) {
            let _ = change.caches.blobs.tasks().clone().spawn(change.note(end)).await;
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if let Some(change) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            change.caches.blobs.tasks().clone().spawn_on(change.note(End::Unknown), &runtime);
        }
    }
}

impl Pending {
    async fn note(self, end: End) {
        let (is_made, created, pushed) = match &end {
            End::Made { created, digest } => (true, *created, digest.as_ref()),
            End::Missing | End::Unknown | End::NotMade => (false, false, None),
        };
        let Self { write, uri, repository, upstream, caches } = &self;
        let Caches { manifests, lists, blobs, deletions, grants } = caches;
        let deleted = match write {
            Write::DeleteManifest(Reference::Digest(digest)) | Write::DeleteBlob(digest) => Some(digest),
            _ => None,
        };
        grants.note_write(upstream, repository, deleted);
        match write {
            Write::PutManifest(reference) => {
                manifests.note_write(upstream, repository);
                match reference {
                    Reference::Tag(tag) => note_tag(manifests, upstream, repository, tag, pushed).await,
                    // The upstream may not have the manifest: it stays deleted.
                    Reference::Digest(_) if end == End::Unknown => {}
                    Reference::Digest(digest) => {
                        deletions.forget(Deleted::Manifest, upstream.name(), repository, digest).await;
                    }
                }
                for tag in tags(uri) {
                    note_tag(manifests, upstream, repository, &tag, pushed).await;
                }
            }
            // Any client that the upstream would refuse can send a deletion and leave before the response: only the
            // upstream's word ends what a rule keeps.
            Write::DeleteManifest(Reference::Tag(tag)) => match is_made {
                true => manifests.refresh_tag(upstream, repository, tag).await,
                false => manifests.forget_tag(upstream, repository, tag).await,
            },
            Write::DeleteManifest(Reference::Digest(digest)) => {
                deletions.note(Deleted::Manifest, upstream.name(), repository, digest).await;
                manifests.forget_manifest(upstream, repository, digest).await;
                if is_made {
                    manifests.forget_held(upstream, repository, digest).await;
                }
            }
            Write::DeleteBlob(digest) => {
                deletions.note(Deleted::Blob, upstream.name(), repository, digest).await;
                // Other repositories that have the blob fetch it again on the next pull.
                blobs.forget(upstream, digest).await;
            }
            Write::Begin(_) | Write::Upload if created => {
                if let Some(digest) = created_by(uri) {
                    deletions.forget(Deleted::Blob, upstream.name(), repository, &digest).await;
                }
            }
            Write::Begin(_) | Write::Upload | Write::NotAllowed => {}
        }
        // A blob may be the first object of a repository, which is then in the catalog.
        if created || matches!(write, Write::PutManifest(_) | Write::DeleteManifest(_)) {
            lists.note_write(upstream.name(), repository);
        }
    }
}

/// A tag was created or moved; `digest`: to where, if the upstream said so.
async fn note_tag(
    manifests: &ManifestCache,
    upstream: &Upstream,
    repository: &Repository,
    tag: &Tag,
    digest: Option<&Digest>,
) {
    manifests.forget_tag(upstream, repository, tag).await;
    if let Some(digest) = digest {
        manifests.note_push(upstream, repository, tag, digest).await;
    }
}
