//! Every metric and its labels, as typed functions.
//!
//! This file owns the names: nobody else spells one. Labels are enums of small, fixed sets, and the names of the
//! configured upstreams; nothing a client sends becomes a label. Names, units and suffixes follow the Prometheus
//! conventions and `promtool check metrics` agrees with them. Where they are served is the admin listener's affair.

mod labels;
mod series;

use std::{sync::Arc, time::Duration};

/// Why metrics cannot be registered or written.
pub use prometheus::Error;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

pub use self::labels::Label;
use self::series::{AllSeries, Series};
use crate::oci::Operation;

/// From an answer out of memory (1 ms) to a large blob over a slow line (10 min).
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// One more of something that is under way; one less when this is dropped.
#[derive(Debug)]
#[must_use = "the gauge goes down when this is dropped"]
pub struct InFlight(IntGauge);

impl InFlight {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        InFlight(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A cheap handle on all metrics of this process (or of one test: nothing is global).
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    time_to_first_byte: HistogramVec,
    sent_bytes: IntCounterVec,
    upstream_requests: IntCounterVec,
    upstream_received_bytes: IntCounterVec,
    upstream_up: IntGaugeVec,
    /// Not there before it is known.
    upstream_credentials: IntGaugeVec,
    upstream_circuits_open: IntGaugeVec,
    upstream_ratelimit_limit: GaugeVec,
    upstream_ratelimit_remaining: GaugeVec,
    tokens: IntCounterVec,
    digest_mismatches: IntCounterVec,
    fills: IntCounterVec,
    fills_in_flight: IntGauge,
    cache_bytes: IntGaugeVec,
    cache_max_bytes: IntGauge,
    cache_objects: IntGaugeVec,
    evicted_bytes: IntCounter,
    corrupt_objects: IntCounterVec,
    scrub_bytes: IntCounter,
    /// Not there before it is known.
    oldest_verification: IntGaugeVec,
    sent_by_kernel: IntCounter,
    connections: IntGauge,
    connections_refused: IntCounter,
    reloads: IntCounterVec,
    stalls: IntCounterVec,
    /// Those of requests, found once.
    series: AllSeries,
}

impl Families {
    fn answered(&self, upstream: &str, operation: Operation, outcome: impl Label, status: u16) -> IntCounter {
        self.requests.with_label_values(&[upstream, operation.as_str(), outcome.as_str(), &status.to_string()])
    }
}

impl Metrics {
    /// # Errors
    /// Only when two metrics have one name, or a name is malformed: a mistake in this file, which its tests find.
    pub fn new() -> Result<Self, Error> {
        const REQUEST: &[&str] = &["upstream", "operation", "outcome"];
        let registry = Registry::new();
        let r = &registry;

        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let build_info = register(
            r,
            IntGaugeVec::new(Opts::new("forebay_build_info", "Always 1; the version is in the label."), &["version"])?,
        )?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);

        let families = Families {
            requests: counters(
                r,
                "forebay_requests_total",
                "Requests answered.",
                &["upstream", "operation", "outcome", "status"],
            )?,
            request_duration: histograms(
                r,
                "forebay_request_duration_seconds",
                "From the head of a request to the last byte of its response.",
                REQUEST,
            )?,
            time_to_first_byte: histograms(
                r,
                "forebay_time_to_first_byte_seconds",
                "From the head of a request to the first byte of its response.",
                REQUEST,
            )?,
            sent_bytes: counters(r, "forebay_sent_bytes_total", "Bytes of response bodies sent to clients.", REQUEST)?,
            upstream_requests: counters(
                r,
                "forebay_upstream_requests_total",
                "Requests made of upstreams; status is `error` when there was no answer.",
                &["upstream", "operation", "status"],
            )?,
            upstream_received_bytes: counters(
                r,
                "forebay_upstream_received_bytes_total",
                "Bytes of response bodies received from upstreams.",
                &["upstream"],
            )?,
            upstream_up: gauges(
                r,
                "forebay_upstream_up",
                "Whether the upstream answered when it was last asked.",
                &["upstream"],
            )?,
            upstream_credentials: gauges(
                r,
                "forebay_upstream_credentials_ok",
                "Whether the upstream took forebay's own credentials when they were last shown.",
                &["upstream"],
            )?,
            upstream_circuits_open: gauges(
                r,
                "forebay_upstream_circuit_open",
                "Hosts of the upstream that have failed in a row and are only probed.",
                &["upstream"],
            )?,
            upstream_ratelimit_limit: register(
                r,
                GaugeVec::new(
                    Opts::new("forebay_upstream_ratelimit_limit", "Pulls the upstream allows per window, as it says."),
                    &["upstream"],
                )?,
            )?,
            upstream_ratelimit_remaining: register(
                r,
                GaugeVec::new(
                    Opts::new(
                        "forebay_upstream_ratelimit_remaining",
                        "Pulls left in the upstream's current window, as it says.",
                    ),
                    &["upstream"],
                )?,
            )?,
            tokens: counters(
                r,
                "forebay_tokens_total",
                "Tokens asked of the upstreams' token servers.",
                &["upstream", "result"],
            )?,
            digest_mismatches: counters(
                r,
                "forebay_digest_mismatches_total",
                "Downloads whose bytes were not those of the digest.",
                &["upstream"],
            )?,
            fills: counters(
                r,
                "forebay_fills_total",
                "Downloads into the cache that have ended.",
                &["upstream", "result"],
            )?,
            fills_in_flight: gauge(r, "forebay_fills_in_flight", "Downloads into the cache under way.")?,
            cache_bytes: gauges(r, "forebay_cache_bytes", "Bytes that the file system has allocated.", &["kind"])?,
            cache_max_bytes: gauge(r, "forebay_cache_max_bytes", "Bytes the cache may take on disk.")?,
            cache_objects: gauges(r, "forebay_cache_objects", "Objects on disk.", &["kind"])?,
            sent_by_kernel: register(
                r,
                IntCounter::new(
                    "forebay_sent_by_kernel_bytes_total",
                    "Bytes of blobs that the kernel sent from the page cache; the rest was copied.",
                )?,
            )?,
            evicted_bytes: register(
                r,
                IntCounter::new("forebay_evicted_bytes_total", "Bytes removed from the cache to make room.")?,
            )?,
            corrupt_objects: counters(
                r,
                "forebay_cache_corrupt_objects_total",
                "Cached objects whose bytes were not those of their digest any more, and which were removed.",
                &["kind"],
            )?,
            scrub_bytes: register(
                r,
                IntCounter::new("forebay_scrub_bytes_total", "Bytes of cached objects that were verified again.")?,
            )?,
            oldest_verification: gauges(
                r,
                "forebay_scrub_oldest_verification_timestamp_seconds",
                "When the cached object was verified whose verification is the oldest.",
                &[],
            )?,
            connections: gauge(r, "forebay_connections", "Client connections open.")?,
            connections_refused: register(
                r,
                IntCounter::new("forebay_connections_refused_total", "Connections over the limit, sent away.")?,
            )?,
            reloads: counters(
                r,
                "forebay_reloads_total",
                "Reloads of what, and whether the new value was taken (ok) or the old one kept (failed).",
                &["what", "result"],
            )?,
            stalls: counters(
                r,
                "forebay_stalls_total",
                "Connections and streams cut because the client did too little for too long, by what it should have done.",
                &["what"],
            )?,
            series: AllSeries::default(),
            registry,
        };
        Ok(Metrics(Arc::new(families)))
    }

    /// An upstream is configured. What is alerted on begins at 0: the step from "absent" to 1 is none to Prometheus.
    pub fn upstream_configured<Token: Label, Download: Label>(&self, upstream: &str) {
        self.0.digest_mismatches.with_label_values(&[upstream]);
        self.0.upstream_received_bytes.with_label_values(&[upstream]);
        self.0.upstream_circuits_open.with_label_values(&[upstream]);
        for result in Token::ALL {
            self.0.tokens.with_label_values(&[upstream, result.as_str()]);
        }
        for result in Download::ALL {
            self.0.fills.with_label_values(&[upstream, result.as_str()]);
        }
    }

    /// Objects of these kinds are cached, and may be corrupt. What is alerted on begins at 0.
    pub fn objects_may_be_corrupt(&self, kinds: &[impl Label]) {
        for kind in kinds {
            self.0.corrupt_objects.with_label_values(&[kind.as_str()]);
        }
    }

    /// All metrics in the Prometheus text format, version 0.0.4.
    ///
    /// # Errors
    /// When a family is inconsistent, which the typed functions rule out.
    pub fn encode(&self) -> Result<String, Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.0.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| Error::Msg(error.to_string()))
    }

    /// A request has been answered to the end, or its client has left; `sent` is bytes of the body.
    #[expect(clippy::too_many_arguments, reason = "each is one label or one value of the same event")]
    pub fn request(
        &self,
        upstream: &str,
        operation: Operation,
        outcome: impl Label,
        status: u16,
        first_byte: Duration,
        duration: Duration,
        sent: u64,
    ) {
        self.0.series.with(upstream, |all| {
            let series = all.get(operation, outcome, || Series::find(&self.0, upstream, operation, outcome));
            series.answered(status, || self.0.answered(upstream, operation, outcome, status));
            series.time_to_first_byte.observe(first_byte.as_secs_f64());
            series.request_duration.observe(duration.as_secs_f64());
            series.sent_bytes.inc_by(sent);
        });
    }

    /// An upstream was asked; `status` is `None` when it gave no answer.
    pub fn upstream_request(&self, upstream: &str, operation: Operation, status: Option<u16>) {
        let status = status.map_or_else(|| "error".to_owned(), |status| status.to_string());
        self.0.upstream_requests.with_label_values(&[upstream, operation.as_str(), &status]).inc();
    }

    /// Bytes of a body came from an upstream.
    pub fn upstream_received(&self, upstream: &str, bytes: u64) {
        self.0.upstream_received_bytes.with_label_values(&[upstream]).inc_by(bytes);
    }

    pub fn upstream_up(&self, upstream: &str, up: bool) {
        self.0.upstream_up.with_label_values(&[upstream]).set(i64::from(up));
    }

    /// A host of an upstream is only probed, until the result is dropped.
    pub fn circuit_opened(&self, upstream: &str) -> InFlight {
        InFlight::new(&self.0.upstream_circuits_open.with_label_values(&[upstream]))
    }

    /// Forebay's own credentials were shown, and taken or not.
    pub fn upstream_credentials(&self, upstream: &str, ok: bool) {
        self.0.upstream_credentials.with_label_values(&[upstream]).set(i64::from(ok));
    }

    /// What the upstream said in its `ratelimit-*` headers. What it did not say keeps its last value.
    #[expect(clippy::cast_precision_loss, reason = "nobody allows 2^53 pulls")]
    pub fn upstream_ratelimit(&self, upstream: &str, limit: Option<u64>, remaining: Option<u64>) {
        if let Some(limit) = limit {
            self.0.upstream_ratelimit_limit.with_label_values(&[upstream]).set(limit as f64);
        }
        if let Some(remaining) = remaining {
            self.0.upstream_ratelimit_remaining.with_label_values(&[upstream]).set(remaining as f64);
        }
    }

    pub fn token(&self, upstream: &str, result: impl Label) {
        self.0.tokens.with_label_values(&[upstream, result.as_str()]).inc();
    }

    pub fn digest_mismatch(&self, upstream: &str) {
        self.0.digest_mismatches.with_label_values(&[upstream]).inc();
    }

    /// A download into the cache has begun; it is under way until the result is dropped.
    pub fn fill_started(&self) -> InFlight {
        InFlight::new(&self.0.fills_in_flight)
    }

    pub fn fill(&self, upstream: &str, result: impl Label) {
        self.0.fills.with_label_values(&[upstream, result.as_str()]).inc();
    }

    /// The kernel took `bytes` of a blob for a client.
    pub fn sent_by_kernel(&self, bytes: usize) {
        self.0.sent_by_kernel.inc_by(bytes as u64);
    }

    /// How much of a kind is on disk now.
    pub fn cache(&self, kind: impl Label, bytes: u64, objects: u64) {
        self.0.cache_bytes.with_label_values(&[kind.as_str()]).set(saturating(bytes));
        self.0.cache_objects.with_label_values(&[kind.as_str()]).set(saturating(objects));
    }

    /// Bytes of directories and markers, which are no objects.
    pub fn cache_overhead(&self, bytes: u64) {
        self.0.cache_bytes.with_label_values(&["layout"]).set(saturating(bytes));
    }

    pub fn cache_max(&self, bytes: u64) {
        self.0.cache_max_bytes.set(saturating(bytes));
    }

    pub fn evicted(&self, bytes: u64) {
        self.0.evicted_bytes.inc_by(bytes);
    }

    /// What is cached proved not to be what its digest says.
    pub fn corrupt_object(&self, kind: impl Label) {
        self.0.corrupt_objects.with_label_values(&[kind.as_str()]).inc();
    }

    /// Bytes were verified again.
    pub fn scrubbed(&self, bytes: u64) {
        self.0.scrub_bytes.inc_by(bytes);
    }

    /// No cached object was verified longer ago than this, in seconds since 1970.
    pub fn oldest_verification(&self, seconds: u64) {
        self.0.oldest_verification.with_label_values::<&str>(&[]).set(saturating(seconds));
    }

    /// A client has connected; it is connected until the result is dropped.
    pub fn connection(&self) -> InFlight {
        InFlight::new(&self.0.connections)
    }

    /// A connection came while the limit was reached, and was sent away.
    pub fn connection_refused(&self) {
        self.0.connections_refused.inc();
    }

    /// Something (`tls`, `access`, …) was read again; `ok` says whether the new value was taken.
    pub fn reload(&self, what: &'static str, ok: bool) {
        self.0.reloads.with_label_values(&[what, if ok { "ok" } else { "failed" }]).inc();
    }

    /// A connection was cut because its client did not do `what` (`first_byte`, `handshake`, `read`) in time, or
    /// read slowly while others needed the room (`scarce`).
    pub fn stall(&self, what: &'static str) {
        self.0.stalls.with_label_values(&[what]).inc();
    }
}

/// Gauges are signed; more than 2^63 bytes is as good as 2^63.
fn saturating(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
    register(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauges(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
    register(r, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, Error> {
    register(r, IntGauge::new(name, help)?)
}

fn histograms(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, Error> {
    register(r, HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels)?)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::{
        cache::{DownloadResult, ObjectKind, Outcome},
        upstream::TokenResult,
    };

    /// Metrics in which every family has a value.
    fn everything() -> Metrics {
        let metrics = Metrics::new().unwrap();
        let second = Duration::from_secs(1);
        metrics.request("docker.io", Operation::Blob, Outcome::Hit, 200, second / 100, second, 42);
        metrics.upstream_request("docker.io", Operation::Manifest, Some(200));
        metrics.upstream_request("docker.io", Operation::Token, None);
        metrics.upstream_received("docker.io", 7);
        metrics.upstream_up("docker.io", true);
        metrics.upstream_credentials("docker.io", true);
        metrics.upstream_ratelimit("docker.io", Some(100), Some(99));
        metrics.token("docker.io", TokenResult::Fetched);
        metrics.digest_mismatch("docker.io");
        metrics.fill("docker.io", DownloadResult::UpstreamFailed);
        metrics.cache(ObjectKind::Partial, 1000, 3);
        metrics.cache_max(1 << 30);
        metrics.evicted(5);
        metrics.corrupt_object(ObjectKind::Blob);
        metrics.scrubbed(6);
        metrics.oldest_verification(7);
        metrics.connection_refused();
        metrics.reload("tls", false);
        metrics.stall("read");
        drop(metrics.circuit_opened("docker.io"));
        metrics
    }

    /// Name, type and labels of every metric, as lines of `docs/metrics.md`: "- `NAME` (TYPE; `LABEL`, …)".
    fn described(metrics: &Metrics) -> BTreeSet<String> {
        let families = metrics.0.registry.gather();
        let own = families.iter().filter(|family| family.name().starts_with("forebay_"));
        own.map(|family| {
            let labels = family.get_metric()[0].get_label().iter().map(|label| format!("`{}`", label.name()));
            let labels = labels.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
            let labels = if labels.is_empty() { "no labels".to_owned() } else { labels.join(", ") };
            format!("`{}` ({}; {labels})", family.name(), format!("{:?}", family.get_field_type()).to_lowercase())
        })
        .collect()
    }

    #[test]
    fn the_document_has_every_metric_with_its_labels() {
        let document = include_str!("../docs/metrics.md").lines().filter_map(|line| line.strip_prefix("- `forebay_"));
        let document: BTreeSet<String> = document
            .map(|line| {
                let (head, _) = line.split_once("):").expect("a metric is \"`NAME` (TYPE; LABELS): …\"");
                let (head, labels) = head.split_once("; ").expect("the type comes first");
                let labels = labels.split(", ").collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
                format!("`forebay_{head}; {})", labels.join(", "))
            })
            .collect();
        assert_eq!(document, described(&everything()));
    }

    #[test]
    fn the_names_of_the_contract_are_there() {
        let text = everything().encode().unwrap();
        for (name, kind) in [
            ("forebay_requests_total", "counter"),
            ("forebay_request_duration_seconds", "histogram"),
            ("forebay_time_to_first_byte_seconds", "histogram"),
            ("forebay_sent_bytes_total", "counter"),
            ("forebay_upstream_requests_total", "counter"),
            ("forebay_upstream_received_bytes_total", "counter"),
            ("forebay_upstream_up", "gauge"),
            ("forebay_upstream_credentials_ok", "gauge"),
            ("forebay_upstream_ratelimit_limit", "gauge"),
            ("forebay_upstream_ratelimit_remaining", "gauge"),
            ("forebay_tokens_total", "counter"),
            ("forebay_digest_mismatches_total", "counter"),
            ("forebay_fills_total", "counter"),
            ("forebay_fills_in_flight", "gauge"),
            ("forebay_cache_bytes", "gauge"),
            ("forebay_cache_max_bytes", "gauge"),
            ("forebay_cache_objects", "gauge"),
            ("forebay_evicted_bytes_total", "counter"),
            ("forebay_cache_corrupt_objects_total", "counter"),
            ("forebay_scrub_bytes_total", "counter"),
            ("forebay_scrub_oldest_verification_timestamp_seconds", "gauge"),
            ("forebay_sent_by_kernel_bytes_total", "counter"),
            ("forebay_connections", "gauge"),
            ("forebay_connections_refused_total", "counter"),
            ("forebay_build_info", "gauge"),
            ("forebay_reloads_total", "counter"),
            ("forebay_stalls_total", "counter"),
        ] {
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} is missing from\n{text}");
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
        for line in [
            r#"forebay_requests_total{operation="blob",outcome="hit",status="200",upstream="docker.io"} 1"#,
            r#"forebay_sent_bytes_total{operation="blob",outcome="hit",upstream="docker.io"} 42"#,
            r#"forebay_upstream_requests_total{operation="token",status="error",upstream="docker.io"} 1"#,
            r#"forebay_fills_total{result="upstream_failed",upstream="docker.io"} 1"#,
            r#"forebay_cache_bytes{kind="partial"} 1000"#,
            r#"forebay_reloads_total{result="failed",what="tls"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is missing from\n{text}");
        }
        #[cfg(target_os = "linux")]
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    }

    #[test]
    fn what_is_in_flight_goes_down_again() {
        let metrics = Metrics::new().unwrap();
        let (first, second) = (metrics.connection(), metrics.connection());
        assert!(metrics.encode().unwrap().contains("forebay_connections 2\n"));
        drop(first);
        assert!(metrics.encode().unwrap().contains("forebay_connections 1\n"));
        drop(second);
        let fill = metrics.fill_started();
        assert!(metrics.encode().unwrap().contains("forebay_connections 0\n"));
        assert!(metrics.encode().unwrap().contains("forebay_fills_in_flight 1\n"));
        drop(fill);
        assert!(metrics.encode().unwrap().contains("forebay_fills_in_flight 0\n"));
    }

    #[test]
    fn promtool_is_content() {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool (Debian package `prometheus`) is needed to check the metrics");
        promtool.stdin.take().unwrap().write_all(everything().encode().unwrap().as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "promtool: {said}");
    }
}
