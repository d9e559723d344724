//! The requests of clients: the latest, those in flight, and sums of what clients got.
//!
//! The registry adds each request when it is over, and those that take longer also when they begin; the admin listener
//! reads. The entries are in shards, so that threads that add at the same time seldom wait for one another.
//!
//! What must hold: memory is bounded in number and bytes, whatever clients send; an addition holds one lock for the time
//! of a few writes, and a reader holds it for no longer than it takes to clone the handles of one shard.

mod disk_levels;
mod filter;
mod finished_request;
mod in_flight;
mod position;
mod pull;
mod readers;
mod ring;
mod sums;
mod unconfigured;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use self::finished_request::FinishedRequest;
pub use self::sums::{Sums, Window};
use self::{
    disk_levels::DiskLevels,
    in_flight::InFlight,
    ring::Ring,
    sums::{INTERVALS, RecentSums, first_interval, interval},
};
pub(crate) use self::{
    filter::Filter,
    in_flight::{ResponseHead, Running, RunningRequest},
    position::Position,
    pull::Pull,
    readers::Readers,
    unconfigured::Unconfigured,
};
use crate::{
    byte_counter::ByteCounter,
    followers::{Follower, Followers},
};

/// How many requests are kept.
pub(crate) const MAX_REQUESTS: usize = 10_000;
/// How much memory they may take, in bytes.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// More than the threads of most machines.
const SHARDS: usize = 16;
/// How often the bytes that upstreams sent are added to the sums. A sum has them in the right minute but for this.
const RECEIVED_INTERVAL: Duration = Duration::from_secs(10);

/// The history of this process. A cheap handle.
#[derive(Clone)]
pub struct History(Arc<Inner>);

struct Inner {
    started: Instant,
    /// By the numbers of requests.
    shards: [Mutex<Shard>; SHARDS],
    /// Counts the bytes of manifests and blobs that upstreams send.
    received: ByteCounter,
    of_upstreams: Mutex<OfUpstreams>,
    disk: Mutex<DiskLevels>,
    followers: Followers<Arc<FinishedRequest>>,
    in_flight: InFlight,
}

/// On cache lines of its own: threads that add to two shards do not slow each other down.
#[repr(align(128))]
struct Shard {
    ring: Ring,
    sums: RecentSums,
}

#[derive(Default)]
struct OfUpstreams {
    /// What the counter of bytes said when they were added last.
    added: u64,
    sums: RecentSums,
}

/// Ten minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub sums: Sums,
    /// The bytes on disk at its end; `None`: it was not asked for.
    pub disk: Option<u64>,
}

/// A page of what was asked for, the newest first.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub items: Vec<T>,
    /// After what the next page begins; `None`: this is the last one.
    pub next: Option<Position>,
}

impl History {
    /// `received` counts the bytes of manifests and blobs that upstreams send.
    pub fn new(received: ByteCounter) -> Self {
        let shard =
            |_| Shard { ring: Ring::new(MAX_REQUESTS / SHARDS, MAX_BYTES / SHARDS), sums: RecentSums::default() };
        Self(Arc::new(Inner {
            started: Instant::now(),
            shards: std::array::from_fn(|index| Mutex::new(shard(index))),
            received,
            of_upstreams: Mutex::default(),
            disk: Mutex::default(),
            followers: Followers::default(),
            in_flight: InFlight::default(),
        }))
    }

    /// Adds a request that is over.
    pub fn add(&self, mut request: FinishedRequest) {
        request.shorten();
        let (sums, since_start) = (Sums::of(&request), self.since_start(request.ended()));
        let shard = &self.0.shards[(request.id.number % SHARDS as u64) as usize];
        let request = Arc::new(request);
        self.0.followers.tell(|| request.clone());
        let displaced = {
            let mut shard = shard.lock();
            shard.sums.add(since_start, sums);
            shard.ring.push(request)
        };
        // Its memory is freed without the lock.
        drop(displaced);
    }

    /// The requests that the filter admits, the newest first: at most `limit` of those after a position.
    pub(crate) fn requests(
        &self,
        filter: &Filter,
        after: Option<Position>,
        limit: usize,
    ) -> Page<Arc<FinishedRequest>> {
        let found = self.all(|request| filter.admits(request));
        self.page(found, after, limit, |request| self.position(request))
    }

    /// The pulls and pushes of which the filter admits a request, and the requests that belong to neither: those with the
    /// newest requests first.
    pub(crate) fn pulls(&self, filter: &Filter, after: Option<Position>, limit: usize) -> Page<Pull> {
        let mut pulls = pull::group(self.all(|request| filter.shows(request)));
        pulls.retain(|pull| pull.is_worth_a_line() && filter.admits_pull(pull));
        self.page(pulls, after, limit, |pull| self.position(pull.newest()))
    }

    /// The upstreams that clients asked for lately and that are not configured. `of_clients`: also where an upstream
    /// authorizes each client.
    pub(crate) fn unconfigured(&self, of_clients: bool) -> Vec<Unconfigured> {
        let all = self.all(|request| of_clients || !request.is_of_client);
        unconfigured::of(all.iter().map(|request| &**request))
    }

    /// The latest pulls of a client from these upstreams, the newest first: at most `limit`. Those for which an upstream
    /// authorized the client are left out.
    pub(crate) fn pulls_of(&self, client: IpAddr, upstreams: &[Arc<str>], limit: usize) -> Vec<Pull> {
        let is_shown = |request: &FinishedRequest| {
            let is_from = request.upstream.as_ref().is_some_and(|upstream| upstreams.contains(upstream));
            !request.is_of_client && request.pull.is_some() && is_from && request.address() == Some(client)
        };
        let mut pulls = pull::group(self.all(is_shown));
        pulls.retain(|pull| pull.operation() == "pull");
        pulls.truncate(limit);
        pulls
    }

    /// A request begins. It is in flight until what this returns is dropped.
    pub(crate) fn begin(&self, request: RunningRequest) -> Running {
        self.0.in_flight.begin(request)
    }

    /// The requests in flight, in no order.
    pub(crate) fn in_flight(&self) -> Vec<Arc<RunningRequest>> {
        self.0.in_flight.all()
    }

    /// The images of pulls, by the numbers of their first requests, as far as the requests that are over tell.
    pub(crate) fn images(&self, pulls: &HashSet<u64>) -> HashMap<u64, String> {
        if pulls.is_empty() {
            return HashMap::new();
        }
        let requests = self.all(|request| request.pull.is_some_and(|pull| pulls.contains(&pull)));
        let image = |pull: Pull| Some((pull.id().number, pull.image()?.as_str().to_owned()));
        pull::group(requests).into_iter().filter_map(image).collect()
    }

    /// The requests that end from now on.
    pub(crate) fn follow(&self) -> Follower<Arc<FinishedRequest>> {
        self.0.followers.follow()
    }

    /// What was counted within a window of time.
    pub fn sums(&self, window: Window) -> Sums {
        let now = self.since_start(Instant::now());
        let received = self.add_received();
        let of_shard = |shard: &Mutex<Shard>| shard.lock().sums.within(window, now);
        self.0.shards.iter().map(of_shard).fold(received.within(window, now), Sums::plus)
    }

    /// What was counted within a day by intervals, the oldest first; `None`: before the start, or yet to come.
    pub(crate) fn last_day(&self) -> Vec<Option<Interval>> {
        let now = self.since_start(Instant::now());
        let mut sums = [Sums::default(); INTERVALS];
        self.add_received().add_day_to(&mut sums, now);
        for shard in &self.0.shards {
            shard.lock().sums.add_day_to(&mut sums, now);
        }
        let levels = self.0.disk.lock().day(now);
        let count = usize::try_from(interval(now) - first_interval(now) + 1).unwrap_or(INTERVALS);
        let known = sums.iter().zip(levels).take(count).map(|(sums, disk)| Some(Interval { sums: *sums, disk }));
        // The chart of a young process begins empty.
        let mut day = vec![None; INTERVALS.saturating_sub(count)];
        day.extend(known);
        day
    }

    /// Adds what upstreams sent to the sums of the right minutes, and notes how many bytes are on `disk`, until `end`.
    pub(crate) async fn keep_sums(self, disk: impl Fn() -> u64 + Send, end: CancellationToken) {
        let mut ticks = tokio::time::interval(RECEIVED_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            drop(self.add_received());
            self.0.disk.lock().note(self.since_start(Instant::now()), disk());
        }
    }

    /// Adds what upstreams sent since the last time.
    fn add_received(&self) -> parking_lot::MappedMutexGuard<'_, RecentSums> {
        let mut of_upstreams = self.0.of_upstreams.lock();
        let total = self.0.received.total();
        let received = total.saturating_sub(of_upstreams.added);
        of_upstreams.added = total;
        if received > 0 {
            of_upstreams.sums.add(self.since_start(Instant::now()), Sums { received, ..Sums::default() });
        }
        parking_lot::MutexGuard::map(of_upstreams, |of_upstreams| &mut of_upstreams.sums)
    }

    /// All requests that are `wanted`, the newest first.
    fn all(&self, wanted: impl Fn(&FinishedRequest) -> bool) -> Vec<Arc<FinishedRequest>> {
        let mut all = Vec::new();
        for shard in &self.0.shards {
            shard.lock().ring.append_to(&mut all);
        }
        all.retain(|request| wanted(request));
        all.sort_unstable_by_key(|request| std::cmp::Reverse(self.position(request)));
        all
    }

    fn position(&self, request: &FinishedRequest) -> Position {
        Position::new(self.since_start(request.ended()), request.id.number)
    }

    /// By a clock that nothing sets.
    fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.0.started)
    }

    /// The page of `items`, which are in the order of their positions, the newest first.
    fn page<T>(
        &self,
        mut items: Vec<T>,
        after: Option<Position>,
        limit: usize,
        position: impl Fn(&T) -> Position,
    ) -> Page<T> {
        if let Some(after) = after {
            let skipped = items.partition_point(|item| position(item) >= after);
            items.drain(..skipped);
        }
        let next = (items.len() > limit).then(|| items.get(limit.saturating_sub(1)).map(&position)).flatten();
        items.truncate(limit);
        Page { items, next }
    }
}

#[cfg(test)]
mod tests;
