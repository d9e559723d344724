//! `GET /api/v1/events`: what happens from now on.
//!
//! What must hold: those who follow leave places for other requests, on the socket as on the admin listener; one that does
//! not read holds no one up, and learns what it lost.

use std::sync::Arc;

use futures_util::{Stream, stream};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{
    access::Caller,
    events::{Event, lasting_events},
    requests::RequestEntry,
    response::{ApiBody, ApiError},
};
use crate::history::{Filter, Followed, Follower, History};

/// How many follow on the control socket: half of its clients.
const MAX_ON_SOCKET: usize = 16;
/// How many follow on the admin listener: half of its connections.
const MAX_ON_LISTENER: usize = 32;

/// The places for those who follow.
pub(super) struct FollowerPlaces {
    on_socket: Arc<Semaphore>,
    on_listener: Arc<Semaphore>,
}

impl Default for FollowerPlaces {
    fn default() -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        Self { on_socket: places(MAX_ON_SOCKET), on_listener: places(MAX_ON_LISTENER) }
    }
}

impl FollowerPlaces {
    /// Tells the caller of each request that the filter admits, until the client leaves.
    ///
    /// # Errors
    /// Too many follow already.
    pub(super) fn follow(
        &self,
        caller: Caller,
        history: &History,
        filter: Filter,
    ) -> Result<Response<ApiBody>, ApiError> {
        let (places, most) = match caller {
            Caller::Socket => (&self.on_socket, MAX_ON_SOCKET),
            Caller::Listener { .. } => (&self.on_listener, MAX_ON_LISTENER),
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            let why = format!("{most} clients follow the events already");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, why));
        };
        Ok(lasting_events(happenings((history.follow(), place), filter)))
    }
}

/// What a follower learns. `_place` is held until the stream is dropped.
fn happenings<P: Send + 'static>((follower, place): (Follower, P), filter: Filter) -> impl Stream<Item = Event> + Send {
    stream::unfold((follower, place, filter), |(mut follower, place, filter)| async move {
        loop {
            let event = match follower.next().await? {
                Followed::Request(request) if filter.admits(&request) => {
                    let data = serde_json::to_value(RequestEntry::of(&request)).unwrap_or(Value::Null);
                    Event { name: "request", data }
                }
                Followed::Request(_) => continue,
                Followed::LeftOut(events) => Event { name: "left_out", data: json!({ "events": events }) },
            };
            return Some((event, (follower, place, filter)));
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::StreamExt as _;

    use super::*;
    use crate::{byte_counter::ByteCounter, history::FinishedRequest};

    #[tokio::test]
    async fn a_follower_learns_what_its_filter_admits() {
        let history = History::new(ByteCounter::default());
        let errors = Filter { errors: true, ..Filter::default() };
        let mut told = Box::pin(happenings((history.follow(), ()), errors));
        let of = |number| FinishedRequest::of_test(number, Instant::now());
        history.add(of(1));
        history.add(FinishedRequest { is_of_client: true, ..of(2).failed(502, "upstream_unavailable") });
        history.add(of(3).failed(502, "upstream_unavailable"));
        let event = told.next().await.unwrap();
        assert_eq!((event.name, &event.data["id"]), ("request", &"00000007-3".into()));
        for number in 0..2000 {
            history.add(of(number));
        }
        history.add(of(3000).failed(502, "upstream_unavailable"));
        let event = told.next().await.unwrap();
        assert_eq!(event, Event { name: "left_out", data: json!({ "events": 977 }) });
        assert_eq!(told.next().await.unwrap().data["id"], "00000007-bb8");
        drop(history);
        assert_eq!(told.next().await, None);
    }

    #[test]
    fn followers_leave_places_to_others() {
        let (places, history) = (FollowerPlaces::default(), History::new(ByteCounter::default()));
        let follow = || places.follow(Caller::Socket, &history, Filter::default());
        let mut followers: Vec<_> = (0..MAX_ON_SOCKET).map(|_| follow().unwrap()).collect();
        assert_eq!(follow().unwrap_err().status, StatusCode::TOO_MANY_REQUESTS);
        followers.pop();
        assert!(follow().is_ok());
    }
}
