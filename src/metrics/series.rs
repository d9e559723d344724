//! The series that count requests: found once by their labels, and by index after that.
//!
//! A series begins to exist with its first request.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;

use prometheus::{Histogram, IntCounter};

use super::{families::RequestFamilies, labels::Label};
use crate::oci::Operation;

/// The statuses of nearly all responses. Series of other statuses are found by their labels each time.
const USUAL: [u16; 7] = [200, 206, 304, 401, 404, 416, 499];

/// By upstream: the configured ones, and `none`.
#[derive(Default)]
pub(super) struct AllSeries(ArcSwap<HashMap<String, Arc<UpstreamSeries>>>);

/// Of one upstream, by operation and outcome.
#[derive(Default)]
pub(super) struct UpstreamSeries([OnceLock<Box<[OnceLock<Series>]>>; Operation::ALL.len()]);

/// Of one upstream, operation and outcome.
pub(super) struct Series {
    pub time_to_first_byte: Histogram,
    pub duration: Histogram,
    pub sent_bytes: IntCounter,
    answered: [OnceLock<IntCounter>; USUAL.len()],
}

impl AllSeries {
    /// Calls `look` with the series of an upstream, which may be new.
    pub(super) fn with<T>(&self, upstream: &str, look: impl FnOnce(&UpstreamSeries) -> T) -> T {
        let known = self.0.load();
        if let Some(series) = known.get(upstream) {
            return look(series);
        }
        // The first request of an upstream replaces the map by a larger one; of two concurrent ones, one tries again.
        let added = Arc::<UpstreamSeries>::default();
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.entry(upstream.to_owned()).or_insert_with(|| added.clone());
            known
        });
        look(self.0.load().get(upstream).unwrap_or(&added))
    }
}

impl UpstreamSeries {
    pub(super) fn get<O: Label>(&self, operation: Operation, outcome: O, find: impl FnOnce() -> Series) -> &Series {
        let of_operation = self.0[operation as usize].get_or_init(|| O::ALL.iter().map(|_| OnceLock::new()).collect());
        of_operation[outcome.index()].get_or_init(find)
    }
}

impl Series {
    pub(super) fn find(families: &RequestFamilies, upstream: &str, operation: Operation, outcome: impl Label) -> Self {
        let labels = [upstream, operation.as_str(), outcome.as_str()];
        Self {
            time_to_first_byte: families.time_to_first_byte.with_label_values(&labels),
            duration: families.duration.with_label_values(&labels),
            sent_bytes: families.sent_bytes.with_label_values(&labels),
            answered: Default::default(),
        }
    }

    /// Counts a response with this status.
    pub(super) fn answered(&self, status: u16, find: impl FnOnce() -> IntCounter) {
        match USUAL.iter().position(|usual| *usual == status) {
            Some(place) => self.answered[place].get_or_init(find).inc(),
            None => find().inc(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        cache::Outcome,
        metrics::{AnsweredRequest, Label as _, Metrics},
        oci::Operation,
    };

    #[test]
    fn every_series_counts_its_own_requests() {
        let metrics = Metrics::new().unwrap();
        let operations = [Operation::Base, Operation::Blob, Operation::Unknown];
        let outcomes = [Outcome::Hit, Outcome::Bypass];
        let mut expected = Vec::new();
        for (upstream, times) in [("docker.io", 1), ("none", 2)] {
            for operation in operations {
                for outcome in outcomes {
                    for status in [200, 416, 418] {
                        for _ in 0..times {
                            let no_time = Duration::ZERO;
                            let request = AnsweredRequest { status, first_byte: no_time, duration: no_time, sent: 5 };
                            metrics.request(upstream, operation, outcome, request);
                        }
                        expected.push(format!(
                            "forebay_requests_total{{operation=\"{}\",outcome=\"{}\",status=\"{status}\",upstream=\"{upstream}\"}} {times}",
                            operation.as_str(),
                            outcome.as_str(),
                        ));
                    }
                }
            }
        }
        let text = metrics.encode().unwrap();
        let mut told: Vec<&str> = text.lines().filter(|line| line.starts_with("forebay_requests_total{")).collect();
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected);
        assert!(
            text.contains(r#"forebay_sent_bytes_total{operation="blob",outcome="hit",upstream="none"} 30"#),
            "{text}"
        );
    }

    #[test]
    fn concurrent_first_requests_of_an_upstream_lose_nothing() {
        let metrics = Metrics::new().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for upstream in 0..50 {
                        let upstream = format!("{upstream}.lan");
                        let no_time = Duration::ZERO;
                        let request = AnsweredRequest { status: 200, first_byte: no_time, duration: no_time, sent: 0 };
                        metrics.request(&upstream, Operation::Blob, Outcome::Hit, request);
                    }
                });
            }
        });
        let text = metrics.encode().unwrap();
        let told = text.lines().filter(|line| line.starts_with("forebay_requests_total{") && line.ends_with(" 8"));
        assert_eq!(told.count(), 50, "{text}");
    }
}
