//! Manifests and tags that come with an archive, and not from an upstream.
//!
//! What must hold: an imported tag means its digest, about which no upstream is asked, until a person refreshes or removes the
//! tag or a push moves it; also after a restart. As long, a pin of the import keeps it from being evicted.

use std::{
    io,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{ManifestCache, content::VerifiedManifest, error::ManifestError, request::ManifestRequest};
use crate::{
    cache::{Visibility, first_seen::TagName, inventory::ImageName, storage::tag_record::TagRecord},
    oci::{Descriptor, Digest, Reference, Repository, Tag},
    rule::{First, Hold, RuleName, TagRules},
    upstream::{ContentNotes, ManifestBody},
};

/// What holds a tag that was imported: no rule of the configuration.
static IMPORTED: LazyLock<Arc<RuleName>> =
    LazyLock::new(|| Arc::new(RuleName { pattern: "imported".into(), line: None }));

/// Why a manifest of an archive is not in the cache.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotImported {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the cache cannot be written")]
    Storage(#[source] io::Error),
    #[error("the cache has no room for the manifest {0}")]
    NoRoom(Digest),
    #[error("the manifest {0} is not here any more")]
    Gone(Digest),
}

impl ManifestCache {
    /// Puts a manifest of an archive into the cache.
    ///
    /// # Errors
    /// It is another one than the descriptor says, or there is no room.
    pub(crate) async fn import_manifest(
        &self,
        request: &ManifestRequest,
        descriptor: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), NotImported> {
        let (digest, reference) = (&descriptor.digest, Reference::Digest(descriptor.digest.clone()));
        let body = ManifestBody {
            media_type: Some(descriptor.media_type.clone()),
            digest: None,
            bytes,
            age: Duration::ZERO,
            resident_time: Duration::ZERO,
            notes: ContentNotes::default(),
            room: Default::default(),
        };
        let verify = move || VerifiedManifest::verified(&reference, body);
        let len = usize::try_from(descriptor.size).unwrap_or(usize::MAX);
        let content = self.0.documents.read(len, verify).await.ok_or(ManifestError::Abandoned)??;
        let key = request.visibility().key(digest);
        let content = self.remember(request, key.clone(), Arc::new(content));
        let registry = request.upstream.registry().clone();
        let written = self.0.files.write(key.clone(), content, registry, |land| land()).await;
        written.map_err(NotImported::Storage)?;
        self.0.inventory.note_landed(key.clone());
        if self.0.store.has_manifest(&key) { Ok(()) } else { Err(NotImported::NoRoom(digest.clone())) }
    }

    /// Gives a manifest that is here a name. A tag means it from now on.
    ///
    /// # Errors
    /// The manifest was evicted.
    pub(crate) async fn import_name(
        &self,
        request: &ManifestRequest,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<(), NotImported> {
        let ManifestRequest { upstream, repository, .. } = request;
        let by_digest = Reference::Digest(digest.clone());
        let content = self.meant_here(request, &by_digest).await.ok_or_else(|| NotImported::Gone(digest.clone()))?;
        if let Reference::Tag(tag) = reference {
            let name = TagName { upstream: upstream.name().clone(), repository: repository.clone(), tag: tag.clone() };
            self.0.first_seen.note_import(name.clone(), digest).await;
            let record = TagRecord::of(&content, SystemTime::now());
            self.0.tags.import(&request.key(tag), upstream.registry(), record).await;
            self.keep_held(&name, &hold(), &[Visibility::of(upstream)]).await;
        }
        self.0.inventory.note_image(
            &ImageName {
                visibility: request.visibility(),
                upstream: upstream.name().clone(),
                repository: repository.clone(),
                reference: reference.clone(),
            },
            digest,
        );
        Ok(())
    }

    /// Whether a name that an import gave means what came with the archive: a refresh or a push may have moved a tag since.
    pub(crate) fn is_imported(&self, name: &ImageName) -> bool {
        match &name.reference {
            Reference::Tag(tag) => self.0.first_seen.is_imported(&name.upstream, &name.repository, tag),
            Reference::Digest(_) => true,
        }
    }

    /// A tag that was imported begins anew: nothing freezes it any more, nor is it pinned for that.
    pub(super) async fn end_import(&self, name: &TagName) {
        if self.0.first_seen.is_imported(&name.upstream, &name.repository, &name.tag) {
            self.0.first_seen.forget(name.clone()).await;
        }
        // A kill may have come between the two.
        self.0.pins.end_import(&name.to_string()).await;
    }

    /// What holds for a tag: by the rules, and by an import.
    pub(super) fn tag_rules(&self, upstream: &Arc<str>, repository: &Repository, tag: &Tag) -> TagRules {
        let rules = self.0.rules.get().tag(upstream, repository, tag);
        match self.0.first_seen.is_imported(upstream, repository, tag) {
            true => TagRules { is_immutable: false, hold: Some(hold()), ..rules },
            false => rules,
        }
    }
}

/// The first digest stays, which is the imported one.
fn hold() -> Hold {
    Hold { minimum_age: Duration::ZERO, first: First::Allow, is_final: true, rule: IMPORTED.clone() }
}

/// Whether an import holds a tag, and no rule: then a pin keeps what the tag means.
pub(super) fn is_of_import(hold: &Hold) -> bool {
    Arc::ptr_eq(&hold.rule, &IMPORTED)
}
