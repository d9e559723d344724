//! Answers that come too late for the request that they were for, and are there for the next one.
//!
//! An upstream that has to fetch what it is asked for may need longer than a client waits; were it asked anew each time, it
//! would begin anew each time. What must hold: an answer is given to one request that is the same in all that was sent; it is kept
//! for a bounded time, and none is kept over a change; all tasks end with the value.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{hmac, rand::SystemRandom};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, header};
use reqwest::{Response, Url};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{client::FIRST_BYTE, error::Error};

/// How long a request goes on that no client waits for.
const MAX_WAIT: Duration = Duration::from_secs(180);
/// How long its answer is kept.
const MAX_KEPT: Duration = Duration::from_secs(60);
/// How many go on, or have an answer that is kept, at a time; and how many of them for bodies that may be long: over HTTP/2 each of
/// those holds, unread, a part of a connection's window.
const MAX_LATE: usize = 32;
const MAX_LONG: usize = 2;

/// A request on its way.
pub(super) type Sending = BoxFuture<'static, Result<Response, Error>>;

/// What tells requests apart: a hash, since there are passwords among their headers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id([u8; 32]);

/// A place among all, and one among the long.
type Places = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

pub(super) struct Late {
    key: Option<hmac::Key>,
    pending: Arc<Mutex<HashMap<Id, Pending>>>,
    /// Places of the tasks, which outlive what is pending: a change forgets that, and a client may leave that took it.
    places: Arc<Semaphore>,
    long_places: Arc<Semaphore>,
    count: AtomicU64,
    end: CancellationToken,
    _end: DropGuard,
}

struct Pending {
    number: u64,
    answer: oneshot::Receiver<Result<Response, Error>>,
    /// Tells the task that this is not pending any more.
    _taken: DropGuard,
}

impl Late {
    pub(super) fn new() -> Self {
        let end = CancellationToken::new();
        Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            pending: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_LATE)),
            long_places: Arc::new(Semaphore::new(MAX_LONG)),
            count: AtomicU64::new(0),
            _end: end.clone().drop_guard(),
            end,
        }
    }

    /// `None`: of this request nothing is kept.
    pub(super) fn id(&self, method: &Method, url: &Url, headers: &HeaderMap) -> Option<Id> {
        let key = self.key.as_ref()?;
        if !matches!(*method, Method::GET | Method::HEAD)
            || headers.get(header::RANGE).is_some_and(|range| range == FIRST_BYTE)
        {
            return None;
        }
        let mut context = hmac::Context::with_key(key);
        let mut update = |bytes: &[u8]| {
            // The length keeps what follows one another apart.
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        update(method.as_str().as_bytes());
        update(url.as_str().as_bytes());
        for (name, value) in headers {
            update(name.as_str().as_bytes());
            update(value.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        Some(Id(hash))
    }

    /// The same request, if it is under way already or answered.
    pub(super) fn take(&self, id: &Id, too_late: impl FnOnce() -> Error + Send + 'static) -> Option<Sending> {
        let Pending { answer, .. } = self.with(|pending| pending.remove(id))?;
        Some(Box::pin(async move { answer.await.unwrap_or_else(|_| Err(too_late())) }))
    }

    /// Lets a request go on that no client waits for any more; `is_long`: its answer may be.
    pub(super) fn keep(&self, id: Id, sending: Sending, is_long: bool) {
        if let Some(places) = self.places(is_long) {
            self.go_on(id, sending, Some(places));
        }
    }

    /// The same for one that was taken, whose first task has its place still.
    pub(super) fn keep_on(&self, id: Id, sending: Sending) {
        self.go_on(id, sending, None);
    }

    fn go_on(&self, id: Id, sending: Sending, places: Option<Places>) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (mut give, answer) = oneshot::channel();
        let taken = CancellationToken::new();
        let pending = Pending { number, answer, _taken: taken.clone().drop_guard() };
        self.with(|all| all.insert(id, pending));
        let all = self.pending.clone();
        let going_on = self.end.clone().run_until_cancelled_owned(async move {
            let _places = places;
            let answer = tokio::select! {
                answer = timeout(MAX_WAIT, sending) => answer.ok(),
                // Neither is it pending any more, nor does a request wait for it.
                () = give.closed() => None,
            };
            if let Some(answer) = answer {
                let is_answer = answer.is_ok();
                if give.send(answer).is_ok() && is_answer {
                    let _ = timeout(MAX_KEPT, taken.cancelled()).await;
                }
            }
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            if all.get(&id).is_some_and(|pending| pending.number == number) {
                all.remove(&id);
            }
        });
        tokio::spawn(going_on);
    }

    fn places(&self, is_long: bool) -> Option<Places> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let long = match is_long {
            true => Some(self.long_places.clone().try_acquire_owned().ok()?),
            false => None,
        };
        Some((place, long))
    }

    /// Something is changed: what was asked before is outdated.
    pub(super) fn forget(&self) {
        self.with(HashMap::clear);
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Id, Pending>) -> T) -> T {
        act(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
