//! When a response arrived that was kept since.

use std::time::{Duration, SystemTime};

use http::{HeaderValue, header};
use reqwest::Response;
use tokio::time::Instant;

use super::super::super::head;

#[derive(Clone, Copy)]
pub(super) struct ReceivedAt(pub Instant);

/// `None`: the response was not kept.
pub(in crate::upstream) fn received_at(response: &Response) -> Option<Instant> {
    response.extensions().get::<ReceivedAt>().map(|ReceivedAt(at)| *at)
}

/// How long a response was kept (RFC 9111 section 4.2.3).
pub(in crate::upstream) fn resident_time(response: &Response) -> Duration {
    received_at(response).map_or(Duration::ZERO, |at| at.elapsed())
}

/// `Retry-After` counts from when the response arrived.
pub(super) fn with_remaining_retry_after(mut response: Response) -> Response {
    let (now, resident_time) = (SystemTime::now(), resident_time(&response));
    if let Some(after) = head::retry_after(response.headers(), now.checked_sub(resident_time).unwrap_or(now)) {
        let left = after.saturating_sub(resident_time);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
