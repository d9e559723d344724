//! Ranges far ahead of the main transfer: fetched by transfers of their own into the same file.
//!
//! Each has a claim on bytes that nobody else writes; what it does not get done goes back to the main
//! transfer. So a client that wants the end of a large blob does not wait for its beginning, and the upstream
//! still sends every byte once.

use std::{ops::Range, sync::Arc};

use super::{Fill, Fills, Progress};
use crate::cache::{
    disk::{blocking, write_all_at},
    transfer::Transfer,
};

/// Nearer than this to the main transfer, waiting is quicker than asking, in bytes.
const NEAR: u64 = 1024 * 1024;
/// How many such transfers one fill has at most.
const MOST_TRANSFERS: usize = 4;
/// After this many that failed, the main transfer is left alone with the rest.
const MOST_FAILURES: usize = 4;
/// What is gathered for one write, in bytes.
const BATCH: usize = 1024 * 1024;

/// Bytes that one range transfer writes; the rest goes back when it is dropped.
struct Claim {
    fill: Arc<Fill>,
    rest: Range<u64>,
}

impl Fills {
    /// Starts a transfer for a reader that waits at `position`, if that helps it.
    pub(super) fn fetch_ahead(&self, fill: &Arc<Fill>, position: u64, end: Option<u64>) {
        if let Some(claim) = Claim::new(fill, position, end) {
            self.tasks().spawn(run(claim));
        }
    }
}

impl Claim {
    fn new(fill: &Arc<Fill>, position: u64, end: Option<u64>) -> Option<Self> {
        let mut state = fill.state();
        let total = state.total?;
        let useful = matches!(state.progress, Progress::Writing)
            && !state.ranges_ignored
            && state.range_failures < MOST_FAILURES
            && !fill.ranges.is_cancelled()
            && state.range_transfers < MOST_TRANSFERS
            && position > state.front + NEAR
            && !state.foreign.contains(position)
            && !state.written.contains(position);
        if !useful {
            return None;
        }
        let next = state
            .foreign
            .next_start(position)
            .unwrap_or(total)
            .min(state.written.next_start(position).unwrap_or(total));
        let rest = position..end.unwrap_or(total).min(total).min(next);
        if rest.is_empty() {
            return None;
        }
        state.foreign.insert(rest.clone());
        state.range_transfers += 1;
        drop(state);
        Some(Self { fill: fill.clone(), rest })
    }

    fn wrote(&mut self, len: u64) {
        let done = self.rest.start..self.rest.start + len;
        self.rest.start = done.end;
        self.fill.update(|state| state.written.insert(done));
    }

    fn give_up(&self) {
        self.fill.update(|state| state.range_failures += 1);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let rest = self.rest.clone();
        self.fill.update(|state| {
            state.foreign.remove(rest);
            state.range_transfers -= 1;
        });
    }
}

async fn run(mut claim: Claim) {
    let cancel = claim.fill.ranges.clone();
    let fill = claim.fill.clone();
    let opening = Transfer::open(&fill.source, claim.rest.start, Some(claim.rest.end - 1));
    let opened = tokio::select! {
        () = cancel.cancelled() => return,
        opened = opening => opened,
    };
    let mut transfer = match opened {
        Ok(transfer) if transfer.skipping() > 0 => return fill.update(|state| state.ranges_ignored = true),
        Ok(transfer) if !fill.agrees(&transfer) => return claim.give_up(),
        Ok(transfer) => transfer,
        Err(error) => {
            tracing::debug!(%error, digest = %fill.source.digest, "a range of a blob in flight cannot be fetched ahead");
            return claim.give_up();
        }
    };
    let (Some(file), Some(name)) = ({
        let state = fill.state();
        (state.file.clone(), state.name.clone())
    }) else {
        return;
    };
    if blocking(move || name.allow_gaps()).await.is_err() {
        return claim.give_up();
    }
    loop {
        let next = tokio::select! {
            () = cancel.cancelled() => return,
            next = transfer.next() => next,
        };
        let mut batch = match next {
            Ok(Some(bytes)) => vec![bytes],
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, digest = %fill.source.digest, "a range of a blob in flight broke");
                return claim.give_up();
            }
        };
        let mut len = batch[0].len();
        while len < BATCH
            && let Some(bytes) = transfer.ready()
        {
            len += bytes.len();
            batch.push(bytes);
        }
        let (file, offset) = (file.clone(), claim.rest.start);
        if let Err(error) = blocking(move || write_all_at(&file, &batch, offset)).await {
            // The main transfer meets the same disk, and says so.
            tracing::debug!(%error, "cannot write a range ahead");
            return claim.give_up();
        }
        claim.wrote(len as u64);
    }
}
