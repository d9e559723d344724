//! The length of a blob, as its upstream tells.
//!
//! What must hold: a HEAD tells what a GET would. A body that is called an HTML page, or an encoding, is the blob only
//! if it has the blob's digest: it is read as a whole if it is short enough for memory, and otherwise guessed, as for a
//! GET.

use std::{sync::Arc, time::Duration};

use http::Method;

use super::{
    super::{
        Upstream,
        client::follow_redirects::FinalResponse,
        endpoint::Endpoint,
        error::{Error, ErrorKind},
        head,
        read_request::ReadRequest,
        response::warning::ContentNotes,
        state::UpstreamState,
    },
    range::BlobRange,
};
use crate::oci::{Digest, Repository};

/// What the head of a blob says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobHead {
    /// In bytes.
    pub len: Option<u64>,
    /// As the upstream claims.
    pub digest: Option<Digest>,
    /// How long the response was kept before it was used.
    pub resident_time: Duration,
    pub notes: ContentNotes,
}

impl BlobHead {
    fn of(followed: &FinalResponse, len: Option<u64>) -> Self {
        let headers = followed.response.headers();
        let (digest, notes) = (head::digest(headers), ContentNotes::of(headers));
        Self { len, digest, resident_time: followed.resident_time(), notes }
    }
}

impl Upstream {
    /// The length of a blob: by a GET of its first byte, if a HEAD does not tell. A client that pushes sends a blob
    /// that the registry would first have to fetch: where pushes are allowed, a 404 to the HEAD is final.
    pub async fn head_blob(&self, repository: &Repository, digest: &Digest) -> Result<BlobHead, Error> {
        self.blob_head(repository, digest, self.allows_push()).await
    }

    /// The same for a client that pulls: the blob exists if a GET says so, whatever the HEAD says.
    pub(crate) async fn head_blob_to_get(&self, repository: &Repository, digest: &Digest) -> Result<BlobHead, Error> {
        self.blob_head(repository, digest, false).await
    }

    async fn blob_head(&self, repository: &Repository, digest: &Digest, is_404_final: bool) -> Result<BlobHead, Error> {
        let request = |method, range: BlobRange| {
            let request = ReadRequest::blob(method, repository, digest, range.headers());
            self.prepare(ReadRequest { any_type: true, ..request })
        };
        let requests = &LengthRequests {
            upstream: &self.state,
            digest,
            is_404_final,
            is_empty: Digest::of(digest.algorithm(), b"") == *digest,
            head: request(Method::HEAD, BlobRange::default())?,
            first_byte: request(Method::GET, BlobRange::FIRST_BYTE)?,
            whole: request(Method::GET, BlobRange::default())?,
        };
        let endpoints = self.state.endpoints_of(&requests.head);
        let ask = |endpoint: Arc<Endpoint>| async move { requests.send(&endpoint).await };
        let head = self.state.each_endpoint(&endpoints, requests.head.is_best_effort(), ask).await?;
        Ok(BlobHead { notes: self.state.without_private(head.notes, &requests.head.scope), ..head })
    }
}

/// The requests that may tell the length of a blob, in the order in which they are tried.
struct LengthRequests<'a> {
    upstream: &'a UpstreamState,
    digest: &'a Digest,
    is_404_final: bool,
    /// Whether it is the digest of no bytes.
    is_empty: bool,
    head: ReadRequest,
    first_byte: ReadRequest,
    whole: ReadRequest,
}

impl LengthRequests<'_> {
    async fn send(&self, endpoint: &Endpoint) -> Result<BlobHead, Error> {
        match self.upstream.in_time(endpoint, self.by_head(endpoint)).await {
            // The empty blob has no first byte.
            Err(error) if self.is_empty && error.kind == (ErrorKind::RangeNotSatisfiable { total: Some(0) }) => {
                let notes = ContentNotes::default();
                Ok(BlobHead { len: Some(0), digest: None, resident_time: Duration::ZERO, notes })
            }
            result => result,
        }
    }

    /// A proxy project of Harbor answers 404 to the HEAD of a blob that it would fetch for a GET, an ingress may answer
    /// so to any HEAD; other registries do not support HEAD.
    async fn by_head(&self, endpoint: &Endpoint) -> Result<BlobHead, Error> {
        match self.upstream.read(endpoint, &self.head).await {
            Err(error) if error.kind == ErrorKind::Unsupported => self.by_first_byte(endpoint).await,
            Err(error) if error.kind == ErrorKind::NotFound && !self.is_404_final => self.by_first_byte(endpoint).await,
            Ok(head) if self.is_doubtful(&head) => self.by_first_byte(endpoint).await,
            // The blob exists, whether or not its length can be found out in another way.
            Ok(head) if self.len(&head).is_none() => match self.by_first_byte(endpoint).await {
                Err(error) if error.kind.is_outage() => Ok(BlobHead::of(&head, None)),
                result => result,
            },
            result => result.map(|head| BlobHead::of(&head, self.len(&head))),
        }
    }

    async fn by_first_byte(&self, endpoint: &Endpoint) -> Result<BlobHead, Error> {
        match self.upstream.read(endpoint, &self.first_byte).await {
            // A part may not tell the length of the whole, and an encoding not that of the content.
            Ok(part) if (part.is_part() || self.is_doubtful(&part)) && self.len(&part).is_none() => {}
            Err(error) if error.may_be_due_to_range() && !self.is_about_blob(error.kind) => {}
            result => return result.map(|part| BlobHead::of(&part, self.len(&part))),
        }
        self.by_whole(endpoint).await
    }

    /// A body that needs no check is not read.
    async fn by_whole(&self, endpoint: &Endpoint) -> Result<BlobHead, Error> {
        let (followed, prefix) = self.upstream.read_judged(endpoint, &self.whole, self.digest).await?;
        if let Some(prefix) = prefix {
            let head = BlobHead::of(&followed, prefix.len);
            let verified = prefix.is_whole.then(|| self.digest.clone());
            return Ok(BlobHead { digest: verified.or(head.digest), ..head });
        }
        let len = match followed.is_part() {
            true => followed.announced_len(),
            false => head::content_length(followed.response.headers()),
        };
        Ok(BlobHead::of(&followed, len.filter(|len| self.may_be_len(*len))))
    }

    /// The length that a response tells, if that can be the blob's.
    fn len(&self, followed: &FinalResponse) -> Option<u64> {
        followed.announced_len().filter(|_| !self.is_doubtful(followed)).filter(|len| self.may_be_len(*len))
    }

    fn may_be_len(&self, len: u64) -> bool {
        len > 0 || self.is_empty
    }

    /// Whether the response may be for something else than the blob. An HTML page that names the digest is the blob.
    fn is_doubtful(&self, followed: &FinalResponse) -> bool {
        let headers = followed.response.headers();
        let is_page = head::is_html(headers) && head::digest(headers).as_ref() != Some(self.digest);
        is_page || head::is_encoded(headers)
    }

    /// Whether an error is about the blob and not about the Range: it does not exist, or has no first byte.
    fn is_about_blob(&self, kind: ErrorKind) -> bool {
        match kind {
            ErrorKind::NotFound => true,
            ErrorKind::RangeNotSatisfiable { total: Some(0) } => self.is_empty,
            _ => false,
        }
    }
}
