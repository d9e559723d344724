//! Reads: an object or a part of it, as it arrives or at once; what there is to know of one.

use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use object_store::{GetOptions, GetRange, ObjectStoreExt as _};

use super::{
    Lane, REQUEST_TIMEOUT, Store,
    error::Error,
    error_kind::ErrorKind,
    labels::{Direction, StoreOperation},
    names::ObjectName,
};
use crate::metrics::Metrics;

/// From a request to the head of its response. A client waits so long before the registry is asked.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);
/// For all of a small object.
const SMALL_TIMEOUT: Duration = Duration::from_secs(10);

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

/// The bytes of an object as they arrive, without a timeout of their own.
pub(crate) struct Body {
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    metrics: Metrics,
}

impl Stream for Body {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(next) = std::task::ready!(self.stream.poll_next_unpin(cx)) else { return Poll::Ready(None) };
        if let Ok(bytes) = &next {
            self.metrics.store_bytes(Direction::In, bytes.len() as u64);
        }
        Poll::Ready(Some(next.map_err(|error| Error::of_engine(&error))))
    }
}

impl Store {
    /// An object, or a part of it. Its bytes are to be verified.
    ///
    /// # Errors
    /// `Missing`, or the store did not answer within 5 s.
    pub(crate) async fn get(&self, name: &ObjectName, part: Part) -> Result<Object, Error> {
        if self.is_distrusted(name) {
            return Err(Error::new(ErrorKind::NotAsked, "this object had wrong bytes"));
        }
        let path = self.path(name);
        let options = GetOptions { range: part.range(), ..GetOptions::default() };
        let request = object_store::ObjectStore::get_opts(&*self.0.engine, &path, options);
        let result = self.call(Lane::Read, StoreOperation::Get, FIRST_BYTE_TIMEOUT, request).await?;
        let (range, len, metrics) = (result.range.clone(), result.meta.size, self.0.metrics.clone());
        Ok(Object { range, len, body: Body { stream: result.into_stream(), metrics } })
    }

    /// All of an object of at most `max` bytes, within 10 s. Its bytes are to be verified.
    ///
    /// # Errors
    /// As [`Store::get`]; or it is longer, or broke.
    pub(crate) async fn get_small(&self, name: &ObjectName, max: usize) -> Result<Bytes, Error> {
        let read = async {
            let mut object = self.get(name, Part::default()).await?;
            let too_long = || Error::new(ErrorKind::Failed, format!("the object {name} has more than {max} bytes"));
            if object.len > max as u64 {
                return Err(too_long());
            }
            let mut content = BytesMut::new();
            while let Some(piece) = object.body.next().await {
                content.extend_from_slice(&piece.inspect_err(|error| self.note_broken(error))?);
                if content.len() > max {
                    return Err(too_long());
                }
            }
            Ok(content.freeze())
        };
        match tokio::time::timeout(SMALL_TIMEOUT, read).await {
            Ok(read) => read,
            Err(_) => {
                let error = Error::timeout(SMALL_TIMEOUT);
                self.note_broken(&error);
                Err(error)
            }
        }
    }

    /// Notes that the connection broke while an object came.
    pub(crate) fn broke(&self) {
        self.note_broken(&Error::new(ErrorKind::Unreachable, "the connection broke while an object came"));
    }

    /// Notes that the bytes of an object stopped coming.
    pub(crate) fn stalled(&self) {
        self.note_broken(&Error::new(ErrorKind::Timeout, "the bytes of an object stopped coming"));
    }

    fn note_broken(&self, error: &Error) {
        self.count(StoreOperation::Get, Some(error));
        if let Ok(pass) = self.admit(Lane::Read) {
            self.judge(Lane::Read, pass, Some(error), super::Weight::Light);
        }
    }

    /// How long an object is; `None`: there is none. Before an upload.
    ///
    /// # Errors
    /// The store did not answer.
    pub(crate) async fn head(&self, name: &ObjectName) -> Result<Option<u64>, Error> {
        let path = self.path(name);
        let request = self.0.engine.head(&path);
        match self.call(Lane::Look, StoreOperation::Head, REQUEST_TIMEOUT, request).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) if error.kind == ErrorKind::Missing => Ok(None),
            Err(error) => Err(error),
        }
    }
}
