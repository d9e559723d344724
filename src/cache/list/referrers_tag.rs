//! The tag under which clients put the referrers of a digest at an upstream that has no referrers endpoint.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    error::ListError,
    query::{List, ListQuery, ListRequest},
    served::ServedList,
};
use crate::{
    cache::{ManifestRequest, Outcome, manifest::VerifiedManifest},
    oci::{Digest, MediaTypeKind, NO_REFERRERS, Reference, Tag},
};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// The query parameter, and the filter.
const ARTIFACT_TYPE: &str = "artifactType";

/// A request for referrers, and the tag that has them if any are there.
pub(crate) struct ReferrersTag {
    pub manifest: ManifestRequest,
    pub tag: Reference,
    subject: Digest,
    pub(super) artifact_types: Arc<[String]>,
    pub(super) query: ListQuery,
}

impl ReferrersTag {
    pub(super) fn of(request: &ListRequest, query: ListQuery) -> Result<Self, ListError> {
        // The upstream has an endpoint for every other list.
        let List::Referrers { repository, digest } = &request.list else { return Err(ListError::Abandoned) };
        let (upstream, repository, accept) = (request.upstream.clone(), repository.clone(), request.list.accept());
        Ok(Self {
            manifest: ManifestRequest { upstream, repository, accept, tag_digest: None },
            tag: Reference::Tag(Tag::of_referrers(digest)),
            subject: digest.clone(),
            artifact_types: request.parameter(ARTIFACT_TYPE).into(),
            query,
        })
    }

    /// Whether this manifest is the subject itself. Under a tag its digest may be of another algorithm than the
    /// subject's.
    pub(super) async fn is_subject(&self, content: &Arc<VerifiedManifest>) -> bool {
        let algorithm = self.subject.algorithm();
        if content.digest.algorithm() == algorithm {
            return content.digest == self.subject;
        }
        let content = content.clone();
        let hashed = tokio::task::spawn_blocking(move || Digest::of(algorithm, &content.bytes)).await;
        hashed.is_ok_and(|digest| digest == self.subject)
    }

    /// The list if there is no such tag.
    pub(crate) fn empty(&self, outcome: Outcome) -> ServedList {
        self.served(Bytes::from_static(NO_REFERRERS), !self.artifact_types.is_empty(), outcome)
    }

    pub(super) fn served(&self, body: Bytes, is_filtered: bool, outcome: Outcome) -> ServedList {
        let media_type = HeaderValue::from_static(MediaTypeKind::OciIndex.as_str());
        let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media_type)]);
        if is_filtered {
            headers.insert(FILTERS_APPLIED, HeaderValue::from_static(ARTIFACT_TYPE));
        }
        ServedList { headers, body, outcome }
    }
}
