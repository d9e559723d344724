//! Documents: answers that are read into memory as a whole, the larger ones in turns.
//!
//! What must hold: a request that waits for a token, or for a head, holds no turn, so that no number of them keeps others
//! from being asked; an answer that waits for its turn, or for room in memory, holds nothing of a connection; and no body is
//! read before there is room for all of it (see [`super::document_budget`]).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    super::{
        client::{number, redirect_walk::Followed, whole_content},
        digest,
        error::{Error, ErrorKind, Shown},
        failover::Endpoint,
        media_type,
        request::{Ask, Shared},
        response,
    },
    Coding,
    document_budget::{ReadRoom, Room},
    mislabeled,
};
use crate::oci::{self, DocumentType, ManifestSigns, Operation};

/// The largest manifest, tag list or index of referrers that is passed on, in bytes.
pub(in crate::upstream) const MAX_DOCUMENT: usize = 16 * 1024 * 1024;
/// The smallest manifest: `{"schemaVersion":2}`.
const MIN_MANIFEST: u64 = 19;
/// How many manifests and lists of one upstream are read into memory at a time, beside small ones.
pub(in crate::upstream) const MAX_DOCUMENTS: usize = 64;
/// A document that announces no more bytes than this needs no turn. Most manifests are far smaller.
const MAX_SMALL: u64 = 64 * 1024;
/// How long an answer waits for its turn and for room.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// A document as it came.
pub(in crate::upstream) struct Document {
    pub headers: HeaderMap,
    pub body: Bytes,
    /// How long ago it was true.
    pub age: Duration,
    /// For how long it was kept before it was given.
    pub resident_time: Duration,
    /// Held until the body was verified.
    pub room: ReadRoom,
}

impl Shared {
    /// Asks for a document and reads it.
    pub(in crate::upstream) async fn document(&self, ask: &Ask) -> Result<Document, Error> {
        self.each_endpoint(ask.is_quiet(), |endpoint| self.document_of(endpoint, ask)).await?
    }

    /// The inner error: no turn came, which says nothing about the endpoint.
    async fn document_of(&self, endpoint: Arc<Endpoint>, ask: &Ask) -> Result<Result<Document, Error>, Error> {
        let mut followed = self.ask(&endpoint, ask).await?;
        let mut place = None;
        if !is_small(&followed) {
            let bytes = most(&followed);
            place = self.place_now(&self.documents, bytes);
            if place.is_none() {
                // Unread, it would hold a part of the window of an HTTP/2 connection, which those share that are being read.
                drop(followed);
                let Some((turn, room)) = self.place(&self.documents, bytes).await else {
                    return Ok(Err(self.exhausted()));
                };
                followed = self.ask(&endpoint, ask).await?;
                if !room.holds(most(&followed)) {
                    return Ok(Err(self.exhausted()));
                }
                place = Some((turn, room));
            }
        }
        let (age, resident_time) = (response::age(&followed), followed.resident_time());
        let Followed { response, url, .. } = followed;
        let headers = response.headers().clone();
        let digest = match ask.operation {
            Operation::Manifest => ask.digest.clone().or_else(|| super::super::digest(&headers)),
            _ => None,
        };
        let mut body = whole_content(response, &url, MAX_DOCUMENT, digest.is_some()).await?;
        let coding = response::coding(&headers);
        if coding == Coding::Gzip {
            let (raw, known) = (body.clone(), digest.clone());
            let decoded = self.room.work(MAX_DOCUMENT, move || mislabeled::document(raw, coding, known.as_ref())).await;
            body = decoded.unwrap_or(body);
        }
        // Until it was judged and hashed it is not counted elsewhere.
        let room = ReadRoom::of(place.map(|(_, room)| room));
        // What may have any type is a manifest under a wrong one, or a page after all.
        if response::is_html(&headers) && body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Error::new(ErrorKind::Protocol, format!("{} answered with an HTML page", Shown(&url))));
        }
        if ask.is_tag && !self.is_likely_manifest(&headers, &body).await {
            let why = format!("{} answered for a tag with what is no manifest", Shown(&url));
            return Err(Error::new(ErrorKind::Protocol, why));
        }
        // Its reader verifies it; here it is, while there is another URL that may have it.
        if let Some(digest) = digest.filter(|_| self.endpoints.len() > 1) {
            let (read, wanted) = (body.clone(), digest.clone());
            let matches = move || oci::matches_manifest(&wanted, &read).is_some();
            if self.room.work(body.len(), matches).await != Some(true) {
                self.metrics().digest_mismatch(self.name());
                let why = format!("{} answered with what has another digest than {digest}", Shown(&url));
                return Err(Error::new(ErrorKind::Protocol, why));
            }
        }
        if let Some(is_list) = ask.is_list.clone() {
            let read = body.clone();
            if self.room.work(body.len(), move || is_list(&read)).await != Some(true) {
                let why = format!("{} answered with what is not the list of the question", Shown(&url));
                return Err(Error::new(ErrorKind::Protocol, why));
            }
        }
        self.metrics().upstream_received(self.name(), body.len() as u64);
        Ok(Ok(Document { headers, body, age, resident_time, room }))
    }

    /// Whether what came for a tag can be its manifest. Anything may come with 200; a digest that is named is verified, but what
    /// is called a page has to say its type all the same, and no manifest is empty.
    async fn is_likely_manifest(&self, headers: &HeaderMap, body: &Bytes) -> bool {
        let (is_html, names_digest) = (response::is_html(headers), digest(headers).is_some());
        if names_digest && !is_html {
            return !body.is_empty();
        }
        let (said, read) = (media_type(headers).filter(|_| !is_html), body.clone());
        let judge = move || {
            (!is_html || DocumentType::of(&read) != DocumentType::Unsaid)
                && (names_digest || ManifestSigns::of(&read, said.as_ref()).is_likely)
        };
        self.room.work(body.len(), judge).await == Some(true)
    }

    /// A turn, and room for so many bytes, if both are there now.
    pub(in crate::upstream) fn place_now<'a>(
        &'a self,
        turns: &'a Semaphore,
        bytes: usize,
    ) -> Option<(SemaphorePermit<'a>, Room)> {
        Some((turns.try_acquire().ok()?, self.room.try_take(bytes)?))
    }

    /// The same, when both are there; `None`: not in time.
    pub(in crate::upstream) async fn place<'a>(
        &'a self,
        turns: &'a Semaphore,
        bytes: usize,
    ) -> Option<(SemaphorePermit<'a>, Room)> {
        let place = async { Some((turns.acquire().await.ok()?, self.room.take(bytes).await?)) };
        timeout(TURN_TIMEOUT, place).await.ok().flatten()
    }

    pub(in crate::upstream) fn exhausted(&self) -> Error {
        let why = format!("upstream {}: too many documents are being read", self.name());
        Error::new(ErrorKind::Exhausted, why)
    }
}

/// Whether a manifest can be so long. Where a HEAD tells another length, the manifest is fetched, as where it tells none.
pub(in crate::upstream) fn may_be_manifests(len: &u64) -> bool {
    (MIN_MANIFEST..=MAX_DOCUMENT as u64).contains(len)
}

/// How many bytes it may have: as many as are announced, or as any; and what it is an encoding of stands beside it.
fn most(followed: &Followed) -> usize {
    let headers = followed.response.headers();
    let announced = number(headers, &header::CONTENT_LENGTH).and_then(|announced| usize::try_from(announced).ok());
    let decoded = if response::coding(headers) == Coding::Gzip { MAX_DOCUMENT } else { 0 };
    announced.map_or(MAX_DOCUMENT, |most| most.min(MAX_DOCUMENT)) + decoded
}

fn is_small(followed: &Followed) -> bool {
    most(followed) as u64 <= MAX_SMALL
}
