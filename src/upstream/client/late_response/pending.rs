//! Requests that go on without a client, and their responses.

use std::{collections::HashMap, task::Poll, time::Duration};

use reqwest::Response;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};
use tokio_util::sync::DropGuard;

use super::{
    super::super::error::Error,
    arrival::with_remaining_retry_after,
    late_request::{CredentialScope, LateRequest, RequestId},
};

/// How many equal requests go on at a time.
pub(super) const MAX_EQUAL: usize = 2;
/// How long the second of them keeps its place after its timeout, if a third one comes: the first keeps its own.
pub(super) const MAX_SECOND: Duration = Duration::from_secs(30);
/// How many credentials with refusals are noted at a time.
const MAX_REFUSALS: usize = 1024;

pub(super) struct PendingResponse {
    pub number: u64,
    /// When its client got a timeout.
    pub since: Instant,
    pub scope: CredentialScope,
    pub response: oneshot::Receiver<Result<Response, Error>>,
    pub _place: OwnedSemaphorePermit,
    /// Tells the task that this is not pending any more.
    pub _gone: DropGuard,
}

/// Equal requests that are under way or answered; the oldest first.
#[derive(Default)]
pub(in crate::upstream) struct PendingResponses(pub(super) Vec<PendingResponse>);

impl PendingResponses {
    pub(in crate::upstream) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether no further request may be sent beside these.
    pub(in crate::upstream) fn is_full(&self) -> bool {
        self.0.len() >= MAX_EQUAL && self.0.last().is_some_and(|last| last.since.elapsed() < MAX_SECOND)
    }

    /// Drops all but the oldest, so that a further one may be sent.
    pub(in crate::upstream) fn make_room(&mut self) {
        self.0.truncate(MAX_EQUAL - 1);
    }

    /// The first response; `None`: there is none, and will be none.
    pub(in crate::upstream) async fn first(&mut self) -> Option<Response> {
        std::future::poll_fn(|context| {
            let mut first = None;
            self.0.retain_mut(|pending| {
                if first.is_some() {
                    return true;
                }
                match Future::poll(std::pin::Pin::new(&mut pending.response), context) {
                    Poll::Pending => true,
                    Poll::Ready(result) => {
                        first = result.ok().and_then(Result::ok);
                        false
                    }
                }
            });
            match first {
                None if !self.0.is_empty() => Poll::Pending,
                first => Poll::Ready(first.map(with_remaining_retry_after)),
            }
        })
        .await
    }
}

/// All late requests of one upstream.
#[derive(Default)]
pub(super) struct PendingTable {
    pub pending: HashMap<RequestId, Vec<PendingResponse>>,
    /// Counts changes and refusals.
    pub count: u64,
    /// The count at the last change, and at the last refusal of each credential.
    changed: u64,
    refused: HashMap<CredentialScope, u64>,
}

impl PendingTable {
    /// Whether there was neither a change nor a refusal of its credential since the request began.
    pub(super) fn is_current(&self, request: &LateRequest) -> bool {
        let refused = self.refused.get(&request.scope).copied().unwrap_or(0);
        request.begun >= self.changed && request.begun >= refused
    }

    /// Drops everything, because of a change.
    pub(super) fn clear(&mut self) {
        self.count += 1;
        self.changed = self.count;
        self.refused.clear();
        self.pending.clear();
    }

    /// Drops the responses that depend on a refused credential.
    pub(super) fn refuse(&mut self, scope: CredentialScope) {
        if self.refused.len() >= MAX_REFUSALS && !self.refused.contains_key(&scope) {
            self.clear();
        }
        self.count += 1;
        self.refused.insert(scope, self.count);
        self.retain(|pending| pending.scope != scope);
    }

    fn retain(&mut self, is_kept: impl Fn(&PendingResponse) -> bool) {
        self.pending.retain(|_, equal| {
            equal.retain(&is_kept);
            !equal.is_empty()
        });
    }

    /// Whether it was still in the table.
    pub(super) fn remove(&mut self, id: RequestId, number: u64) -> bool {
        let Some(equal) = self.pending.get_mut(&id) else { return false };
        let before = equal.len();
        equal.retain(|pending| pending.number != number);
        let was_there = equal.len() < before;
        if equal.is_empty() {
            self.pending.remove(&id);
        }
        was_there
    }

    /// Makes room for a newer request.
    pub(super) fn drop_oldest_unanswered(&mut self) {
        let unanswered = self.pending.values().flatten().filter(|pending| pending.response.is_empty());
        if let Some(oldest) = unanswered.map(|pending| pending.number).min() {
            self.retain(|pending| pending.number != oldest);
        }
    }
}
