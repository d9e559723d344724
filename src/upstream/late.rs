//! Answers that come too late for the request that they were for, and are there for the next one.
//!
//! An upstream that has to fetch what it is asked for may need longer than a client waits; were it asked anew each time, it
//! would begin anew each time. What must hold: an answer is given to one request that is the same in all that was sent, but for
//! where redirects led meanwhile; it is kept for a bounded time, and tells for how long it was; none that was asked for before a
//! change, or during one, is given after it; all tasks end with the value.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_lc_rs::{hmac, rand::SystemRandom};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, header};
use reqwest::Response;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Asker,
    client::{FIRST_BYTE, Manner, Question},
    error::{Error, retry_after},
};
use crate::metrics::Operation;

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

/// What tells requests apart: in whose name, and a hash, since there are passwords among their headers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Id(Option<Asker>, [u8; 32]);

/// A request of which an answer may be kept.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    id: Id,
    /// How many changes there were when it began.
    changes: u64,
}

/// When an answer came that was kept.
#[derive(Clone, Copy)]
struct Came(Instant);

/// A place among all, and one among the long.
type Places = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

pub(super) struct Late {
    key: Option<hmac::Key>,
    kept: Arc<Mutex<Kept>>,
    /// Places of the tasks, which outlive what is pending: a change forgets that, and a client may leave that took it.
    places: Arc<Semaphore>,
    long_places: Arc<Semaphore>,
    count: AtomicU64,
    end: CancellationToken,
    _end: DropGuard,
}

#[derive(Default)]
struct Kept {
    pending: HashMap<Id, Pending>,
    changes: u64,
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
            kept: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_LATE)),
            long_places: Arc::new(Semaphore::new(MAX_LONG)),
            count: AtomicU64::new(0),
            _end: end.clone().drop_guard(),
            end,
        }
    }

    /// To be called before anything is sent. `None`: of this request nothing is kept.
    pub(super) fn asked(&self, question: &Question<'_>) -> Option<Asked> {
        let Question { manner, principal, operation, method, url, start, hop, headers, body } = question;
        let key = self.key.as_ref()?;
        // A login is answered now.
        if *manner == Manner::Apart
            || body.is_some()
            || *operation == Operation::Base
            || !matches!(*method, Method::GET | Method::HEAD)
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
        // Where a redirect leads is signed anew each time: the same host, as many steps from the same start, counts for the same.
        update(start.as_str().as_bytes());
        update(&hop.to_be_bytes());
        update(url.origin().ascii_serialization().as_bytes());
        for (name, value) in headers {
            update(name.as_str().as_bytes());
            update(value.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        Some(Asked { id: Id(*principal, hash), changes: self.with(|kept| kept.changes) })
    }

    /// The same request, if it is under way already or answered.
    pub(super) fn take(&self, asked: &Asked, too_late: impl FnOnce() -> Error + Send + 'static) -> Option<Sending> {
        let Pending { answer, .. } = self.with(|kept| kept.pending.remove(&asked.id))?;
        Some(Box::pin(async move {
            let answer = answer.await.unwrap_or_else(|_| Err(too_late()));
            answer.map(with_time_left)
        }))
    }

    /// Lets a request go on that no client waits for any more; `is_long`: its answer may be.
    pub(super) fn keep(&self, asked: Asked, sending: Sending, is_long: bool) {
        if let Some(places) = self.places(is_long) {
            self.go_on(asked, sending, Some(places));
        }
    }

    /// The same for one that was taken, whose first task has its place still.
    pub(super) fn keep_on(&self, asked: Asked, sending: Sending) {
        self.go_on(asked, sending, None);
    }

    fn go_on(&self, Asked { id, changes }: Asked, sending: Sending, places: Option<Places>) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (mut give, answer) = oneshot::channel();
        let taken = CancellationToken::new();
        let pending = Pending { number, answer, _taken: taken.clone().drop_guard() };
        let is_kept = self.with(|kept| {
            let is_current = kept.changes == changes;
            is_current.then(|| kept.pending.insert(id, pending)).is_some()
        });
        if !is_kept {
            return;
        }
        let kept = self.kept.clone();
        let going_on = self.end.clone().run_until_cancelled_owned(async move {
            let _places = places;
            let answer = tokio::select! {
                answer = timeout(MAX_WAIT, sending) => answer.ok(),
                // Neither is it pending any more, nor does a request wait for it.
                () = give.closed() => None,
            };
            if let Some(mut answer) = answer {
                let is_answer = answer.is_ok();
                if let Ok(response) = &mut answer {
                    response.extensions_mut().get_or_insert(Came(Instant::now()));
                }
                if give.send(answer).is_ok() && is_answer {
                    let _ = timeout(MAX_KEPT, taken.cancelled()).await;
                }
            }
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.pending.get(&id).is_some_and(|pending| pending.number == number) {
                kept.pending.remove(&id);
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

    /// Something is changed, until the value is dropped: what is asked before its end is outdated then.
    pub(super) fn change(&self) -> Change<'_> {
        self.forget();
        Change(self)
    }

    fn forget(&self) {
        self.with(|kept| {
            kept.changes += 1;
            kept.pending.clear();
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        act(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A change on its way.
pub(super) struct Change<'a>(&'a Late);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}

/// When an answer came, if it was kept since.
pub(super) fn came(response: &Response) -> Option<Instant> {
    response.extensions().get::<Came>().map(|Came(at)| *at)
}

/// For how long an answer was kept.
pub(super) fn waited(response: &Response) -> Duration {
    came(response).map_or(Duration::ZERO, |at| at.elapsed())
}

/// That an answer says when to come again was said when it came.
fn with_time_left(mut response: Response) -> Response {
    let (now, waited) = (SystemTime::now(), waited(&response));
    if let Some(after) = retry_after(response.headers(), now.checked_sub(waited).unwrap_or(now)) {
        let left = after.saturating_sub(waited);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use reqwest::Url;

    use super::*;

    fn question<'a>(url: &'a Url, start: &'a Url, hop: usize, principal: Option<Asker>) -> Question<'a> {
        let (manner, operation, method, body) = (Manner::Usual, Operation::Manifest, Method::GET, None);
        Question { manner, principal, operation, method, url, start, hop, headers: HeaderMap::new(), body }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn too_many() -> Sending {
        let response = http::Response::builder().status(429).header(header::RETRY_AFTER, "60").body("");
        Box::pin(async { Ok(response.unwrap().into()) })
    }

    async fn taken(late: &Late, asked: &Asked) -> Option<Response> {
        let taken = late.take(asked, || unreachable!())?;
        Some(taken.await.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_from_when_it_came() {
        let (late, url) = (Late::new(), url("https://a.example/v2/"));
        let asked = late.asked(&question(&url, &url, 0, None)).unwrap();
        late.keep(asked, too_many(), false);
        // The task runs, and its answer lies there.
        tokio::time::sleep(Duration::from_secs(45)).await;
        let answer = taken(&late, &asked).await.unwrap();
        assert_eq!(waited(&answer), Duration::from_secs(45));
        let left: u64 = answer.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert_eq!(left, 15);
        assert!(taken(&late, &asked).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_a_minute() {
        let (late, url) = (Late::new(), url("https://a.example/v2/"));
        let asked = late.asked(&question(&url, &url, 0, None)).unwrap();
        late.keep(asked, too_many(), false);
        tokio::time::sleep(MAX_KEPT + Duration::from_secs(1)).await;
        assert!(taken(&late, &asked).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn none_is_kept_over_a_change() {
        let (late, url) = (Late::new(), url("https://a.example/v2/"));
        let ask = || late.asked(&question(&url, &url, 0, None)).unwrap();
        let before = ask();
        late.keep(before, too_many(), false);
        let change = late.change();
        assert!(taken(&late, &before).await.is_none());
        let during = ask();
        late.keep(during, too_many(), false);
        drop(change);
        for outdated in [before, during] {
            late.keep(outdated, too_many(), false);
            assert!(taken(&late, &ask()).await.is_none());
        }
        late.keep(ask(), too_many(), false);
        assert!(taken(&late, &ask()).await.is_some());
    }

    #[test]
    fn requests_are_the_same_wherever_redirects_lead_meanwhile() {
        let late = Late::new();
        let (start, other) = (url("https://a.example/v2/x"), url("https://a.example/v2/y"));
        let signed = |text| url(&format!("https://cdn.example/{text}"));
        let id = |question: Question<'_>| late.asked(&question).unwrap().id;
        let first = signed("x?signature=1");
        let expected = id(question(&first, &start, 1, None));
        for (text, start, hop, principal, is_same) in [
            ("x?signature=2", &start, 1, None, true),
            ("x/2", &start, 1, None, true),
            ("x?signature=1", &other, 1, None, false),
            ("x?signature=1", &start, 2, None, false),
            ("x?signature=1", &start, 1, Some(Asker::NOBODY), false),
        ] {
            let url = signed(text);
            assert_eq!(id(question(&url, start, hop, principal)) == expected, is_same, "{text} {start} {hop}");
        }
        let elsewhere = url("https://other.example/x?signature=1");
        assert!(id(question(&elsewhere, &start, 1, None)) != expected);
        let login = Question { operation: Operation::Base, ..question(&start, &start, 0, None) };
        assert!(late.asked(&login).is_none());
    }
}
