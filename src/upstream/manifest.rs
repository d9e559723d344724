//! Manifests of an upstream.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::{
    Upstream,
    error::Error,
    head,
    read_request::ReadRequest,
    response::{
        document::{Document, may_be_manifest_len},
        document_budget::ReadRoom,
        warning::ContentNotes,
    },
};
use crate::oci::{Accept, Digest, MediaType, Reference, Repository};

/// What the head of a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    pub media_type: Option<MediaType>,
    /// As the upstream claims.
    pub digest: Option<Digest>,
    /// In bytes.
    pub len: Option<u64>,
    /// How long ago it was confirmed.
    pub age: Duration,
    /// How long the response was kept before it was used.
    pub resident_time: Duration,
    pub notes: ContentNotes,
}

/// A manifest as it was received. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestBody {
    pub media_type: Option<MediaType>,
    /// As the upstream claims.
    pub digest: Option<Digest>,
    pub bytes: Bytes,
    /// How long ago it was confirmed.
    pub age: Duration,
    /// How long the response was kept before it was used.
    pub resident_time: Duration,
    pub notes: ContentNotes,
    pub room: ReadRoom,
}

impl Upstream {
    /// The head of a manifest. No GET is sent in its place, since that would count as a pull: a length that a manifest
    /// can have is believed, although it may be wrong, until the manifest is fetched. Docker Hub counts the GET of each
    /// tag that a bot polls against its limit, and no HEADs; and a client that pulls after the HEAD sends the GET next.
    pub async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<ManifestHead, Error> {
        let request = &self.prepare(ReadRequest::manifest(Method::HEAD, repository, reference, accept))?;
        let endpoints = self.state.endpoints_of(request);
        self.state
            .each_endpoint(&endpoints, request.is_best_effort(), |endpoint| async move {
                let followed = self.state.read(&endpoint, request).await?;
                let headers = followed.response.headers();
                Ok(ManifestHead {
                    media_type: head::media_type(headers),
                    digest: head::digest(headers),
                    len: followed.announced_len().filter(may_be_manifest_len),
                    age: followed.age(),
                    resident_time: followed.resident_time(),
                    notes: self.state.without_private(ContentNotes::of(headers), &request.scope),
                })
            })
            .await
    }

    /// Fetches a manifest of at most 16 MiB.
    pub async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<ManifestBody, Error> {
        let request = &self.prepare(ReadRequest::manifest(Method::GET, repository, reference, accept))?;
        let Document { headers, body, age, resident_time, room } = self.state.document(request).await?;
        let media_type = head::media_type(&headers).filter(|_| !head::is_html(&headers));
        let notes = self.state.without_private(ContentNotes::of(&headers), &request.scope);
        Ok(ManifestBody { media_type, digest: head::digest(&headers), bytes: body, age, resident_time, notes, room })
    }
}
