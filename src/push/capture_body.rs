//! The capture of an upload's content for the cache, over all requests of the upload.
//!
//! Every doubt ends the capture and never the push: content that comes too fast or is too large, a request that broke
//! off, a response that is not a success. Only the digest proves that the content is the blob.

use std::sync::Arc;

use parking_lot::Mutex;

use http::{HeaderMap, Method, header};

use super::Push;
use crate::{
    cache::{Capture, Captures, Source},
    oci::{Digest, query},
    route::Write,
    upstream::{UploadBody, WriteResponse},
};

/// The capture of an upload while one request of the upload has it.
pub(super) struct UploadCapture {
    /// The number of the upload's capture, which has all content of the earlier requests.
    number: Option<u64>,
    /// Shared with the body of the request.
    capture: Arc<Mutex<Option<Capture>>>,
}

impl UploadCapture {
    pub(super) fn of(push: Push<'_>, number: Option<u64>, captures: &Captures) -> Self {
        let capture = match push.write {
            Write::Begin(_) => captures.begin(push.client),
            Write::Upload if !asks_only(&push.head.method) => number.and_then(|number| captures.take(number)),
            _ => None,
        };
        // Content that is too large is not captured at all, so that nothing is evicted for it.
        let capture = capture.filter(|capture| capture.may_take(announced(&push.head.headers)));
        Self { number, capture: Arc::new(Mutex::new(capture)) }
    }

    /// Captures the content as it is sent.
    pub(super) fn observe(&self, content: UploadBody) -> UploadBody {
        let capture = self.capture.clone();
        content.observed_by(move |bytes| {
            let mut capture = capture.lock();
            if capture.as_mut().is_some_and(|capture| capture.push(bytes).is_err()) {
                *capture = None;
            }
        })
    }

    /// Handles the upstream's response: commits a blob that is complete. Returns the number of the capture of the upload
    /// from now on.
    pub(super) async fn end(self, push: Push<'_>, response: &WriteResponse, captures: &Captures) -> Option<u64> {
        let method = &push.head.method;
        if asks_only(method) {
            return self.number;
        }
        // Also if it is of no more use: the content may still be arriving.
        let capture = self.capture.lock().take().filter(|_| response.is_success())?;
        if response.is_created() {
            if let Some(digest) = digest(push) {
                let (upstream, repository) = (push.upstream.clone(), push.repository.clone());
                capture.commit(Source { upstream, repository, digest }).await;
            }
            return None;
        }
        match push.write {
            Write::Begin(_) if capture.is_empty() => captures.keep(capture),
            // The upstream accepted nothing: the client sends all content again.
            Write::Begin(_) => {
                drop(capture);
                captures.keep(captures.begin(push.client)?)
            }
            Write::Upload if method == Method::PATCH => captures.keep(capture),
            // The upload was cancelled, or the upstream did not create the blob.
            _ => None,
        }
    }
}

/// Whether the request asks for the status of the upload, and changes nothing.
fn asks_only(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// The `Content-Length`; 0 when there is none.
fn announced(headers: &HeaderMap) -> u64 {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// The digest of the whole blob, if the request names it.
fn digest(push: Push<'_>) -> Option<Digest> {
    query::parameter(&push.head.uri, "digest")?.parse().ok()
}
