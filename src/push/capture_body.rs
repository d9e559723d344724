//! The capture of an upload's content for the cache, over all requests of the upload.
//!
//! Every doubt ends the capture and never the push: a part that does not continue the captured content, a request that
//! broke off, a response that is not a success. Only the digest proves that the content is the blob.

use std::{mem, sync::Arc};

use parking_lot::Mutex;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use super::{Push, session::Captured};
use crate::{
    cache::{Capture, CaptureError, Captures, Source},
    oci::{Digest, query},
    route::Write,
    upstream::{BodyObserver, UploadBody, WriteResponse},
};

/// What one request does to the capture of its upload. Dropped, it ends the capture.
pub(super) struct UploadCapture {
    step: Step,
    content: SharedContent,
}

/// What a request means for the capture of its upload (pure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The request has no content, and the capture stays as it is: the upload begins, or the client requests its
    /// status.
    Unchanged(Captured),
    /// The first content of the upload.
    First,
    /// More content for the capture of this number.
    More(u64),
    /// The upload ends, or not all of it can be captured.
    End(Captured),
}

/// The content to be captured. Shared with the observer of the request's body.
#[derive(Clone, Default)]
struct SharedContent(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    capture: Option<Capture>,
    /// All content of the request has arrived.
    ended: bool,
}

impl UploadCapture {
    pub(super) fn of(push: Push<'_>, captured: Captured, has_content: bool, captures: &Captures) -> Self {
        let headers = &push.head.headers;
        let step = step(push.write, &push.head.method, digest(push).is_some(), captured, has_content);
        let capture = match step {
            Step::First => {
                let source = digest(push).map(|digest| source(push, digest));
                if is_next(headers, 0) { captures.begin(source.as_ref()) } else { None }
            }
            Step::More(number) => captures.take(number).filter(|capture| is_next(headers, capture.position())),
            Step::End(Captured::By(number)) => {
                drop(captures.take(number));
                None
            }
            Step::Unchanged(_) | Step::End(Captured::Begun | Captured::Nothing) => None,
        };
        // Content that is too large is not captured at all, so that nothing is evicted for it.
        let capture = capture.filter(|capture| capture.may_take(announced(headers)));
        Self { step, content: SharedContent(Arc::new(Mutex::new(Content { capture, ended: !has_content }))) }
    }

    /// Captures the content as it is sent.
    pub(super) fn observe(&self, content: UploadBody) -> UploadBody {
        if self.content.0.lock().capture.is_none() {
            return content;
        }
        content.observed_by(self.content.clone())
    }

    /// Handles the upstream's response: commits a blob that is complete. Returns what is captured of the upload from
    /// now on.
    pub(super) async fn end(self, push: Push<'_>, response: &WriteResponse, captures: &Captures) -> Captured {
        if let Step::Unchanged(captured) = self.step {
            return captured;
        }
        let Content { capture, ended } = mem::take(&mut *self.content.0.lock());
        let Some(capture) = capture.filter(|_| ended && response.is_success()) else { return Captured::Nothing };
        if response.is_created() {
            if let Some(digest) = digest(push) {
                capture.commit(source(push, digest)).await;
            }
            return Captured::Nothing;
        }
        match push.write {
            // The upstream accepted nothing: the client sends all content again.
            Write::Begin(_) => Captured::Begun,
            _ if push.head.method == Method::PATCH => captures.keep(capture).map_or(Captured::Nothing, Captured::By),
            // The upstream did not create the blob.
            _ => Captured::Nothing,
        }
    }
}

impl Drop for UploadCapture {
    fn drop(&mut self) {
        // The content may still be arriving. Dropped without the lock.
        let capture = self.content.0.lock().capture.take();
        drop(capture);
    }
}

impl BodyObserver for SharedContent {
    fn piece(&self, bytes: &Bytes) {
        let mut content = self.0.lock();
        let Some(capture) = &mut content.capture else { return };
        if let Err(reason) = capture.push(bytes.clone()) {
            if reason != CaptureError::Ended {
                tracing::info!(%reason, after = capture.position(), "pushed content is not captured for the cache");
            }
            content.capture = None;
        }
    }

    fn end(&self) {
        self.0.lock().ended = true;
    }
}

fn step(write: &Write, method: &Method, names_digest: bool, captured: Captured, has_content: bool) -> Step {
    match (write, captured) {
        (Write::Begin(_), _) if has_content && names_digest => Step::First,
        (Write::Begin(_), _) if has_content => Step::End(captured),
        (Write::Begin(_), _) => Step::Unchanged(Captured::Begun),
        (Write::Upload, _) if matches!(*method, Method::GET | Method::HEAD) => Step::Unchanged(captured),
        (Write::Upload, _) if *method == Method::DELETE => Step::End(captured),
        (Write::Upload, Captured::Begun) if has_content => Step::First,
        (Write::Upload, Captured::By(number)) => Step::More(number),
        (Write::Upload, _) => Step::Unchanged(captured),
        _ => Step::Unchanged(Captured::Nothing),
    }
}

/// Whether the content of a request begins at `position`, as far as the request says.
///
/// Source: OCI distribution specification v1.1, "Pushing a blob in chunks"; `Content-Range` there is `<start>-<end>`.
fn is_next(headers: &HeaderMap, position: u64) -> bool {
    let start = |range: &HeaderValue| {
        let range = range.to_str().ok()?.trim();
        let range = range.strip_prefix("bytes").map_or(range, |range| range.trim_start_matches([' ', '=']));
        range.split_once('-')?.0.parse().ok()
    };
    headers.get_all(header::CONTENT_RANGE).iter().all(|range| start(range) == Some(position))
}

/// The `Content-Length`; 0 when there is none.
fn announced(headers: &HeaderMap) -> u64 {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// The digest of the whole blob, if the request names it.
fn digest(push: Push<'_>) -> Option<Digest> {
    query::parameter(&push.head.uri, "digest")?.parse().ok()
}

/// The blob that an upload becomes, as the cache knows it.
fn source(push: Push<'_>, digest: Digest) -> Source {
    Source { upstream: push.upstream.clone(), repository: push.repository.clone(), digest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::MountSource;

    #[test]
    fn each_request_has_its_step_in_the_capture() {
        use Captured::{Begun, By, Nothing};
        let begin = Write::Begin(MountSource::Missing);
        let put = Write::PutManifest("1".parse().unwrap());
        for (write, method, names_digest, captured, has_content, expected) in [
            (&begin, Method::POST, false, Nothing, false, Step::Unchanged(Begun)),
            (&begin, Method::POST, true, Nothing, true, Step::First),
            (&begin, Method::POST, false, Nothing, true, Step::End(Nothing)),
            (&Write::Upload, Method::GET, false, By(7), false, Step::Unchanged(By(7))),
            (&Write::Upload, Method::GET, false, Begun, false, Step::Unchanged(Begun)),
            (&Write::Upload, Method::DELETE, false, By(7), false, Step::End(By(7))),
            (&Write::Upload, Method::PATCH, false, Begun, true, Step::First),
            (&Write::Upload, Method::PATCH, false, Begun, false, Step::Unchanged(Begun)),
            (&Write::Upload, Method::PATCH, false, By(7), true, Step::More(7)),
            (&Write::Upload, Method::PATCH, false, By(7), false, Step::More(7)),
            (&Write::Upload, Method::PATCH, false, Nothing, true, Step::Unchanged(Nothing)),
            (&Write::Upload, Method::PUT, true, Begun, true, Step::First),
            (&Write::Upload, Method::PUT, true, By(7), false, Step::More(7)),
            (&Write::Upload, Method::PUT, true, Nothing, true, Step::Unchanged(Nothing)),
            (&put, Method::PUT, false, Nothing, true, Step::Unchanged(Nothing)),
        ] {
            let found = step(write, &method, names_digest, captured, has_content);
            assert_eq!(found, expected, "{write:?} {method} {names_digest} {captured:?} {has_content}");
        }
    }

    #[test]
    fn content_continues_only_where_it_ended() {
        for (range, position, expected) in [
            (None, 0, true),
            (None, 5, true),
            (Some("0-4"), 0, true),
            (Some("5-9"), 5, true),
            (Some("bytes 5-9/*"), 5, true),
            (Some("bytes=5-9"), 5, true),
            (Some("0-4"), 5, false),
            (Some("6-9"), 5, false),
            (Some("5"), 5, false),
            (Some("-5"), 5, false),
            (Some("bytes */9"), 9, false),
            (Some("99999999999999999999-1"), 0, false),
            (Some(""), 0, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(range) = range {
                headers.insert(header::CONTENT_RANGE, HeaderValue::from_static(range));
            }
            assert_eq!(is_next(&headers, position), expected, "{range:?} {position}");
        }
    }
}
