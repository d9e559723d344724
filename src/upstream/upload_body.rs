//! What a client sends to be passed on: a stream, never held as a whole.
//!
//! It is read only as fast as the upstream takes it, and nothing of it is read before it is wanted: a client that asked
//! whether to go on (`Expect: 100-continue`) is told so by the first look at its body.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long no byte may pass, whoever of the two is at fault.
const FLOW_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the answer may take after the last byte: registries hash what they got, and move it to where it stays.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// Is told what passes, and must not wait.
pub trait BodyObserver: Send + Sync + 'static {
    /// This is passed on.
    fn piece(&self, bytes: &Bytes);

    /// That was all, and whole.
    fn end(&self);
}

type Slot = Arc<OnceLock<Box<dyn BodyObserver>>>;

/// The body of a request that is passed on.
pub struct UploadBody {
    pub(super) body: reqwest::Body,
    pub(super) progress: Progress,
    witness: Slot,
}

impl UploadBody {
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Sync + Unpin + 'static,
    {
        let progress = Progress::new();
        let witness = Slot::default();
        let body = reqwest::Body::wrap(Watched { body, progress: progress.clone(), witness: witness.clone() });
        Self { body, progress, witness }
    }

    /// Has somebody see what passes; there is one at most.
    pub fn observed_by(self, witness: impl BodyObserver) -> Self {
        let _ = self.witness.set(Box::new(witness));
        self
    }
}

/// How far a body has come, for whoever waits for the answer.
#[derive(Clone)]
pub(super) struct Progress(Arc<Mutex<State>>);

#[derive(Clone, Copy)]
struct State {
    last: Instant,
    ended: bool,
    /// The client left, or sent what is no content.
    broken: bool,
}

impl Progress {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State { last: Instant::now(), ended: false, broken: false })))
    }

    /// There is nothing to send.
    pub(super) fn ended() -> Self {
        let progress = Self::new();
        progress.note(true);
        progress
    }

    fn note(&self, ended: bool) {
        let mut state = self.0.lock();
        *state = State { last: Instant::now(), ended: state.ended || ended, ..*state };
    }

    fn note_broken(&self) {
        self.0.lock().broken = true;
    }

    /// Whether the client, and not the upstream, is at fault that nothing more passes.
    pub(super) fn is_broken(&self) -> bool {
        self.0.lock().broken
    }

    /// When to give up, should nothing happen until then; and how long that is after something last did.
    pub(super) fn deadline(&self) -> (Instant, Duration) {
        let State { last, ended, .. } = *self.0.lock();
        let limit = if ended { ANSWER_TIMEOUT } else { FLOW_TIMEOUT };
        (last + limit, limit)
    }
}

/// A body that tells how far it has come. Trailers stay behind: no registry knows any.
struct Watched<B> {
    body: B,
    progress: Progress,
    witness: Slot,
}

impl<B> Body for Watched<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            let ended = frame.is_none() || self.body.is_end_stream();
            self.progress.note(ended);
            if let Some(witness) = self.witness.get() {
                if let Some(bytes) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
                    witness.piece(bytes);
                }
                if ended && !matches!(frame, Some(Err(_))) && !self.progress.is_broken() {
                    witness.end();
                }
            }
            match frame {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    self.progress.note_broken();
                    return Poll::Ready(Some(Err(error.into())));
                }
                Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
                Some(Ok(_)) => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_is_set_back_by_every_piece_and_is_another_one_at_the_end() {
        let begun = Instant::now();
        let progress = Progress::new();
        let body = StreamBody::new(futures_util::stream::iter(
            [&b"a"[..], b"b"].map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece)))),
        ));
        let mut watched = Watched { body, progress: progress.clone(), witness: Slot::default() };
        assert_eq!(progress.deadline(), (begun + FLOW_TIMEOUT, FLOW_TIMEOUT));
        for seconds in [1, 2] {
            tokio::time::advance(Duration::from_secs(1)).await;
            watched.frame().await.unwrap().unwrap();
            assert_eq!(progress.deadline().0, begun + Duration::from_secs(seconds) + FLOW_TIMEOUT);
        }
        assert!(watched.frame().await.is_none());
        assert_eq!(progress.deadline(), (begun + Duration::from_secs(2) + ANSWER_TIMEOUT, ANSWER_TIMEOUT));
        assert_eq!(Progress::ended().deadline().1, ANSWER_TIMEOUT);
    }

    #[tokio::test]
    async fn a_length_that_is_known_stays_known() {
        let body = Full::new(Bytes::from_static(b"content"));
        let watched = Watched { body, progress: Progress::new(), witness: Slot::default() };
        assert_eq!(watched.size_hint().exact(), Some(7));
        assert_eq!(watched.collect().await.unwrap().to_bytes(), "content");
    }

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<(Vec<u8>, usize)>>);

    impl BodyObserver for Seen {
        fn piece(&self, bytes: &Bytes) {
            self.0.lock().0.extend_from_slice(bytes);
        }

        fn end(&self) {
            self.0.lock().1 += 1;
        }
    }

    #[tokio::test]
    async fn a_witness_sees_what_passes_and_whether_that_was_all() {
        for is_whole in [true, false] {
            let mut frames =
                vec![Ok(Frame::data(Bytes::from_static(b"con"))), Ok(Frame::data(Bytes::from_static(b"tent")))];
            if !is_whole {
                frames.push(Err("broken"));
            }
            let seen = Seen::default();
            let content =
                UploadBody::new(StreamBody::new(futures_util::stream::iter(frames))).observed_by(seen.clone());
            assert_eq!(content.body.collect().await.is_ok(), is_whole);
            let (bytes, ends) = seen.0.lock().clone();
            assert_eq!((&*bytes, ends > 0), (&b"content"[..], is_whole));
        }
    }
}
