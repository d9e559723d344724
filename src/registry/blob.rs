//! `GET` and `HEAD /v2/<name>/blobs/<digest>`.

use http::Response;

use super::{
    body::Body,
    conditional::{adjoining, wanted_ranges},
    exchange::Exchange,
    response,
    service::{Service, recipient},
};
use crate::{
    cache::{Client, Holding, Outcome, Source, blob::BlobSize},
    error::Error,
    oci::{Operation, Ranges},
    push::Deleted,
    upstream::{BlobHead, ContentNotes},
};

impl Service {
    pub(super) async fn blob(&self, exchange: &mut Exchange<'_>, source: &Source) -> Result<Response<Body>, Error> {
        let current = self.current_blob(exchange, source).await?;
        if let Some(head) = current.filter(|_| exchange.is_head()) {
            // forebay has verified a cached blob, and so its length.
            let total = self.caches.blobs.cached_len(source).await.or(head.len);
            return Ok(self.blob_head(exchange, source, BlobSize { total, outcome: Outcome::Miss }).await);
        }
        if exchange.is_head() || exchange.client_has(&source.digest) {
            // Also for a 304: that the client has the blob does not prove that the upstream has it.
            let size = Box::pin(self.caches.blobs.size(source)).await?;
            return Ok(self.blob_head(exchange, source, size).await);
        }
        // On the heap, so that the future of a hit has no room for a redirect.
        if source.upstream.redirects()
            && let Some(response) = Box::pin(self.redirect(exchange, source)).await
        {
            return Ok(response);
        }
        self.blob_content(exchange, source).await
    }

    async fn blob_content(&self, exchange: &mut Exchange<'_>, source: &Source) -> Result<Response<Body>, Error> {
        let (headers, blobs) = (&exchange.head.headers, &self.caches.blobs);
        let recipient = recipient(exchange.connection);
        let client = Client { address: exchange.peer(), recipient: &recipient };
        let opened = match wanted_ranges(headers, &source.digest) {
            None => blobs.open(source, None, client).await?,
            Some(Ranges::One(range)) => blobs.open(source, Some(range), client).await?,
            Some(Ranges::Several(ranges)) => {
                Box::pin(blobs.open_several(source, &ranges, adjoining(headers), client)).await?
            }
        };
        exchange.record.outcome = opened.outcome;
        if opened.outcome == Outcome::Hit && opened.is_whole() {
            exchange.record.whole_hit = self.scrub.whole_hit(client.address.into(), &source.id());
        }
        let begin = || self.memory.readers().begin(client.address.into(), &recipient, Holding::Blob(source.id()));
        let reading = opened.reader.hold().is_some().then(begin);
        let pace = self.pace(exchange, &source.upstream);
        let send_queue = exchange.connection.send_queue.as_ref();
        let response = response::blob(&source.digest, opened, send_queue, reading, pace);
        Ok(self.with_notes(source, response).await)
    }

    async fn blob_head(&self, exchange: &mut Exchange<'_>, source: &Source, size: BlobSize) -> Response<Body> {
        exchange.record.outcome = size.outcome;
        match exchange.not_modified(&source.digest, None) {
            Some(response) => response,
            None => self.with_notes(source, response::blob_head(&source.digest, &size)).await,
        }
    }

    /// Adds the upstream's warnings, and the media type of a manifest that is requested as a blob.
    async fn with_notes(&self, source: &Source, mut response: Response<Body>) -> Response<Body> {
        let ContentNotes { media_type, warnings } = self.caches.blobs.remark(source);
        let media_type = self.caches.manifests.media_type(source).await.or(media_type);
        // A multipart response does not have the type of its parts.
        let media_type = media_type.filter(|_| response.extensions().get::<response::SizeOfWhole>().is_none());
        response::add_notes(response.headers_mut(), media_type.as_ref(), warnings);
        response
    }

    /// The upstream's current response for a blob in this repository. forebay asks the upstream even for a cached blob
    /// if the blob was deleted through forebay, or if the client pushes: such a client does not push the blobs that
    /// exist.
    async fn current_blob(&self, exchange: &Exchange<'_>, source: &Source) -> Result<Option<BlobHead>, Error> {
        let Source { upstream, repository, digest } = source;
        let deletion = self.caches.deletions.find(Deleted::Blob, upstream.name(), repository, digest);
        let is_before_push = exchange.is_head() && upstream.allows_push();
        if deletion.is_none() && !is_before_push {
            return Ok(None);
        }
        let upstream = if is_before_push { upstream.for_push() } else { upstream.clone() };
        match upstream.trace().wait(Box::pin(upstream.head_blob(repository, digest))).await {
            Ok(head) => {
                self.caches.blobs.note_remark(source, &head.notes);
                if let Some(deletion) = deletion {
                    let deletions = &self.caches.deletions;
                    Box::pin(deletions.refute(deletion, Deleted::Blob, upstream.name(), repository, digest)).await;
                }
                Ok(Some(head))
            }
            // In an outage the client cannot push either.
            Err(error) if error.kind.is_outage() && deletion.is_none() => Ok(None),
            Err(error) => Err(Error::of_upstream(Operation::Blob, error)),
        }
    }
}
