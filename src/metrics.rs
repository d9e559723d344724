//! Every metric, as typed functions.
//!
//! What must hold: no other stage spells the name of a metric, and `families` has all of them. Labels are enums of small, fixed sets
//! ([`Label`], implemented by the stages), and the names of the configured upstreams; nothing that a client sends becomes a label.
//! Names, units and suffixes follow the Prometheus conventions; `promtool check metrics` verifies them. The admin listener serves
//! the metrics.

mod cluster;
mod failures;
mod families;
mod labels;
mod series;
mod store;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
/// Why metrics cannot be registered or written.
pub use prometheus::Error;
use prometheus::{Encoder, IntGauge, Registry, TextEncoder};

pub use self::labels::Label;
use self::{
    families::Families,
    series::{AllSeries, Series},
};
use crate::oci::Operation;

/// Counts something that is under way, until this is dropped.
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

/// How a request was answered.
#[derive(Clone, Copy, Debug)]
pub struct AnsweredRequest {
    pub status: u16,
    /// From the head of the request to the first byte of its response.
    pub first_byte: Duration,
    /// From the head of the request to the last byte of its response.
    pub duration: Duration,
    /// Bytes of the body.
    pub sent: u64,
}

/// A cheap handle on all metrics of this process (or of one test: nothing is global).
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    families: Families,
    /// The series of requests, found once by their labels.
    series: AllSeries,
    /// What the last reload of could not be used.
    failed_reloads: Mutex<BTreeSet<&'static str>>,
    /// Held while the metrics are read, so that each reading is of one moment.
    before_reading: Mutex<Vec<Look>>,
}

/// Sets gauges to what they are now.
type Look = Box<dyn Fn(&Metrics) + Send + Sync>;

/// The label of what a SIGHUP reads again.
const CONFIG: &str = "config";

impl Metrics {
    /// # Errors
    /// Two metrics have one name, or a name is malformed: a mistake in `families`, which the tests here find.
    pub fn new() -> Result<Self, Error> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let families = Families::register(&registry)?;
        let (series, before_reading) = (AllSeries::default(), Mutex::default());
        let failed_reloads = Mutex::default();
        Ok(Metrics(Arc::new(Inner { registry, families, series, failed_reloads, before_reading })))
    }

    /// An upstream is configured. Series with alerts begin at 0: Prometheus sees no increase from "absent" to 1.
    pub fn upstream_configured<Token: Label, Download: Label, Cause: Label>(&self, upstream: &str) {
        self.0.families.upstreams.digest_mismatches.with_label_values(&[upstream]);
        self.0.families.upstreams.received_bytes.with_label_values(&[upstream]);
        self.0.families.upstreams.circuits_open.with_label_values(&[upstream]);
        self.0.families.upstreams.paused.with_label_values(&[upstream]);
        for result in Token::ALL {
            self.0.families.upstreams.tokens.with_label_values(&[upstream, result.as_str()]);
        }
        for result in Download::ALL {
            self.0.families.upstreams.fills.with_label_values(&[upstream, result.as_str()]);
        }
        for cause in Cause::ALL {
            self.0.families.upstreams.errors.with_label_values(&[upstream, cause.as_str()]);
        }
    }

    /// Objects of these kinds are cached, and may be corrupt. Series with alerts begin at 0.
    pub fn objects_may_be_corrupt(&self, kinds: &[impl Label]) {
        for kind in kinds {
            self.0.families.cache.corrupt_objects.with_label_values(&[kind.as_str()]);
        }
    }

    /// Calls `look` each time before the metrics are read. It must be quick, must not keep the metrics alive, and must
    /// not touch the disk: operators need the metrics when the disk hangs.
    pub fn before_reading(&self, look: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.0.before_reading.lock().push(Box::new(look));
    }

    /// All metrics in the Prometheus text format, version 0.0.4.
    ///
    /// # Errors
    /// A family is inconsistent, which the typed functions rule out.
    pub fn encode(&self) -> Result<String, Error> {
        let gathered = {
            let looks = self.0.before_reading.lock();
            looks.iter().for_each(|look| look(self));
            self.0.registry.gather()
        };
        let mut text = Vec::new();
        TextEncoder::new().encode(&gathered, &mut text)?;
        String::from_utf8(text).map_err(|error| Error::Msg(error.to_string()))
    }

    /// A request has been answered to the end, or its client has left.
    pub fn request(&self, upstream: &str, operation: Operation, outcome: impl Label, request: AnsweredRequest) {
        self.0.series.with(upstream, |all| {
            let families = &self.0.families.requests;
            let series = all.get(operation, outcome, || Series::find(families, upstream, operation, outcome));
            series.answered(request.status, || families.answered(upstream, operation, outcome, request.status));
            series.time_to_first_byte.observe(request.first_byte.as_secs_f64());
            series.duration.observe(request.duration.as_secs_f64());
            series.sent_bytes.inc_by(request.sent);
        });
    }

    /// A request was sent to an upstream; `status` is `None` without a response.
    pub fn upstream_request(&self, upstream: &str, operation: Operation, status: Option<u16>) {
        let status = status.map_or_else(|| "error".to_owned(), |status| status.to_string());
        self.0.families.upstreams.requests.with_label_values(&[upstream, operation.as_str(), &status]).inc();
    }

    /// So long it took from a request to an upstream to the head of its response, or to its failure.
    pub fn upstream_request_took(&self, upstream: &str, operation: Operation, duration: Duration) {
        let labels = [upstream, operation.as_str()];
        self.0.families.upstreams.request_duration.with_label_values(&labels).observe(duration.as_secs_f64());
    }

    /// Bytes of a body came from an upstream.
    pub fn upstream_received(&self, upstream: &str, bytes: u64) {
        self.0.families.upstreams.received_bytes.with_label_values(&[upstream]).inc_by(bytes);
    }

    /// A rate held a transfer of an upstream's content back for this long.
    pub fn rate_limited(&self, upstream: &str, key: impl Label, time: Duration) {
        let seconds = &self.0.families.upstreams.rate_limited;
        seconds.with_label_values(&[upstream, key.as_str()]).inc_by(time.as_secs_f64());
    }

    pub fn upstream_up(&self, upstream: &str, up: bool) {
        self.0.families.upstreams.up.with_label_values(&[upstream]).set(i64::from(up));
    }

    /// An operator has paused or resumed an upstream.
    pub fn upstream_paused(&self, upstream: &str, paused: bool) {
        self.0.families.upstreams.paused.with_label_values(&[upstream]).set(i64::from(paused));
    }

    /// A host of an upstream is only probed, until the result is dropped.
    pub fn circuit_opened(&self, upstream: &str) -> InFlight {
        InFlight::new(&self.0.families.upstreams.circuits_open.with_label_values(&[upstream]))
    }

    /// The upstream accepted (`ok`) or refused forebay's own credentials.
    pub fn upstream_credentials(&self, upstream: &str, ok: bool) {
        self.0.families.upstreams.credentials_ok.with_label_values(&[upstream]).set(i64::from(ok));
    }

    /// The upstream's `ratelimit-*` headers. An absent value keeps the last one.
    #[expect(clippy::cast_precision_loss, reason = "no registry allows 2^53 pulls")]
    pub fn upstream_ratelimit(&self, upstream: &str, limit: Option<u64>, remaining: Option<u64>) {
        if let Some(limit) = limit {
            self.0.families.upstreams.ratelimit_limit.with_label_values(&[upstream]).set(limit as f64);
        }
        if let Some(remaining) = remaining {
            self.0.families.upstreams.ratelimit_remaining.with_label_values(&[upstream]).set(remaining as f64);
        }
    }

    pub fn token(&self, upstream: &str, result: impl Label) {
        self.0.families.upstreams.tokens.with_label_values(&[upstream, result.as_str()]).inc();
    }

    pub fn digest_mismatch(&self, upstream: &str) {
        self.0.families.upstreams.digest_mismatches.with_label_values(&[upstream]).inc();
    }

    /// A download into the cache has begun; it is under way until the result is dropped.
    pub fn fill_started(&self) -> InFlight {
        InFlight::new(&self.0.families.cache.fills_in_flight)
    }

    pub fn fill(&self, upstream: &str, result: impl Label) {
        self.0.families.upstreams.fills.with_label_values(&[upstream, result.as_str()]).inc();
    }

    /// The kernel took `bytes` of a blob for a client.
    pub fn sent_by_kernel(&self, bytes: usize) {
        self.0.families.connections.sent_by_kernel.inc_by(bytes as u64);
    }

    /// How much of a kind is on disk.
    pub fn cache(&self, kind: impl Label, bytes: u64, objects: u64) {
        self.0.families.cache.bytes.with_label_values(&[kind.as_str()]).set(saturating(bytes));
        self.0.families.cache.objects.with_label_values(&[kind.as_str()]).set(saturating(objects));
    }

    /// Bytes of directories and markers, which are no objects.
    pub fn cache_overhead(&self, bytes: u64) {
        self.0.families.cache.bytes.with_label_values(&["layout"]).set(saturating(bytes));
    }

    /// How many bytes an operator's pins keep from being evicted.
    pub fn cache_pinned(&self, bytes: u64) {
        self.0.families.cache.pinned_bytes.set(saturating(bytes));
    }

    /// Bytes that are promised to downloads and other writes in flight, or are in the files of these already.
    pub fn cache_in_flight(&self, bytes: u64) {
        self.0.families.cache.bytes.with_label_values(&["in_flight"]).set(saturating(bytes));
    }

    /// Bytes that the user of this process may still write to the file system of the cache.
    pub fn cache_filesystem_free(&self, bytes: u64) {
        self.0.families.cache.filesystem_free.set(saturating(bytes));
    }

    /// The last use of the cached object that was used the longest time ago, in seconds since 1970; `None`: no client has
    /// used anything that is cached.
    pub fn cache_oldest_use(&self, seconds: Option<u64>) {
        let family = &self.0.families.cache.oldest_use;
        match seconds {
            Some(seconds) => family.with_label_values::<&str>(&[]).set(saturating(seconds)),
            None => family.reset(),
        }
    }

    pub fn cache_max(&self, bytes: u64) {
        self.0.families.cache.max_bytes.set(saturating(bytes));
    }

    pub fn evicted(&self, bytes: u64) {
        self.0.families.cache.evicted_bytes.inc_by(bytes);
    }

    /// The bytes of a cached object do not have its digest.
    pub fn corrupt_object(&self, kind: impl Label) {
        self.0.families.cache.corrupt_objects.with_label_values(&[kind.as_str()]).inc();
    }

    /// Bytes of cached objects were verified again.
    pub fn scrubbed(&self, bytes: u64) {
        self.0.families.cache.scrub_bytes.inc_by(bytes);
    }

    /// When the cached object with the oldest verification was verified, in seconds since 1970.
    pub fn oldest_verification(&self, seconds: u64) {
        self.0.families.cache.oldest_verification.with_label_values::<&str>(&[]).set(saturating(seconds));
    }

    /// A client has connected; it is connected until the result is dropped.
    pub fn connection(&self) -> InFlight {
        InFlight::new(&self.0.families.connections.open)
    }

    /// A connection beyond the limit was refused.
    pub fn connection_refused(&self) {
        self.0.families.connections.refused.inc();
    }

    /// `config`, `tls`, `htpasswd` or `token` was read again; `ok`: the new value replaces the old one.
    pub fn reload(&self, what: &'static str, ok: bool) {
        self.0.families.connections.reloads.with_label_values(&[what, if ok { "ok" } else { "failed" }]).inc();
        {
            let mut failed = self.0.failed_reloads.lock();
            match ok {
                // The configuration is taken with all files that it names.
                true if what == CONFIG => failed.clear(),
                true => drop(failed.remove(what)),
                false => drop(failed.insert(what)),
            }
        }
        if what == CONFIG {
            self.config_read(ok);
        }
    }

    /// What was read again last and cannot be used, so that the one before it is in effect: `config`, `tls`, `htpasswd` or
    /// `token`.
    pub(crate) fn failed_reloads(&self) -> Vec<&'static str> {
        self.0.failed_reloads.lock().iter().copied().collect()
    }

    /// The configuration was read, and is in use if `ok`. The start counts as the first time.
    pub fn config_read(&self, ok: bool) {
        let connections = &self.0.families.connections;
        connections.config_reloaded.set(ok.into());
        if ok {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            connections.config_reload_time.set(saturating(since.as_secs()));
        }
    }

    /// Until when the certificate that clients get is valid, in seconds since 1970.
    pub fn certificate_expiry(&self, seconds: u64) {
        self.0.families.connections.certificate_expiry.with_label_values::<&str>(&[]).set(saturating(seconds));
    }

    /// A rule kept a client from getting what the upstream has.
    pub fn rule_held(&self, rule: &str, result: impl Label) {
        self.0.families.requests.rule_held.with_label_values(&[rule, result.as_str()]).inc();
    }

    /// Clients of an upstream may be redirected. Series with alerts begin at 0.
    pub fn clients_may_be_redirected(&self, upstream: &str) {
        let requests = &self.0.families.requests;
        for family in [&requests.redirects, &requests.redirected_bytes, &requests.redirect_returns] {
            family.with_label_values(&[upstream]);
        }
    }

    /// A client was sent to the object store for so many bytes of a blob.
    pub fn redirected(&self, upstream: &str, bytes: u64) {
        self.0.families.requests.redirects.with_label_values(&[upstream]).inc();
        self.0.families.requests.redirected_bytes.with_label_values(&[upstream]).inc_by(bytes);
    }

    /// A client got a blob from here, since it came back soon after a redirect.
    pub fn returned_after_redirect(&self, upstream: &str) {
        self.0.families.requests.redirect_returns.with_label_values(&[upstream]).inc();
    }

    /// Images may be warmed. Series with alerts begin at 0.
    pub fn images_may_be_warmed<Result: Label>(&self) {
        for result in Result::ALL {
            self.0.families.cache.warmed_images.with_label_values(&[result.as_str()]);
        }
    }

    /// A run of `forebay warm` or of `[[warm]]` is done with an image.
    pub fn image_warmed(&self, result: impl Label) {
        self.0.families.cache.warmed_images.with_label_values(&[result.as_str()]).inc();
    }

    /// A connection was closed because its client did not do `what` (`first_byte`, `handshake`, `read`) in time, or read slowly while
    /// other clients needed the room (`scarce`).
    pub fn stall(&self, what: &'static str) {
        self.0.families.connections.stalls.with_label_values(&[what]).inc();
    }
}

/// A rate for the log, in 10^6 bytes per second; `None` if it took no time.
#[expect(clippy::cast_precision_loss, reason = "it is rounded")]
pub(crate) fn megabytes_per_second(bytes: u64, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (seconds > 0.0).then(|| (bytes as f64 / seconds / 10_000.0).round() / 100.0)
}

/// Gauges are signed; more than 2^63 bytes is as good as 2^63.
fn saturating(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
