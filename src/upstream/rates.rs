//! The rates of the upstreams: `max_rate_in` and `max_rate_out`.
//!
//! What must hold: all that is under way of one upstream shares its rates, also what began before a reload.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Config;
use crate::{
    metrics::{Label, Metrics},
    rate::{BytesPerSecond, Hold, HoldClock, Rate},
};

/// The rates of one upstream.
#[derive(Debug, Default)]
pub struct UpstreamRates {
    /// Of what it sends to forebay.
    pub(crate) inbound: Rate,
    /// Of its content that forebay sends to clients.
    pub(crate) outbound: Rate,
}

impl UpstreamRates {
    fn set(&self, inbound: Option<BytesPerSecond>, outbound: Option<BytesPerSecond>) {
        self.inbound.set(inbound);
        self.outbound.set(outbound);
    }
}

/// The rates of all upstreams, by their names. A cheap handle.
#[derive(Clone, Debug, Default)]
pub struct RateTable(Arc<Mutex<HashMap<Arc<str>, Arc<UpstreamRates>>>>);

impl RateTable {
    /// The rates of the upstream of this name. They hold nothing back until they are [set](Self::set).
    pub(super) fn of(&self, name: &Arc<str>) -> Arc<UpstreamRates> {
        self.0.lock().entry(name.clone()).or_default().clone()
    }

    /// Sets the rates of these upstreams, and forgets all others: what is under way of those keeps its rates.
    pub fn set(&self, upstreams: &[Config]) {
        let mut table = self.0.lock();
        table.retain(|name, _| upstreams.iter().any(|upstream| upstream.name == *name));
        for Config { name, max_rate_in, max_rate_out, .. } in upstreams {
            table.entry(name.clone()).or_default().set(*max_rate_in, *max_rate_out);
        }
    }
}

/// Which rate holds something back. The names are those of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateKey {
    MaxRateIn,
    MaxRateOut,
    ClientRate,
}

impl Label for RateKey {
    const ALL: &'static [Self] = &[Self::MaxRateIn, Self::MaxRateOut, Self::ClientRate];

    fn as_str(self) -> &'static str {
        match self {
            Self::MaxRateIn => "max_rate_in",
            Self::MaxRateOut => "max_rate_out",
            Self::ClientRate => "client_rate",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// A rate holds something back until this is dropped. The metric gets the time, and so does a clock.
pub(crate) struct TimedHold<'a> {
    key: RateKey,
    upstream: &'a str,
    metrics: &'a Metrics,
    since: Instant,
    _clock: Option<Hold>,
}

impl<'a> TimedHold<'a> {
    pub(crate) fn begin(key: RateKey, upstream: &'a str, metrics: &'a Metrics, clock: Option<&Arc<HoldClock>>) -> Self {
        Self { key, upstream, metrics, since: Instant::now(), _clock: clock.map(HoldClock::hold) }
    }
}

impl Drop for TimedHold<'_> {
    fn drop(&mut self) {
        self.metrics.rate_limited(self.upstream, self.key, self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, max_rate_in: Option<u64>) -> Config {
        let max_rate_in = max_rate_in.and_then(BytesPerSecond::new);
        Config { max_rate_in, ..Config::at(name, &["https://registry.example"]) }
    }

    #[test]
    fn a_reload_sets_the_rates_of_what_is_under_way() {
        let table = RateTable::default();
        let [a, b] = ["a", "b"].map(|name| table.of(&name.into()));
        let rates = || [&a, &b].map(|rates| rates.inbound.get().map(BytesPerSecond::get));
        assert_eq!(rates(), [None, None]);
        table.set(&[config("a", Some(1 << 20)), config("b", Some(1 << 21))]);
        assert_eq!(rates(), [Some(1 << 20), Some(1 << 21)]);
        assert!(Arc::ptr_eq(&a, &table.of(&"a".into())));
        table.set(&[config("a", None)]);
        assert_eq!(rates(), [None, Some(1 << 21)], "b is configured no more");
        table.set(&[config("b", None)]);
        assert!(!Arc::ptr_eq(&b, &table.of(&"b".into())));
        assert_eq!(table.0.lock().len(), 1);
    }
}
