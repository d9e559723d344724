//! What a run tells while it lasts, and in the end.

use std::time::Duration;

use super::{failure::Failure, progress::Progress};
use crate::{metrics::Label, oci::Digest};

/// What a run tells while it lasts.
#[derive(Clone, Debug)]
pub(crate) enum WarmEvent {
    Progress(Progress),
    /// Of this image nothing more happens.
    Image(WarmedImage),
    /// The last event.
    Done(WarmSummary),
}

/// What came of one image.
#[derive(Clone, Debug)]
pub(crate) struct WarmedImage {
    /// Its full name, or what the caller wrote if that is no name.
    pub image: String,
    pub outcome: ImageOutcome,
    /// That of its manifest or index; `None`: it is not known.
    pub digest: Option<Digest>,
    /// The length of its configurations and layers, as its manifests say.
    pub bytes: u64,
    /// Which of them this run downloaded. A blob that several images have counts for the first of them.
    pub fetched_bytes: u64,
}

impl WarmedImage {
    /// An image of which nothing is known.
    pub(super) fn failed(image: String, failure: Failure) -> Self {
        Self { image, outcome: ImageOutcome::Failed(failure), digest: None, bytes: 0, fetched_bytes: 0 }
    }
}

/// What came of one image.
#[derive(Clone, Debug)]
pub(crate) enum ImageOutcome {
    Fetched,
    /// All of it was here. The upstream may not have said whether the tag still means it.
    Cached {
        is_stale: bool,
    },
    Failed(Failure),
}

/// The outcome without its details: a label of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WarmResult {
    Fetched,
    Cached,
    Failed,
}

impl ImageOutcome {
    pub(crate) fn result(&self) -> WarmResult {
        match self {
            Self::Fetched => WarmResult::Fetched,
            Self::Cached { .. } => WarmResult::Cached,
            Self::Failed(_) => WarmResult::Failed,
        }
    }
}

impl Label for WarmResult {
    const ALL: &'static [Self] = &[Self::Fetched, Self::Cached, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Cached => "cached",
            Self::Failed => "failed",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// What a whole run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WarmSummary {
    pub fetched: usize,
    pub cached: usize,
    pub failed: usize,
    pub fetched_bytes: u64,
    /// GETs of manifests that the upstreams count as pulls.
    pub pulls: u32,
    pub took: Duration,
    /// Why nothing was downloaded, if the images have no room together.
    pub problem: Option<String>,
}

impl WarmSummary {
    pub(super) fn count(&mut self, image: &WarmedImage) {
        self.fetched_bytes = self.fetched_bytes.saturating_add(image.fetched_bytes);
        match image.outcome.result() {
            WarmResult::Fetched => self.fetched += 1,
            WarmResult::Cached => self.cached += 1,
            WarmResult::Failed => self.failed += 1,
        }
    }
}
