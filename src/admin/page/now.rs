//! What changes by itself: the part of the page that the script fetches again and again.

use std::time::{Duration, Instant, SystemTime};

use super::{
    cluster,
    failures::{self, Failures},
    health::Health,
    object_store, pulls, registries,
    savings::Savings,
    transfers::Transfers,
};
use crate::{
    admin::api::{Sources, access::Sight, status::MAX_UNCONFIGURED, transfers::Measured},
    cluster::Cluster,
    history::{Filter, FinishedRequest, History, MAX_REQUESTS, Pull, Readers, Unconfigured, Window},
    html::Html,
};

/// How many pulls are shown.
const PULLS: usize = 10;
/// How far back failures are told.
const FAILURE_WINDOW: Duration = Duration::from_secs(60 * 60);

/// The part as HTML.
pub(super) async fn fragment(sources: &Sources, readers: &Readers, sight: Sight) -> Html {
    let history = &sources.history;
    let measured = Measured::take(history, &sources.downloads, sight).await;
    let OfHistory { transfers, pulls, failures, unconfigured } = of_history(readers, history, sight, measured).await;
    let (now, upstreams, store) = (SystemTime::now(), sources.upstreams.load_full(), sources.status.store.status());
    let mut html = Html::default();
    let health = Health {
        state: sources.status.readiness.state(),
        attention: sources.status.attention(&upstreams, &store),
        started: sources.status.started,
        store: &store,
    };
    health.write(&mut html, now);
    let savings = Savings {
        windows: [Window::Hour, Window::Day, Window::SinceStart].map(|window| history.sums(window)),
        day: history.last_day(),
        max_bytes: store.max_bytes,
    };
    savings.write(&mut html);
    failures.write(&mut html, now);
    registries::write(&mut html, &upstreams, &unconfigured, now);
    cluster::write(&mut html, sources.cluster.as_ref().map(Cluster::report).unwrap_or_default());
    let objects = sources.status.objects.as_ref();
    let objects = objects.map(|(store, queue)| (store.location().to_string(), store.health(), queue.len()));
    object_store::write(&mut html, objects, now);
    transfers.write(&mut html);
    pulls::write(&mut html, &pulls, now);
    html
}

/// What the latest requests say.
#[derive(Default)]
struct OfHistory {
    transfers: Transfers,
    pulls: Vec<Pull>,
    failures: Failures,
    unconfigured: Vec<Unconfigured>,
}

/// Thousands of requests take some milliseconds, in which a thread that serves clients could do nothing else.
async fn of_history(readers: &Readers, history: &History, sight: Sight, mut measured: Measured) -> OfHistory {
    let read = move |history: &History| {
        let transfers = Transfers::of(&measured.document(history));
        let filter = Filter { of_clients: sight.of_clients, ..Filter::default() };
        let pulls = history.pulls(&filter, None, PULLS).items;
        // The sums count all of them.
        let errors = history.requests(&Filter { errors: true, of_clients: true, ..filter }, None, MAX_REQUESTS).items;
        let now = Instant::now();
        let is_recent = |ended: Instant| now.saturating_duration_since(ended) < FAILURE_WINDOW;
        let recent = errors.iter().map(|request| &**request).filter(|request| is_recent(request.ended()));
        let (shown, hidden): (Vec<&FinishedRequest>, Vec<_>) =
            recent.partition(|request| sight.of_clients || !request.is_of_client);
        let mut failures = failures::group(shown.into_iter());
        failures.hidden = hidden.len();
        let mut unconfigured = history.unconfigured(sight.of_clients);
        unconfigured.truncate(MAX_UNCONFIGURED);
        OfHistory { transfers, pulls, failures, unconfigured }
    };
    // There is no answer only while the process ends.
    readers.ask(history, read).await.unwrap_or_default()
}
