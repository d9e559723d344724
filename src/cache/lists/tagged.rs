//! Referrers of an upstream that has no endpoint for them: out of the tag that clients put them under instead.
//!
//! The tag is a manifest like any other, in how long it is believed and in who may read it. That there is none is an
//! answer too: nothing refers to the digest, yet.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{ListError, Lists, ServedList, WantedList};
use crate::{
    cache::{ManifestError, Wanted},
    metrics::Outcome,
    oci::{Digest, MediaTypeKind, NO_REFERRERS, Reference, Referrers, Repository, Tag},
    upstream::ErrorKind,
};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// The parameter of the query, and the filter.
const ARTIFACT_TYPE: &str = "artifactType";

impl Lists {
    pub(super) async fn tagged_referrers(
        &self,
        wanted: &WantedList,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<ServedList, ListError> {
        let reference = Reference::Tag(Tag::of_referrers(digest));
        let manifest =
            Wanted { upstream: wanted.upstream.clone(), repository: repository.clone(), accept: wanted.list.accept() };
        let (index, outcome) = match self.0.manifests.get(&manifest, &reference).await {
            Ok(served) if served.content.media_type.kind() == Some(MediaTypeKind::OciIndex) => {
                (served.content.bytes.clone(), served.outcome)
            }
            // Somebody's tag that merely has such a name.
            Ok(served) => (Bytes::from_static(NO_REFERRERS), served.outcome),
            Err(ManifestError::KnownMissing) => (Bytes::from_static(NO_REFERRERS), Outcome::Hit),
            Err(ManifestError::Upstream(error)) if error.kind == ErrorKind::NotFound => {
                (Bytes::from_static(NO_REFERRERS), Outcome::Miss)
            }
            Err(error) => return Err(ListError::Tag(error)),
        };
        let Referrers { index: body, filtered } = Referrers::of(&index, &wanted.parameter(ARTIFACT_TYPE));
        let media_type = HeaderValue::from_static(MediaTypeKind::OciIndex.as_str());
        let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media_type)]);
        if filtered {
            headers.insert(FILTERS_APPLIED, HeaderValue::from_static(ARTIFACT_TYPE));
        }
        Ok(ServedList { headers, body, outcome })
    }
}
