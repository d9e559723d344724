//! Documents: manifests and lists, which are read into memory as a whole, the larger ones in turns.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;

use super::{
    super::{
        client::{body::whole_content, follow_redirects::FinalResponse},
        endpoint::Endpoint,
        error::{Error, ErrorKind},
        head::{self, Coding},
        read_request::ReadRequest,
        redacted_url::RedactedUrl,
        state::UpstreamState,
    },
    content_coding,
    document_budget::{MAX_DOCUMENT, ReadRoom},
};
use crate::oci::{self, Digest, DocumentType, ManifestSigns, Operation};

/// The smallest manifest: `{"schemaVersion":2}`.
const MIN_MANIFEST: u64 = 19;
/// A document that announces no more bytes than this needs no turn. Most manifests are far smaller.
const MAX_SMALL: usize = 64 * 1024;

/// A document as it was received.
pub(in crate::upstream) struct Document {
    pub headers: HeaderMap,
    pub body: Bytes,
    /// How long ago it was confirmed.
    pub age: Duration,
    /// How long the response was kept before it was used.
    pub resident_time: Duration,
    /// Held until the body is verified.
    pub room: ReadRoom,
}

impl UpstreamState {
    /// Requests a document and reads it.
    pub(in crate::upstream) async fn document(&self, request: &ReadRequest) -> Result<Document, Error> {
        let (endpoints, best_effort) = (self.endpoints_of(request), request.is_best_effort());
        self.each_endpoint(&endpoints, best_effort, |endpoint| self.document_of(endpoint, request)).await?
    }

    /// The inner error: there was no room, which says nothing about the endpoint.
    async fn document_of(
        &self,
        endpoint: Arc<Endpoint>,
        request: &ReadRequest,
    ) -> Result<Result<Document, Error>, Error> {
        let read = self.read_with_room(&endpoint, request, &self.documents, room_needed).await?;
        let Some((followed, place)) = read else { return Ok(Err(self.exhausted())) };
        let (age, resident_time) = (followed.age(), followed.resident_time());
        let FinalResponse { response, url, .. } = followed;
        let headers = response.headers().clone();
        let digest = match request.operation {
            Operation::Manifest => request.digest.clone().or_else(|| head::digest(&headers)),
            _ => None,
        };
        let body = whole_content(response, &url, MAX_DOCUMENT, digest.is_some()).await?;
        let body = self.decode_document(&headers, body, digest.as_ref()).await;
        // Until it is judged and hashed, it is counted nowhere else.
        let room = ReadRoom::of(place.map(|(_, room)| room));
        if let Some(fault) = self.fault_in_document((&endpoint, request), &headers, &body, digest).await {
            return Err(Error::new(ErrorKind::Protocol, format!("{} answered {fault}", RedactedUrl(&url))));
        }
        if endpoint.peer().is_none() {
            self.note_document(body.len() as u64);
            if request.operation == Operation::Manifest {
                self.content().add(body.len() as u64);
            }
        }
        request.trace.received(body.len() as u64);
        Ok(Ok(Document { headers, body, age, resident_time, room }))
    }

    async fn decode_document(&self, headers: &HeaderMap, body: Bytes, digest: Option<&Digest>) -> Bytes {
        let coding = head::coding(headers);
        if coding != Coding::Gzip {
            return body;
        }
        let (raw, digest) = (body.clone(), digest.cloned());
        let decode = move || content_coding::decode_document(raw, coding, digest.as_ref());
        self.room.work(MAX_DOCUMENT, decode).await.unwrap_or(body)
    }

    /// Why a body cannot be the requested document; another URL may have it.
    async fn fault_in_document(
        &self,
        (endpoint, request): (&Endpoint, &ReadRequest),
        headers: &HeaderMap,
        body: &Bytes,
        digest: Option<Digest>,
    ) -> Option<String> {
        // Where the type does not matter, a body called HTML may still be a manifest.
        if head::is_html(headers) && body.trim_ascii_start().first() != Some(&b'{') {
            return Some("with an HTML page".to_owned());
        }
        if request.is_tag && !self.is_likely_manifest(headers, body).await {
            return Some("for a tag with what is no manifest".to_owned());
        }
        // The cache verifies the digest; here it is verified while another URL may have the content.
        if let Some(digest) = digest.filter(|_| self.endpoints.len() > 1 || endpoint.peer().is_some()) {
            let (read, expected) = (body.clone(), digest.clone());
            let matches = move || oci::matches_manifest(&expected, &read).is_some();
            if self.room.work(body.len(), matches).await != Some(true) {
                if endpoint.peer().is_none() {
                    self.metrics().digest_mismatch(self.name());
                }
                return Some(format!("with what has another digest than {digest}"));
            }
        }
        if let Some(is_list) = request.is_list.clone() {
            let read = body.clone();
            if self.room.work(body.len(), move || is_list(&read)).await != Some(true) {
                return Some("with what is not the requested list".to_owned());
            }
        }
        None
    }

    /// Whether the response for a tag can be its manifest. A 200 may have any body. If the head names a digest, that is
    /// verified later, but a body that is called HTML must tell its type all the same, and no manifest is empty.
    async fn is_likely_manifest(&self, headers: &HeaderMap, body: &Bytes) -> bool {
        let (is_html, names_digest) = (head::is_html(headers), head::digest(headers).is_some());
        if names_digest && !is_html {
            return !body.is_empty();
        }
        let (media_type, read) = (head::media_type(headers).filter(|_| !is_html), body.clone());
        let judge = move || {
            (!is_html || DocumentType::of(&read) != DocumentType::Unsaid)
                && (names_digest || ManifestSigns::of(&read, media_type.as_ref()).is_likely)
        };
        self.room.work(body.len(), judge).await == Some(true)
    }
}

/// Whether a manifest can have this length. If a HEAD tells another one, or none, the manifest is fetched.
pub(in crate::upstream) fn may_be_manifest_len(len: &u64) -> bool {
    (MIN_MANIFEST..=MAX_DOCUMENT as u64).contains(len)
}

/// The room for a document; `None`: it is small. Without a length the largest document is assumed; a decoded one stands
/// beside its encoding.
fn room_needed(followed: &FinalResponse) -> Result<Option<usize>, Error> {
    let headers = followed.response.headers();
    let announced = head::content_length(headers).and_then(|announced| usize::try_from(announced).ok());
    let decoded = if head::coding(headers) == Coding::Gzip { MAX_DOCUMENT } else { 0 };
    let bytes = announced.map_or(MAX_DOCUMENT, |announced| announced.min(MAX_DOCUMENT)) + decoded;
    Ok((bytes > MAX_SMALL).then_some(bytes))
}
