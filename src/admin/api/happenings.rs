//! `GET /api/v1/events`: what happens from now on.
//!
//! What must hold: those who follow leave places for other requests, on the socket as on the admin listener; one that
//! does not read holds no one up, and learns what it lost; one whose token was replaced follows no more. However much happens, each follower costs little: an event
//! is written once for all of them, and each gets a few hundred a second.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use http::{Response, StatusCode};
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    access::{Caller, Token},
    events::{Event, encode, lasting_events},
    requests::RequestEntry,
    response::{ApiBody, ApiError},
};
use crate::history::{Filter, FinishedRequest, Followed, Follower, Happening, History};

/// How many follow on the control socket: half of its clients.
const MAX_ON_SOCKET: usize = 16;
/// How many follow on the admin listener: half of its connections.
const MAX_ON_LISTENER: usize = 32;
/// How many of those may have no token.
const MAX_WITHOUT_TOKEN: usize = 8;
/// How many events a follower gets in a turn; the others are told as left out.
const MAX_IN_TURN: u64 = 500;
const TURN: Duration = Duration::from_secs(1);
/// How many events are looked at before what is told of them is sent, and how many bytes are sent at a time.
const MAX_AT_ONCE: usize = 256;
const MAX_FRAME: usize = 64 * 1024;

/// The places for those who follow.
pub(super) struct FollowerPlaces {
    on_socket: Arc<Semaphore>,
    on_listener: Arc<Semaphore>,
    without_token: Arc<Semaphore>,
}

impl Default for FollowerPlaces {
    fn default() -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        Self {
            on_socket: places(MAX_ON_SOCKET),
            on_listener: places(MAX_ON_LISTENER),
            without_token: places(MAX_WITHOUT_TOKEN),
        }
    }
}

impl FollowerPlaces {
    /// Tells the caller of each request that the filter admits, until the client leaves or `until` is cancelled.
    ///
    /// # Errors
    /// Too many follow already.
    pub(super) fn follow(
        &self,
        (caller, until): (Caller, CancellationToken),
        history: &History,
        filter: Filter,
    ) -> Result<Response<ApiBody>, ApiError> {
        let (places, most) = match caller {
            Caller::Socket => (&self.on_socket, MAX_ON_SOCKET),
            Caller::Listener { token: Token::Right, .. } => (&self.on_listener, MAX_ON_LISTENER),
            Caller::Listener { .. } => (&self.without_token, MAX_WITHOUT_TOKEN),
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            let why = format!("{most} clients follow the events already");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, why));
        };
        let happenings = happenings(Following::new(history.follow(), filter, Some(place)));
        Ok(lasting_events(happenings.take_until(until.cancelled_owned())))
    }
}

/// One that follows.
struct Following {
    follower: Follower,
    filter: Filter,
    /// When its turn began, and how many events it got in it.
    turn: Instant,
    got: u64,
    /// How many events were left out and not told yet.
    left_out: u64,
    /// Held until it leaves.
    _place: Option<OwnedSemaphorePermit>,
}

impl Following {
    fn new(follower: Follower, filter: Filter, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { follower, filter, turn: Instant::now(), got: 0, left_out: 0, _place: place }
    }

    /// The next events; `None`: there will be none any more.
    async fn next(&mut self) -> Option<Bytes> {
        let mut frame = BytesMut::new();
        while frame.is_empty() {
            // What was left out is told when the next turn begins, also if nothing happens then.
            let followed = match self.left_out {
                0 => self.follower.next().await,
                _ => match timeout_at(self.turn + TURN, self.follower.next()).await {
                    Ok(followed) => followed,
                    Err(_) => Some(Followed::LeftOut(0)),
                },
            };
            self.tell(followed?, &mut frame);
        }
        for _ in 0..MAX_AT_ONCE {
            if frame.len() >= MAX_FRAME {
                break;
            }
            let Some(followed) = self.follower.next_now() else { break };
            self.tell(followed, &mut frame);
        }
        Some(frame.freeze())
    }

    fn tell(&mut self, followed: Followed, frame: &mut BytesMut) {
        if self.turn.elapsed() >= TURN {
            (self.turn, self.got) = (Instant::now(), 0);
        }
        match followed {
            Followed::LeftOut(events) => self.left_out += events,
            Followed::Request(happening) if !self.filter.admits(&happening.request) => {}
            Followed::Request(_) if self.got >= MAX_IN_TURN => self.left_out += 1,
            Followed::Request(happening) => {
                self.tell_left_out(frame);
                self.got += 1;
                frame.extend_from_slice(&written(&happening));
            }
        }
        if self.got < MAX_IN_TURN {
            self.tell_left_out(frame);
        }
    }

    fn tell_left_out(&mut self, frame: &mut BytesMut) {
        let events = std::mem::take(&mut self.left_out);
        if events > 0 {
            frame.extend_from_slice(&Event { name: "left_out", data: json!({ "events": events }) }.encode());
        }
    }
}

fn written(happening: &Happening) -> Bytes {
    happening.written(|request: &FinishedRequest| {
        // An entry is strings and numbers, which always have a JSON form.
        let json = serde_json::to_string(&RequestEntry::of(request)).unwrap_or_default();
        encode("request", &json)
    })
}

/// What a follower learns.
fn happenings(following: Following) -> impl Stream<Item = Bytes> + Send {
    stream::unfold(following, |mut following| async move {
        let events = following.next().await?;
        Some((events, following))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::Value;

    use super::*;
    use crate::byte_counter::ByteCounter;

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

    #[tokio::test]
    async fn a_follower_learns_what_its_filter_admits() {
        let history = History::new(ByteCounter::default());
        let errors = Filter { errors: true, ..Filter::default() };
        let mut told = Box::pin(happenings(Following::new(history.follow(), errors, None)));
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
        let history = History::new(ByteCounter::default());
        let mut told = Box::pin(happenings(Following::new(history.follow(), Filter::default(), None)));
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
    }

    #[tokio::test]
    async fn an_event_is_written_once_for_all_followers() {
        let history = History::new(ByteCounter::default());
        let mut followers = [history.follow(), history.follow()];
        history.add(of(1));
        let mut texts = Vec::new();
        for follower in &mut followers {
            let Some(Followed::Request(happening)) = follower.next().await else { panic!("a request") };
            texts.push(written(&happening).as_ptr());
        }
        assert_eq!(texts[0], texts[1]);
    }

    #[test]
    fn followers_leave_places_to_others() {
        let (places, history) = (FollowerPlaces::default(), History::new(ByteCounter::default()));
        let follow = |caller| places.follow((caller, CancellationToken::new()), &history, Filter::default());
        let without = Caller::Listener { is_local: true, token: Token::NotConfigured };
        let with = Caller::Listener { is_local: true, token: Token::Right };
        for (caller, most) in [(Caller::Socket, MAX_ON_SOCKET), (without, MAX_WITHOUT_TOKEN), (with, MAX_ON_LISTENER)] {
            let mut followers: Vec<_> = (0..most).map(|_| follow(caller).unwrap()).collect();
            assert_eq!(follow(caller).unwrap_err().status, StatusCode::TOO_MANY_REQUESTS);
            followers.pop();
            assert!(follow(caller).is_ok());
        }
    }
}
