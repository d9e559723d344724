//! A change that is asked of the upstream: the caches know of it once it was made, or may have been.
//!
//! What must hold: a client that leaves before the answer, or between the answer and what is forgotten here, leaves nothing behind
//! that is so no more.

use http::Uri;

use super::{Caches, Deleted, Deletions, Push, created_by, tags};
use crate::{
    auth::Grants,
    cache::{BlobCache, Lists, ManifestCache},
    oci::{Reference, Repository},
    route::Write,
    upstream::Upstream,
};

/// Noted as one that may have been made when it is dropped before its end.
pub(super) struct Change(Option<Made>);

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was made; `created`: and something with it.
    Made {
        created: bool,
    },
    /// The upstream was asked, and gave no answer.
    Unknown,
    NotMade,
}

struct Made {
    write: Write,
    uri: Uri,
    repository: Repository,
    upstream: Upstream,
    manifests: ManifestCache,
    lists: Lists,
    gone: Deletions,
    proofs: Grants,
    blobs: BlobCache,
}

impl Change {
    pub(super) fn of(push: Push<'_>, upstream: &Upstream, caches: Caches<'_>) -> Self {
        Self(Some(Made {
            write: push.write.clone(),
            uri: push.uri.clone(),
            repository: push.repository.clone(),
            upstream: upstream.clone(),
            manifests: caches.manifests.clone(),
            lists: caches.lists.clone(),
            gone: caches.gone.clone(),
            proofs: caches.proofs.clone(),
            blobs: caches.blobs.clone(),
        }))
    }

    /// Its end is waited for, and comes also where the client leaves meanwhile.
    pub(super) async fn ended(mut self, end: End) {
        if let Some(made) = self.0.take().filter(|_| end != End::NotMade) {
            let _ = made.blobs.tasks().clone().spawn(made.note(end)).await;
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if let Some(made) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            made.blobs.tasks().clone().spawn_on(made.note(End::Unknown), &runtime);
        }
    }
}

impl Made {
    async fn note(self, end: End) {
        let created = end == End::Made { created: true };
        let Self { write, uri, repository, upstream, manifests, lists, gone, proofs, blobs } = &self;
        let deleted = match write {
            Write::DeleteManifest(Reference::Digest(digest)) | Write::DeleteBlob(digest) => Some(digest),
            _ => None,
        };
        proofs.note_write(upstream, repository, deleted);
        match write {
            Write::PutManifest(reference) => {
                manifests.note_write(upstream, repository);
                match reference {
                    Reference::Tag(tag) => manifests.forget_tag(upstream, repository, tag).await,
                    // What may not be there stays deleted.
                    Reference::Digest(_) if end == End::Unknown => {}
                    Reference::Digest(digest) => {
                        gone.forget(Deleted::Manifest, upstream.name(), repository, digest).await;
                    }
                }
                for tag in tags(uri) {
                    manifests.forget_tag(upstream, repository, &tag).await;
                }
            }
            Write::DeleteManifest(Reference::Tag(tag)) => manifests.forget_tag(upstream, repository, tag).await,
            Write::DeleteManifest(Reference::Digest(digest)) => {
                gone.note(Deleted::Manifest, upstream.name(), repository, digest).await;
                manifests.forget_manifest(upstream, repository, digest).await;
            }
            Write::DeleteBlob(digest) => {
                gone.note(Deleted::Blob, upstream.name(), repository, digest).await;
                // Clients of another repository that has it fetch it again.
                blobs.forget(upstream, digest).await;
            }
            Write::Begin(_) | Write::Upload if created => {
                if let Some(digest) = created_by(uri) {
                    gone.forget(Deleted::Blob, upstream.name(), repository, &digest).await;
                }
            }
            Write::Begin(_) | Write::Upload | Write::NotAllowed => {}
        }
        // A repository may begin with a blob, and then the catalogue has it.
        if created || matches!(write, Write::PutManifest(_) | Write::DeleteManifest(_)) {
            lists.note_write(upstream.name(), repository);
        }
    }
}
