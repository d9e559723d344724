//! A blob that streams through uncached, because there is no space for it or the disk fails.
//!
//! It is still resumed and verified: the last piece is withheld until the digest is verified.

use bytes::Bytes;

use super::{
    super::{
        ReadError, Source,
        download::{
            DownloadReader, Remainder, SeparateFetch,
            transfer::{Transfer, TransferFlow},
        },
        hash::hash_slice,
        storage::blocking,
    },
    uncached_limit::Place,
};
use crate::{
    file_slice::FileSlice,
    metrics::Metrics,
    oci::Verifier,
    upstream::{self, ContentNotes, Mirrors},
};

/// Reads the bytes of a transfer.
pub(crate) struct UncachedReader {
    transfer: Transfer,
    check: Option<Check>,
    /// Held if there is a download of the blob for which this reader must not wait.
    place: Option<SeparateFetch>,
    /// The place among all blobs that stream through; dropped last.
    counted: Option<Place>,
}

/// Present if the client gets the whole blob; a part cannot be verified.
struct Check {
    source: Source,
    metrics: Metrics,
    verifier: Verifier,
    /// The piece that may be the last one.
    held: Option<Bytes>,
    /// Whether all hashed bytes came from the upstream, and none from a file of the cache.
    is_theirs: bool,
    done: bool,
}

impl UncachedReader {
    /// The whole blob, from a transfer that is at its start.
    pub(crate) fn whole(source: Source, transfer: Transfer, metrics: Metrics) -> Self {
        let verifier = Verifier::new(source.digest.algorithm());
        let check = Check { source, metrics, verifier, held: None, is_theirs: true, done: false };
        Self { transfer, check: Some(check), place: None, counted: None }
    }

    /// The rest of a whole blob of which the client already has `sent`.
    pub(crate) async fn rest(
        source: Source,
        sent: FileSlice,
        total: Option<u64>,
        metrics: Metrics,
    ) -> Result<Self, ReadError> {
        let transfer = Transfer::going_on(&source, sent.len, None, total);
        let mut reader = Self::whole(source, transfer, metrics);
        if let Some(check) = &mut reader.check {
            check.is_theirs = sent.len == 0;
            let mut verifier = check.verifier.clone();
            check.verifier = blocking(move || hash_slice(&sent, &mut verifier).map(|()| verifier))
                .await
                .map_err(|error| ReadError::Storage(error.into()))?;
        }
        Ok(reader)
    }

    /// What the client of a download still needs, without the cache.
    pub(crate) async fn after(reader: &DownloadReader) -> Result<Self, ReadError> {
        let (source, metrics) = (reader.source().clone(), reader.download().metrics().clone());
        match reader.remainder() {
            Remainder::Range { first, last } => Self::range(&source, first, last).await.map_err(ReadError::Upstream),
            Remainder::Transfer(transfer) => Ok(Self::whole(source, *transfer, metrics)),
            Remainder::Whole { sent: Some(sent), total } => Self::rest(source, sent, total, metrics).await,
            Remainder::Whole { sent: None, .. } => {
                let transfer = Transfer::open(&source, 0, None).await.map_err(ReadError::Upstream)?;
                Ok(Self::whole(source, transfer, metrics))
            }
        }
    }

    /// The bytes from `first` to `last`.
    pub(crate) async fn range(source: &Source, first: u64, last: u64) -> Result<Self, upstream::Error> {
        Ok(Self { transfer: Transfer::open(source, first, Some(last)).await?, check: None, place: None, counted: None })
    }

    /// Requests another part of the same blob from the upstream and continues with it.
    pub(crate) async fn go_to(&mut self, source: &Source, first: u64, last: u64) -> Result<(), upstream::Error> {
        self.transfer = Transfer::open(source, first, Some(last)).await?;
        self.check = None;
        Ok(())
    }

    /// Whether the upstream sends the whole blob instead of a part.
    pub(crate) fn is_from_front(&self) -> bool {
        self.transfer.is_from_front()
    }

    /// Keeps the place of the one request that runs concurrently with the download of this blob.
    pub(crate) fn keeping(&mut self, place: SeparateFetch) {
        self.place = Some(place);
    }

    /// What the upstream sent in addition to the bytes.
    pub(crate) fn remark(&self) -> &ContentNotes {
        self.transfer.remark()
    }

    /// Takes that place for another reader that replaces this one.
    pub(crate) fn leave_place(&mut self) -> Option<SeparateFetch> {
        self.place.take()
    }

    /// Keeps the place among all blobs that stream through.
    #[must_use]
    pub(crate) fn counted(mut self, place: Place) -> Self {
        self.counted = Some(place);
        self
    }

    /// The forebay instances through which the bytes come.
    pub(crate) fn mirrors(&self) -> Option<Mirrors> {
        match self.transfer.flow() {
            TransferFlow::From(mirrors) => mirrors,
            TransferFlow::Asking => None,
        }
    }

    /// The next bytes; `None` after the last. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let Some(check) = &mut self.check else {
            return self.transfer.next().await.map_err(ReadError::Upstream);
        };
        loop {
            if check.done {
                return Ok(None);
            }
            match self.transfer.next().await.map_err(ReadError::Upstream)? {
                Some(bytes) => {
                    check.verifier.update(&bytes);
                    if let Some(earlier) = check.held.replace(bytes) {
                        return Ok(Some(earlier));
                    }
                }
                None => {
                    // `done` is still false, so a call after a mismatch returns the mismatch again and never a clean
                    // end.
                    if check.verifier.clone().digest() != check.source.digest {
                        if self.transfer.doubt().map_err(ReadError::Upstream)? {
                            continue;
                        }
                        if check.is_theirs {
                            check.metrics.digest_mismatch(check.source.upstream.name());
                        }
                        return Err(ReadError::Mismatch);
                    }
                    check.done = true;
                    return Ok(check.held.take());
                }
            }
        }
    }
}
