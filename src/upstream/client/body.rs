//! Reads the body of a response, bounded in bytes and in time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Version, header};
use reqwest::{Response, Url};

use super::super::{
    UpstreamTimeouts,
    error::{Error, ErrorKind},
    head,
    redacted_url::RedactedUrl,
};

/// How long the body of a response may pause between two pieces; an extension of the response.
#[derive(Clone, Copy)]
pub(super) struct IdleTimeout(pub(super) Duration);

impl IdleTimeout {
    fn of(response: &Response) -> Duration {
        let IdleTimeout(limit) =
            response.extensions().get().copied().unwrap_or(IdleTimeout(UpstreamTimeouts::default().idle));
        limit
    }
}

/// The response, of whose body no pause may be longer than this.
pub(in crate::upstream) fn with_idle_timeout(mut response: Response, limit: Duration) -> Response {
    response.extensions_mut().insert(IdleTimeout(limit));
    response
}

/// How long a body that is held in memory may take as a whole: with idle timeouts alone, a drip-fed manifest could take
/// a year.
pub(in crate::upstream) const WHOLE_BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest body that is read only to use its connection again, in bytes.
const MAX_DISCARDED: usize = 16 * 1024;
/// How long such a body may take; a new connection costs less than a longer wait.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads a short body to its end and drops it, since a connection with an unread body is closed.
pub(in crate::upstream) async fn discard(mut response: Response) {
    let read = async {
        let mut seen = 0;
        while let Ok(Some(piece)) = response.chunk().await {
            seen += piece.len();
            if seen > MAX_DISCARDED {
                break;
            }
        }
    };
    // A slow body is treated as a long one: the connection is closed.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, read).await;
}

/// The next piece of a body, or `None` at its clean end. Cancelling loses nothing.
pub(in crate::upstream) async fn next_piece(response: &mut Response, url: &Url) -> Result<Option<Bytes>, Error> {
    let limit = IdleTimeout::of(response);
    match tokio::time::timeout(limit, response.chunk()).await {
        Ok(piece) => piece.map_err(|error| Error::from_transport("reading", url, error)),
        Err(_) => Err(Error::timed_out("reading", url, limit)),
    }
}

/// As [`next_piece`]. Where the digest of the content is `known`, a body without a length may end with its connection,
/// even without a `close_notify` of TLS: for other content that may be a truncation.
///
/// Source: RFC 9112 section 9.8.
pub(in crate::upstream) async fn next_or_end(
    response: &mut Response,
    url: &Url,
    known: bool,
) -> Result<Option<Bytes>, Error> {
    let ends_with_connection = known
        && response.version() <= Version::HTTP_11
        && !response.headers().contains_key(header::CONTENT_LENGTH)
        && !response.headers().contains_key(header::TRANSFER_ENCODING);
    match next_piece(response, url).await {
        Err(error) if ends_with_connection && error.is_unannounced_end() => Ok(None),
        piece => piece,
    }
}

/// The whole body, if it is at most `limit` bytes. A body cut short is an error.
pub(in crate::upstream) async fn whole_body(response: Response, url: &Url, limit: usize) -> Result<Bytes, Error> {
    whole_content(response, url, limit, false).await
}

/// As [`whole_body`], of content whose digest may be `known`: see [`next_or_end`].
pub(in crate::upstream) async fn whole_content(
    mut response: Response,
    url: &Url,
    limit: usize,
    known: bool,
) -> Result<Bytes, Error> {
    let too_large =
        || Error::new(ErrorKind::TooLarge, format!("the answer of {} is larger than {limit} bytes", RedactedUrl(url)));
    let announced = head::content_length(response.headers());
    if announced.is_some_and(|announced| announced > limit as u64) {
        return Err(too_large());
    }
    let read = async {
        let mut body = BytesMut::new();
        while let Some(piece) = next_or_end(&mut response, url, known).await? {
            if body.len() + piece.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&piece);
        }
        // The buffer grew by doubling, and the body may be cached.
        Ok(Vec::from(body).into_boxed_slice().into())
    };
    match tokio::time::timeout(WHOLE_BODY_TIMEOUT, read).await {
        Ok(body) => body,
        Err(_) => Err(Error::timed_out("reading", url, WHOLE_BODY_TIMEOUT)),
    }
}
