//! Referrers of an upstream that has no endpoint for them: out of the tag that clients put them under instead.
//!
//! The tag is a manifest like any other, in how long it is believed and in who may read it. That there is none is an
//! answer too: nothing refers to the digest, yet.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{List, ListError, Lists, ServedList, WantedList, answers::Answer, question::Question};
use crate::{
    cache::{ManifestError, Wanted},
    metrics::Outcome,
    oci::{MediaTypeKind, NO_REFERRERS, Reference, Referrers, Tag},
    upstream::ErrorKind,
};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// The parameter of the query, and the filter.
const ARTIFACT_TYPE: &str = "artifactType";

impl Lists {
    pub(super) async fn tagged_referrers(
        &self,
        wanted: &WantedList,
        question: &Question,
    ) -> Result<ServedList, ListError> {
        let List::Referrers { repository, digest } = &wanted.list else { return Err(ListError::Abandoned) };
        let reference = Reference::Tag(Tag::of_referrers(digest));
        let manifest =
            Wanted { upstream: wanted.upstream.clone(), repository: repository.clone(), accept: wanted.list.accept() };
        match self.0.manifests.get(&manifest, &reference).await {
            Ok(served) if served.content.media_type.kind() == Some(MediaTypeKind::OciIndex) => {
                Ok(of_index(wanted, &served.content.bytes, served.outcome))
            }
            // Somebody's tag that merely has such a name.
            Ok(served) => Ok(none(wanted, served.outcome)),
            Err(ManifestError::KnownMissing) => Ok(none(wanted, Outcome::Hit)),
            Err(ManifestError::Upstream(error)) if error.kind == ErrorKind::NotFound => {
                self.0.answers.note(question, &Answer::NoReferrers);
                Ok(none(wanted, Outcome::Miss))
            }
            Err(error) => Err(ListError::Tag(error)),
        }
    }
}

/// What is said when nothing refers to the digest.
pub(super) fn none(wanted: &WantedList, outcome: Outcome) -> ServedList {
    of_index(wanted, &Bytes::from_static(NO_REFERRERS), outcome)
}

fn of_index(wanted: &WantedList, index: &Bytes, outcome: Outcome) -> ServedList {
    let Referrers { index: body, filtered } = Referrers::of(index, &wanted.parameter(ARTIFACT_TYPE));
    let media_type = HeaderValue::from_static(MediaTypeKind::OciIndex.as_str());
    let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media_type)]);
    if filtered {
        headers.insert(FILTERS_APPLIED, HeaderValue::from_static(ARTIFACT_TYPE));
    }
    ServedList { headers, body, outcome }
}
