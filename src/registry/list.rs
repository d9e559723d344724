//! Lists: the tags of a repository, the catalog, and the referrers of a digest.

use http::{HeaderValue, Response};

use super::{body::Body, exchange::Exchange, pagination, response, service::Service};
use crate::{
    auth::{Grant, Resource},
    cache::{List, ListLookup, ListRequest, ManifestRequest, Outcome, ServedList, list::ReferrersTag},
    error::Error,
    oci::Operation,
    upstream::{self, Upstream},
};

impl Service {
    pub(super) async fn list(
        &self,
        exchange: &mut Exchange<'_>,
        upstream: Upstream,
        list: List,
    ) -> Result<Response<Body>, Error> {
        // A HEAD is a GET without its body: few registries answer HEAD here, and both share one cache entry.
        let media_type = match &list {
            List::Tags(_) | List::Catalog => HeaderValue::from_static("application/json"),
            List::Referrers { .. } => HeaderValue::from_static("application/vnd.oci.image.index.v1+json"),
        };
        let uri = &exchange.head.uri;
        let query = pagination::upstream_query(&list, uri.query().unwrap_or_default());
        let request = ListRequest::new(upstream, list, query);
        let refused = || self.caches.grants.last_refusal(&request.upstream, request.list.repository());
        let served = match self.caches.lists.get(&request, refused).await? {
            ListLookup::Served(served) => served,
            ListLookup::ReferrersTag(tag) => self.referrers_of_tag(exchange, *tag).await?,
        };
        exchange.record.outcome = served.outcome;
        Ok(response::list(media_type, served, uri.path(), exchange.namespace.as_deref()))
    }

    /// The referrers under a tag. forebay caches a list for each client, but a tag for all: the client needs a grant
    /// for the tag.
    async fn referrers_of_tag(&self, exchange: &Exchange<'_>, mut tag: ReferrersTag) -> Result<ServedList, Error> {
        let ManifestRequest { upstream, repository, accept, .. } = tag.manifest.clone();
        let cached = match upstream.uses_client_credentials() {
            true => self.caches.lists.cached_tag_digest(&tag).await,
            false => None,
        };
        let resource = Resource::Manifest { reference: tag.tag.clone(), accept, cached };
        match self.caches.grants.authorize(&upstream, &repository, &resource, exchange.peer()).await {
            Ok(Grant { tag_digest, unproven, .. }) => {
                tag.manifest.tag_digest = tag_digest;
                if unproven.is_some() {
                    tag.manifest.upstream = upstream.for_proof();
                }
                let (served, digest) = self.caches.lists.get_by_tag(&tag).await?;
                if let (Some(asked_at), Some(digest)) = (unproven, digest) {
                    self.caches.grants.note_manifest_sent(&upstream, &repository, &digest, asked_at);
                }
                Ok(served)
            }
            Err(error) if error.kind == upstream::ErrorKind::NotFound => Ok(tag.empty(Outcome::Miss)),
            Err(error) => Err(Error::of_upstream(Operation::Referrers, error)),
        }
    }
}
