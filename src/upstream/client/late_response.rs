//! Late responses: a request that timed out goes on, and its response serves the next equal request.
//!
//! An upstream that has to fetch content from its own upstream may need longer than a client waits; a new request each
//! time would make it begin anew each time. What must hold: a response serves one request that is equal in all that was
//! sent, but for the targets of redirects, and for the token, if it has the same principal, realm, service and scope;
//! only a response that serves the next request is kept, for a bounded time, and it tells how long; none is used after
//! a change at the upstream, or after a refusal of its credential, if its request began before that ended; all tasks
//! end with the value.

mod arrival;
pub(crate) mod late_request;
mod pending;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{StatusCode, Version};
use parking_lot::Mutex;
use reqwest::Response;
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    arrival::{ReceivedAt, with_remaining_retry_after},
    late_request::{CredentialScope, Identifier, LateRequest},
    pending::{MAX_EQUAL, PendingResponse, PendingTable},
};
pub(in crate::upstream) use self::{
    arrival::{received_at, resident_time},
    pending::PendingResponses,
};
use super::{
    super::{error::Error, principal::Principal},
    outbound_request::OutboundRequest,
};

/// How long a request goes on without a client.
const MAX_WAIT: Duration = Duration::from_secs(180);
/// How long its response is kept.
const MAX_KEPT: Duration = Duration::from_secs(60);
/// How many requests go on, or have a response that is kept, at a time.
const MAX_LATE: usize = 32;
/// How many responses with long bodies are kept that came over HTTP/2: each of them, unread, holds a part of a
/// connection's flow-control window.
const MAX_LONG: usize = 2;
/// A body that announces no more bytes than this is not long.
const MAX_SHORT: u64 = 64 * 1024;

/// A request that is being sent.
pub(in crate::upstream) type Sending = BoxFuture<'static, Result<Response, Error>>;

pub(in crate::upstream) struct LateResponses {
    identifier: Identifier,
    /// At most as long as what an upstream with client credentials says is believed, also of anonymous clients.
    max_kept: Duration,
    table: Arc<Mutex<PendingTable>>,
    places: Arc<Semaphore>,
    long_places: Arc<Semaphore>,
    count: AtomicU64,
    end: CancellationToken,
    _end: DropGuard,
}

impl LateResponses {
    /// `client_ttl`: how long a response to a client proves what that client may have.
    pub(in crate::upstream) fn new(client_ttl: Option<Duration>) -> Self {
        let end = CancellationToken::new();
        Self {
            identifier: Identifier::new(),
            max_kept: client_ttl.map_or(MAX_KEPT, |ttl| ttl.min(MAX_KEPT)),
            table: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_LATE)),
            long_places: Arc::new(Semaphore::new(MAX_LONG)),
            count: AtomicU64::new(0),
            _end: end.clone().drop_guard(),
            end,
        }
    }

    /// To be called before the request is sent. `None`: no response to it is kept.
    pub(in crate::upstream) fn identify(&self, request: &OutboundRequest<'_>) -> Option<LateRequest> {
        self.identifier.identify(request, self.table.lock().count)
    }

    /// Takes the equal requests that are under way or answered.
    pub(in crate::upstream) fn take(&self, request: &LateRequest) -> PendingResponses {
        PendingResponses(self.table.lock().pending.remove(&request.id).unwrap_or_default())
    }

    /// Lets them go on. A response that arrived meanwhile is returned.
    pub(in crate::upstream) fn put_back(
        &self,
        request: &LateRequest,
        PendingResponses(taken): PendingResponses,
    ) -> Option<Response> {
        let mut table = self.table.lock();
        if !table.is_current(request) {
            return None;
        }
        for mut pending in taken {
            match pending.response.try_recv() {
                Ok(Ok(response)) => return Some(with_remaining_retry_after(response)),
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => {}
                Err(oneshot::error::TryRecvError::Empty) => table.pending.entry(request.id).or_default().push(pending),
            }
        }
        None
    }

    /// Lets a request go on whose client got a timeout; `may_be_long`: the response may have a long body.
    pub(in crate::upstream) fn keep(&self, request: LateRequest, sending: Sending, may_be_long: bool) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (give, response) = oneshot::channel();
        let gone = CancellationToken::new();
        let guard = gone.clone().drop_guard();
        if !self.insert(&request, number, response, guard) {
            return;
        }
        let task = LateTask {
            request,
            number,
            give,
            gone,
            max_kept: self.max_kept,
            table: self.table.clone(),
            long_places: self.long_places.clone(),
        };
        tokio::spawn(self.end.clone().run_until_cancelled_owned(task.run(sending, may_be_long)));
    }

    /// Whether there is a place for it.
    fn insert(
        &self,
        request: &LateRequest,
        number: u64,
        response: oneshot::Receiver<Result<Response, Error>>,
        gone: DropGuard,
    ) -> bool {
        let mut table = self.table.lock();
        if !table.is_current(request) {
            return false;
        }
        if self.places.available_permits() == 0 {
            table.drop_oldest_unanswered();
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else { return false };
        let equal = table.pending.entry(request.id).or_default();
        equal.truncate(MAX_EQUAL - 1);
        let (since, scope) = (Instant::now(), request.scope);
        equal.push(PendingResponse { number, since, scope, response, _place: place, _gone: gone });
        true
    }

    /// Begins a change at the upstream, which ends when the value is dropped: requests that began before then are
    /// outdated.
    pub(in crate::upstream) fn change(&self) -> Change<'_> {
        self.table.lock().clear();
        Change(self)
    }

    /// The upstream, or its realm, has refused a credential: earlier requests with it are outdated.
    pub(in crate::upstream) fn refused(&self, principal: Option<Principal>, request: Option<&LateRequest>) {
        if let Some(scope) = CredentialScope::of(principal).or(request.map(|request| request.scope)) {
            self.table.lock().refuse(scope);
        }
    }
}

/// A request that goes on without a client.
struct LateTask {
    request: LateRequest,
    number: u64,
    give: oneshot::Sender<Result<Response, Error>>,
    /// Cancelled when the request is not pending any more.
    gone: CancellationToken,
    max_kept: Duration,
    table: Arc<Mutex<PendingTable>>,
    long_places: Arc<Semaphore>,
}

impl LateTask {
    async fn run(mut self, sending: Sending, may_be_long: bool) {
        let LateRequest { scope, has_credential, has_token, .. } = self.request;
        let result = tokio::select! {
            result = timeout(MAX_WAIT, sending) => result.ok(),
            // It is not pending any more, and no request waits for it.
            () = self.give.closed() => None,
        };
        let Some(Ok(mut response)) = result else {
            self.remove();
            return;
        };
        let is_refused = has_credential && is_refusal(response.status());
        if is_refused {
            self.table.lock().refuse(scope);
            if has_token {
                // The next request may have another token.
                return;
            }
        }
        // Unread, it holds a part of the window of a connection that other requests share.
        let is_long = may_be_long && response.content_length().is_none_or(|len| len > MAX_SHORT);
        let place =
            (is_long && response.version() == Version::HTTP_2).then(|| self.long_places.clone().try_acquire_owned());
        let is_kept = serves_the_next(response.status()) && !is_refused && place.as_ref().is_none_or(Result::is_ok);
        // A response that is not kept serves only a request that waits for it now.
        if !is_kept && self.remove() {
            return;
        }
        response.extensions_mut().get_or_insert(ReceivedAt(Instant::now()));
        let Self { request, number, give, gone, max_kept, table, .. } = self;
        if give.send(Ok(response)).is_ok() && is_kept {
            let _ = timeout(max_kept, gone.cancelled()).await;
        }
        table.lock().remove(request.id, number);
    }

    /// Whether it was still pending.
    fn remove(&self) -> bool {
        self.table.lock().remove(self.request.id, self.number)
    }
}

/// Whether the response is as good a minute later. An outage or a rate limit may have ended, and missing content may
/// have been pushed.
pub(in crate::upstream) fn serves_the_next(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection() || status == StatusCode::UNAUTHORIZED
}

/// Whether the upstream refuses the credential.
pub(in crate::upstream) fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// A change at the upstream that is under way.
pub(in crate::upstream) struct Change<'a>(&'a LateResponses);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.table.lock().clear();
    }
}

#[cfg(test)]
mod tests;
