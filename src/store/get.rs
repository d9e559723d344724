//! Reads: an object or a part of it, as it arrives or at once; what there is to know of one.
//!
//! What must hold: a head proves nothing about reads. Only an object that came to its end does: a server may know names
//! and lengths while those that have the bytes are dead.

use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{GetOptions, GetRange, ObjectStoreExt as _};
use tokio::time::{Instant, Sleep};

use super::{
    Lane, REQUEST_TIMEOUT, Store,
    breaker::{Pass, Weight},
    error::Error,
    error_kind::ErrorKind,
    labels::{Direction, StoreOperation},
    names::ObjectName,
    within,
};
use crate::metrics::Metrics;

/// From a request to the first byte of its object. A client waits so long before the registry is asked.
pub(super) const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long no byte may come after that: shorter than a registry's time, since there is another source.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The requested bytes of an object, the first and the last included; `last` is `None`: to the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub first: u64,
    pub last: Option<u64>,
}

impl Part {
    fn range(self) -> Option<GetRange> {
        match (self.first, self.last) {
            (0, None) => None,
            (first, None) => Some(GetRange::Offset(first)),
            (first, Some(last)) => Some(GetRange::Bounded(first..last.saturating_add(1))),
        }
    }
}

/// An object, or a part of one, as it arrives.
pub(crate) struct Object {
    /// Which bytes of the object these are.
    pub range: Range<u64>,
    /// How long the whole object is.
    pub len: u64,
    pub body: Body,
}

/// The bytes of an object as they arrive. What becomes of them is what shows how reads are.
pub(crate) struct Body {
    /// What came with the head.
    first: Option<Bytes>,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    /// How many bytes are still to come.
    missing: u64,
    /// Ends a wait for bytes.
    idle: Pin<Box<Sleep>>,
    /// A reader may come back after a while: that time is not the store's.
    is_waiting: bool,
    reading: Option<Reading>,
    metrics: Metrics,
}

/// A read whose end is not noted yet.
struct Reading {
    store: Store,
    pass: Pass,
}

impl Reading {
    fn end(self, error: Option<&Error>) {
        if error.is_some() {
            self.store.count(StoreOperation::Get, error);
        }
        self.store.judge(Lane::Read, self.pass, error, Weight::Heavy);
    }
}

impl Body {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(self.arrived(Some(Ok(first))));
        }
        match self.stream.poll_next_unpin(cx) {
            Poll::Ready(next) => {
                self.is_waiting = false;
                Poll::Ready(self.arrived(next))
            }
            Poll::Pending => {
                if !std::mem::replace(&mut self.is_waiting, true) {
                    self.idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
                }
                std::task::ready!(self.idle.as_mut().poll(cx));
                let error = Error::new(ErrorKind::Timeout, "the bytes of an object stopped coming");
                Poll::Ready(Some(Err(self.failed(error))))
            }
        }
    }

    fn arrived(&mut self, next: Option<object_store::Result<Bytes>>) -> Option<Result<Bytes, Error>> {
        match next {
            Some(Ok(bytes)) => {
                let len = bytes.len() as u64;
                self.metrics.store_bytes(Direction::In, len);
                let Some(missing) = self.missing.checked_sub(len) else {
                    return Some(Err(self.failed(Error::new(ErrorKind::Failed, "an object is longer than announced"))));
                };
                self.missing = missing;
                // The reader may ask for no more.
                if missing == 0 {
                    self.end(None);
                }
                Some(Ok(bytes))
            }
            Some(Err(error)) => Some(Err(self.failed(Error::of_engine(&error)))),
            None if self.missing > 0 => {
                Some(Err(self.failed(Error::new(ErrorKind::Unreachable, "an object ended too early"))))
            }
            None => None,
        }
    }

    fn failed(&mut self, error: Error) -> Error {
        self.end(Some(&error));
        // Nothing comes after an error.
        (self.stream, self.missing) = (stream::empty().boxed(), 0);
        error
    }

    fn end(&mut self, error: Option<&Error>) {
        if let Some(reading) = self.reading.take() {
            reading.end(error);
        }
    }
}

impl Stream for Body {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

impl Store {
    /// An object, or a part of it. Its bytes are to be verified.
    ///
    /// # Errors
    /// `Missing`, or no byte came within 5 s.
    pub(crate) async fn get(&self, name: &ObjectName, part: Part) -> Result<Object, Error> {
        self.get_within(FIRST_BYTE_TIMEOUT, name, part).await
    }

    async fn get_within(&self, limit: Duration, name: &ObjectName, part: Part) -> Result<Object, Error> {
        if self.is_distrusted(name) {
            return Err(Error::new(ErrorKind::NotAsked, "this object had wrong bytes"));
        }
        let pass = self.admit(Lane::Read)?;
        // A store may tell what it has, and fail to read it.
        let mut has_head = false;
        let first = async {
            let path = self.path(name);
            let options = GetOptions { range: part.range(), ..GetOptions::default() };
            let result = object_store::ObjectStore::get_opts(&*self.0.engine, &path, options).await?;
            has_head = true;
            let (range, len) = (result.range.clone(), result.meta.size);
            let mut stream = result.into_stream();
            let first = if range.is_empty() { None } else { stream.try_next().await? };
            Ok::<_, object_store::Error>((range, len, first, stream))
        };
        let result = within(limit, first).await;
        self.count(StoreOperation::Get, result.as_ref().err());
        let (range, len, first, stream) = match result {
            Ok(found) => found,
            Err(error) => {
                let weight = if has_head { Weight::Heavy } else { Weight::Light };
                self.judge(Lane::Read, pass, Some(&error), weight);
                // Clients shall not be sent to it.
                if error.kind == ErrorKind::Missing {
                    self.0.known.note(name, None, Instant::now());
                }
                return Err(error);
            }
        };
        let reading = Reading { store: self.clone(), pass };
        let mut body = Body {
            first,
            stream,
            missing: range.end.saturating_sub(range.start),
            idle: Box::pin(tokio::time::sleep(IDLE_TIMEOUT)),
            is_waiting: false,
            reading: Some(reading),
            metrics: self.0.metrics.clone(),
        };
        if body.missing == 0 {
            body.end(None);
        }
        Ok(Object { range, len, body })
    }

    /// All of an object of at most `max` bytes, within `limit`. Its bytes are to be verified.
    ///
    /// # Errors
    /// As [`Store::get`]; `TooLong`; or it broke.
    pub(crate) async fn get_small(&self, name: &ObjectName, max: usize, limit: Duration) -> Result<Bytes, Error> {
        let end = Instant::now() + limit;
        let mut object = self.get_within(limit.min(FIRST_BYTE_TIMEOUT), name, Part::default()).await?;
        let read = async {
            let too_long = || Error::new(ErrorKind::TooLong, format!("the object {name} has more than {max} bytes"));
            if object.len > max as u64 {
                return Err(too_long());
            }
            let mut content = BytesMut::new();
            while let Some(piece) = object.body.next().await {
                content.extend_from_slice(&piece?);
                if content.len() > max {
                    return Err(too_long());
                }
            }
            Ok(content.freeze())
        };
        // Its bytes come, so that this says nothing about other objects.
        tokio::time::timeout_at(end, read).await.unwrap_or_else(|_| Err(Error::timeout(limit)))
    }

    /// How long an object is; `None`: there is none. Before an upload.
    ///
    /// # Errors
    /// The store did not answer.
    pub(crate) async fn head(&self, name: &ObjectName) -> Result<Option<u64>, Error> {
        let path = self.path(name);
        let request = self.0.engine.head(&path);
        let len = match self.call(Lane::Look, StoreOperation::Head, REQUEST_TIMEOUT, request).await {
            Ok(meta) => Some(meta.size),
            Err(error) if error.kind == ErrorKind::Missing => None,
            Err(error) => return Err(error),
        };
        self.0.known.note(name, len, Instant::now());
        Ok(len)
    }
}
