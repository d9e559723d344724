//! What passes of an upload, seen by a tee of the cache: which one, and what becomes of it.
//!
//! Every doubt ends the tee and nothing else: a part that does not follow what is there, a request that broke off, an
//! answer other than yes. That it is the right blob is said by its digest alone.

use std::{mem, sync::Arc};

use parking_lot::{Mutex, MutexGuard};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use super::{Push, request::parameter, session::Kept};
use crate::{
    cache::{Capture, CaptureError, Captures, Source},
    oci::{Digest, Repository},
    route::Write,
    upstream::{BodyObserver, UploadBody, Upstream, WriteResponse},
};

/// What one request does to the tee of its upload. Dropped, it ends that.
pub(super) struct UploadCapture {
    step: Step,
    flow: Flow,
}

/// What a request is for an upload (pure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing is sent, and what is kept stays: of an upload that begins, that asks how far it is, or that is none.
    Stays(Kept),
    /// The first that is sent.
    First,
    /// More for the tee of this number.
    More(u64),
    /// It is over, or not all of it can be kept.
    Over(Kept),
}

/// The bytes on their way into the tee, for as long as there is one.
#[derive(Clone, Default)]
struct Flow(Arc<Mutex<Flowing>>);

#[derive(Default)]
struct Flowing {
    tee: Option<Capture>,
    /// All of the request's content came.
    ended: bool,
}

impl UploadCapture {
    pub(super) fn of(push: Push<'_>, kept: Kept, has_content: bool, upstream: &Upstream, tees: &Captures) -> Self {
        let step = step(push.write, push.method, digest(push).is_some(), kept, has_content);
        let tee = match step {
            Step::First => {
                let source = digest(push).map(|digest| source(upstream, push.repository, digest));
                if is_next(push.headers, 0) { tees.begin(source.as_ref()) } else { None }
            }
            Step::More(number) => tees.take(number).filter(|tee| is_next(push.headers, tee.position())),
            Step::Over(Kept::By(number)) => {
                drop(tees.take(number));
                None
            }
            Step::Stays(_) | Step::Over(Kept::Begun | Kept::Nothing) => None,
        };
        // What is too large is not even begun, so that nothing is evicted for it.
        let tee = tee.filter(|tee| tee.may_take(announced(push.headers)));
        Self { step, flow: Flow(Arc::new(Mutex::new(Flowing { tee, ended: !has_content }))) }
    }

    /// Has the tee see the content.
    pub(super) fn put_on(&self, content: UploadBody) -> UploadBody {
        if self.flow.state().tee.is_none() {
            return content;
        }
        content.observed_by(self.flow.clone())
    }

    /// The upstream has answered: commits what is whole; what else is kept of the upload from now on.
    pub(super) async fn take_off(
        self,
        push: Push<'_>,
        written: &WriteResponse,
        upstream: &Upstream,
        tees: &Captures,
    ) -> Kept {
        if let Step::Stays(kept) = self.step {
            return kept;
        }
        let Flowing { tee, ended } = mem::take(&mut *self.flow.state());
        let Some(tee) = tee.filter(|_| ended && written.is_success()) else { return Kept::Nothing };
        if written.is_created() {
            if let Some(digest) = digest(push) {
                tee.commit(source(upstream, push.repository, digest)).await;
            }
            return Kept::Nothing;
        }
        match push.write {
            // It took nothing, and waits for all of it to be sent again.
            Write::Begin(_) => Kept::Begun,
            _ if *push.method == Method::PATCH => tees.keep(tee).map_or(Kept::Nothing, Kept::By),
            // An end that is none.
            _ => Kept::Nothing,
        }
    }
}

impl Drop for UploadCapture {
    fn drop(&mut self) {
        // The content may be on its way still.
        let gone = self.flow.state().tee.take();
        drop(gone);
    }
}

impl Flow {
    fn state(&self) -> MutexGuard<'_, Flowing> {
        self.0.lock()
    }
}

impl BodyObserver for Flow {
    fn piece(&self, bytes: &Bytes) {
        let mut state = self.state();
        let Some(tee) = &mut state.tee else { return };
        if let Err(reason) = tee.push(bytes.clone()) {
            if reason != CaptureError::Ended {
                tracing::info!(%reason, after = tee.position(), "what is pushed is not kept");
            }
            state.tee = None;
        }
    }

    fn end(&self) {
        self.state().ended = true;
    }
}

fn step(write: &Write, method: &Method, names_digest: bool, kept: Kept, has_content: bool) -> Step {
    match (write, kept) {
        (Write::Begin(_), _) if has_content && names_digest => Step::First,
        (Write::Begin(_), _) if has_content => Step::Over(kept),
        (Write::Begin(_), _) => Step::Stays(Kept::Begun),
        (Write::Upload, _) if matches!(*method, Method::GET | Method::HEAD) => Step::Stays(kept),
        (Write::Upload, _) if *method == Method::DELETE => Step::Over(kept),
        (Write::Upload, Kept::Begun) if has_content => Step::First,
        (Write::Upload, Kept::By(number)) => Step::More(number),
        (Write::Upload, _) => Step::Stays(kept),
        _ => Step::Stays(Kept::Nothing),
    }
}

/// Whether what a request sends begins at `position`, as far as it says where that is.
///
/// Source: OCI distribution specification v1.1, "Pushing a blob in chunks"; `UploadBody-Range` there is `<start>-<end>`.
fn is_next(headers: &HeaderMap, position: u64) -> bool {
    let start = |range: &HeaderValue| {
        let range = range.to_str().ok()?.trim();
        let range = range.strip_prefix("bytes").map_or(range, |range| range.trim_start_matches([' ', '=']));
        range.split_once('-')?.0.parse().ok()
    };
    headers.get_all(header::CONTENT_RANGE).iter().all(|range| start(range) == Some(position))
}

/// How many bytes a request says that it has; none if it does not say.
fn announced(headers: &HeaderMap) -> u64 {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// The digest that a request names as that of the whole.
fn digest(push: Push<'_>) -> Option<Digest> {
    parameter(push.uri, "digest")?.parse().ok()
}

/// The blob that an upload becomes, as the cache knows it.
fn source(upstream: &Upstream, repository: &Repository, digest: Digest) -> Source {
    Source { upstream: upstream.clone(), repository: repository.clone(), digest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::MountSource;

    #[test]
    fn each_request_has_its_part_in_what_is_kept() {
        use Kept::{Begun, By, Nothing};
        let begin = Write::Begin(MountSource::Unsaid);
        let put = Write::PutManifest("1".parse().unwrap());
        for (write, method, names_digest, kept, has_content, expected) in [
            (&begin, Method::POST, false, Nothing, false, Step::Stays(Begun)),
            (&begin, Method::POST, true, Nothing, true, Step::First),
            (&begin, Method::POST, false, Nothing, true, Step::Over(Nothing)),
            (&Write::Upload, Method::GET, false, By(7), false, Step::Stays(By(7))),
            (&Write::Upload, Method::GET, false, Begun, false, Step::Stays(Begun)),
            (&Write::Upload, Method::DELETE, false, By(7), false, Step::Over(By(7))),
            (&Write::Upload, Method::PATCH, false, Begun, true, Step::First),
            (&Write::Upload, Method::PATCH, false, Begun, false, Step::Stays(Begun)),
            (&Write::Upload, Method::PATCH, false, By(7), true, Step::More(7)),
            (&Write::Upload, Method::PATCH, false, By(7), false, Step::More(7)),
            (&Write::Upload, Method::PATCH, false, Nothing, true, Step::Stays(Nothing)),
            (&Write::Upload, Method::PUT, true, Begun, true, Step::First),
            (&Write::Upload, Method::PUT, true, By(7), false, Step::More(7)),
            (&Write::Upload, Method::PUT, true, Nothing, true, Step::Stays(Nothing)),
            (&put, Method::PUT, false, Nothing, true, Step::Stays(Nothing)),
        ] {
            let found = step(write, &method, names_digest, kept, has_content);
            assert_eq!(found, expected, "{write:?} {method} {names_digest} {kept:?} {has_content}");
        }
    }

    #[test]
    fn only_what_follows_is_next() {
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
