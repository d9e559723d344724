//! `POST /api/v1/upstreams/{name}/test`: whether an upstream answers now, and accepts forebay's credentials.

use std::{sync::Arc, time::Instant};

use futures_util::stream;
use http::{Response, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{
    events::{Event, events},
    response::{ApiBody, ApiError},
    upstreams::named,
};
use crate::{
    error_chain::ErrorChain,
    metrics::Label as _,
    upstream::{ErrorKind, FailureCause, Upstream},
};

/// How many tests run at a time.
const MAX_TESTS: usize = 2;

/// Runs tests. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamTests(Arc<Semaphore>);

impl Default for UpstreamTests {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_TESTS)))
    }
}

impl UpstreamTests {
    /// Tests the upstream of this name. The test ends if the client leaves.
    pub(super) fn run(&self, upstreams: &[Upstream], name: &str) -> Result<Response<ApiBody>, ApiError> {
        let upstream = named(upstreams, name)?.clone();
        let Ok(turn) = self.0.clone().try_acquire_owned() else {
            let why = format!("{MAX_TESTS} tests are running; try again soon");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, why));
        };
        Ok(events(stream::once(async move {
            let _turn = turn;
            test(&upstream).await
        })))
    }
}

async fn test(upstream: &Upstream) -> Event {
    let begun = Instant::now();
    let result = upstream.ping().await;
    let seconds = (begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    let by_client = upstream.uses_client_credentials();
    let (result, cause, problem) = match &result {
        Ok(()) => ("ok", None, None),
        // A client's credentials are needed, and this request has none.
        Err(error) if by_client && matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Denied) => {
            ("wants_client_credentials", None, None)
        }
        Err(error) => ("failed", error.failure_cause(), Some(ErrorChain(error).to_string())),
    };
    let renew = match (cause, upstream.credential_place()) {
        (Some(FailureCause::Credentials), Some(place)) => format!("; renew forebay's own credentials in {place}"),
        _ => String::new(),
    };
    let data = json!({
        "upstream": &**upstream.name(),
        "result": result,
        "seconds": seconds,
        "cause": cause.map(|cause| cause.as_str()),
        "problem": problem.map(|problem| problem + &renew),
    });
    Event { name: "done", data }
}
