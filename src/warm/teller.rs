//! How the outcomes of a run reach its caller, and are counted.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    event::{WarmEvent, WarmSummary, WarmedImage},
    progress::Progress,
};
use crate::metrics::Metrics;

/// Tells the caller of a run.
pub(super) struct Teller {
    told: mpsc::Sender<WarmEvent>,
    summary: Mutex<WarmSummary>,
    metrics: Metrics,
}

impl Teller {
    pub(super) fn new(told: mpsc::Sender<WarmEvent>, metrics: Metrics) -> Self {
        Self { told, summary: Mutex::default(), metrics }
    }

    /// Of this image nothing more happens. Waits until the caller takes it.
    pub(super) async fn image(&self, image: WarmedImage) {
        self.summary.lock().count(&image);
        self.metrics.image_warmed(image.outcome.result());
        // A caller that has gone drops the run.
        let _ = self.told.send(WarmEvent::Image(image)).await;
    }

    /// A caller that is slow does without.
    pub(super) fn progress(&self, progress: Progress) {
        let _ = self.told.try_send(WarmEvent::Progress(progress));
    }

    /// How many images are done, and how many of them failed.
    pub(super) fn done(&self) -> (usize, usize) {
        let WarmSummary { fetched, cached, failed, .. } = *self.summary.lock();
        (fetched + cached + failed, failed)
    }

    /// The run is over.
    pub(super) async fn done_with(&self, pulls: u32, took: Duration, problem: Option<String>) {
        let summary = WarmSummary { pulls, took, problem, ..self.summary.lock().clone() };
        let _ = self.told.send(WarmEvent::Done(summary)).await;
    }
}
