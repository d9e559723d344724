//! One client's reading of a download.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    Download, DownloadError, Downloads, chunks::ReaderId, state::Look, table::Subscription, transfer::Transfer,
};
use crate::{cache::Source, file_slice::FileSlice, upstream::Mirrors};

/// A client's place in a download.
pub(crate) struct DownloadReader {
    downloads: Downloads,
    download: Arc<Download>,
    /// The blob that this client requested; the download may have been started for a blob of the same digest in another
    /// repository.
    source: Source,
    /// Its number in the map of chunks.
    id: ReaderId,
    position: u64,
    /// The end of the requested range (exclusive); `None` for the whole blob.
    end: Option<u64>,
    /// The client gets the whole blob: its end is withheld until the digest is verified.
    whole: bool,
    changed: watch::Receiver<()>,
    _subscription: Subscription,
}

impl DownloadReader {
    /// Reads from `first` up to `end` (exclusive), or to the end of the blob.
    pub(super) fn new(mut subscription: Subscription, source: Source, first: u64, end: Option<u64>) -> Self {
        let download = subscription.download().clone();
        let id = subscription.reader(first, end);
        let total = download.state().total();
        let whole = first == 0 && (end.is_none() || end == total);
        let changed = download.changed.subscribe();
        let downloads = subscription.downloads().clone();
        Self { downloads, download, source, id, position: first, end, whole, changed, _subscription: subscription }
    }

    /// The download that the reader reads; it keeps its file while it lives.
    pub(crate) fn download(&self) -> &Arc<Download> {
        &self.download
    }

    /// Whether the download belongs to another repository: then its failure says nothing about the upstream of this
    /// client's request.
    pub(crate) fn is_of_other_source(&self) -> bool {
        !self.download.source.is_same(&self.source)
    }

    /// The forebay instances through which the bytes come.
    pub(crate) fn mirrors(&self) -> Option<Mirrors> {
        self.download.mirrors()
    }

    /// The next bytes that are in the file; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<FileSlice>, DownloadError> {
        loop {
            self.changed.borrow_and_update();
            let look = {
                let mut state = self.download.state();
                let look = state.look(self.position, self.end, self.whole);
                if let Look::Slice(slice) = &look {
                    self.position += slice.len;
                    state.chunks.reads_at(self.id, self.position, self.end);
                }
                look
            };
            match look {
                Look::Slice(slice) => return Ok(Some(slice)),
                Look::End => return Ok(None),
                Look::Failed(error) => return Err(error),
                Look::Wait => {
                    self.downloads.fetch_for_reader(&self.download, self.id, &self.source);
                    if self.source.upstream.trace().wait(self.changed.changed()).await.is_err() {
                        return Err(DownloadError::Abandoned);
                    }
                }
            }
        }
    }

    /// What this client still needs of the blob if the download cannot deliver it.
    pub(crate) fn remainder(&self) -> Remainder {
        let (total, file) = {
            let state = self.download.state();
            (state.total(), state.file.as_ref().map(|content| content.file.clone()))
        };
        if !self.whole
            && let Some(last) = self.end.or(total).and_then(|end| end.checked_sub(1))
        {
            return Remainder::Range { first: self.position, last };
        }
        let unused =
            if self.position == 0 && !self.is_of_other_source() { self.download.take_transfer() } else { None };
        if let Some(transfer) = unused {
            return Remainder::Transfer(Box::new(transfer));
        }
        let sent = file.map(|file| FileSlice { file, offset: 0, len: self.position });
        Remainder::Whole { sent, total }
    }

    /// The blob that this client requested.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}

/// What a client still needs of a blob.
pub(crate) enum Remainder {
    /// The bytes of a range from `first` to `last`.
    Range { first: u64, last: u64 },
    /// All bytes of this transfer, from the start.
    Transfer(Box<Transfer>),
    /// The bytes of the whole blob that follow `sent`.
    Whole { sent: Option<FileSlice>, total: Option<u64> },
}
