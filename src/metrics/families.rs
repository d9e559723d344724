//! The families of metrics: names, help texts and labels.
//!
//! Names are a contract with operators: dashboards and alerts have them.

use prometheus::{
    CounterVec, Error, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, core::Collector,
};

use super::labels::Label;
use crate::oci::Operation;

/// Buckets, from a response out of memory (1 ms) to a large blob over a slow line (10 min).
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// The labels of requests.
const REQUEST: &[&str] = &["upstream", "operation", "outcome"];
const UPSTREAM: &[&str] = &["upstream"];

pub(super) struct Families {
    pub requests: RequestFamilies,
    pub upstreams: UpstreamFamilies,
    pub cache: CacheFamilies,
    pub connections: ConnectionFamilies,
    pub cluster: ClusterFamilies,
    pub store: StoreFamilies,
}

impl Families {
    pub(super) fn register(r: &Registry) -> Result<Self, Error> {
        let build_info = gauges(r, "forebay_build_info", "Always 1; the version is in the label.", &["version"])?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            requests: RequestFamilies::register(r)?,
            upstreams: UpstreamFamilies::register(r)?,
            cache: CacheFamilies::register(r)?,
            connections: ConnectionFamilies::register(r)?,
            cluster: ClusterFamilies::register(r)?,
            store: StoreFamilies::register(r)?,
        })
    }
}

/// Requests of clients.
pub(super) struct RequestFamilies {
    pub answered: IntCounterVec,
    pub duration: HistogramVec,
    pub time_to_first_byte: HistogramVec,
    pub sent_bytes: IntCounterVec,
    pub unconfigured: IntCounter,
    pub auth_failures: IntCounterVec,
    pub rule_held: IntCounterVec,
    pub redirects: IntCounterVec,
    pub redirected_bytes: IntCounterVec,
    pub redirect_returns: IntCounterVec,
}

impl RequestFamilies {
    fn register(r: &Registry) -> Result<Self, Error> {
        let status = &[REQUEST, &["status"]].concat();
        let (duration, first_byte) = ("forebay_request_duration_seconds", "forebay_time_to_first_byte_seconds");
        Ok(Self {
            answered: counters(r, "forebay_requests_total", "Requests answered.", status)?,
            duration: histograms(r, duration, "From the head of a request to the last byte of its response.", REQUEST)?,
            time_to_first_byte: histograms(
                r,
                first_byte,
                "From the head of a request to the first byte of its response.",
                REQUEST,
            )?,
            sent_bytes: counters(r, "forebay_sent_bytes_total", "Bytes of response bodies sent to clients.", REQUEST)?,
            unconfigured: counter(
                r,
                "forebay_unconfigured_upstream_requests_total",
                "Requests for upstreams that are not configured.",
            )?,
            auth_failures: counters(
                r,
                "forebay_auth_failures_total",
                "Requests whose credentials were refused, by the reason.",
                &["reason"],
            )?,
            rule_held: counters(
                r,
                "forebay_rule_held_total",
                "Requests that a rule denied, or for which it served something else than the upstream has.",
                &["rule", "result"],
            )?,
            redirects: counters(
                r,
                "forebay_redirects_total",
                "Requests for blobs that were answered with a redirect to the object store.",
                UPSTREAM,
            )?,
            redirected_bytes: counters(
                r,
                "forebay_redirected_bytes_total",
                "Bytes of blobs that clients were sent to the object store for.",
                UPSTREAM,
            )?,
            redirect_returns: counters(
                r,
                "forebay_redirect_returns_total",
                "Requests for blobs that were served because the client came back soon after a redirect.",
                UPSTREAM,
            )?,
        })
    }

    /// The counter of requests with these labels.
    pub(super) fn answered(
        &self,
        upstream: &str,
        operation: Operation,
        outcome: impl Label,
        status: u16,
    ) -> IntCounter {
        self.answered.with_label_values(&[upstream, operation.as_str(), outcome.as_str(), &status.to_string()])
    }
}

/// Requests to upstreams, and downloads from them.
pub(super) struct UpstreamFamilies {
    pub requests: IntCounterVec,
    pub errors: IntCounterVec,
    pub request_duration: HistogramVec,
    pub received_bytes: IntCounterVec,
    pub rate_limited: CounterVec,
    pub up: IntGaugeVec,
    /// Absent until it is known.
    pub credentials_ok: IntGaugeVec,
    pub circuits_open: IntGaugeVec,
    pub paused: IntGaugeVec,
    pub ratelimit_limit: GaugeVec,
    pub ratelimit_remaining: GaugeVec,
    pub tokens: IntCounterVec,
    pub digest_mismatches: IntCounterVec,
    pub fills: IntCounterVec,
}

impl UpstreamFamilies {
    fn register(r: &Registry) -> Result<Self, Error> {
        let (limit, remaining) = ("forebay_upstream_ratelimit_limit", "forebay_upstream_ratelimit_remaining");
        let rate_limited = "forebay_rate_limited_seconds_total";
        let rate_limited = Opts::new(rate_limited, "Time for which a configured rate held transfers back, added up.");
        let limit = Opts::new(limit, "Pulls the upstream allows per window, as it says.");
        let remaining = Opts::new(remaining, "Pulls left in the upstream's current window, as it says.");
        Ok(Self {
            requests: counters(
                r,
                "forebay_upstream_requests_total",
                "Requests made of upstreams; status is `error` when there was no answer.",
                &["upstream", "operation", "status"],
            )?,
            errors: counters(
                r,
                "forebay_upstream_errors_total",
                "Requests that an upstream could not answer, and bodies that broke off, by the cause.",
                &["upstream", "cause"],
            )?,
            request_duration: histograms(
                r,
                "forebay_upstream_request_duration_seconds",
                "From a request to an upstream to the head of its response, or to its failure.",
                &["upstream", "operation"],
            )?,
            received_bytes: counters(
                r,
                "forebay_upstream_received_bytes_total",
                "Bytes of response bodies received from upstreams.",
                UPSTREAM,
            )?,
            rate_limited: register(r, CounterVec::new(rate_limited, &["upstream", "limit"])?)?,
            up: gauges(r, "forebay_upstream_up", "Whether the upstream answered when it was last asked.", UPSTREAM)?,
            credentials_ok: gauges(
                r,
                "forebay_upstream_credentials_ok",
                "Whether the upstream took forebay's own credentials when they were last shown.",
                UPSTREAM,
            )?,
            paused: gauges(
                r,
                "forebay_upstream_paused",
                "Whether an operator has paused the upstream, which gets no requests then.",
                UPSTREAM,
            )?,
            circuits_open: gauges(
                r,
                "forebay_upstream_circuit_open",
                "Hosts of the upstream that have failed in a row and are only probed.",
                UPSTREAM,
            )?,
            ratelimit_limit: register(r, GaugeVec::new(limit, UPSTREAM)?)?,
            ratelimit_remaining: register(r, GaugeVec::new(remaining, UPSTREAM)?)?,
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
                UPSTREAM,
            )?,
            fills: counters(
                r,
                "forebay_fills_total",
                "Downloads into the cache that have ended.",
                &["upstream", "result"],
            )?,
        })
    }
}

/// Requests to the peers of a cluster.
pub(super) struct ClusterFamilies {
    pub members: IntGaugeVec,
    pub is_member: IntGaugeVec,
    pub refused_proofs: IntCounterVec,
    pub requests: IntCounterVec,
    pub received_bytes: IntCounterVec,
}

impl ClusterFamilies {
    fn register(r: &Registry) -> Result<Self, Error> {
        Ok(Self {
            members: gauges(
                r,
                "forebay_cluster_members",
                "Members of the cluster by their state: ok, or dead, which did not answer when they were asked last.",
                &["state"],
            )?,
            is_member: gauges(
                r,
                "forebay_cluster_is_member",
                "1 if this forebay is itself a member, which the others ask; 0 if not.",
                &[],
            )?,
            refused_proofs: counters(
                r,
                "forebay_peer_proofs_refused_total",
                "Requests that were said to be peers', and were not taken for that, by the reason.",
                &["reason"],
            )?,
            requests: counters(
                r,
                "forebay_peer_requests_total",
                "Requests made of peers, by the zone that they are in and what came of it.",
                &["zone", "result"],
            )?,
            received_bytes: counters(
                r,
                "forebay_peer_received_bytes_total",
                "Bytes of blobs received from peers, by the zone that they are in.",
                &["zone"],
            )?,
        })
    }
}

/// Requests to the object store.
pub(super) struct StoreFamilies {
    pub requests: IntCounterVec,
    pub bytes: IntCounterVec,
    pub uploads: IntCounterVec,
    pub queue: IntGauge,
    pub up: IntGaugeVec,
    pub wrong_objects: IntCounterVec,
    pub refused_records: IntCounterVec,
    pub size: IntGauge,
    pub evicted_bytes: IntCounterVec,
}

impl StoreFamilies {
    fn register(r: &Registry) -> Result<Self, Error> {
        Ok(Self {
            requests: counters(
                r,
                "forebay_store_requests_total",
                "Requests made of the object store, by what came of them.",
                &["operation", "result"],
            )?,
            bytes: counters(
                r,
                "forebay_store_bytes_total",
                "Bytes received from the object store (in) and sent to it (out).",
                &["direction"],
            )?,
            uploads: counters(
                r,
                "forebay_store_uploads_total",
                "Contents that were to be uploaded to the object store, by what became of them.",
                &["result"],
            )?,
            queue: gauge(r, "forebay_store_upload_queue", "Contents that wait for their upload to the object store.")?,
            up: gauges(
                r,
                "forebay_store_up",
                "Whether requests of this kind are sent to the object store; after failures they pause.",
                &["kind"],
            )?,
            wrong_objects: counters(
                r,
                "forebay_store_wrong_objects_total",
                "Objects of the store whose bytes were not those of their digest.",
                &[],
            )?,
            refused_records: counters(
                r,
                "forebay_store_records_refused_total",
                "Records of tags in the object store that do not count.",
                &["reason"],
            )?,
            size: gauge(
                r,
                "forebay_store_size_bytes",
                "Blobs and manifests in the object store when it was last listed; -1 before that.",
            )?,
            evicted_bytes: counters(
                r,
                "forebay_store_evicted_bytes_total",
                "Bytes that this forebay removed from the object store to keep it within store.max_size.",
                &[],
            )?,
        })
    }
}

/// What is on disk, and what is downloaded to it.
pub(super) struct CacheFamilies {
    pub fills_in_flight: IntGauge,
    pub bytes: IntGaugeVec,
    pub max_bytes: IntGauge,
    pub filesystem_free: IntGauge,
    pub pinned_bytes: IntGauge,
    /// Absent while no client has used anything.
    pub oldest_use: IntGaugeVec,
    pub objects: IntGaugeVec,
    pub evicted_bytes: IntCounter,
    pub corrupt_objects: IntCounterVec,
    pub scrub_bytes: IntCounter,
    pub warmed_images: IntCounterVec,
    /// Absent until it is known.
    pub oldest_verification: IntGaugeVec,
}

impl CacheFamilies {
    fn register(r: &Registry) -> Result<Self, Error> {
        Ok(Self {
            fills_in_flight: gauge(r, "forebay_fills_in_flight", "Downloads into the cache under way.")?,
            bytes: gauges(
                r,
                "forebay_cache_bytes",
                "Bytes that the file system has allocated, and those promised to what is in flight.",
                &["kind"],
            )?,
            max_bytes: gauge(r, "forebay_cache_max_bytes", "Bytes the cache may take on disk.")?,
            filesystem_free: gauge(
                r,
                "forebay_cache_filesystem_free_bytes",
                "Bytes that forebay's user may still write to the file system of the cache.",
            )?,
            pinned_bytes: gauge(r, "forebay_cache_pinned_bytes", "Bytes on disk that pins keep from being evicted.")?,
            oldest_use: gauges(
                r,
                "forebay_cache_oldest_use_timestamp_seconds",
                "When the cached object was used that was used the longest time ago.",
                &[],
            )?,
            objects: gauges(r, "forebay_cache_objects", "Objects on disk.", &["kind"])?,
            evicted_bytes: counter(r, "forebay_evicted_bytes_total", "Bytes removed from the cache to make room.")?,
            corrupt_objects: counters(
                r,
                "forebay_cache_corrupt_objects_total",
                "Cached objects whose bytes were not those of their digest any more, and which were removed.",
                &["kind"],
            )?,
            warmed_images: counters(
                r,
                "forebay_warm_images_total",
                "Images that runs of forebay warm and of [[warm]] were done with.",
                &["result"],
            )?,
            scrub_bytes: counter(r, "forebay_scrub_bytes_total", "Bytes of cached objects that were verified again.")?,
            oldest_verification: gauges(
                r,
                "forebay_scrub_oldest_verification_timestamp_seconds",
                "When the cached object was verified whose verification is the oldest.",
                &[],
            )?,
        })
    }
}

/// Connections of clients, their certificate, and reloads.
pub(super) struct ConnectionFamilies {
    pub sent_by_kernel: IntCounter,
    pub open: IntGauge,
    pub refused: IntCounter,
    pub handshake_failures: IntCounterVec,
    pub reloads: IntCounterVec,
    pub config_reloaded: IntGauge,
    pub config_reload_time: IntGauge,
    /// Absent without TLS.
    pub certificate_expiry: IntGaugeVec,
    pub stalls: IntCounterVec,
}

impl ConnectionFamilies {
    fn register(r: &Registry) -> Result<Self, Error> {
        Ok(Self {
            sent_by_kernel: counter(
                r,
                "forebay_sent_by_kernel_bytes_total",
                "Bytes of blobs that the kernel sent from the page cache; the rest was copied.",
            )?,
            open: gauge(r, "forebay_connections", "Client connections open.")?,
            refused: counter(r, "forebay_connections_refused_total", "Connections over the limit, sent away.")?,
            handshake_failures: counters(
                r,
                "forebay_tls_handshake_failures_total",
                "TLS handshakes of clients that failed, by the reason.",
                &["reason"],
            )?,
            reloads: counters(
                r,
                "forebay_reloads_total",
                "Reloads of what, and whether the new value was taken (ok) or the old one kept (failed).",
                &["what", "result"],
            )?,
            config_reloaded: gauge(
                r,
                "forebay_config_last_reload_successful",
                "Whether the configuration was taken when it was last read.",
            )?,
            config_reload_time: gauge(
                r,
                "forebay_config_last_reload_success_timestamp_seconds",
                "When a configuration was last taken, at the start or by a reload.",
            )?,
            certificate_expiry: gauges(
                r,
                "forebay_tls_certificate_expiry_timestamp_seconds",
                "Until when the certificate that clients get is valid.",
                &[],
            )?,
            stalls: counters(
                r,
                "forebay_stalls_total",
                "Connections and streams cut because the client did too little for too long, by what it should have done.",
                &["what"],
            )?,
        })
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
    register(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, Error> {
    register(r, IntCounter::new(name, help)?)
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
