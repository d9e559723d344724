//! Lists in the pipeline: which part of which one a request asks for, and the answer as its client has to read it.

use http::{HeaderValue, Response};

use super::{
    access_log::AccessRecord,
    body::Body,
    pagination, response,
    service::{Asked, Handler},
};
use crate::{
    auth::{Grant, Resource},
    cache::{List, ListLookup, ListRequest, ManifestRequest, Outcome, ServedList, list::ReferrersTag},
    error::Error,
    oci::Operation,
    upstream::{self, Upstream},
};

impl Handler {
    pub(super) async fn list(
        &self,
        asked: Asked<'_>,
        upstream: Upstream,
        list: List,
        namespace: Option<&str>,
        facts: &mut AccessRecord,
    ) -> Result<Response<Body>, Error> {
        // A HEAD is a GET whose body is left out: it is kept and joined as one, and few registries know it here.
        let kind = match &list {
            List::Tags(_) | List::Catalog => HeaderValue::from_static("application/json"),
            List::Referrers { .. } => HeaderValue::from_static("application/vnd.oci.image.index.v1+json"),
        };
        let query = pagination::asked(&list, asked.uri.query().unwrap_or_default());
        let wanted = ListRequest::new(upstream, list, query);
        let refused = || self.proofs.last_refusal(&wanted.upstream, wanted.list.repository());
        let served = match self.lists.get(&wanted, refused).await? {
            ListLookup::Served(served) => served,
            ListLookup::ReferrersTag(tagged) => self.tagged_referrers(asked, tagged).await?,
        };
        facts.outcome = served.outcome;
        Ok(response::list(kind, served, asked.uri.path(), namespace))
    }

    /// Lists are kept for each asker apart; a tag is not, and who may not read it must not learn from it.
    async fn tagged_referrers(&self, asked: Asked<'_>, mut tagged: ReferrersTag) -> Result<ServedList, Error> {
        let ManifestRequest { upstream, repository, accept, .. } = tagged.manifest.clone();
        let known = match upstream.uses_client_credentials() {
            true => self.lists.cached_tag_digest(&tagged).await,
            false => None,
        };
        let subject = Resource::Manifest { reference: tagged.tag.clone(), accept, cached: known };
        match self.proofs.authorize(&upstream, &repository, &subject, asked.connection.peer.ip()).await {
            Ok(Grant { tag_digest, unproven, .. }) => {
                tagged.manifest.tag_digest = tag_digest;
                let (served, digest) = self.lists.get_by_tag(&tagged).await?;
                if let (Some(at), Some(digest)) = (unproven, digest) {
                    self.proofs.note_manifest_sent(&upstream, &repository, &digest, at);
                }
                Ok(served)
            }
            Err(error) if error.kind == upstream::ErrorKind::NotFound => Ok(tagged.empty(Outcome::Miss)),
            Err(error) => Err(Error::of_upstream(Operation::Referrers, error)),
        }
    }
}
