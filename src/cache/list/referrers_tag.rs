//! Referrers of an upstream that has no endpoint for them: out of the tag that clients put them under instead.
//!
//! The tag is a manifest like any other, in how long it is believed and in who may read it; that this client may, where
//! its own credentials decide, is to be found out before it is asked for here. That there is none is an answer too:
//! nothing refers to the digest, yet.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{List, ListError, ListRequest, Lists, ServedList, query::ListQuery, store::ListAnswer};
use crate::{
    cache::{
        ManifestError, ManifestRequest, Outcome,
        manifest::{Content, ServedManifest},
    },
    oci::{Digest, MediaTypeKind, NO_REFERRERS, Reference, Referrers, Tag},
    upstream::ErrorKind,
};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// The parameter of the query, and the filter.
const ARTIFACT_TYPE: &str = "artifactType";

/// Referrers that are, if anywhere, under a tag.
pub struct ReferrersTag {
    pub manifest: ManifestRequest,
    pub tag: Reference,
    subject: Digest,
    artifact_types: Arc<[String]>,
    question: ListQuery,
}

impl ReferrersTag {
    pub(super) fn of(wanted: &ListRequest, question: ListQuery) -> Result<Self, ListError> {
        // No other list is ever without an endpoint.
        let List::Referrers { repository, digest } = &wanted.list else { return Err(ListError::Abandoned) };
        let (upstream, repository, accept) = (wanted.upstream.clone(), repository.clone(), wanted.list.accept());
        Ok(Self {
            manifest: ManifestRequest { upstream, repository, accept, tag_digest: None },
            tag: Reference::Tag(Tag::of_referrers(digest)),
            subject: digest.clone(),
            artifact_types: wanted.parameter(ARTIFACT_TYPE).into(),
            question,
        })
    }

    /// Whether this is the subject itself. By a tag its digest may be of another algorithm than the subject's.
    async fn is_subject(&self, content: &Arc<Content>) -> bool {
        let algorithm = self.subject.algorithm();
        if content.digest.algorithm() == algorithm {
            return content.digest == self.subject;
        }
        let content = content.clone();
        let hashed = tokio::task::spawn_blocking(move || Digest::of(algorithm, &content.bytes)).await;
        hashed.is_ok_and(|digest| digest == self.subject)
    }

    /// What is said when there is no such tag.
    pub fn none(&self, outcome: Outcome) -> ServedList {
        self.served(Bytes::from_static(NO_REFERRERS), !self.artifact_types.is_empty(), outcome)
    }

    fn served(&self, body: Bytes, filtered: bool, outcome: Outcome) -> ServedList {
        let media_type = HeaderValue::from_static(MediaTypeKind::OciIndex.as_str());
        let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media_type)]);
        if filtered {
            headers.insert(FILTERS_APPLIED, HeaderValue::from_static(ARTIFACT_TYPE));
        }
        ServedList { headers, body, outcome }
    }
}

impl Lists {
    /// Where the tag points, as far as it is known here.
    pub async fn cached_tag_digest(&self, tagged: &ReferrersTag) -> Option<Digest> {
        let (ManifestRequest { upstream, repository, accept, .. }, Reference::Tag(tag)) =
            (&tagged.manifest, &tagged.tag)
        else {
            return None;
        };
        self.0.manifests.cached_digest(upstream, repository, tag, accept).await
    }

    /// What is under the tag, and the digest of the manifest that is.
    pub async fn get_by_tag(&self, tagged: &ReferrersTag) -> Result<(ServedList, Option<Digest>), ListError> {
        let asked = Instant::now();
        let got = self.0.manifests.get(&tagged.manifest, &tagged.tag).await;
        let digest = got.as_ref().ok().map(|served| served.content.digest.clone());
        let mut list = self.list_tagged(tagged, got, asked).await?;
        // What the upstream says of the manifest it says of the list that is made of it.
        if let Some(digest) = &digest {
            let ManifestRequest { upstream, repository, .. } = &tagged.manifest;
            let warnings = self.0.manifests.warnings(upstream, repository, digest);
            list.headers.extend(warnings.into_iter().map(|warning| (header::WARNING, warning)));
        }
        Ok((list, digest))
    }

    async fn list_tagged(
        &self,
        tagged: &ReferrersTag,
        got: Result<ServedManifest, ManifestError>,
        asked: Instant,
    ) -> Result<ServedList, ListError> {
        // Some registries take the tag for the digest, and answer with the subject itself: what it lists is its platforms.
        if let Ok(served) = &got
            && tagged.is_subject(&served.content).await
        {
            return Ok(tagged.none(served.outcome));
        }
        match got {
            Ok(served) if served.content.media_type.kind() == Some(MediaTypeKind::OciIndex) => {
                let ServedManifest { content, outcome, .. } = served;
                let made = self.0.filter.of(content.clone(), &tagged.artifact_types).await;
                Ok(match made.ok_or(ListError::Abandoned)? {
                    Referrers::Whole => tagged.served(content.bytes.clone(), false, outcome),
                    Referrers::Filtered(index) => tagged.served(index, true, outcome),
                    Referrers::Nothing => tagged.none(outcome),
                })
            }
            // Somebody's tag that merely has such a name.
            Ok(served) => Ok(tagged.none(served.outcome)),
            Err(ManifestError::CachedNotFound(_)) => Ok(tagged.none(Outcome::Hit)),
            Err(ManifestError::Upstream(error)) if error.kind == ErrorKind::NotFound => {
                self.0.answers.note(&tagged.question, asked, &ListAnswer::NoReferrers);
                Ok(tagged.none(Outcome::Miss))
            }
            Err(error) => Err(ListError::Tag(error)),
        }
    }
}
