//! Holds back the pieces of a body, as the rate of the upstream says.
//!
//! The pieces that are not taken fill the buffers of the connection, and then the upstream waits.

use std::sync::Arc;

use bytes::Bytes;

use super::super::{
    rates::{RateKey, TimedHold, UpstreamRates},
    state::UpstreamState,
};
use crate::{metrics::Metrics, rate::HoldClock};

/// The piece that waits for the rate.
pub(super) struct RatedPieces {
    rates: Arc<UpstreamRates>,
    /// The bytes come over the line whose rate is set; those of a peer do not.
    is_rated: bool,
    /// Runs while a piece waits.
    clock: Option<Arc<HoldClock>>,
    upstream: Arc<str>,
    metrics: Metrics,
    piece: Option<Bytes>,
    /// How many of its bytes the rate has not given yet.
    left: u64,
}

impl RatedPieces {
    pub(super) fn new(upstream: &UpstreamState, is_rated: bool) -> Self {
        Self {
            rates: upstream.rates().clone(),
            is_rated,
            clock: None,
            upstream: upstream.name().clone(),
            metrics: upstream.metrics().clone(),
            piece: None,
            left: 0,
        }
    }

    /// Runs this clock from now on.
    pub(super) fn run(&mut self, clock: &Arc<HoldClock>) {
        self.clock = Some(clock.clone());
    }

    pub(super) fn has_piece(&self) -> bool {
        self.piece.is_some()
    }

    /// Takes a piece that has arrived; the one before must be gone.
    pub(super) fn arrived(&mut self, piece: Bytes) {
        self.left = piece.len() as u64;
        self.piece = Some(piece);
    }

    /// Gives the piece once the rate allows it. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        while self.is_rated && self.left > 0 && self.rates.inbound.is_set() {
            let share = self.left.min(self.rates.inbound.share());
            let hold = || TimedHold::begin(RateKey::MaxRateIn, &self.upstream, &self.metrics, self.clock.as_ref());
            self.rates.inbound.take(share, hold).await;
            self.left -= share;
        }
        self.left = 0;
        self.piece.take()
    }
}
