//! How quickly the body of a blob came, for logs of `debug`: a rate that is low while forebay waited for the upstream
//! is the upstream's, one that is low although it hardly waited is that of the disk or of the clients.

use std::time::{Duration, Instant};

use reqwest::Url;
use tracing::Level;

use crate::{metrics::megabytes_per_second, request_trace::RequestTrace};

/// Logs the rate of one body when it is dropped; `None`: the log does not have such lines.
pub(super) struct BodyRate(Option<Box<Measured>>);

struct Measured {
    trace: RequestTrace,
    /// Host and port, without the path: that of a signed URL is long.
    host: String,
    first: u64,
    begun: Instant,
    waited: Duration,
    bytes: u64,
}

impl BodyRate {
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// Of a body from this URL, which begins at the byte `first` of the blob.
    pub(super) fn begin(trace: &RequestTrace, url: &Url, first: u64) -> Self {
        let measured = tracing::enabled!(Level::DEBUG).then(|| Measured {
            trace: trace.clone(),
            host: url.authority().rsplit('@').next().unwrap_or_default().to_owned(),
            first,
            begun: Instant::now(),
            waited: Duration::ZERO,
            bytes: 0,
        });
        Self(measured.map(Box::new))
    }

    /// The result of `read`, for which forebay waits now.
    pub(super) async fn wait<T>(&mut self, read: impl Future<Output = T>) -> T {
        let Some(measured) = &mut self.0 else { return read.await };
        let begun = Instant::now();
        let result = read.await;
        measured.waited += begun.elapsed();
        result
    }

    pub(super) fn received(&mut self, bytes: u64) {
        if let Some(measured) = &mut self.0 {
            measured.bytes += bytes;
        }
    }
}

impl Drop for BodyRate {
    fn drop(&mut self) {
        let Some(Measured { trace, host, first, begun, waited, bytes }) = self.0.as_deref() else { return };
        let _entered = trace.span().entered();
        tracing::debug!(
            host,
            first,
            bytes,
            seconds = begun.elapsed().as_secs_f64(),
            upstream_seconds = waited.as_secs_f64(),
            megabytes_per_second = megabytes_per_second(*bytes, *waited),
            "the body of a blob ended",
        );
    }
}
