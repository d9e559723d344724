//! What operators see of a download in flight.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{Download, DownloadEvent, Downloads, Progress};
use crate::{cache::Source, followers::Follower, request_id::RequestId};

/// A download in flight, and how far it is.
pub(crate) struct RunningDownload {
    download: Arc<Download>,
    pub stage: DownloadStage,
    /// How many bytes of the blob are here, with those of an earlier download.
    pub here: u64,
    /// The size of the blob, once it is known.
    pub size: Option<u64>,
    /// How many bytes all its transfers received.
    pub received: u64,
    /// How many clients read it, or wait for it.
    pub clients: usize,
    /// The first requests that it is for.
    pub requests: Vec<RequestId>,
}

/// What a download does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DownloadStage {
    /// The upstream has not responded yet.
    Opening,
    Receiving,
    /// All bytes are here and verified.
    Verified,
    Failed,
}

impl DownloadStage {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Receiving => "receiving",
            Self::Verified => "verified",
            Self::Failed => "failed",
        }
    }
}

impl Downloads {
    /// All downloads in flight, in no order.
    pub(crate) fn running(&self) -> Vec<RunningDownload> {
        self.all().into_iter().map(RunningDownload::of).collect()
    }

    /// The downloads that begin and end from now on.
    pub(crate) fn follow(&self) -> Follower<DownloadEvent> {
        self.followers().follow()
    }
}

impl RunningDownload {
    fn of(download: Arc<Download>) -> Self {
        let (stage, here, size) = {
            let state = download.state();
            let stage = match &state.progress {
                Progress::Opening => DownloadStage::Opening,
                Progress::Writing => DownloadStage::Receiving,
                Progress::Complete => DownloadStage::Verified,
                Progress::Failed(_) => DownloadStage::Failed,
            };
            (stage, state.chunks.written(), state.total())
        };
        let prefetches = download.prefetch_subscribers.load(Ordering::SeqCst);
        let clients = download.subscribers().saturating_sub(prefetches);
        let requests = download.requests.lock().first().collect();
        Self { stage, here, size, received: download.received(), clients, requests, download }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.download.source
    }

    pub(crate) fn begun(&self) -> Instant {
        self.download.begun.into_std()
    }

    /// Whether no client has requested the blob yet.
    pub(crate) fn is_ahead(&self) -> bool {
        !self.download.is_wanted()
    }

    /// The same for each look at one download, and for no other download as long as this lives.
    pub(crate) fn identity(&self) -> usize {
        Arc::as_ptr(&self.download).addr()
    }
}
