//! `GET /api/v1/events`: what happens from now on.
//!
//! What must hold: a client that does not read holds no one up, and learns what it lost; one whose token was replaced
//! follows no more; it learns of upstreams that authorize each client only if it may. However much happens, each follower
//! costs little: an event is written once for all of them, and each gets a few hundred a second.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use http::Response;
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    changes::Seen,
    events::{Event, encode, lasting_events},
    follower_places::FollowerPlace,
    requests::RequestEntry,
    response::ApiBody,
    upstreams::seconds,
};
use crate::{
    cache::{DownloadEvent, DownloadResult},
    followers::{Followed, Follower, Happening},
    history::{Filter, FinishedRequest},
    metrics::Label as _,
};

/// How many events a follower gets in a turn; the others are told as left out.
const MAX_IN_TURN: u64 = 500;
const TURN: Duration = Duration::from_secs(1);
/// How often a follower looks what changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How many events are looked at before what is told of them is sent, and how many bytes are sent at a time.
const MAX_AT_ONCE: usize = 256;
const MAX_FRAME: usize = 64 * 1024;

/// What one client follows.
pub(super) struct Happenings<L> {
    requests: Follower<Arc<FinishedRequest>>,
    downloads: Follower<DownloadEvent>,
    changes: Changes<L>,
    filter: Filter,
    /// The filter is about some requests, so that nothing else is told.
    only_requests: bool,
    /// When its turn began, and how many events it got in it.
    turn: Instant,
    got: u64,
    /// How many events were left out and not told yet.
    left_out: u64,
}

impl<L: Fn() -> Seen + Send + 'static> Happenings<L> {
    /// `look` tells how the rest is now.
    pub(super) fn new(
        requests: Follower<Arc<FinishedRequest>>,
        downloads: Follower<DownloadEvent>,
        look: L,
        filter: Filter,
    ) -> Self {
        let only_requests = filter.is_selective();
        let changes = Changes::since_now(look);
        Self { requests, downloads, changes, filter, only_requests, turn: Instant::now(), got: 0, left_out: 0 }
    }

    /// Tells all of it until the client leaves or `until` is cancelled.
    pub(super) fn respond(self, place: FollowerPlace, until: CancellationToken) -> Response<ApiBody> {
        lasting_events(self.events(place).take_until(until.cancelled_owned()))
    }

    /// `place` is held until the stream is dropped.
    fn events<P: Send + 'static>(self, place: P) -> impl Stream<Item = Bytes> + Send {
        stream::unfold((self, place), async |(mut this, place)| Some((this.next().await?, (this, place))))
    }

    /// The next events; `None`: there will be none any more.
    async fn next(&mut self) -> Option<Bytes> {
        let mut frame = BytesMut::new();
        while frame.is_empty() {
            let is_all = !self.only_requests;
            tokio::select! {
                request = self.requests.next() => self.tell(request?, Self::request, &mut frame),
                download = self.downloads.next(), if is_all => self.tell(download?, Self::download, &mut frame),
                changed = self.changes.next(), if is_all => {
                    let events = changed.into_iter().map(|event| event.encode());
                    events.for_each(|event| self.push(&event, &mut frame));
                }
                // What was left out is told when the next turn begins, also if nothing happens then.
                () = sleep_until(self.turn + TURN), if self.left_out > 0 => {}
            }
            self.begin_turn();
            self.tell_left_out(&mut frame);
        }
        for _ in 0..MAX_AT_ONCE {
            if frame.len() >= MAX_FRAME {
                break;
            }
            let Some(followed) = self.requests.next_now() else { break };
            self.tell(followed, Self::request, &mut frame);
        }
        Some(frame.freeze())
    }

    /// `write` tells how clients read an event; `None`: it is none for this client.
    fn tell<T>(
        &mut self,
        followed: Followed<T>,
        write: impl FnOnce(&Self, &Happening<T>) -> Option<Bytes>,
        frame: &mut BytesMut,
    ) {
        match followed {
            Followed::LeftOut(events) => self.left_out += events,
            Followed::Event(happening) => {
                if let Some(event) = write(self, &happening) {
                    self.push(&event, frame);
                }
            }
        }
        self.tell_left_out(frame);
    }

    fn push(&mut self, event: &[u8], frame: &mut BytesMut) {
        self.begin_turn();
        if self.got >= MAX_IN_TURN {
            self.left_out += 1;
            return;
        }
        self.tell_left_out(frame);
        self.got += 1;
        frame.extend_from_slice(event);
    }

    fn begin_turn(&mut self) {
        if self.turn.elapsed() >= TURN {
            (self.turn, self.got) = (Instant::now(), 0);
        }
    }

    fn tell_left_out(&mut self, frame: &mut BytesMut) {
        if self.got < MAX_IN_TURN && self.left_out > 0 {
            let events = std::mem::take(&mut self.left_out);
            frame.extend_from_slice(&Event { name: "left_out", data: json!({ "events": events }) }.encode());
        }
    }

    fn request(&self, happening: &Happening<Arc<FinishedRequest>>) -> Option<Bytes> {
        self.filter.admits(&happening.event).then(|| happening.written(|request| of_request(request)))
    }

    fn download(&self, happening: &Happening<DownloadEvent>) -> Option<Bytes> {
        let is_shown = self.filter.of_clients || !happening.event.is_of_client;
        is_shown.then(|| happening.written(of_download))
    }
}

fn of_request(request: &FinishedRequest) -> Bytes {
    // An entry is strings and numbers, which always have a JSON form.
    let json = serde_json::to_string(&RequestEntry::of(request)).unwrap_or_default();
    encode("request", &json)
}

fn of_download(download: &DownloadEvent) -> Bytes {
    let state = match download.result {
        None => "started",
        Some(DownloadResult::Complete) => "done",
        Some(_) => "failed",
    };
    let data = json!({
        "state": state,
        "upstream": &*download.upstream,
        "repository": download.repository.as_str(),
        "digest": download.digest.as_str(),
        "size": download.size,
        "received": download.received,
        "seconds": seconds(download.duration),
        "failure": download.result.filter(|result| *result != DownloadResult::Complete).map(|result| result.as_str()),
        "access": if download.is_of_client { "client" } else { "shared" },
    });
    Event { name: "download", data }.encode()
}

/// What changed from one look to the next.
struct Changes<L> {
    look: L,
    seen: Seen,
    ticks: Interval,
}

impl<L: Fn() -> Seen> Changes<L> {
    fn since_now(look: L) -> Self {
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let seen = look();
        Self { look, seen, ticks }
    }

    /// The events of the next look. It may be dropped while it waits.
    async fn next(&mut self) -> Vec<Event> {
        self.ticks.tick().await;
        let now = (self.look)();
        let events = now.since(&self.seen);
        self.seen = now;
        events
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Instant,
    };

    use serde_json::Value;

    use super::*;
    use crate::{
        byte_counter::ByteCounter, cache::EvictionTotals, followers::Followers, history::History, oci::Digest,
    };

    /// The events of a frame: the name, and the data.
    fn events(frame: &[u8]) -> Vec<(String, Value)> {
        let text = std::str::from_utf8(frame).unwrap();
        let event = |text: &str| {
            let (name, data) = text.strip_prefix("event: ")?.split_once("\ndata: ")?;
            Some((name.to_owned(), serde_json::from_str(data).ok()?))
        };
        text.split_terminator("\n\n").map(|text| event(text).unwrap()).collect()
    }

    fn ids(frame: &[u8]) -> Vec<Value> {
        let id = |(name, data): (String, Value)| if name == "request" { data["id"].clone() } else { data };
        events(frame).into_iter().map(id).collect()
    }

    fn of(number: u64) -> FinishedRequest {
        FinishedRequest::of_test(number, Instant::now())
    }

    /// What happens to this history and these downloads, while the rest stays as it is.
    fn follow(
        history: &History,
        downloads: &Followers<DownloadEvent>,
        filter: Filter,
    ) -> impl Stream<Item = Bytes> + Send + use<> {
        Happenings::new(history.follow(), downloads.follow(), Seen::default, filter).events(())
    }

    #[tokio::test]
    async fn a_follower_learns_what_its_filter_admits() {
        let (history, downloads) = (History::new(ByteCounter::default()), Followers::default());
        let errors = Filter { errors: true, ..Filter::default() };
        let mut told = Box::pin(follow(&history, &downloads, errors));
        downloads.tell(|| download(false, None));
        history.add(of(1));
        history.add(FinishedRequest { is_of_client: true, ..of(2).failed(502, "upstream_unavailable") });
        history.add(of(3).failed(502, "upstream_unavailable"));
        history.add(of(4).failed(502, "upstream_unavailable"));
        assert_eq!(ids(&told.next().await.unwrap()), ["00000007-3", "00000007-4"]);
        for number in 0..2000 {
            history.add(of(number));
        }
        history.add(of(3000).failed(502, "upstream_unavailable"));
        let left_out = ("left_out".to_owned(), json!({ "events": 977 }));
        assert_eq!(events(&told.next().await.unwrap()), [left_out]);
        assert_eq!(ids(&told.next().await.unwrap()), ["00000007-bb8"]);
        drop(history);
        assert_eq!(told.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_gets_a_few_hundred_events_a_second() {
        let (history, downloads) = (History::new(ByteCounter::default()), Followers::default());
        let mut told = Box::pin(follow(&history, &downloads, Filter::default()));
        for number in 0..1000 {
            history.add(of(number));
        }
        let (mut got, mut frames) = (0, 0);
        while got < MAX_IN_TURN {
            got += events(&told.next().await.unwrap()).len() as u64;
            frames += 1;
        }
        assert!(got == MAX_IN_TURN && frames < 20, "{got} events in {frames} frames");
        // Nothing happens for a while.
        let begun = tokio::time::Instant::now();
        let left_out = ("left_out".to_owned(), json!({ "events": 500 }));
        assert_eq!(events(&told.next().await.unwrap()), [left_out]);
        assert!(begun.elapsed() <= TURN);
        history.add(of(7));
        assert_eq!(ids(&told.next().await.unwrap()), ["00000007-7"]);
        // Downloads count as well.
        for _ in 0..MAX_IN_TURN {
            downloads.tell(|| download(false, None));
        }
        let mut got = 1;
        while got < MAX_IN_TURN {
            got += events(&told.next().await.unwrap()).len() as u64;
        }
        assert_eq!(events(&told.next().await.unwrap()), [("left_out".to_owned(), json!({ "events": 1 }))]);
    }

    fn download(is_of_client: bool, result: Option<DownloadResult>) -> DownloadEvent {
        let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        DownloadEvent {
            upstream: "docker.io".into(),
            is_of_client,
            repository: "library/app".parse().unwrap(),
            digest,
            result,
            size: Some(10),
            received: 4,
            duration: Duration::from_micros(1_500_400),
        }
    }

    #[tokio::test]
    async fn downloads_of_clients_are_told_to_those_who_may() {
        let (history, downloads) = (History::new(ByteCounter::default()), Followers::default());
        let all = Filter { of_clients: true, ..Filter::default() };
        let mut of_all = Box::pin(follow(&history, &downloads, all));
        let mut of_some = Box::pin(follow(&history, &downloads, Filter::default()));
        downloads.tell(|| download(true, None));
        downloads.tell(|| download(false, Some(DownloadResult::Mismatch)));
        downloads.tell(|| download(false, Some(DownloadResult::Complete)));
        let (_, data) = events(&of_all.next().await.unwrap()).remove(0);
        assert_eq!(
            (&data["state"], &data["failure"], &data["access"]),
            (&json!("started"), &Value::Null, &json!("client"))
        );
        let failed = json!({
            "state": "failed", "upstream": "docker.io", "repository": "library/app",
            "digest": format!("sha256:{}", "a".repeat(64)),
            "size": 10, "received": 4, "seconds": 1.5004, "failure": "mismatch", "access": "shared",
        });
        assert_eq!(events(&of_some.next().await.unwrap()), [("download".to_owned(), failed)]);
        let (_, data) = events(&of_some.next().await.unwrap()).remove(0);
        assert_eq!((&data["state"], &data["failure"]), (&json!("done"), &Value::Null));
    }

    #[tokio::test(start_paused = true)]
    async fn evictions_of_a_second_are_one_event() {
        let (history, downloads) = (History::new(ByteCounter::default()), Followers::<DownloadEvent>::default());
        let evicted = Arc::new(AtomicU64::new(5));
        let seen = evicted.clone();
        let look = move || {
            let objects = seen.load(Ordering::Relaxed);
            Seen { evicted: EvictionTotals { bytes: objects * 100, objects }, ..Seen::default() }
        };
        let happenings = Happenings::new(history.follow(), downloads.follow(), look, Filter::default());
        let mut told = Box::pin(happenings.events(()));
        let storm = async {
            for objects in 1..=100_000 {
                evicted.store(5 + objects, Ordering::Relaxed);
                if objects % 1000 == 0 {
                    tokio::time::sleep(LOOK_INTERVAL / 50).await;
                }
            }
        };
        let begun = tokio::time::Instant::now();
        let count = async {
            let (mut objects, mut count) = (0, 0);
            while objects < 100_000 {
                let (name, data) = events(&told.next().await.unwrap()).remove(0);
                assert_eq!(name, "evicted");
                objects += data["objects"].as_u64().unwrap();
                count += 1;
            }
            (objects, count)
        };
        let ((objects, count), ()) = tokio::join!(count, storm);
        assert!(objects == 100_000 && count <= 4, "{count} events of {objects} objects");
        assert!(begun.elapsed() <= 4 * LOOK_INTERVAL);
    }

    #[tokio::test]
    async fn an_event_is_written_once_for_all_followers() {
        let history = History::new(ByteCounter::default());
        let mut followers = [history.follow(), history.follow()];
        history.add(of(1));
        let mut texts = Vec::new();
        for follower in &mut followers {
            let Some(Followed::Event(happening)) = follower.next().await else { panic!("a request") };
            texts.push(happening.written(|request| of_request(request)).as_ptr());
        }
        assert_eq!(texts[0], texts[1]);
    }
}
