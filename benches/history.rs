//! What it costs a request to be added to a full history: one thread, and several at once.

#![allow(clippy::unwrap_used, reason = "a bench that cannot run may fail loudly")]

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use divan::Bencher;
use forebay::{
    byte_counter::ByteCounter,
    cache::Outcome,
    history::{FinishedRequest, History, Sums, Window},
    oci::{Operation, Reference, Repository},
    request_id::RequestId,
};

static HISTORY: LazyLock<History> = LazyLock::new(|| {
    let history = History::new(ByteCounter::default());
    (0..20_000).for_each(|_| history.add(request()));
    history
});

static NUMBERS: AtomicU64 = AtomicU64::new(0);
static PEER: LazyLock<Arc<str>> = LazyLock::new(|| "10.0.4.31:51234".into());
static UPSTREAM: LazyLock<Arc<str>> = LazyLock::new(|| "docker.io".into());
static REPOSITORY: LazyLock<Repository> = LazyLock::new(|| "library/nginx".parse().unwrap());
static REFERENCE: LazyLock<Reference> = LazyLock::new(|| "1.27".parse().unwrap());

fn main() {
    divan::main();
}

/// A hit, as the registry gives it away.
fn request() -> FinishedRequest {
    let path = "/v2/library/nginx/manifests/1.27";
    FinishedRequest {
        id: RequestId { instance: 1, number: NUMBERS.fetch_add(1, Ordering::Relaxed) },
        pull: Some(1),
        is_pull: true,
        is_of_client: false,
        has_credentials: false,
        peer: PEER.clone(),
        method: http::Method::GET,
        path_and_agent: format!("{path}containerd/v2.1.4").into(),
        path_len: path.len(),
        namespace: None,
        upstream: Some(UPSTREAM.clone()),
        unconfigured: None,
        repository: Some(REPOSITORY.clone()),
        reference: Some(REFERENCE.clone()),
        operation: Operation::Manifest,
        outcome: Outcome::Hit,
        status: 200,
        sent: 2_000,
        redirected: None,
        is_complete: true,
        started: Instant::now(),
        first_byte: Duration::from_micros(30),
        duration: Duration::from_micros(40),
        ended_at: SystemTime::now(),
        waited: None,
        received: None,
        user: None,
        failure: None,
        upstream_cause: None,
        rule: None,
        cause: None,
    }
}

#[divan::bench(threads = [1, 2, 4, 16], sample_count = 1000, sample_size = 100)]
fn add(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(request).bench_values(|request| HISTORY.add(request));
}

#[divan::bench]
fn sums() -> Sums {
    HISTORY.sums(Window::Day)
}
