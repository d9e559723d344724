//! Blobs whose head says that they are something else: an HTML page, or an encoding.
//!
//! What must hold: no byte of such a response is passed on before it is verified, unless it is too long for memory:
//! then its beginning, and earlier guesses, tell whether it is an encoding, and the reader verifies the digest.

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::{
    super::{
        client::{
            body::{WHOLE_BODY_TIMEOUT, next_or_end},
            follow_redirects::FinalResponse,
        },
        endpoint::Endpoint,
        error::{Error, ErrorKind},
        head::{self, Coding},
        read_request::ReadRequest,
        redacted_url::RedactedUrl,
        state::UpstreamState,
    },
    content_coding::{MatchingContent, find_content},
    document_budget::{MAX_DOCUMENT, Room},
};
use crate::oci::Digest;

/// How much of a long body is read to guess what it is, in bytes.
const MAX_GUESSED_BY: usize = 4 * 1024;

/// The beginning of a body, or all of it, that was read to judge the response.
pub(in crate::upstream) struct BodyPrefix {
    pub bytes: Bytes,
    /// Whether that is the whole body.
    pub is_whole: bool,
    /// Whether the body is an encoding of the content.
    pub is_encoded: bool,
    /// The length of the content.
    pub len: Option<u64>,
    pub room: Option<Room>,
}

/// What has to be read to judge a response.
struct PrefixNeed {
    /// The most that is read of the body, in bytes.
    limit: usize,
    /// The room for it, which needs a turn; `None`: little is read.
    room: Option<usize>,
}

impl PrefixNeed {
    /// `None`: the head says that it is the blob.
    ///
    /// # Errors
    /// A part of an encoding is no part of the content, and nothing would tell before the end.
    fn of(followed: &FinalResponse) -> Result<Option<Self>, Error> {
        let headers = followed.response.headers();
        let (coding, len) = (head::coding(headers), head::content_length(headers));
        if followed.is_part() {
            if matches!(coding, Coding::Gzip | Coding::Other) {
                let why = format!("{} answered with a part of an encoding", RedactedUrl(&followed.url));
                return Err(Error::new(ErrorKind::Protocol, why));
            }
            return Ok(None);
        }
        let is_long = len.is_some_and(|len| len > MAX_DOCUMENT as u64);
        if coding != Coding::Gzip && (is_long || !head::is_html(headers)) {
            return Ok(None);
        }
        if is_long {
            return Ok(Some(Self { limit: MAX_GUESSED_BY, room: None }));
        }
        let room = len.and_then(|len| usize::try_from(len).ok()).unwrap_or(MAX_DOCUMENT);
        Ok(Some(Self { limit: MAX_DOCUMENT, room: Some(room) }))
    }
}

impl UpstreamState {
    /// Requests a blob, and verifies its digest if the head says that it is something else.
    pub(in crate::upstream) async fn read_judged(
        &self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        digest: &Digest,
    ) -> Result<(FinalResponse, Option<BodyPrefix>), Error> {
        let room_needed = |followed: &FinalResponse| Ok(PrefixNeed::of(followed)?.and_then(|need| need.room));
        let read = self.read_with_room(endpoint, request, &self.judged, room_needed).await?;
        let (mut followed, place) = read.ok_or_else(|| self.exhausted())?;
        let Some(PrefixNeed { limit, .. }) = PrefixNeed::of(&followed)? else { return Ok((followed, None)) };
        let (_turn, room) = place.unzip();
        let prefix = self.judge(&mut followed, digest, limit, room).await?;
        request.trace.received(prefix.bytes.len() as u64);
        Ok((followed, Some(prefix)))
    }

    /// Reads at most `limit` bytes, for which there is `room`.
    async fn judge(
        &self,
        followed: &mut FinalResponse,
        digest: &Digest,
        limit: usize,
        room: Option<Room>,
    ) -> Result<BodyPrefix, Error> {
        let headers = followed.response.headers();
        let (coding, len) = (head::coding(headers), head::content_length(headers));
        let reading = self.read_prefix(followed, len.is_none(), limit);
        let (bytes, is_whole) = match timeout(WHOLE_BODY_TIMEOUT, reading).await {
            Ok(prefix) => prefix?,
            Err(_) => return Err(Error::timed_out("reading", &followed.url, WHOLE_BODY_TIMEOUT)),
        };
        if !is_whole {
            let is_encoded = coding == Coding::Gzip && self.guesses.is_encoded(digest, &bytes);
            let len = len.filter(|_| !is_encoded);
            return Ok(BodyPrefix { bytes, is_whole, is_encoded, len, room });
        }
        let (raw, expected) = (bytes.clone(), digest.clone());
        // A short encoding may have a long content.
        let work = if coding == Coding::Gzip { MAX_DOCUMENT } else { raw.len() };
        match self.room.work(work, move || find_content(raw, coding, &expected)).await.flatten() {
            Some(MatchingContent { is_encoded, len }) => {
                Ok(BodyPrefix { bytes, is_whole, is_encoded, len: Some(len), room })
            }
            None => {
                let url = RedactedUrl(&followed.url);
                let why = format!("{url} answered with a page, or in an encoding, that is not the blob");
                Err(Error::new(ErrorKind::Protocol, why))
            }
        }
    }

    /// The beginning of a body, up to about `limit` bytes, and whether that is all.
    async fn read_prefix(
        &self,
        followed: &mut FinalResponse,
        known: bool,
        limit: usize,
    ) -> Result<(Bytes, bool), Error> {
        let mut body = BytesMut::new();
        while let Some(piece) = next_or_end(&mut followed.response, &followed.url, known).await? {
            self.note_received(piece.len() as u64);
            body.extend_from_slice(&piece);
            if body.len() > limit {
                return Ok((body.freeze(), false));
            }
        }
        Ok((body.freeze(), true))
    }
}
