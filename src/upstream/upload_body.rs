//! The body of a client's request on its way to the upstream: a stream, never held as a whole.
//!
//! It is read only as fast as the upstream accepts it, and not before the upstream wants it: the first poll of the body
//! sends the `100 Continue` to a client that expects one.

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

/// How long no byte may pass, whether the client or the upstream is at fault.
const FLOW_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the response may take after the last byte: registries hash the content, and move it to its place.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// Sees the bytes of a body as they pass. Must not block.
type Observer = Arc<OnceLock<Box<dyn Fn(&Bytes) + Send + Sync>>>;

/// The body of a request that is passed on.
pub struct UploadBody {
    pub(super) body: reqwest::Body,
    pub(super) progress: Progress,
    observer: Observer,
}

impl UploadBody {
    pub(crate) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Sync + Unpin + 'static,
    {
        let progress = Progress::new();
        let observer = Observer::default();
        let body = reqwest::Body::wrap(ObservedBody { body, progress: progress.clone(), observer: observer.clone() });
        Self { body, progress, observer }
    }

    /// Sets the observer; there is one at most.
    pub(crate) fn observed_by(self, observer: impl Fn(&Bytes) + Send + Sync + 'static) -> Self {
        let _ = self.observer.set(Box::new(observer));
        self
    }
}

/// How far a body has come, for the deadline of the response.
#[derive(Clone)]
pub(super) struct Progress(Arc<Mutex<State>>);

#[derive(Clone, Copy)]
struct State {
    last: Instant,
    ended: bool,
    /// Whether the client left, or sent a malformed body.
    broken: bool,
}

impl Progress {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State { last: Instant::now(), ended: false, broken: false })))
    }

    /// For a request without a body.
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

    /// Whether the client, and not the upstream, broke off the body.
    pub(super) fn is_broken(&self) -> bool {
        self.0.lock().broken
    }

    /// The deadline if no byte passes until then, and its distance from the last byte.
    pub(super) fn deadline(&self) -> (Instant, Duration) {
        let State { last, ended, .. } = *self.0.lock();
        let limit = if ended { ANSWER_TIMEOUT } else { FLOW_TIMEOUT };
        (last + limit, limit)
    }
}

/// A body that reports its progress. Trailers are dropped: registries use none.
struct ObservedBody<B> {
    body: B,
    progress: Progress,
    observer: Observer,
}

impl<B> Body for ObservedBody<B>
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
            if let Some(observer) = self.observer.get()
                && let Some(bytes) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref())
            {
                observer(bytes);
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
    async fn each_piece_extends_the_deadline_and_the_end_sets_another() {
        let begun = Instant::now();
        let progress = Progress::new();
        let body = StreamBody::new(futures_util::stream::iter(
            [&b"a"[..], b"b"].map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece)))),
        ));
        let mut observed = ObservedBody { body, progress: progress.clone(), observer: Observer::default() };
        assert_eq!(progress.deadline(), (begun + FLOW_TIMEOUT, FLOW_TIMEOUT));
        for seconds in [1, 2] {
            tokio::time::advance(Duration::from_secs(1)).await;
            observed.frame().await.unwrap().unwrap();
            assert_eq!(progress.deadline().0, begun + Duration::from_secs(seconds) + FLOW_TIMEOUT);
        }
        assert!(observed.frame().await.is_none());
        assert_eq!(progress.deadline(), (begun + Duration::from_secs(2) + ANSWER_TIMEOUT, ANSWER_TIMEOUT));
        assert_eq!(Progress::ended().deadline().1, ANSWER_TIMEOUT);
    }

    #[tokio::test]
    async fn a_known_length_stays_known() {
        let body = Full::new(Bytes::from_static(b"content"));
        let observed = ObservedBody { body, progress: Progress::new(), observer: Observer::default() };
        assert_eq!(observed.size_hint().exact(), Some(7));
        assert_eq!(observed.collect().await.unwrap().to_bytes(), "content");
    }

    #[tokio::test]
    async fn an_observer_sees_each_piece() {
        let frames = [&b"con"[..], b"tent"].map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece))));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let observer = {
            let seen = seen.clone();
            move |bytes: &Bytes| seen.lock().push(bytes.clone())
        };
        let content = UploadBody::new(StreamBody::new(futures_util::stream::iter(frames))).observed_by(observer);
        assert_eq!(content.body.collect().await.unwrap().to_bytes(), "content");
        assert_eq!(*seen.lock(), ["con", "tent"]);
    }
}
