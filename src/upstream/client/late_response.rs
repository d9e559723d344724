//! Answers that come too late for the request that they were for, and are there for the next one.
//!
//! An upstream that has to fetch what it is asked for may need longer than a client waits; were it asked anew each time, it
//! would begin anew each time. What must hold: an answer is given to one request that is the same in all that was sent, but for
//! where redirects led meanwhile, and for the token, if another one of the same principal, realm, service and scope went with it;
//! only what serves the next request is kept, for a bounded time, and it tells for how long it was; none that was asked for before
//! a change, during one, or before a refusal of its principal is given after it; all tasks end with the value. Token requests by
//! POST are not among them: a refresh token may be good for one request.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use aws_lc_rs::{hmac, rand::SystemRandom};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, StatusCode, Version, header};
use reqwest::Response;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    super::{
        Principal,
        auth::token::{TokenKey, TokenSubject},
        error::{Error, retry_after},
    },
    FIRST_BYTE, Manner, Question,
};
use crate::oci::Operation;

/// How long a request goes on that no client waits for.
const MAX_WAIT: Duration = Duration::from_secs(180);
/// How long its answer is kept.
const MAX_KEPT: Duration = Duration::from_secs(60);
/// How many go on, or have an answer that is kept, at a time.
const MAX_LATE: usize = 32;
/// How many answers with bodies that may be long are kept that came over HTTP/2: each of those holds, unread, a part of a
/// connection's window.
const MAX_LONG: usize = 2;
/// What announces no more bytes than this is not long.
const MAX_SHORT: u64 = 64 * 1024;
/// How many of the same request go on at a time.
const MAX_SAME: usize = 2;
/// For how long the second of them keeps its place, from when it was given up, if a third is asked: the first keeps its own.
const MAX_SECOND: Duration = Duration::from_secs(30);
/// Of how many principals refusals are noted at a time.
const MAX_REFUSALS: usize = 1024;

/// A request on its way.
pub(in crate::upstream) type Sending = BoxFuture<'static, Result<Response, Error>>;

/// What tells requests apart: in whose name, and a hash, since there are passwords among their headers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Id(Option<Principal>, [u8; 32]);

/// What an answer is owed to: what one client may have; where one principal stands for many clients, what it may have by a token
/// for this realm and scope.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Grant {
    Client(Principal),
    Own([u8; 32]),
}

impl Grant {
    fn of(principal: Option<Principal>) -> Option<Self> {
        principal.filter(|principal| *principal != Principal::ANONYMOUS).map(Self::Client)
    }
}

/// A request of which an answer may be kept.
#[derive(Clone, Copy)]
pub(in crate::upstream) struct LateRequest {
    id: Id,
    grant: Grant,
    /// Whether it shows anything, and whether that is a token, in whose place another one may be by the next request.
    is_shown: bool,
    is_token: bool,
    /// How many changes and refusals there were when it began.
    begun: u64,
}

/// When an answer came that was kept.
#[derive(Clone, Copy)]
struct Came(Instant);

pub(in crate::upstream) struct LateResponses {
    key: Option<hmac::Key>,
    /// No longer than what an upstream that decides by its clients says is believed, of anonymous ones, too.
    max_kept: Duration,
    kept: Arc<Mutex<Kept>>,
    places: Arc<Semaphore>,
    long_places: Arc<Semaphore>,
    count: AtomicU64,
    end: CancellationToken,
    _end: DropGuard,
}

#[derive(Default)]
struct Kept {
    /// The oldest first.
    pending: HashMap<Id, Vec<Pending>>,
    /// Counts changes and refusals; the last change, and the last refusal of each, by that count.
    count: u64,
    changed: u64,
    refused: HashMap<Grant, u64>,
}

impl Kept {
    fn is_current(&self, asked: &LateRequest) -> bool {
        let refused = self.refused.get(&asked.grant).copied().unwrap_or(0);
        asked.begun >= self.changed && asked.begun >= refused
    }

    fn forget(&mut self) {
        self.count += 1;
        self.changed = self.count;
        self.refused.clear();
        self.pending.clear();
    }

    fn refuse(&mut self, grant: Grant) {
        if self.refused.len() >= MAX_REFUSALS && !self.refused.contains_key(&grant) {
            self.forget();
        }
        self.count += 1;
        self.refused.insert(grant, self.count);
        self.retain(|pending| pending.grant != grant);
    }

    fn retain(&mut self, is_kept: impl Fn(&Pending) -> bool) {
        self.pending.retain(|_, same| {
            same.retain(&is_kept);
            !same.is_empty()
        });
    }

    /// Whether it was there still.
    fn remove(&mut self, id: Id, number: u64) -> bool {
        let Some(same) = self.pending.get_mut(&id) else { return false };
        let before = same.len();
        same.retain(|pending| pending.number != number);
        let was_there = same.len() < before;
        if same.is_empty() {
            self.pending.remove(&id);
        }
        was_there
    }

    /// Makes room for a newer one.
    fn drop_oldest_unanswered(&mut self) {
        let unanswered = self.pending.values().flatten().filter(|pending| pending.answer.is_empty());
        if let Some(oldest) = unanswered.map(|pending| pending.number).min() {
            self.retain(|pending| pending.number != oldest);
        }
    }
}

struct Pending {
    number: u64,
    /// When the client was told that it takes too long.
    since: Instant,
    grant: Grant,
    answer: oneshot::Receiver<Result<Response, Error>>,
    _place: OwnedSemaphorePermit,
    /// Tells the task that this is not pending any more.
    _gone: DropGuard,
}

/// The same request, as often as it is under way or answered.
#[derive(Default)]
pub(in crate::upstream) struct Taken(Vec<Pending>);

impl Taken {
    pub(in crate::upstream) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether no other one is to be asked beside these.
    pub(in crate::upstream) fn is_full(&self) -> bool {
        self.0.len() >= MAX_SAME && self.0.last().is_some_and(|last| last.since.elapsed() < MAX_SECOND)
    }

    /// Gives up all but one of them if no more may go on.
    pub(in crate::upstream) fn make_room(&mut self) {
        self.0.truncate(MAX_SAME - 1);
    }

    /// The first answer of them; `None`: there is none, and will be none.
    pub(in crate::upstream) async fn answer(&mut self) -> Option<Response> {
        std::future::poll_fn(|context| {
            let mut answered = None;
            self.0.retain_mut(|pending| {
                if answered.is_some() {
                    return true;
                }
                match Future::poll(std::pin::Pin::new(&mut pending.answer), context) {
                    Poll::Pending => true,
                    Poll::Ready(answer) => {
                        answered = answer.ok().and_then(Result::ok);
                        false
                    }
                }
            });
            match answered {
                None if !self.0.is_empty() => Poll::Pending,
                answered => Poll::Ready(answered.map(with_time_left)),
            }
        })
        .await
    }
}

impl LateResponses {
    /// `client_ttl`: for how long an answer to a client is the word on what that client may have.
    pub(in crate::upstream) fn new(client_ttl: Option<Duration>) -> Self {
        let end = CancellationToken::new();
        Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            max_kept: client_ttl.map_or(MAX_KEPT, |ttl| ttl.min(MAX_KEPT)),
            kept: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_LATE)),
            long_places: Arc::new(Semaphore::new(MAX_LONG)),
            count: AtomicU64::new(0),
            _end: end.clone().drop_guard(),
            end,
        }
    }

    /// To be called before anything is sent. `None`: of this request nothing is kept.
    pub(in crate::upstream) fn asked(&self, question: &Question<'_>) -> Option<LateRequest> {
        let Question { manner, principal, token, operation, method, url, start, hop, headers, body } = question;
        let key = self.key.as_ref()?;
        // A login is answered now, by the base or by a realm that is asked for no scope; and a client that may put back what it reads
        // is told how it is now.
        let is_login = match operation {
            Operation::Base => true,
            Operation::Token => url.query_pairs().all(|(name, _)| name != "scope"),
            _ => false,
        };
        if matches!(manner, Manner::Apart | Manner::Push)
            || body.is_some()
            || is_login
            || !matches!(*method, Method::GET | Method::HEAD)
            || headers.get(header::RANGE).is_some_and(|range| range == FIRST_BYTE)
        {
            return None;
        }
        let shown = headers.get(header::AUTHORIZATION);
        let own = Hash::new(key).shown(*token, shown).end();
        let mut hash = Hash::new(key).add(&own).add(method.as_str().as_bytes());
        // Where a redirect leads is signed anew each time: the same host, as many steps from the same start, counts for the same.
        hash = hash.add(start.as_str().as_bytes()).add(&hop.to_be_bytes());
        hash = hash.add(url.origin().ascii_serialization().as_bytes()).add(&[u8::from(shown.is_some())]);
        for (name, value) in headers.iter().filter(|(name, _)| *name != header::AUTHORIZATION) {
            hash = hash.add(name.as_str().as_bytes()).add(value.as_bytes());
        }
        let grant = Grant::of(*principal).unwrap_or(Grant::Own(own));
        let (is_shown, is_token) = (shown.is_some(), shown.is_some() && token.is_some());
        let begun = self.with(|kept| kept.count);
        Some(LateRequest { id: Id(*principal, hash.end()), grant, is_shown, is_token, begun })
    }

    /// The same request, if it is under way already or answered.
    pub(in crate::upstream) fn take(&self, asked: &LateRequest) -> Taken {
        Taken(self.with(|kept| kept.pending.remove(&asked.id)).unwrap_or_default())
    }

    /// They go on. An answer that came meanwhile is returned.
    pub(in crate::upstream) fn put_back(&self, asked: &LateRequest, Taken(taken): Taken) -> Option<Response> {
        self.with(|kept| {
            if !kept.is_current(asked) {
                return None;
            }
            for mut pending in taken {
                match pending.answer.try_recv() {
                    Ok(Ok(answer)) => return Some(with_time_left(answer)),
                    Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => {}
                    Err(oneshot::error::TryRecvError::Empty) => kept.pending.entry(asked.id).or_default().push(pending),
                }
            }
            None
        })
    }

    /// Lets a request go on that no client waits for any more; `may_be_long`: its answer has a body.
    pub(in crate::upstream) fn keep(&self, asked: LateRequest, sending: Sending, may_be_long: bool) {
        let LateRequest { id, grant, is_shown, is_token, .. } = asked;
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (mut give, answer) = oneshot::channel();
        let gone = CancellationToken::new();
        let guard = gone.clone().drop_guard();
        let is_kept = self.with(|kept| {
            if !kept.is_current(&asked) {
                return false;
            }
            if self.places.available_permits() == 0 {
                kept.drop_oldest_unanswered();
            }
            let Ok(place) = self.places.clone().try_acquire_owned() else { return false };
            let same = kept.pending.entry(id).or_default();
            same.truncate(MAX_SAME - 1);
            same.push(Pending { number, since: Instant::now(), grant, answer, _place: place, _gone: guard });
            true
        });
        if !is_kept {
            return;
        }
        let max_kept = self.max_kept;
        let (kept, long_places) = (self.kept.clone(), self.long_places.clone());
        let going_on = self.end.clone().run_until_cancelled_owned(async move {
            let answer = tokio::select! {
                answer = timeout(MAX_WAIT, sending) => answer.ok(),
                // Neither is it pending any more, nor does a request wait for it.
                () = give.closed() => None,
            };
            let kept = || kept.lock();
            let Some(Ok(mut response)) = answer else {
                kept().remove(id, number);
                return;
            };
            let is_refused = is_shown && is_refusal(response.status());
            if is_refused {
                kept().refuse(grant);
                if is_token {
                    // It says nothing of the token of the next request.
                    return;
                }
            }
            // Unread, it holds a part of the window of a connection that others share.
            let is_long = may_be_long && response.content_length().is_none_or(|len| len > MAX_SHORT);
            let place = (is_long && response.version() == Version::HTTP_2).then(|| long_places.try_acquire_owned());
            let is_kept = serves_the_next(response.status()) && !is_refused && place.as_ref().is_none_or(Result::is_ok);
            // What is not kept is for a request that waits.
            if !is_kept && kept().remove(id, number) {
                return;
            }
            response.extensions_mut().get_or_insert(Came(Instant::now()));
            if give.send(Ok(response)).is_ok() && is_kept {
                let _ = timeout(max_kept, gone.cancelled()).await;
            }
            kept().remove(id, number);
        });
        tokio::spawn(going_on);
    }

    /// Something is changed, until the value is dropped: requests that began before its end are outdated then.
    pub(in crate::upstream) fn change(&self) -> Change<'_> {
        self.forget();
        Change(self)
    }

    /// The upstream, or its realm, has refused what was shown: what was asked with it before is outdated.
    pub(in crate::upstream) fn refused(&self, principal: Option<Principal>, asked: Option<&LateRequest>) {
        if let Some(grant) = Grant::of(principal).or(asked.map(|asked| asked.grant)) {
            self.with(|kept| kept.refuse(grant));
        }
    }

    fn forget(&self) {
        self.with(Kept::forget);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        act(&mut self.kept.lock())
    }
}

/// Whether an answer is as good a minute later. An outage or a limit may be over, and what was not there may be.
pub(in crate::upstream) fn serves_the_next(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection() || status == StatusCode::UNAUTHORIZED
}

/// Whether what was shown is refused.
pub(in crate::upstream) fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

struct Hash(hmac::Context);

impl Hash {
    fn new(key: &hmac::Key) -> Self {
        Self(hmac::Context::with_key(key))
    }

    fn add(mut self, bytes: &[u8]) -> Self {
        // The length keeps what follows one another apart.
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    /// Tokens of one kind count for the same, whatever they are.
    fn shown(self, token: Option<&TokenKey>, value: Option<&HeaderValue>) -> Self {
        let Some(TokenKey { subject, realm, service, scope }) = token else {
            return self.add(value.map_or(&[], HeaderValue::as_bytes));
        };
        let subject = match subject {
            TokenSubject::Anonymous => 0,
            TokenSubject::Configured => 1,
            // Which one, the principal tells.
            TokenSubject::Client(_) => 2,
        };
        let service = service.as_deref().unwrap_or_default();
        let hash = self.add(&[subject]).add(realm.as_str().as_bytes()).add(service.as_bytes());
        scope.parameters().iter().fold(hash, |hash, scope| hash.add(scope.as_bytes()))
    }

    fn end(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.sign().as_ref());
        hash
    }
}

/// A change on its way.
pub(in crate::upstream) struct Change<'a>(&'a LateResponses);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}

/// When an answer came, if it was kept since.
pub(in crate::upstream) fn came(response: &Response) -> Option<Instant> {
    response.extensions().get::<Came>().map(|Came(at)| *at)
}

/// For how long an answer was kept.
pub(in crate::upstream) fn waited(response: &Response) -> Duration {
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
    use crate::upstream::{auth::scope::Scope, principal::PrincipalKey};

    fn question<'a>(url: &'a Url, start: &'a Url, hop: usize, principal: Option<Principal>) -> Question<'a> {
        let (manner, token, operation, method, body) = (Manner::Usual, None, Operation::Manifest, Method::GET, None);
        Question { manner, principal, token, operation, method, url, start, hop, headers: HeaderMap::new(), body }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn answering(status: u16) -> Sending {
        let response = http::Response::builder().status(status).header(header::RETRY_AFTER, "60").body("");
        Box::pin(async { Ok(response.unwrap().into()) })
    }

    fn never() -> Sending {
        Box::pin(std::future::pending())
    }

    async fn taken(late: &LateResponses, asked: &LateRequest) -> Option<Response> {
        late.take(asked).answer().await
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_from_when_it_came() {
        let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
        let asked = late.asked(&question(&url, &url, 0, None)).unwrap();
        late.keep(asked, answering(200), false);
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
        let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
        let asked = late.asked(&question(&url, &url, 0, None)).unwrap();
        late.keep(asked, answering(200), false);
        tokio::time::sleep(MAX_KEPT + Duration::from_secs(1)).await;
        assert!(taken(&late, &asked).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_a_client_is_kept_for_as_long_as_its_right() {
        let (late, url) = (LateResponses::new(Some(Duration::from_secs(10))), url("https://a.example/v2/"));
        for (seconds, principal, is_there) in
            [(9, Some(Principal::ANONYMOUS), true), (11, Some(Principal::ANONYMOUS), false), (11, None, false)]
        {
            let asked = late.asked(&question(&url, &url, 0, principal)).unwrap();
            late.keep(asked, answering(200), false);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            assert_eq!(taken(&late, &asked).await.is_some(), is_there, "{seconds} {principal:?}");
        }
    }

    #[test]
    fn what_has_to_be_so_now_is_not_kept() {
        let late = LateResponses::new(None);
        let [tag, scoped, login] = [
            "https://a.example/v2/a/manifests/1",
            "https://a.example/t?service=a&scope=b",
            "https://a.example/t?service=a",
        ]
        .map(url);
        for (url, operation, manner, is_kept) in [
            (&tag, Operation::Manifest, Manner::Usual, true),
            (&tag, Operation::Manifest, Manner::Push, false),
            (&tag, Operation::Manifest, Manner::Apart, false),
            (&scoped, Operation::Token, Manner::Usual, true),
            (&login, Operation::Token, Manner::Usual, false),
            (&tag, Operation::Base, Manner::Usual, false),
        ] {
            let question = Question { operation, manner, ..question(url, url, 0, None) };
            assert_eq!(late.asked(&question).is_some(), is_kept, "{url} {operation:?} {manner:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn none_is_kept_over_a_change() {
        let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
        let ask = || late.asked(&question(&url, &url, 0, None)).unwrap();
        let before = ask();
        late.keep(before, answering(200), false);
        let change = late.change();
        assert!(taken(&late, &before).await.is_none());
        let during = ask();
        late.keep(during, answering(200), false);
        drop(change);
        for outdated in [before, during] {
            late.keep(outdated, answering(200), false);
            assert!(taken(&late, &ask()).await.is_none());
        }
        late.keep(ask(), answering(200), false);
        assert!(taken(&late, &ask()).await.is_some());
    }

    #[test]
    fn requests_are_the_same_wherever_redirects_lead_meanwhile() {
        let late = LateResponses::new(None);
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
            ("x?signature=1", &start, 1, Some(Principal::ANONYMOUS), false),
        ] {
            let url = signed(text);
            assert_eq!(id(question(&url, start, hop, principal)) == expected, is_same, "{text} {start} {hop}");
        }
        let elsewhere = url("https://other.example/x?signature=1");
        assert!(id(question(&elsewhere, &start, 1, None)) != expected);
        let login = Question { operation: Operation::Base, ..question(&start, &start, 0, None) };
        assert!(late.asked(&login).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_serves_the_next_request_is_kept() {
        let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
        for (status, is_kept) in
            [(200, true), (206, true), (307, true), (401, true), (403, false), (404, false), (429, false), (503, false)]
        {
            for is_awaited in [false, true] {
                let asked = late.asked(&question(&url, &url, 0, None)).unwrap();
                late.keep(asked, answering(status), false);
                if !is_awaited {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                let answer = taken(&late, &asked).await;
                assert_eq!(answer.is_some(), is_kept || is_awaited, "{status} {is_awaited}");
            }
        }
    }

    fn with_token(
        key: &TokenKey,
        token: &str,
        url: &Url,
        principal: Option<Principal>,
        late: &LateResponses,
    ) -> LateRequest {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, token.parse().unwrap())]);
        late.asked(&Question { headers, token: Some(key), ..question(url, url, 0, principal) }).unwrap()
    }

    fn key(subject: TokenSubject, realm: &str, repository: &str) -> TokenKey {
        let scope = Scope::Pull(repository.parse().unwrap());
        TokenKey { subject, realm: url(realm), service: None, scope }
    }

    #[test]
    fn a_new_token_of_the_same_kind_makes_no_other_request() {
        let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
        let (subject, realm) = (TokenSubject::Configured, "https://realm.example/");
        let pull = key(subject, realm, "a");
        let first = with_token(&pull, "Bearer 1", &url, None, &late).id;
        assert!(with_token(&pull, "Bearer 2", &url, None, &late).id == first);
        assert!(with_token(&pull, "Bearer 1", &url, Some(Principal::ANONYMOUS), &late).id != first);
        for other in [
            key(subject, realm, "b"),
            key(subject, "https://other.example/", "a"),
            key(TokenSubject::Anonymous, realm, "a"),
            TokenKey { service: Some("s".to_owned()), ..pull.clone() },
        ] {
            assert!(with_token(&other, "Bearer 1", &url, None, &late).id != first, "{other:?}");
        }
        let password = |value: &'static str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]);
            late.asked(&Question { headers, ..question(&url, &url, 0, None) }).unwrap().id
        };
        assert!(password("Basic 1") == password("Basic 1") && password("Basic 1") != password("Basic 2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_principal_has_no_late_answers() {
        let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
        let client = |name: &str| PrincipalKey::generate().unwrap().credential(name.into(), "secret".into()).asker;
        let (ann, bob) = (client("ann"), client("bob"));
        let pull = |who| key(TokenSubject::Client(who), "https://realm.example/", "a");
        let other = |who| key(TokenSubject::Client(who), "https://realm.example/", "b");
        let ask = |who| with_token(&pull(who), "Bearer 1", &url, Some(who), &late);
        let on_its_way = ask(ann);
        for who in [ann, bob] {
            late.keep(ask(who), answering(200), false);
        }
        late.refused(Some(ann), Some(&with_token(&other(ann), "Bearer 1", &url, Some(ann), &late)));
        late.keep(on_its_way, answering(200), false);
        assert!(taken(&late, &ask(ann)).await.is_none());
        assert!(taken(&late, &ask(bob)).await.is_some());
        late.keep(ask(ann), answering(200), false);
        assert!(taken(&late, &ask(ann)).await.is_some());
        // Of forebay's own token for one repository, that is no word on the others.
        let own =
            |name| with_token(&key(TokenSubject::Configured, "https://realm.example/", name), "x", &url, None, &late);
        ["a", "b"].into_iter().for_each(|name| late.keep(own(name), answering(200), false));
        late.refused(None, Some(&own("a")));
        assert!(taken(&late, &own("a")).await.is_none());
        assert!(taken(&late, &own("b")).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_refusal_of_an_earlier_token_is_none_of_the_next() {
        let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
        let pull = key(TokenSubject::Configured, "https://realm.example/", "a");
        let ask = |token| with_token(&pull, token, &url, None, &late);
        for status in [401, 403] {
            let sending = answering(status);
            late.keep(ask("Bearer 1"), sending, false);
            assert!(taken(&late, &ask("Bearer 2")).await.is_none(), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_request_has_the_place_of_the_oldest() {
        let late = LateResponses::new(None);
        let urls: Vec<_> = (0..=MAX_LATE).map(|number| url(&format!("https://a.example/v2/{number}"))).collect();
        let ask = |number: usize| late.asked(&question(&urls[number], &urls[number], 0, None)).unwrap();
        late.keep(ask(0), answering(200), false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        (1..=MAX_LATE).for_each(|number| late.keep(ask(number), never(), false));
        let is_there = |number| !late.take(&ask(number)).is_empty();
        let there: Vec<_> = (0..=MAX_LATE).map(is_there).collect();
        // The first was answered, and stays.
        let expected: Vec<_> = (0..=MAX_LATE).map(|number| number != 1).collect();
        assert_eq!(there, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn two_of_the_same_request_go_on_and_no_more() {
        let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
        let ask = || late.asked(&question(&url, &url, 0, None)).unwrap();
        let begin = || late.keep(ask(), never(), false);
        begin();
        let taken = late.take(&ask());
        assert!(!taken.is_empty() && !taken.is_full());
        late.put_back(&ask(), taken);
        begin();
        let mut taken = late.take(&ask());
        assert!(taken.is_full());
        tokio::time::sleep(MAX_SECOND).await;
        assert!(!taken.is_full());
        taken.make_room();
        assert_eq!(taken.0.len(), 1);
        late.put_back(&ask(), taken);
        (0..3).for_each(|_| begin());
        let taken = late.take(&ask());
        assert_eq!(taken.0.len(), MAX_SAME);
        // The first is the one that has gone on for longest.
        assert_eq!(taken.0[0].number, 0);
    }
}
