//! `HEAD` of a manifest for a client that may be about to push: always sent to the upstream.

use std::sync::Arc;

use tracing::Instrument as _;

use super::{
    ManifestCache,
    error::ManifestError,
    fetched::{Fetched, ManifestHead},
    query::ManifestQuery,
    request::ManifestRequest,
};
use crate::{
    cache::{
        Outcome,
        revalidate::STALE_TIMEOUT,
        storage::tag_record::{TagKey, TagRecord},
    },
    oci::{Digest, Reference},
    single_flight::{Flight, WaitCycle},
    upstream::{self, ErrorKind},
};

/// A tag that moved.
struct MovedTag {
    key: TagKey,
    to: Digest,
    previous: Option<Arc<TagRecord>>,
    /// What the `HEAD` said of the new manifest, if that may be served.
    head: Option<TagRecord>,
}

impl ManifestCache {
    /// The upstream's current response to a `HEAD`; `None` if it leaves out what the client needs.
    ///
    /// # Errors
    /// The upstream's error, or why it cannot be reached.
    pub(crate) async fn head_from_upstream(
        &self,
        request: &ManifestRequest,
        reference: &Reference,
    ) -> Result<Option<ManifestHead>, upstream::Error> {
        let key = match reference {
            Reference::Tag(tag) => Some(request.key(tag)),
            Reference::Digest(_) => None,
        };
        let previous = match &key {
            Some(key) => self.0.tags.get(key, request.upstream.registry(), false).await.0,
            None => None,
        };
        let query = self.query(request, reference, false);
        let mut head = match request.upstream.head_manifest(&request.repository, reference, &request.accept).await {
            Ok(head) => head,
            Err(error) if error.kind == ErrorKind::Unsupported => {
                return self.get_for_push(request, &query, key.as_ref()).await.map(Some);
            }
            Err(error) => return self.refuse(error, key.as_ref()).await,
        };
        self.note_warnings(request, head.digest.as_ref(), &head.notes);
        // A wrong media type is passed on as it is.
        self.correct(request, &mut head).await.ok();
        match key {
            Some(key) => self.tag_head(request, query, key, previous, head).await,
            None => {
                if self.is_not_found(&query) {
                    self.0.tags.note_write_elsewhere(&query);
                }
                Ok(None)
            }
        }
    }

    async fn tag_head(
        &self,
        request: &ManifestRequest,
        mut query: ManifestQuery,
        key: TagKey,
        previous: Option<Arc<TagRecord>>,
        head: upstream::ManifestHead,
    ) -> Result<Option<ManifestHead>, upstream::Error> {
        let was_missing = self.is_not_found(&query);
        let Some(to) = head.digest.clone() else {
            if was_missing {
                query.writes = self.0.tags.note_write_elsewhere(&query);
            }
            return self.get_for_push(request, &query, Some(&key)).await.map(Some);
        };
        let has_moved = previous.as_ref().is_none_or(|previous| previous.digest != to);
        let record = TagRecord::from_head(head);
        // The HEAD leaves something out; or it is for one client, and must not count for all.
        let needs_content = record.is_none() || request.upstream.uses_client_credentials();
        // A GET that the upstream refused a moment ago would be refused again.
        let avoids_get = !needs_content
            && has_moved
            && (self.0.tags.outage(request, &key).is_recent() || self.saves_limit(request, previous.as_deref()).await)
            && self.must_be_fetched(request, &query.reference, previous.as_deref(), &to).await;
        if has_moved && !avoids_get {
            let head = record.filter(|_| !needs_content);
            return self.head_of_moved_tag(request, query, MovedTag { key, to, previous, head }).await;
        }
        if was_missing || has_moved {
            // Another client of the upstream pushed it: earlier requests and 404s are outdated, for all clients.
            query.writes = self.0.tags.note_write_elsewhere(&query);
        }
        let Some(record) = record else { return Ok(None) };
        if avoids_get {
            return Ok(Some(ManifestHead::recorded(&record, Outcome::Miss)));
        }
        let record = self.0.tags.put(request, &query, record).await;
        Ok(Some(ManifestHead::recorded(&record, Outcome::Miss)))
    }

    async fn head_of_moved_tag(
        &self,
        request: &ManifestRequest,
        query: ManifestQuery,
        moved: MovedTag,
    ) -> Result<Option<ManifestHead>, upstream::Error> {
        let Some(head) = moved.head.clone() else {
            return self.fetch_moved_tag(request, query, moved).await.map(Some);
        };
        let outage = self.0.tags.outage(request, &moved.key);
        match tokio::time::timeout(STALE_TIMEOUT, self.fetch_moved_tag(request, query, moved)).await {
            Ok(Ok(head)) => Ok(Some(head)),
            Ok(Err(error)) if !error.kind.is_outage() => Err(error),
            // A client that pushes must know where the tag points, whatever a GET would give.
            Ok(Err(_)) | Err(_) => {
                outage.note();
                Ok(Some(ManifestHead::recorded(&head, Outcome::Miss)))
            }
        }
    }

    /// The response for a tag that moved, found once for all clients to which the upstream gave this digest. What the
    /// `HEAD` said is enough, unless the manifest must be fetched first.
    async fn fetch_moved_tag(
        &self,
        request: &ManifestRequest,
        query: ManifestQuery,
        moved: MovedTag,
    ) -> Result<ManifestHead, upstream::Error> {
        let MovedTag { key, to, previous, head } = moved;
        let flight = self.0.moves.run((query.at_any_time(), to.clone()), query.may_cycle, || {
            let (cache, request, mut query, to) = (self.clone(), request.clone(), query.clone(), to.clone());
            let span = request.upstream.trace().span();
            let fetch = async move {
                // Earlier requests and 404s are outdated for all clients.
                query.writes = cache.0.tags.note_write_elsewhere(&query);
                match head {
                    Some(head)
                        if !cache.must_be_fetched(&request, &query.reference, previous.as_deref(), &to).await =>
                    {
                        Ok(Fetched::Head(cache.0.tags.put(&request, &query, head).await))
                    }
                    _ => cache.fetch(&request, &query, None).await,
                }
            };
            fetch.instrument(span)
        });
        match flight.await {
            // A response to an earlier request that gives the same digest is as good.
            Ok(Flight { response: Some(Ok(fetched)), is_leader }) if is_leader || *fetched.digest() == to => {
                Ok(fetched.head(Outcome::Miss))
            }
            Ok(Flight { response: Some(Err(error)), is_leader }) if is_leader || error.is_outage() => {
                self.refuse_fetch(error, Some(&key)).await
            }
            Ok(_) | Err(WaitCycle) => {
                let query = self.query(request, &query.reference, false);
                self.get_for_push(request, &query, Some(&key)).await
            }
        }
    }

    /// The response by a `GET`, if a `HEAD` is of no use.
    async fn get_for_push(
        &self,
        request: &ManifestRequest,
        query: &ManifestQuery,
        key: Option<&TagKey>,
    ) -> Result<ManifestHead, upstream::Error> {
        match self.fetch(request, query, None).await {
            Ok(fetched) => Ok(fetched.head(Outcome::Miss)),
            Err(error) => self.refuse_fetch(error, key).await,
        }
    }

    async fn refuse_fetch<T>(&self, error: ManifestError, key: Option<&TagKey>) -> Result<T, upstream::Error> {
        match error {
            ManifestError::Upstream(error) => self.refuse(error, key).await,
            error => Err(upstream::Error::new(ErrorKind::Protocol, error.to_string())),
        }
    }

    /// Returns the upstream's error; a 404 ends the tag's record.
    async fn refuse<T>(&self, error: upstream::Error, key: Option<&TagKey>) -> Result<T, upstream::Error> {
        if let (ErrorKind::NotFound, Some(key)) = (error.kind, key) {
            self.0.tags.remove(key).await;
        }
        Err(error)
    }
}
