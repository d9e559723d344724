//! Turns and room in memory for bodies that are read as a whole.
//!
//! What must hold: a request that waits for a token, or for a response, holds no turn, so that no number of them blocks
//! others; a request that waits for its turn, or for room, holds nothing of a connection.

use std::time::Duration;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    super::{
        client::follow_redirects::FinalResponse,
        endpoint::Endpoint,
        error::{Error, ErrorKind},
        read_request::ReadRequest,
        state::UpstreamState,
    },
    document_budget::Room,
};

/// How long a request waits for its turn and for room.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// A turn, and room for a body.
pub(super) type Place<'a> = (SemaphorePermit<'a>, Room);

impl UpstreamState {
    /// Sends a request, and takes a turn and room for the body. If there is none now, the request is sent again once
    /// there is: unread, the first response would hold a part of the window of an HTTP/2 connection that others are
    /// read from.
    ///
    /// `room_needed`: how many bytes; `None`: no turn is needed. Returns `None` if there was no room in time.
    pub(super) async fn read_with_room<'a>(
        &'a self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        turns: &'a Semaphore,
        room_needed: impl Fn(&FinalResponse) -> Result<Option<usize>, Error>,
    ) -> Result<Option<(FinalResponse, Option<Place<'a>>)>, Error> {
        let followed = self.read(endpoint, request).await?;
        let Some(bytes) = room_needed(&followed)? else { return Ok(Some((followed, None))) };
        if let Some(place) = self.try_place(turns, bytes) {
            return Ok(Some((followed, Some(place))));
        }
        drop(followed);
        let Some(place) = self.place(turns, bytes).await else { return Ok(None) };
        let followed = self.read(endpoint, request).await?;
        let has_room = room_needed(&followed)?.is_none_or(|bytes| place.1.holds(bytes));
        Ok(has_room.then_some((followed, Some(place))))
    }

    fn try_place<'a>(&'a self, turns: &'a Semaphore, bytes: usize) -> Option<Place<'a>> {
        Some((turns.try_acquire().ok()?, self.room.try_take(bytes)?))
    }

    /// `None`: not in time.
    async fn place<'a>(&'a self, turns: &'a Semaphore, bytes: usize) -> Option<Place<'a>> {
        let place = async { Some((turns.acquire().await.ok()?, self.room.take(bytes).await?)) };
        timeout(TURN_TIMEOUT, place).await.ok().flatten()
    }

    /// There was no turn or no room in time.
    pub(super) fn exhausted(&self) -> Error {
        let why = format!("upstream {}: too many documents are being read", self.name());
        Error::new(ErrorKind::Exhausted, why)
    }
}
