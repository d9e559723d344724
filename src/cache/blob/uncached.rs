//! A blob that streams through uncached, because there is no space for it or the disk fails.
//!
//! It is still resumed and verified: the last piece is withheld until the digest is verified. Readers of the whole blob
//! share a transfer; a range has one of its own.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    super::{
        Source,
        download::{
            Download, DownloadReader, Remainder, SeparateFetch,
            transfer::{Transfer, TransferFlow},
        },
    },
    front::Front,
    read_error::ReadError,
    uncached_limit::Place,
    window::{WindowHead, Windows},
    window_reader::{FromWindow, WindowReader},
};
use crate::{
    oci::Verifier,
    request_trace::RequestTrace,
    upstream::{self, ContentNotes, Mirrors},
};

/// Reads a blob, or a part of one.
pub(crate) struct UncachedReader {
    bytes: BytesFrom,
    check: Option<Check>,
    /// What the upstream sent in addition to the bytes.
    remark: ContentNotes,
    /// The request of the reader.
    trace: RequestTrace,
    /// Held if there is a download of the blob for which this reader must not wait.
    place: Option<SeparateFetch>,
    /// The place among all blobs that stream through; dropped last.
    counted: Option<Place>,
}

/// Where the bytes come from.
enum BytesFrom {
    /// A transfer for this reader only.
    Own(Box<Transfer>),
    /// Transfers that readers share.
    Shared(Box<WindowReader>),
}

/// Present if the client gets the whole blob; a part cannot be verified.
struct Check {
    source: Source,
    /// All bytes that came, and those that the client had before.
    front: Front,
    /// The piece that may be the last one.
    held: Option<Bytes>,
    /// Whether all hashed bytes came by this reader's transfer, and none from a file of the cache or another transfer.
    is_theirs: bool,
    done: bool,
}

impl Check {
    fn new(source: Source, front: Front) -> Self {
        let is_theirs = !front.is_in_file();
        Self { source, front, held: None, is_theirs, done: false }
    }

    /// The next bytes of the reader's own transfer.
    async fn next_of(&mut self, transfer: &mut Transfer) -> Result<Option<Bytes>, ReadError> {
        self.hashed().await?;
        let bytes = transfer.next().await.map_err(ReadError::Upstream)?;
        if let Some(bytes) = &bytes {
            self.front.update(bytes);
        }
        Ok(bytes)
    }

    async fn hashed(&mut self) -> Result<&Verifier, ReadError> {
        self.front.hash().await.map(|hash| &*hash).map_err(|error| ReadError::Storage(error.into()))
    }
}

impl UncachedReader {
    fn new(source: &Source, bytes: BytesFrom, check: Option<Check>) -> Self {
        let trace = source.upstream.trace().clone();
        Self { bytes, check, remark: ContentNotes::default(), trace, place: None, counted: None }
    }

    /// The whole blob, by a transfer for this reader only.
    pub(crate) async fn alone(source: &Source) -> Result<(Self, Option<u64>), upstream::Error> {
        let transfer = Transfer::open(&source.without_peers(), 0, None).await?;
        let (total, remark) = (transfer.total(), transfer.remark().clone());
        let check = Check::new(source.clone(), Front::empty(source.digest.algorithm()));
        let reader = Self::new(source, BytesFrom::Own(Box::new(transfer)), Some(check));
        Ok((Self { remark, ..reader }, total))
    }

    /// The whole blob, by a transfer that readers share; perhaps the one that this download has left. Also returns the
    /// size, if the upstream tells it.
    pub(super) async fn shared(
        windows: &Windows,
        source: &Source,
        download: Option<Arc<Download>>,
        transfer: Option<Transfer>,
    ) -> Result<(Self, Option<u64>), ReadError> {
        let mut reader = WindowReader::whole(windows.clone(), source.clone(), download);
        if let Some(transfer) = transfer {
            reader = reader.with_transfer(Box::new(transfer));
        }
        let front = Front::empty(source.digest.algorithm());
        let (bytes, head) = match reader.head(&front).await? {
            Some(head) => (BytesFrom::Shared(Box::new(reader)), head),
            None => {
                let transfer = reader.alone().await?;
                let head = WindowHead { total: transfer.total(), notes: transfer.remark().clone() };
                (BytesFrom::Own(Box::new(transfer)), head)
            }
        };
        let check = Check::new(source.clone(), front);
        Ok((Self { remark: head.notes, ..Self::new(source, bytes, Some(check)) }, head.total))
    }

    /// What the client of a download still needs, without the cache.
    pub(super) async fn after(reader: &DownloadReader, windows: &Windows) -> Result<Self, ReadError> {
        let source = reader.source();
        let algorithm = source.digest.algorithm();
        let whole = WindowReader::whole(windows.clone(), source.clone(), None);
        let (reader, front) = match reader.remainder() {
            Remainder::Range { first, last } => {
                return Self::range(source, first, last).await.map_err(ReadError::Upstream);
            }
            Remainder::Transfer(transfer) => (whole.rest(0, transfer.total()).with_transfer(transfer), None),
            Remainder::Whole { sent: Some(sent), total } => {
                (whole.rest(sent.len, total), Some(Front::sent(algorithm, sent)))
            }
            Remainder::Whole { sent: None, total } => (whole.rest(0, total), None),
        };
        let front = front.unwrap_or_else(|| Front::empty(algorithm));
        let check = Check::new(source.clone(), front);
        Ok(Self::new(source, BytesFrom::Shared(Box::new(reader)), Some(check)))
    }

    /// The bytes from `first` to `last`.
    pub(crate) async fn range(source: &Source, first: u64, last: u64) -> Result<Self, upstream::Error> {
        let transfer = Transfer::open(&source.without_peers(), first, Some(last)).await?;
        let remark = transfer.remark().clone();
        Ok(Self { remark, ..Self::new(source, BytesFrom::Own(Box::new(transfer)), None) })
    }

    /// Requests another part of the same blob from the upstream and continues with it.
    pub(crate) async fn go_to(&mut self, source: &Source, first: u64, last: u64) -> Result<(), upstream::Error> {
        self.bytes = BytesFrom::Own(Box::new(Transfer::open(source, first, Some(last)).await?));
        self.check = None;
        Ok(())
    }

    /// The request of the reader.
    pub(crate) fn trace(&self) -> &RequestTrace {
        &self.trace
    }

    /// Whether the upstream sends the whole blob instead of a part.
    pub(crate) fn is_from_front(&self) -> bool {
        matches!(&self.bytes, BytesFrom::Own(transfer) if transfer.is_from_front())
    }

    /// Keeps the place of the one request that runs concurrently with the download of this blob.
    pub(crate) fn keeping(&mut self, place: SeparateFetch) {
        self.place = Some(place);
    }

    /// What the upstream sent in addition to the bytes.
    pub(crate) fn remark(&self) -> &ContentNotes {
        &self.remark
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
        match &self.bytes {
            BytesFrom::Own(transfer) => match transfer.flow() {
                TransferFlow::From(mirrors) => mirrors,
                TransferFlow::Asking => None,
            },
            BytesFrom::Shared(reader) => reader.mirrors(),
        }
    }

    /// The next bytes; `None` after the last. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let Some(check) = &mut self.check else {
            return match &mut self.bytes {
                BytesFrom::Own(transfer) => transfer.next().await.map_err(ReadError::Upstream),
                // Only whole blobs are shared, and they are verified.
                BytesFrom::Shared(_) => Err(ReadError::Abandoned),
            };
        };
        while !check.done {
            let bytes = match &mut self.bytes {
                BytesFrom::Own(transfer) => check.next_of(transfer).await?,
                BytesFrom::Shared(reader) => match reader.next(&mut check.front).await? {
                    FromWindow::Bytes(bytes) => Some(bytes),
                    FromWindow::End => None,
                    FromWindow::Alone => {
                        check.is_theirs = false;
                        self.bytes = BytesFrom::Own(Box::new(reader.alone().await?));
                        continue;
                    }
                },
            };
            let Some(bytes) = bytes else {
                // `done` is still false, so a call after a mismatch returns the mismatch again and never a clean end.
                if check.hashed().await?.clone().digest() != check.source.digest {
                    if let BytesFrom::Own(transfer) = &mut self.bytes {
                        if transfer.doubt().map_err(ReadError::Upstream)? {
                            continue;
                        }
                        if check.is_theirs {
                            check.source.upstream.note_mismatch(&check.source.digest);
                        }
                    }
                    return Err(ReadError::Mismatch);
                }
                check.done = true;
                return Ok(check.held.take());
            };
            if let Some(earlier) = check.held.replace(bytes) {
                return Ok(Some(earlier));
            }
        }
        Ok(None)
    }
}
