//! Turns for the answers that take much memory, or a thread for long.
//!
//! What must hold: however many clients ask, and however slowly they read, there are few such answers at a time; those
//! of the admin listener take no turn of the control socket. A turn lasts until its answer is made, also for a client
//! that has left, and until the client has read it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    access::Caller,
    response::{ApiBody, ApiError, text},
};

/// How many answers there are at a time on the control socket, and as many on the admin listener. One has 10 MB at
/// most.
const MAX_ANSWERS: usize = 4;
/// How many requests wait for a turn.
const MAX_WAITING: usize = 8;
/// How long a request waits for a turn.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many bytes of an answer the connection gets at a time: it keeps them until the client has read them.
const PIECE: usize = 32 * 1024;

/// The turns of all callers.
#[derive(Default)]
pub(super) struct Turns {
    on_socket: Lane,
    on_listener: Lane,
}

struct Lane {
    answers: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Default for Lane {
    fn default() -> Self {
        Self { answers: Arc::new(Semaphore::new(MAX_ANSWERS)), waiting: Semaphore::new(MAX_WAITING) }
    }
}

/// The right to make an answer.
#[derive(Debug)]
pub(super) struct Turn {
    _answer: OwnedSemaphorePermit,
}

impl Turns {
    /// Waits for a turn.
    ///
    /// # Errors
    /// Others wait already, or the answers before are not read.
    pub(super) async fn take(&self, caller: Caller) -> Result<Turn, ApiError> {
        let lane = match caller {
            Caller::Socket => &self.on_socket,
            Caller::Listener { .. } => &self.on_listener,
        };
        if let Ok(answer) = lane.answers.clone().try_acquire_owned() {
            return Ok(Turn { _answer: answer });
        }
        let why = || {
            let why = format!("{MAX_ANSWERS} long answers are being made or read; try again soon");
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, why)
        };
        let Ok(_place) = lane.waiting.try_acquire() else { return Err(why()) };
        match timeout(WAIT_TIMEOUT, lane.answers.clone().acquire_owned()).await {
            Ok(Ok(answer)) => Ok(Turn { _answer: answer }),
            Ok(Err(_)) | Err(_) => Err(why()),
        }
    }
}

impl Turn {
    /// Makes a JSON document on the blocking pool: ten thousand entries take some milliseconds, in which a thread that
    /// serves clients could do nothing else.
    pub(super) async fn document(
        self,
        make: impl FnOnce() -> serde_json::Result<String> + Send + 'static,
    ) -> Result<Response<ApiBody>, ApiError> {
        let failed = || ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be made");
        match tokio::task::spawn_blocking(move || (make(), self)).await {
            Ok((Ok(json), turn)) => Ok(turn.respond(json + "\n")),
            Ok((Err(_), _)) | Err(_) => Err(failed()),
        }
    }

    fn respond(self, json: String) -> Response<ApiBody> {
        let body = TurnBody { rest: json.into(), _turn: self };
        text(StatusCode::OK, Bytes::new()).map(|_| body.map_err(|never: Infallible| match never {}).boxed_unsync())
    }
}

/// A document that ends the turn when it is sent.
struct TurnBody {
    rest: Bytes,
    _turn: Turn,
}

impl Body for TurnBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.rest.len().min(PIECE);
        // A copy: a piece of the document that waits for the client would keep all of it in memory after the turn.
        let piece = Bytes::copy_from_slice(&self.rest.split_to(len));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::access::Token, *};

    const LISTENER: Caller = Caller::Listener { is_local: true, token: Token::NotConfigured };

    async fn answer(turns: &Turns, caller: Caller) -> Result<Response<ApiBody>, ApiError> {
        turns.take(caller).await?.document(|| Ok("1".repeat(3 * PIECE))).await
    }

    #[tokio::test(start_paused = true)]
    async fn unread_answers_keep_their_turns_and_none_of_the_socket() {
        let turns = Turns::default();
        let mut unread = Vec::new();
        for _ in 0..MAX_ANSWERS {
            unread.push(answer(&turns, LISTENER).await.unwrap());
        }
        let refused = answer(&turns, LISTENER).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        let of_socket = answer(&turns, Caller::Socket).await.unwrap();
        assert_eq!(of_socket.into_body().collect().await.unwrap().to_bytes().len(), 3 * PIECE + 1);
        // One that is read, and one whose client has left.
        let mut body = unread.pop().unwrap().into_body();
        for len in [PIECE, PIECE, PIECE] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), len);
        }
        assert!(answer(&turns, LISTENER).await.is_err());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "\n");
        drop(unread.pop());
        assert!(answer(&turns, LISTENER).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn few_requests_wait_for_a_turn() {
        let turns = Arc::new(Turns::default());
        let mut held = Vec::new();
        for _ in 0..MAX_ANSWERS {
            held.push(turns.take(LISTENER).await.unwrap());
        }
        let waiting: Vec<_> = (0..MAX_WAITING)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move { turns.take(LISTENER).await.map(drop) })
            })
            .collect();
        while turns.on_listener.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let begun = tokio::time::Instant::now();
        assert!(turns.take(LISTENER).await.is_err() && begun.elapsed().is_zero(), "one more does not wait");
        held.pop();
        for one in waiting {
            one.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn work_for_a_client_that_has_left_keeps_its_turn() {
        let turns = Turns::default();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (end, may_end) = std::sync::mpsc::channel::<()>();
        let work = turns.take(LISTENER).await.unwrap().document(move || {
            begun.send(()).unwrap();
            let _ = may_end.recv();
            Ok(String::new())
        });
        let client = tokio::spawn(work);
        while has_begun.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        client.abort();
        assert!(client.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(turns.on_listener.answers.available_permits(), MAX_ANSWERS - 1);
        drop(end);
        while turns.on_listener.answers.available_permits() < MAX_ANSWERS {
            tokio::task::yield_now().await;
        }
    }
}
