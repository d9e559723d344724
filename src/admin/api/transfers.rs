//! `GET /api/v1/transfers`: what is sent to clients now, and what is downloaded now.
//!
//! The counters are read twice, half a second apart: the difference is the rate. Nothing measures while no operator asks.
//!
//! What must hold: a caller sees what belongs to upstreams that authorize each client only if it may; the document is
//! bounded.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Response;
use serde::Serialize;

use super::{
    access::Sight,
    response::{ApiBody, ApiError},
    turns::Turn,
};
use crate::{
    cache::{Downloads, RunningDownload, Source},
    history::{History, RunningRequest},
    metrics::Label as _,
    request_id::RequestId,
};

/// For how long the rates are measured.
const MEASURED: Duration = Duration::from_millis(500);
/// How many requests, and how many downloads, a document has: those with the highest rates.
const MAX_ENTRIES: usize = 1000;

/// What the document is made of.
pub(in crate::admin) struct Measured {
    requests: Vec<Rated<Arc<RunningRequest>>>,
    downloads: Vec<Rated<RunningDownload>>,
}

/// A transfer, and how fast it is.
struct Rated<T> {
    of: T,
    bytes_per_second: u64,
}

/// The response. It takes as long as the measurement, for which it needs no turn.
pub(super) async fn transfers(
    history: History,
    downloads: Downloads,
    sight: Sight,
    turn: impl Future<Output = Result<Turn, ApiError>>,
) -> Result<Response<ApiBody>, ApiError> {
    let mut measured = Measured::take(&history, &downloads, sight).await;
    turn.await?.document(move || serde_json::to_string(&measured.document(&history))).await
}

impl Measured {
    /// Measures what the caller may see. If that is nothing, there is nothing to wait for.
    pub(in crate::admin) async fn take(history: &History, downloads: &Downloads, sight: Sight) -> Self {
        let begun = Instant::now();
        let (requests, running) = in_sight(history, downloads, sight);
        if requests.is_empty() && running.is_empty() {
            return Self { requests: Vec::new(), downloads: Vec::new() };
        }
        let sent: HashMap<u64, u64> = requests.iter().map(|request| (request.id.number, request.sent())).collect();
        let received: HashMap<usize, RunningDownload> =
            running.into_iter().map(|download| (download.identity(), download)).collect();
        tokio::time::sleep(MEASURED).await;
        let (now, (requests, running)) = (Instant::now(), in_sight(history, downloads, sight));
        let since = |started: Instant| now.saturating_duration_since(started.max(begun));
        let requests = requests.into_iter().map(|request| {
            let before = sent.get(&request.id.number).copied().unwrap_or_default();
            let bytes_per_second = rate(request.sent().saturating_sub(before), since(request.started));
            Rated { of: request, bytes_per_second }
        });
        let downloads = running.into_iter().map(|download| {
            let before = received.get(&download.identity()).map_or(0, |earlier| earlier.received);
            let bytes_per_second = rate(download.received.saturating_sub(before), since(download.begun()));
            Rated { of: download, bytes_per_second }
        });
        Self { requests: requests.collect(), downloads: downloads.collect() }
    }

    /// The document. It takes some milliseconds of a thread.
    pub(in crate::admin) fn document(&mut self, history: &History) -> Document<'_> {
        let now = Instant::now();
        let sum = |rates: &mut dyn Iterator<Item = u64>| rates.fold(0, u64::saturating_add);
        let sent_bytes_per_second = sum(&mut self.requests.iter().map(|rated| rated.bytes_per_second));
        let received_bytes_per_second = sum(&mut self.downloads.iter().map(|rated| rated.bytes_per_second));
        let running: HashMap<u64, Arc<RunningRequest>> =
            self.requests.iter().map(|rated| (rated.of.id.number, rated.of.clone())).collect();
        let left_out = fastest_first(&mut self.requests, |request| request.started)
            + fastest_first(&mut self.downloads, RunningDownload::begun);
        // A download is for the first client that waits for it.
        let first_of = |download: &RunningDownload| download.requests.iter().find_map(|id| running.get(&id.number));
        let of_requests = self.requests.iter().filter_map(|rated| rated.of.pull);
        let of_downloads = self.downloads.iter().filter_map(|rated| first_of(&rated.of)?.pull);
        let images = history.images(&of_requests.chain(of_downloads).collect());
        let image = |request: &RunningRequest| {
            let of_pull = request.pull.and_then(|pull| images.get(&pull)).cloned();
            of_pull.or_else(|| Some(request.subject()?.as_str().to_owned()))
        };
        let requests = self.requests.iter().map(|rated| RequestEntry::of(rated, image(&rated.of), now)).collect();
        let of_download = |rated: &Rated<RunningDownload>| first_of(&rated.of).and_then(|request| image(request));
        let downloads = self.downloads.iter().map(|rated| DownloadEntry::of(rated, of_download(rated), now)).collect();
        Document { requests, downloads, sent_bytes_per_second, received_bytes_per_second, left_out }
    }
}

/// What is in flight, as far as the caller may see it.
fn in_sight(
    history: &History,
    downloads: &Downloads,
    sight: Sight,
) -> (Vec<Arc<RunningRequest>>, Vec<RunningDownload>) {
    let (mut requests, mut running) = (history.in_flight(), downloads.running());
    requests.retain(|request| sight.of_clients || !request.is_of_client);
    running.retain(|download| sight.of_clients || !download.source().upstream.uses_client_credentials());
    (requests, running)
}

/// The name of an image, if it is known.
type Image = Option<String>;

/// Sorts the fastest first, of equal ones the oldest, and returns how many too many there were.
fn fastest_first<T>(rated: &mut Vec<Rated<T>>, started: impl Fn(&T) -> Instant) -> usize {
    rated.sort_by_key(|rated| (std::cmp::Reverse(rated.bytes_per_second), started(&rated.of)));
    let left_out = rated.len().saturating_sub(MAX_ENTRIES);
    rated.truncate(MAX_ENTRIES);
    left_out
}

/// Bytes per second.
fn rate(bytes: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// How long `missing` bytes take at a rate.
fn left(missing: u64, bytes_per_second: u64) -> Option<u64> {
    missing.checked_div(bytes_per_second)
}

/// What is transferred, as the API tells it.
#[derive(Serialize)]
pub(in crate::admin) struct Document<'a> {
    pub requests: Vec<RequestEntry<'a>>,
    pub downloads: Vec<DownloadEntry<'a>>,
    pub sent_bytes_per_second: u64,
    pub received_bytes_per_second: u64,
    pub left_out: usize,
}

/// A request that is being answered.
#[derive(Serialize)]
pub(in crate::admin) struct RequestEntry<'a> {
    id: String,
    pull: Option<String>,
    pub peer: &'a str,
    user_agent: Option<&'a str>,
    user: Option<&'a str>,
    method: &'a str,
    pub upstream: Option<&'a str>,
    /// That of its pull, as far as it is known.
    pub image: Option<String>,
    /// What is sent.
    subject: Option<String>,
    operation: &'static str,
    /// `None`: the client waits for the head of the response.
    pub outcome: Option<&'static str>,
    status: Option<u16>,
    sent: u64,
    length: Option<u64>,
    pub bytes_per_second: u64,
    pub seconds: f64,
    pub left_seconds: Option<u64>,
    access: &'static str,
}

impl<'a> RequestEntry<'a> {
    fn of(Rated { of: request, bytes_per_second }: &'a Rated<Arc<RunningRequest>>, image: Image, now: Instant) -> Self {
        let (head, sent) = (request.response(), request.sent());
        let length = head.and_then(|head| head.length);
        let subject = request.subject().map(|subject| subject.as_str().to_owned());
        Self {
            id: request.id.to_string(),
            pull: request.pull.map(|number| RequestId { number, ..request.id }.to_string()),
            peer: &request.peer,
            user_agent: request.user_agent.as_deref(),
            user: request.user.as_deref(),
            method: request.method.as_str(),
            upstream: request.upstream.as_deref(),
            image,
            subject,
            operation: request.operation.as_str(),
            outcome: head.map(|head| head.outcome.as_str()),
            status: head.map(|head| head.status),
            sent,
            length,
            bytes_per_second: *bytes_per_second,
            seconds: seconds(now, request.started),
            left_seconds: length.and_then(|length| left(length.saturating_sub(sent), *bytes_per_second)),
            access: access(request.is_of_client),
        }
    }
}

/// A blob that is downloaded into the cache.
#[derive(Serialize)]
pub(in crate::admin) struct DownloadEntry<'a> {
    pub upstream: &'a str,
    pub repository: &'a str,
    /// That of the pull for which it is downloaded, as far as it is known.
    pub image: Option<String>,
    digest: &'a str,
    stage: &'static str,
    pub here: u64,
    pub size: Option<u64>,
    received: u64,
    pub bytes_per_second: u64,
    pub seconds: f64,
    pub left_seconds: Option<u64>,
    clients: usize,
    prefetch: bool,
    access: &'static str,
}

impl<'a> DownloadEntry<'a> {
    fn of(Rated { of: download, bytes_per_second }: &'a Rated<RunningDownload>, image: Image, now: Instant) -> Self {
        let Source { upstream, repository, digest } = download.source();
        let RunningDownload { stage, here, size, received, clients, .. } = *download;
        Self {
            upstream: upstream.name(),
            repository: repository.as_str(),
            image,
            digest: digest.as_str(),
            stage: stage.as_str(),
            here,
            size,
            received,
            bytes_per_second: *bytes_per_second,
            seconds: seconds(now, download.begun()),
            left_seconds: size.and_then(|size| left(size.saturating_sub(here), *bytes_per_second)),
            clients,
            prefetch: download.is_ahead(),
            access: access(upstream.uses_client_credentials()),
        }
    }
}

/// As the key of the upstream spells it.
fn access(is_of_client: bool) -> &'static str {
    if is_of_client { "client" } else { "shared" }
}

/// Rounded to a millisecond.
fn seconds(now: Instant, started: Instant) -> f64 {
    (now.saturating_duration_since(started).as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
impl<'a> RequestEntry<'a> {
    /// An entry of a client at this address.
    pub(in crate::admin) fn of_test(image: &str, peer: &'a str) -> Self {
        Self {
            id: String::new(),
            pull: None,
            peer,
            user_agent: None,
            user: None,
            method: "GET",
            upstream: None,
            image: Some(image.to_owned()),
            subject: None,
            operation: "blob",
            outcome: None,
            status: None,
            sent: 0,
            length: None,
            bytes_per_second: 0,
            seconds: 0.0,
            left_seconds: None,
            access: "shared",
        }
    }
}

#[cfg(test)]
impl<'a> DownloadEntry<'a> {
    /// An entry of a blob there.
    pub(in crate::admin) fn of_test(upstream: &'a str, repository: &'a str) -> Self {
        Self {
            upstream,
            repository,
            image: None,
            digest: "sha256:1f2e",
            stage: "receiving",
            here: 0,
            size: None,
            received: 0,
            bytes_per_second: 0,
            seconds: 0.0,
            left_seconds: None,
            clients: 0,
            prefetch: false,
            access: "shared",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bytes_by_time() {
        for (bytes, milliseconds, expected) in
            [(0, 500, 0), (500, 500, 1000), (1 << 20, 250, 1 << 22), (7, 0, 7_000_000_000), (u64::MAX, 1, u64::MAX)]
        {
            assert_eq!(rate(bytes, Duration::from_millis(milliseconds)), expected, "{bytes} {milliseconds}");
        }
        for (missing, rate, expected) in [(10, 0, None), (0, 0, None), (0, 5, Some(0)), (11, 5, Some(2))] {
            assert_eq!(left(missing, rate), expected, "{missing} {rate}");
        }
    }

    #[test]
    fn the_fastest_are_told_and_the_others_counted() {
        let begun = Instant::now();
        let of = |bytes_per_second, after| Rated { of: begun + Duration::from_secs(after), bytes_per_second };
        let mut rated: Vec<_> = [(1, 0), (9, 2), (9, 1)].map(|(rate, after)| of(rate, after)).into();
        assert_eq!(fastest_first(&mut rated, |started| *started), 0);
        let order: Vec<u64> = rated.iter().map(|rated| (rated.of - begun).as_secs()).collect();
        assert_eq!(order, [1, 2, 0]);
        let mut many: Vec<_> = (0..MAX_ENTRIES as u64 + 5).map(|rate| of(rate, 0)).collect();
        assert_eq!(fastest_first(&mut many, |started| *started), 5);
        assert_eq!((many.len(), many[0].bytes_per_second), (MAX_ENTRIES, MAX_ENTRIES as u64 + 4));
    }
}
