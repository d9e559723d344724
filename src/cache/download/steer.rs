//! Starts workers as long as they raise the rate.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};

use super::{
    Download, Downloads, Progress,
    ramp_up::{ConnectionRamp, Decision, Sample, TICK},
    worker::Task,
};

/// Starts workers as long as they raise the rate. Never returns; drop it with the download.
pub(super) async fn steer(downloads: &Downloads, download: &Arc<Download>) -> Infallible {
    let mut ramp = ConnectionRamp::new(download.source.upstream.connections());
    download.when(|state| (!matches!(state.progress, Progress::Opening)).then_some(())).await;
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !ramp.is_settled() {
        ticks.tick().await;
        let Some(sample) = download.sample(begun) else { continue };
        let decision = ramp.see(sample);
        if decision != Decision::Stay {
            tracing::debug!(digest = %download.source.digest, ?decision, ?sample, each = ramp.each(), "the connections of a download");
        }
        match decision {
            Decision::Stay => {}
            Decision::Settle => download.update(|state| state.workers.settled = true),
            Decision::Add(more) => {
                if !add(downloads, download, more, ramp.each().unwrap_or_default()) {
                    download.update(|state| state.workers.settled = true);
                    break;
                }
            }
        }
    }
    std::future::pending().await
}

/// Starts up to `more` workers. Returns whether at least one could be started.
fn add(downloads: &Downloads, download: &Arc<Download>, more: usize, each: f64) -> bool {
    let most = download.source.upstream.connections();
    let mut any = false;
    for _ in 0..more {
        let Ok(permit) = downloads.extra_connections().clone().try_acquire_owned() else { break };
        let Some(worker) = download.update(|state| state.worker_for_rate(each, most)) else { break };
        any = true;
        downloads.start_worker(download, worker, Task::Rate(permit));
    }
    any
}

impl Download {
    fn sample(&self, begun: Instant) -> Option<Sample> {
        let state = self.state();
        let is_whole = state.chunks.is_complete_wanted();
        if !matches!(state.progress, Progress::Writing) || !state.workers.may_ramp() || !is_whole {
            return None;
        }
        let received = self.received.load(Ordering::Relaxed);
        Some(Sample {
            at: begun.elapsed(),
            download: received,
            upstream: self.source.upstream.received_bytes(),
            missing: state.chunks.missing()?,
            connections: 1 + state.workers.open,
            opening: state.workers.opening,
            stalled: Duration::from_micros(self.stalled.load(Ordering::Relaxed)),
            held: self.holds.held(),
        })
    }
}
