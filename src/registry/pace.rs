//! How fast one response is sent: as the rates of its upstream and of its client allow.
//!
//! A body takes bytes of both rates before it hands them to its connection. So the parts of a file that the kernel sends
//! are no longer than what was taken, whatever the protocol; and a body that waits for a rate is no stall of the client,
//! since nothing waits for the client meanwhile.

use std::{net::IpAddr, sync::Arc};

use super::client_rates::ClientRates;
use crate::{
    metrics::Metrics,
    rate::{HoldClock, Rate},
    upstream::{RateKey, TimedHold, Upstream, UpstreamRates},
};

/// The pace of one response.
pub(crate) struct Pace {
    upstream: Arc<str>,
    rates: Arc<UpstreamRates>,
    clients: ClientRates,
    /// The client's.
    address: IpAddr,
    held: Arc<HoldClock>,
    metrics: Metrics,
}

impl Pace {
    /// `held` runs while a rate holds the response to the client at this address back.
    pub(crate) fn new(
        upstream: &Upstream,
        clients: &ClientRates,
        address: IpAddr,
        held: &Arc<HoldClock>,
        metrics: &Metrics,
    ) -> Self {
        Self {
            upstream: upstream.name().clone(),
            rates: upstream.rates().clone(),
            clients: clients.clone(),
            address,
            held: held.clone(),
            metrics: metrics.clone(),
        }
    }

    /// Whether there is a rate. A reload may change that while the response is sent.
    pub(crate) fn is_set(&self) -> bool {
        self.rates.outbound.is_set() || self.clients.is_set()
    }

    /// Waits until some bytes may be sent, of `most` or fewer, and returns how many.
    pub(crate) async fn take(&self, most: u64) -> u64 {
        let client = self.clients.of(self.address);
        let share = most.min(self.rates.outbound.share()).min(client.as_ref().map_or(u64::MAX, Rate::share));
        // What waits for its client waits in no other client's way.
        if let Some(client) = client {
            client.take(share, || self.hold(RateKey::ClientRate)).await;
        }
        self.rates.outbound.take(share, || self.hold(RateKey::MaxRateOut)).await;
        share
    }

    fn hold(&self, key: RateKey) -> TimedHold<'_> {
        TimedHold::begin(key, &self.upstream, &self.metrics, Some(&self.held))
    }
}
