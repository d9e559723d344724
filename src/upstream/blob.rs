//! The body of a blob as it arrives.
//!
//! What must hold: a body that is too short ends in an error, never cleanly; the bytes begin at [`BlobStream::first`].
//! The caller verifies the digest, and resumes.

mod body_rate;
mod guess_check;
pub(crate) mod length;
pub(crate) mod range;
mod rated_pieces;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Method;

use self::{
    body_rate::BodyRate,
    guess_check::GuessCheck,
    range::{BlobRange, Part, part},
    rated_pieces::RatedPieces,
};
use super::{
    Upstream,
    client::{body::next_or_end, follow_redirects::FinalResponse},
    endpoint::Endpoint,
    error::{Error, ErrorKind},
    failure_cause::FailureCause,
    failure_log::FailureLog,
    head,
    mirrors::Mirrors,
    peer_use::PeerUse,
    peers,
    read_request::ReadRequest,
    redacted_url::RedactedUrl,
    response::{
        document_budget::Room,
        gunzip::{Decoded, Gunzip},
        mislabeled::BodyPrefix,
        warning::ContentNotes,
    },
    state::UpstreamState,
    transfer_log::{ByteSource, TransferLog},
    wrong_peers::WrongPeers,
};
use crate::{
    byte_counter::ByteCounter,
    cluster::{Key, PeerResult},
    metrics::Metrics,
    oci::{Digest, Repository},
    rate::HoldClock,
    request_trace::RequestTrace,
};

/// The length of the pieces of bytes that were read before, in bytes.
const PIECE: usize = 64 * 1024;

/// A blob, or a part of one, as it arrives.
pub struct BlobStream {
    /// Where the body begins. 0 if the upstream ignored the range.
    pub first: u64,
    /// The length of the whole blob, if the upstream told it.
    pub total: Option<u64>,
    /// Whether the response was a 206.
    pub ranged: bool,
    /// Whether the body ends where the blob does, by its `Content-Range`.
    pub is_tail: bool,
    /// The forebays that the response passed.
    pub mirrors: Option<Mirrors>,
    pub notes: ContentNotes,
    followed: FinalResponse,
    /// Bytes that were read before, and the room for them.
    prefix: Option<(Bytes, Option<Room>)>,
    /// Set if the body is gzip around the blob.
    gunzip: Option<Gunzip>,
    /// Set if it was guessed whether the body is encoded.
    guess_check: Option<GuessCheck>,
    rated: RatedPieces,
    /// How many bytes are left, if known.
    expected: Option<u64>,
    upstream: Arc<str>,
    endpoint: Arc<Endpoint>,
    /// Whether a failure says nothing about the endpoint.
    best_effort: bool,
    /// Whether the bytes of a peer may come further.
    peers: PeerUse,
    /// Set if the bytes come from a peer.
    digest: Option<Digest>,
    wrong_peers: WrongPeers,
    failures: Arc<FailureLog>,
    /// The upstream's own counter, which is read more often than metrics are.
    received: Arc<AtomicU64>,
    /// That of all upstreams, for manifests and blobs.
    content: ByteCounter,
    trace: RequestTrace,
    transfer_log: Option<Arc<TransferLog>>,
    rate: BodyRate,
    metrics: Metrics,
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, total, ranged, expected, .. } = self;
        f.debug_struct("BlobStream")
            .field("first", first)
            .field("total", total)
            .field("ranged", ranged)
            .field("expected", expected)
            .finish_non_exhaustive()
    }
}

impl Upstream {
    /// Opens a blob, or the part of it in `range`. Redirects are followed anew each time.
    pub async fn open_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        range: BlobRange,
    ) -> Result<BlobStream, Error> {
        let request = &self.prepare(ReadRequest {
            any_type: true,
            ..ReadRequest::blob(Method::GET, repository, digest, range.headers())
        })?;
        let endpoints = self.state.endpoints_of(request);
        self.state
            .each_endpoint(&endpoints, request.is_best_effort(), |endpoint| async move {
                let (followed, prefix) = Box::pin(self.state.read_judged(&endpoint, request, digest)).await?;
                let best_effort = request.is_best_effort();
                let mut stream =
                    BlobStream::new(followed, prefix, (range, digest), &self.state, endpoint, best_effort)?;
                stream.is_for(request);
                stream.notes = self.state.without_private(stream.notes, &request.scope);
                Ok(stream)
            })
            .await
    }
}

impl Upstream {
    /// Counts and logs that all of a blob came from here, and does not have its digest. Returns whether the store is to
    /// blame instead of the upstream.
    pub(crate) fn note_mismatch(&self, digest: &Digest) -> bool {
        let suspect = self.transfer_log.as_ref().map(|log| log.suspect());
        if suspect != Some(ByteSource::Store)
            && let Some(peer) = self.state.wrong_peers.blame(digest)
        {
            self.state.metrics().peer_request(peer.place(), PeerResult::Wrong);
            tracing::warn!(
                member = %peer.name(), %digest,
                "a peer sent a blob that does not have its digest: the blob is not asked of it for ten minutes"
            );
            return false;
        }
        if self.blames_store() {
            return true;
        }
        self.state.metrics().digest_mismatch(self.name());
        let why = format!("upstream {} sent a blob that does not have the digest {digest}", self.name());
        self.state.failures.note(&Error::new(ErrorKind::Protocol, why));
        false
    }
}

impl BlobStream {
    /// Whether it is an object of the store.
    pub(crate) fn is_of_store(&self) -> bool {
        self.source() == ByteSource::Store
    }

    pub(crate) fn is_of_peer(&self) -> bool {
        self.source() == ByteSource::Peer
    }

    /// Who sends it.
    pub(super) fn source(&self) -> ByteSource {
        match (self.endpoint.peer(), self.endpoint.store()) {
            (Some(_), _) => ByteSource::Peer,
            (None, Some(_)) => ByteSource::Store,
            (None, None) => ByteSource::Registry,
        }
    }

    /// From now on this clock runs while the rate of the upstream holds bytes back.
    pub(crate) fn run(&mut self, clock: &Arc<HoldClock>) {
        self.rated.run(clock);
    }

    /// How long the response was kept before it was used.
    pub fn resident_time(&self) -> Duration {
        self.followed.resident_time()
    }

    /// `followed` is a 200 or 206 to the request for `range`; `prefix`: the bytes of its body that were read to judge
    /// it.
    fn new(
        followed: FinalResponse,
        prefix: Option<BodyPrefix>,
        (range, digest): (BlobRange, &Digest),
        upstream: &UpstreamState,
        endpoint: Arc<Endpoint>,
        best_effort: bool,
    ) -> Result<Self, Error> {
        let headers = followed.response.headers();
        let len = head::content_length(headers);
        let ranged = followed.is_part();
        let part = if ranged {
            part(headers, range, len).map_err(|why| {
                Error::new(ErrorKind::Protocol, format!("{} answered with {why}", RedactedUrl(&followed.url)))
            })?
        } else {
            Part { first: 0, total: len, expected: len, is_tail: true }
        };
        let Part { first, mut total, mut expected, is_tail } = part;
        let (mut gunzip, mut guess_check) = (None, None);
        if let Some(prefix) = &prefix {
            total = prefix.len;
            expected = match prefix.is_whole {
                // The body may have had no length.
                true => Some(0),
                false => expected.map(|expected| expected.saturating_sub(prefix.bytes.len() as u64)),
            };
            gunzip = prefix.is_encoded.then(Gunzip::new);
            guess_check =
                (!prefix.is_whole).then(|| GuessCheck::new(digest.clone(), upstream.guesses.clone(), prefix.len));
        }
        let prefix = prefix.map(|BodyPrefix { bytes, room, .. }| (bytes, room)).filter(|(bytes, _)| !bytes.is_empty());
        let (mirrors, notes) = (Mirrors::in_headers(headers), ContentNotes::of(headers));
        let (received, content) = (upstream.received().clone(), upstream.content().clone());
        let metrics = upstream.metrics().clone();
        let failures = upstream.failures.clone();
        let wrong_peers = upstream.wrong_peers.clone();
        let rated = RatedPieces::new(upstream, endpoint.is_upstreams());
        let upstream = upstream.name().clone();
        Ok(Self {
            first,
            total,
            ranged,
            is_tail,
            mirrors,
            notes,
            followed,
            prefix,
            gunzip,
            guess_check,
            rated,
            expected,
            upstream,
            endpoint,
            best_effort,
            peers: PeerUse::default(),
            digest: None,
            wrong_peers,
            failures,
            received,
            content,
            trace: RequestTrace::default(),
            transfer_log: None,
            rate: BodyRate::none(),
            metrics,
        })
    }

    /// The bytes come for this request.
    fn is_for(&mut self, request: &ReadRequest) {
        self.trace = request.trace.clone();
        self.peers = request.peers.clone();
        if let (Some(Key::Blob(digest)), Some(peer)) = (&request.key, self.endpoint.peer()) {
            self.wrong_peers.note_sending(digest, peer);
            self.digest = Some(digest.clone());
        }
        self.transfer_log = request.transfer_log.clone();
        self.rate = BodyRate::begin(&request.trace, &self.followed.url, self.first);
    }

    /// The next bytes, or `None` at the end. Cancelling loses nothing.
    ///
    /// # Errors
    ///
    /// `Timeout` when no byte arrived for 30 s; `Unavailable` when the connection broke, or the body was shorter than
    /// announced; `Protocol` when it was longer.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let result = self.read().await;
        if let Err(error) = &result {
            match (self.endpoint.peer(), self.endpoint.store()) {
                // The peer itself may be well, and its copy not.
                (Some(peer), _) => {
                    let is_its_copy = self.peers.is_allowed() && !peer.broke(error);
                    if let (true, Some(digest)) = (is_its_copy, &self.digest) {
                        self.wrong_peers.note_wrong(digest, peer);
                    }
                }
                // The object's body has told the store.
                (None, Some(_)) => {
                    self.transfer_log.iter().for_each(|log| log.note_break());
                }
                (None, None) if !self.best_effort => {
                    // The next endpoint comes first for the rest.
                    self.endpoint.failed();
                    self.failures.note(error);
                }
                (None, None) => {}
            }
        }
        result
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Error> {
        let read = loop {
            let Some(gunzip) = &mut self.gunzip else { break self.read_raw().await? };
            match gunzip.next() {
                Ok(Decoded::Piece(piece)) => break Some(piece),
                Ok(Decoded::End) => break None,
                Ok(Decoded::Hungry) => {}
                Err(error) => {
                    self.guess_check.take().iter().for_each(GuessCheck::note_wrong);
                    let why = format!("{} broke its encoding", RedactedUrl(&self.followed.url));
                    return Err(Error::new(ErrorKind::Protocol, why).caused_by(error));
                }
            }
            let raw = self.read_raw().await?;
            match (raw, &mut self.gunzip) {
                (Some(raw), Some(gunzip)) => gunzip.feed(raw),
                (None, Some(gunzip)) => gunzip.end(),
                (_, None) => {}
            }
        };
        if let Some(guess_check) = &mut self.guess_check {
            guess_check.note(read.as_ref());
        }
        Ok(read)
    }

    /// The next bytes of the body, before decoding.
    async fn read_raw(&mut self) -> Result<Option<Bytes>, Error> {
        if !self.rated.has_piece() {
            if let Some(piece) = self.read_prefix() {
                return Ok(Some(piece));
            }
            let Some(piece) = self.receive().await? else { return Ok(None) };
            self.rated.arrived(piece);
        }
        Ok(self.rated.next().await)
    }

    /// Bytes that were read before.
    fn read_prefix(&mut self) -> Option<Bytes> {
        let (prefix, _) = self.prefix.as_mut()?;
        let piece = prefix.split_to(prefix.len().min(PIECE));
        if prefix.is_empty() {
            self.prefix = None;
        }
        Some(piece)
    }

    /// The next bytes from the connection.
    async fn receive(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let (response, url) = (&mut self.followed.response, &self.followed.url);
            let next = next_or_end(response, url, self.expected.is_none());
            let piece = match self.endpoint.peer() {
                None => self.rate.wait(next).await?,
                Some(_) => tokio::select! {
                    piece = self.rate.wait(next) => piece?,
                    () = self.peers.left() => return Err(peers::left()),
                },
            };
            let Some(piece) = piece else {
                return match self.expected {
                    Some(missing) if missing > 0 => {
                        let why = format!("{} ended {missing} bytes too early", RedactedUrl(&self.followed.url));
                        Err(Error::new(ErrorKind::Unavailable, why).with_cause(FailureCause::Refused))
                    }
                    _ => Ok(None),
                };
            };
            let len = piece.len() as u64;
            self.received.fetch_add(len, Ordering::Relaxed);
            let source = match (self.endpoint.peer(), self.endpoint.store()) {
                (Some(peer), _) => {
                    peer.note_received(len);
                    self.metrics.peer_received(peer.place(), len);
                    ByteSource::Peer
                }
                // The store counts its own.
                (None, Some(_)) => ByteSource::Store,
                (None, None) => {
                    self.metrics.upstream_received(&self.upstream, len);
                    self.content.add(len);
                    ByteSource::Registry
                }
            };
            self.transfer_log.iter().for_each(|log| log.note(source));
            self.trace.received(len);
            self.rate.received(len);
            if let Some(expected) = &mut self.expected {
                *expected = expected.checked_sub(len).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Protocol,
                        format!("{} sent more than it announced", RedactedUrl(&self.followed.url)),
                    )
                })?;
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }
}
