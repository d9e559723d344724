//! Documents: answers that are read into memory as a whole, the larger ones in turns.
//!
//! What must hold: a request that waits for a token, or for a head, holds no turn, so that no number of them keeps others
//! from being asked; an answer that waits for its turn holds nothing of a connection.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::{sync::SemaphorePermit, time::timeout};

use super::{
    answer,
    client::{number, whole_body},
    endpoint::Endpoint,
    error::{Error, ErrorKind, Shown},
    follow::Followed,
    request::{Ask, Shared},
};

/// The largest manifest, tag list or index of referrers that is passed on, in bytes.
const MAX_DOCUMENT: usize = 16 * 1024 * 1024;
/// How many manifests and lists of one upstream are read into memory at a time, beside small ones.
pub(super) const MAX_DOCUMENTS: usize = 64;
/// A document that announces no more bytes than this needs no turn. Most manifests are far smaller.
const MAX_SMALL: u64 = 64 * 1024;
/// How long an answer waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// A document as it came.
pub(super) struct Document {
    pub headers: HeaderMap,
    pub body: Bytes,
    /// How long ago it was true, as a forebay says.
    pub age: Duration,
}

impl Shared {
    /// Asks for a document and reads it.
    pub(super) async fn document(&self, ask: &Ask) -> Result<Document, Error> {
        self.each_endpoint(ask.apart, |endpoint| self.document_of(endpoint, ask)).await?
    }

    /// The inner error: no turn came, which says nothing about the endpoint.
    async fn document_of(&self, endpoint: Arc<Endpoint>, ask: &Ask) -> Result<Result<Document, Error>, Error> {
        let mut followed = self.ask(&endpoint, ask).await?;
        let mut turn = None;
        if !is_small(&followed) {
            turn = self.documents.try_acquire().ok();
            if turn.is_none() {
                // Unread, it would hold a part of the window of an HTTP/2 connection, which those share that are being read.
                drop(followed);
                turn = match self.turn().await {
                    Ok(turn) => Some(turn),
                    Err(error) => return Ok(Err(error)),
                };
                followed = self.ask(&endpoint, ask).await?;
            }
        }
        let age = answer::age(&followed);
        let Followed { response, url, .. } = followed;
        let headers = response.headers().clone();
        let body = whole_body(response, &url, MAX_DOCUMENT).await?;
        drop(turn);
        // What may have any type is a manifest under a wrong one, or a page after all.
        if answer::is_html(&headers) && body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Error::new(ErrorKind::Protocol, format!("{} answered with an HTML page", Shown(&url))));
        }
        self.metrics().upstream_received(self.name(), body.len() as u64);
        Ok(Ok(Document { headers, body, age }))
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, Error> {
        match timeout(TURN_TIMEOUT, self.documents.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            // The semaphore is never closed, so it was the time.
            Ok(Err(_)) | Err(_) => {
                let why = format!("upstream {}: too many documents are being read", self.name());
                Err(Error::new(ErrorKind::Unavailable, why))
            }
        }
    }
}

fn is_small(followed: &Followed) -> bool {
    number(followed.response.headers(), &header::CONTENT_LENGTH).is_some_and(|announced| announced <= MAX_SMALL)
}
