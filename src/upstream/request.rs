//! One operation: over the URLs of the upstream, and through its challenges.
//!
//! A request is sent with what the endpoint's last challenge led to, if anything. A 401 is answered
//! once; a second one is the upstream's last word. A 401 of a redirect's target is no challenge to
//! us: nothing of ours is meant for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use tokio::{sync::Semaphore, time::Instant};

use super::{
    Access, BlobRange, ClientCredential, Config, Context, CredentialSource, Error, ErrorKind, Principal, Registry,
    SetupError, accept_headers,
    auth::{self, Authenticator, Authorization, Cause, Known, scope::Scope},
    client::{
        Manner, Sender, discard,
        redirect_walk::{Followed, follow},
        whole_body,
    },
    failover::{Attempts, Endpoint},
    response::{
        self, RequestKind,
        document::MAX_DOCUMENTS,
        document_budget::Share,
        mislabeled::Guesses,
        rate_limit::RateLimit,
        redaction::{self, PrivateNames},
        refusal::Refusal,
        warning::ContentNotes,
    },
};
use crate::{
    metrics::Metrics,
    oci::{Accept, Digest, Operation, Reference, Repository},
};

/// How long asking one endpoint may take in all: redirects, a token, the second try. Each step has a
/// limit of its own, but nobody waits for the sum of a dozen of them.
const ASKING_TIMEOUT: Duration = Duration::from_secs(60);

/// How long is waited for the reason of a refusal that came without one.
const WORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest `{}` that is read of the base, in bytes.
const MAX_BASE: usize = 1024;

/// Reads all of what came, off the threads that serve.
pub type IsList = Arc<dyn Fn(&Bytes) -> bool + Send + Sync>;

/// What is asked of an upstream, whichever of its URLs is asked.
#[derive(Clone)]
pub(super) struct Ask {
    pub operation: Operation,
    /// GET or HEAD.
    pub method: Method,
    /// What follows `/v2/`.
    pub path_and_query: String,
    pub scope: Scope,
    pub headers: HeaderMap,
    pub manner: Manner,
    /// In whose name; `None`: ours.
    pub client: Option<Arc<ClientCredential>>,
    /// What the answer says of its type counts for nothing: its content tells.
    pub any_type: bool,
    /// No digest is asked for: the content has to say that it is a manifest.
    pub is_tag: bool,
    /// What a manifest's digest has to be, where it is asked for by that.
    pub digest: Option<Digest>,
    /// Whether a list is what it has to be.
    pub is_list: Option<IsList>,
}

impl Ask {
    pub(super) fn manifest(method: Method, repository: &Repository, reference: &Reference, accept: &Accept) -> Self {
        Self {
            operation: Operation::Manifest,
            path_and_query: format!("{repository}/manifests/{reference}"),
            scope: Scope::Pull(repository.clone()),
            any_type: method == Method::GET,
            is_tag: matches!(reference, Reference::Tag(_)),
            method,
            headers: accept_headers(accept),
            manner: Manner::Usual,
            client: None,
            digest: match reference {
                Reference::Digest(digest) => Some(digest.clone()),
                Reference::Tag(_) => None,
            },
            is_list: None,
        }
    }

    pub(super) fn blob(method: Method, repository: &Repository, digest: &Digest, range: BlobRange) -> Self {
        Self {
            operation: Operation::Blob,
            method,
            path_and_query: format!("{repository}/blobs/{digest}"),
            scope: Scope::Pull(repository.clone()),
            headers: range.headers(),
            manner: Manner::Usual,
            client: None,
            any_type: false,
            is_tag: false,
            digest: None,
            is_list: None,
        }
    }

    /// It is asked in addition to a request that is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.manner == Manner::Apart
    }

    fn ping(client: Option<&Arc<ClientCredential>>) -> Self {
        Self {
            operation: Operation::Base,
            method: Method::GET,
            path_and_query: String::new(),
            scope: Scope::Login,
            headers: HeaderMap::new(),
            manner: Manner::Usual,
            client: client.cloned(),
            any_type: false,
            is_tag: false,
            digest: None,
            is_list: None,
        }
    }
}

/// What all handles of one upstream share.
pub(super) struct Shared {
    name: Arc<str>,
    pub(super) registry: Registry,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    pub(super) sender: Sender,
    pub(super) authenticator: Authenticator,
    via: HeaderValue,
    /// Turns to read documents: see `document`.
    pub(super) documents: Semaphore,
    /// Turns to judge blobs: see `judged`. Manifests have others; the room is one.
    pub(super) judged: Semaphore,
    /// Room to read them.
    pub(super) room: Share,
    /// What long answers are taken for.
    pub(super) guesses: Arc<Guesses>,
    connections: usize,
    push: bool,
    credentials: bool,
    access: Access,
    /// Where it is, as far as its name does not tell.
    private_names: Vec<String>,
    /// How many bytes of blobs came, from all its endpoints.
    received: Arc<AtomicU64>,
    metrics: Metrics,
}

impl Shared {
    pub(super) fn new(config: &Config, context: &Context) -> Result<Self, SetupError> {
        if config.urls.is_empty() {
            return Err(SetupError::NoUrl { upstream: config.name.clone() });
        }
        Ok(Self {
            name: config.name.clone(),
            registry: Registry::new(&config.name, &config.urls),
            endpoints: config.urls.iter().cloned().map(Endpoint::new).map(Arc::new).collect(),
            sender: Sender::new(config, context)?,
            authenticator: Authenticator::new(config, context)?,
            via: HeaderValue::from_str(&context.via).map_err(|_| SetupError::Via)?,
            documents: Semaphore::new(MAX_DOCUMENTS),
            judged: Semaphore::new(MAX_DOCUMENTS),
            room: Share::new(context.budget.clone()),
            connections: config.connections.max(1),
            push: config.push,
            credentials: config.credential != CredentialSource::Anonymous,
            access: config.access,
            guesses: Arc::default(),
            private_names: private_names(config),
            received: Arc::default(),
            metrics: context.metrics.clone(),
        })
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Over how many connections one blob may be fetched.
    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    /// Whether changes are passed on to it.
    pub(super) fn allows_push(&self) -> bool {
        self.push
    }

    /// Whether credentials are configured for it.
    pub(super) fn has_credentials(&self) -> bool {
        self.credentials
    }

    /// What an Authorization is for.
    pub(super) fn cause<'a>(&self, scope: &'a Scope, client: Option<&'a ClientCredential>) -> Cause<'a> {
        let client_ttl = match self.access {
            Access::Shared => None,
            Access::Client { ttl, .. } => Some(ttl),
        };
        Cause { scope, client, client_ttl }
    }

    /// Judges an answer; `shown`: what went with the request. A HEAD that refuses a client does not say why: a GET in the same name
    /// does, and is no pull, since it is refused as well.
    async fn check(
        &self,
        endpoint: &Endpoint,
        followed: Followed,
        ask: &Ask,
        shown: Option<&Authorization>,
    ) -> Result<Followed, Error> {
        let asked = self.asked(ask);
        let may_say_more = asked.is_head && asked.by_client && !followed.away;
        let error = match response::check(followed, asked).await {
            Err(error) if may_say_more => error,
            checked => return checked,
        };
        match error.kind {
            ErrorKind::Denied => {}
            // To those without credentials it says that it wants some.
            ErrorKind::Unauthorized if ask.client.is_some() => {}
            _ => return Err(error),
        }
        let words = tokio::time::timeout(WORDS_TIMEOUT, Box::pin(self.words(endpoint, ask, shown)));
        Err(words.await.ok().flatten().filter(|told| told.kind == error.kind).unwrap_or(error))
    }

    /// How a GET is refused in place of the HEAD; `None`: it is not. Its content is left where it is.
    async fn words(&self, endpoint: &Endpoint, ask: &Ask, shown: Option<&Authorization>) -> Option<Error> {
        let mut ask = Ask { method: Method::GET, any_type: true, ..ask.clone() };
        if ask.operation == Operation::Blob {
            ask.headers.extend(BlobRange { first: 0, last: Some(0) }.headers());
        }
        let told = self.send(endpoint, &ask, shown).await.ok().filter(|told| !told.away)?;
        response::check(told, self.asked(&ask)).await.err()
    }

    /// Names that clients do not learn from what is said of these. Where their own credentials decide, they know what those are for.
    async fn private(&self, scope: &Scope) -> PrivateNames {
        let mut names = self.private_names.clone();
        let asked = match self.access {
            Access::Shared => {
                names.extend(self.authenticator.account());
                scope.repositories().map(|repository| repository.as_str().to_owned()).collect()
            }
            Access::Client { .. } => vec![],
        };
        PrivateNames { names, asked }
    }

    /// The error, with as much of the upstream's words as clients may read.
    pub(super) async fn for_clients(&self, error: Error, scope: &Scope) -> Error {
        match error.refusal().filter(|refusal| !refusal.reasons.is_empty()) {
            Some(refusal) => {
                let refusal = Refusal::clone(refusal).without(&self.private(scope).await);
                error.in_words(refusal)
            }
            None => error,
        }
    }

    /// The same of reasons that are no error.
    pub(super) async fn reasons_for_clients(&self, refusal: Refusal, scope: &Scope) -> Refusal {
        if refusal.reasons.is_empty() { refusal } else { refusal.without(&self.private(scope).await) }
    }

    /// The same of what is said beside a content.
    pub(super) async fn without_private(&self, mut notes: ContentNotes, scope: &Scope) -> ContentNotes {
        if !notes.warnings.is_empty() {
            let private = self.private(scope).await;
            let is_told =
                |text: &HeaderValue| str::from_utf8(text.as_bytes()).map_or(true, |text| private.is_told_by(text));
            notes.warnings.retain(|warning| !is_told(warning));
        }
        notes
    }

    /// What of a question decides what an answer to it means.
    fn asked(&self, ask: &Ask) -> RequestKind {
        RequestKind {
            is_head: ask.method == Method::HEAD,
            is_blob: ask.operation == Operation::Blob,
            any_type: ask.any_type,
            by_client: matches!(self.access, Access::Client { .. }),
        }
    }

    /// Whose credentials decide.
    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Whether little is left of the limit of this principal, at the URL that is asked first.
    pub(super) fn is_scarce(&self, principal: Option<Principal>) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.scarcity.is_scarce(principal))
            && Attempts::first(&self.endpoints).is_some_and(|endpoint| endpoint.scarcity.is_scarce(principal))
    }

    /// So many bytes of a blob came.
    pub(super) fn note_received(&self, bytes: u64) {
        self.metrics.upstream_received(&self.name, bytes);
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The counter of bytes of blobs that came.
    pub(super) fn received(&self) -> &Arc<AtomicU64> {
        &self.received
    }

    /// Whether one of its URLs may be that of a forebay: it is known of none before it has answered.
    pub(super) fn may_be_mirror(&self) -> bool {
        !self.endpoints.iter().all(|endpoint| endpoint.is_registry())
    }

    /// What we call ourselves in `Via`.
    pub(super) fn via(&self) -> &HeaderValue {
        &self.via
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Acts on one endpoint after the other, until one answers.
    ///
    /// What is asked in addition (`quiet`) changes nothing about what is thought of the upstream when it fails.
    pub(super) async fn each_endpoint<T, F>(&self, quiet: bool, act: impl Fn(Arc<Endpoint>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut attempts = Attempts::new(&self.endpoints).quiet(quiet);
        let result = loop {
            let endpoint = match attempts.next() {
                Ok(endpoint) => endpoint,
                Err(error) => break Err(error),
            };
            // On the heap, here and further in: futures hold those they wait for, so that a fill's would be larger than
            // a thread's stack.
            let result = Box::pin(act(endpoint.clone())).await;
            if let Err(error) = &result
                && error.kind.is_outage()
                && error.resting.is_none()
                && !matches!(error.kind, ErrorKind::Exhausted | ErrorKind::OurCredentials)
                && !quiet
            {
                let cause = std::error::Error::source(error).map(tracing::field::display);
                tracing::warn!(upstream = %self.name, %error, cause, "the upstream could not answer");
            }
            if let Some(answer) = attempts.settle(endpoint, result) {
                break answer;
            }
        };
        // Nothing was heard of it.
        if result.as_ref().is_err_and(|error| error.kind == ErrorKind::Exhausted) {
            return result;
        }
        // An upstream that answers 429, or refuses forebay, is up.
        let down = |error: &Error| {
            error.kind.is_outage() && !matches!(error.kind, ErrorKind::TooManyRequests | ErrorKind::OurCredentials)
        };
        let is_down = result.as_ref().is_err_and(down);
        if !(is_down && quiet) {
            self.metrics.upstream_up(&self.name, !is_down);
        }
        result
    }

    /// Asks one endpoint. The answer is a 200 or a 206.
    pub(super) async fn ask(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Followed, Error> {
        match in_time(endpoint, self.challenge_and_ask(endpoint, ask)).await {
            Err(error) => Err(self.for_clients(error, &ask.scope).await),
            answered => answered,
        }
    }

    async fn challenge_and_ask(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Followed, Error> {
        let cause = self.cause(&ask.scope, ask.client.as_deref());
        let (authorization, failed) = match Box::pin(self.authenticator.known(&self.sender, endpoint, cause)).await {
            Known::Nothing => (None, None),
            Known::Authorization(authorization) => (Some(authorization), None),
            Known::Failed(scheme, error) => (None, Some((scheme, error))),
        };
        // A password that may be a guess goes only with what is refused without it: the answer is a word on the password then.
        let (guess, mut authorization) = match authorization {
            Some(guess) if guess.may_be_guess() => (Some(guess), None),
            known => (None, known),
        };
        let mut first = self.send(endpoint, ask, authorization.as_ref()).await?;
        if let Some(shown) = authorization.take_if(|shown| shown.is_own_password()) {
            if !is_challenge(&first) || !auth::is_answerable(first.response.headers()) {
                let answer = Box::pin(self.check_password(endpoint, ask, &shown, first)).await;
                // Its turn is over.
                drop(shown);
                if answer.as_ref().err().is_none_or(|error| error.kind != ErrorKind::OurCredentials) {
                    return answer;
                }
                // It is read anew: there may be another one by now.
                return match Box::pin(self.authenticator.known(&self.sender, endpoint, cause)).await {
                    Known::Authorization(newer) => Box::pin(self.ask_with(endpoint, ask, &newer)).await,
                    Known::Nothing | Known::Failed(..) => answer,
                };
            }
            // The registry may know tokens alone by now: that is no word on the password.
            if auth::wants_password(first.response.headers())
                && !Box::pin(self.refuses_password(endpoint, &shown, StatusCode::UNAUTHORIZED)).await?
            {
                return self.check(endpoint, first, ask, None).await;
            }
        }
        // Some say so to a token that has died.
        if let Some(shown) = &authorization
            && ask.client.is_none()
            && first.response.status() == StatusCode::FORBIDDEN
            && !first.away
            && self.authenticator.renew(shown).await
            && let Known::Authorization(renewed) =
                Box::pin(self.authenticator.known(&self.sender, endpoint, cause)).await
        {
            discard(first.response).await;
            return Box::pin(self.ask_with(endpoint, ask, &renewed)).await;
        }
        let mut shown = authorization.as_ref();
        // A token that is merely good for too little is kept for what it is good for.
        if let Some(authorization) = shown.filter(|_| is_challenge(&first))
            && auth::widened(&ask.scope, first.response.headers()).is_none()
        {
            self.authenticator.refused(authorization).await;
            if authorization.is_clients_password()
                && !auth::names_another_way(endpoint.scheme().as_ref(), first.response.headers())
            {
                return self.check(endpoint, first, ask, shown).await;
            }
            // Who shows a token that has died is sent elsewhere by some: by Harbor to Basic, by nvcr.io to a realm that knows
            // nobody without a name. What counts is what is said to who shows nothing.
            if authorization.is_token() && auth::names_another_way(endpoint.scheme().as_ref(), first.response.headers())
            {
                discard(first.response).await;
                first = self.send(endpoint, ask, None).await?;
                shown = None;
            }
        }
        // Some registries say so to a request without credentials.
        let is_refusal =
            matches!(first.response.status(), StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) && !first.away;
        if let Some(guess) = guess.filter(|_| is_refusal) {
            discard(first.response).await;
            return Box::pin(self.ask_with(endpoint, ask, &guess)).await;
        }
        if !is_challenge(&first) || !auth::is_answerable(first.response.headers()) {
            return self.check(endpoint, first, ask, shown).await;
        }
        let headers = first.response.headers().clone();
        discard(first.response).await;
        let scope = auth::widened(&ask.scope, &headers);
        let cause = Cause { scope: scope.as_ref().unwrap_or(&ask.scope), ..cause };
        let authorization =
            Box::pin(self.authenticator.challenged(&self.sender, endpoint, &headers, cause, failed)).await?;
        Box::pin(self.ask_with(endpoint, ask, &authorization)).await
    }

    /// Asks for what was refused without this.
    async fn ask_with(&self, endpoint: &Endpoint, ask: &Ask, authorization: &Authorization) -> Result<Followed, Error> {
        let second = self.send(endpoint, ask, Some(authorization)).await?;
        if authorization.is_own_password() {
            return Box::pin(self.check_password(endpoint, ask, authorization, second)).await;
        }
        if is_challenge(&second) {
            self.authenticator.refused(authorization).await;
        }
        let away = second.away;
        let answer = self.check(endpoint, second, ask, Some(authorization)).await;
        let problem = match &answer {
            // A page is no word on a password, also where it may prove to be no page.
            Ok(followed) => response::is_html(followed.response.headers()).then_some(ErrorKind::Protocol),
            Err(error) => Some(error.kind),
        };
        // A host elsewhere has not seen the password.
        if problem.is_none() || !away {
            let is_refused = matches!(problem, Some(ErrorKind::Unauthorized | ErrorKind::Denied));
            if is_refused && authorization.is_token() && authorization.may_be_guess() {
                // Whose password is right may ask for what is not theirs: as at a login, the base tells.
                let _ = Box::pin(self.challenge_and_ping(endpoint, ask.client.as_ref())).await;
            }
            authorization.judge(problem);
        }
        answer
    }

    /// Judges an answer to forebay's own password, and the password by it.
    async fn check_password(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        shown: &Authorization,
        followed: Followed,
    ) -> Result<Followed, Error> {
        let (status, away) = (followed.response.status(), followed.away);
        let mut answer = self.check(endpoint, followed, ask, Some(shown)).await;
        let kind = answer.as_ref().err().map(|error| error.kind);
        // To a HEAD, a refusal without the registry's header is perhaps a page: it is asked again by GET.
        let is_word = !away && is_refused(status) && matches!(kind, Some(ErrorKind::Unauthorized | ErrorKind::Denied));
        let is_given = kind.is_none() || away;
        if is_given || (!is_word && kind.is_some_and(says_of_content)) {
            self.authenticator.taken(shown);
            if is_given && matches!(ask.operation, Operation::Manifest | Operation::Blob) {
                self.authenticator.note_given(&ask.path_and_query);
            }
        }
        if is_word
            && let Err(error) = &mut answer
            && Box::pin(self.refuses_password(endpoint, shown, status)).await?
        {
            error.kind = ErrorKind::OurCredentials;
        }
        answer
    }

    /// Whether a 401 or 403 to forebay's own password refuses the password, and not the request: notes it then. That is
    /// for the base to say. A base that says 403 may say so to each request; it refuses the password where it challenges those
    /// without one, and, of one that was taken, where what was given for it is refused, too. One that answers everybody says
    /// nothing: there a repository's 401 counts while none has taken the password. Of requests that are refused together, one asks.
    ///
    /// # Errors
    /// The upstream cannot be asked, which is no word.
    pub(super) async fn refuses_password(
        &self,
        endpoint: &Endpoint,
        shown: &Authorization,
        status: StatusCode,
    ) -> Result<bool, Error> {
        let since = Instant::now();
        let _turn = self.authenticator.turn_to_ask().await;
        if self.authenticator.was_cleared(since) {
            return Ok(false);
        }
        if self.authenticator.is_withheld(shown) {
            self.authenticator.refused_there(shown).await;
            return Ok(true);
        }
        let was_taken = self.authenticator.was_taken(shown);
        let is_of_base = status == StatusCode::UNAUTHORIZED && shown.is_login();
        let said =
            if is_of_base { Some(ErrorKind::Unauthorized) } else { self.base_says(endpoint, Some(shown)).await? };
        let refuses = match said {
            Some(ErrorKind::Unauthorized) => true,
            Some(ErrorKind::Denied) => match self.authenticator.given().filter(|_| was_taken) {
                Some(path) => {
                    let given = Ask { method: Method::HEAD, path_and_query: path.to_string(), ..Ask::ping(None) };
                    let followed = self.send(endpoint, &given, Some(shown)).await?;
                    !followed.away && is_refused(followed.response.status())
                }
                None => self.base_says(endpoint, None).await? == Some(ErrorKind::Unauthorized),
            },
            Some(_) | None if was_taken => false,
            None | Some(ErrorKind::NotFound | ErrorKind::Foreign { status: 404 })
                if self.base_says(endpoint, None).await? == Some(ErrorKind::Unauthorized) =>
            {
                self.authenticator.taken(shown);
                false
            }
            Some(_) | None if status == StatusCode::UNAUTHORIZED && shown.repository().is_some() => {
                self.authenticator.refused_there(shown).await;
                return Ok(true);
            }
            Some(_) | None => false,
        };
        if refuses {
            self.authenticator.refused(shown).await;
        } else {
            self.authenticator.note_cleared();
        }
        Ok(refuses)
    }

    /// How the base refuses this; `None`: not at all.
    async fn base_says(&self, endpoint: &Endpoint, shown: Option<&Authorization>) -> Result<Option<ErrorKind>, Error> {
        let followed = self.send(endpoint, &Ask::ping(None), shown).await?;
        let asked = RequestKind { any_type: true, ..RequestKind::default() };
        match response::check(followed, asked).await {
            Ok(followed) => {
                discard(followed.response).await;
                Ok(None)
            }
            // A page says nothing of a password.
            Err(error) if error.kind.is_outage() && !matches!(error.kind, ErrorKind::Foreign { .. }) => Err(error),
            Err(error) => Ok(Some(error.kind)),
        }
    }

    /// Asks one endpoint for nothing. A token is proof enough that it would answer us: some realms give one that is good for repositories,
    /// and not for this. A client's is shown here, as by those who log in at the registry itself.
    pub(super) async fn ping(&self, endpoint: &Endpoint, client: Option<&Arc<ClientCredential>>) -> Result<(), Error> {
        match in_time(endpoint, self.challenge_and_ping(endpoint, client)).await {
            Err(error) => Err(self.for_clients(error, &Scope::Login).await),
            answered => answered,
        }
    }

    async fn challenge_and_ping(
        &self,
        endpoint: &Endpoint,
        client: Option<&Arc<ClientCredential>>,
    ) -> Result<(), Error> {
        let ask = Ask::ping(client);
        let cause = self.cause(&ask.scope, ask.client.as_deref());
        let first = self.send(endpoint, &ask, None).await?;
        if !is_challenge(&first) {
            return self.welcomed(first, client).await;
        }
        let headers = first.response.headers().clone();
        let authorization =
            Box::pin(self.authenticator.challenged(&self.sender, endpoint, &headers, cause, None)).await?;
        if let Some(why) = self.authenticator.unused(&authorization, client.is_some()).await? {
            return Err(Error::new(ErrorKind::Unauthorized, format!("upstream {}: {why}", self.name)));
        }
        // Some realms give a token for any password: the registry has the last word on a client's.
        if authorization.is_token() && client.is_none() {
            return Ok(());
        }
        discard(first.response).await;
        let second = self.send(endpoint, &ask, Some(&authorization)).await?;
        if authorization.is_own_password() {
            return Box::pin(self.check_password(endpoint, &ask, &authorization, second)).await.map(drop);
        }
        if is_challenge(&second) {
            self.authenticator.refused(&authorization).await;
        }
        let welcomed = self.welcomed(second, client).await;
        authorization.judge(welcomed.as_ref().err().map(|error| error.kind));
        welcomed
    }

    /// Whether the base was answered by a registry. A proxy in front of it may answer a client that it refuses with 200.
    async fn welcomed(&self, followed: Followed, client: Option<&Arc<ClientCredential>>) -> Result<(), Error> {
        let asked = RequestKind { by_client: client.is_some(), ..RequestKind::default() };
        let Followed { response, url, away, .. } = response::check(followed, asked).await?;
        if client.is_none() {
            return Ok(());
        }
        // Another host, such as a single sign-on's, does not know whom the registry takes.
        if away {
            let why = format!("upstream {}: the login was answered by another host", self.name);
            return Err(Error::new(ErrorKind::Protocol, why));
        }
        if response::is_of_registry(response.headers()) {
            return Ok(());
        }
        let body = whole_body(response, &url, MAX_BASE).await?;
        match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body) {
            Ok(map) if map.is_empty() => Ok(()),
            Ok(_) | Err(_) => {
                let why = format!("upstream {}: no registry answered for the login", self.name);
                Err(Error::new(ErrorKind::Protocol, why))
            }
        }
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        authorization: Option<&Authorization>,
    ) -> Result<Followed, Error> {
        let url = endpoint.url(&ask.path_and_query)?;
        let mut headers = ask.headers.clone();
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.value.clone());
        }
        let principal = ask.client.as_ref().map(|client| client.asker);
        let name = (principal, authorization.and_then(Authorization::token));
        let sent = follow(&self.sender, ask.manner, name, ask.operation, ask.method.clone(), url, headers);
        let followed = Box::pin(sent).await?;
        endpoint.note_answer(followed.first);
        if !followed.away
            && let Some(announced) = RateLimit::of(followed.response.headers())
        {
            self.metrics.upstream_ratelimit(&self.name, announced.limit, announced.remaining);
            endpoint.scarcity.note(principal, announced);
        }
        Ok(followed)
    }
}

fn private_names(config: &Config) -> Vec<String> {
    let names = config.urls.iter().flat_map(|url| url.host_str().into_iter().chain(redaction::names_in(url.path())));
    names.filter(|name| !name.eq_ignore_ascii_case(&config.name)).map(str::to_owned).collect()
}

/// Bounds the whole asking of one endpoint, up to the head of the answer that counts.
pub(super) async fn in_time<T>(
    endpoint: &Endpoint,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(ASKING_TIMEOUT, Box::pin(asking)).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::timed_out("asking", endpoint.base(), ASKING_TIMEOUT)),
    }
}

/// Whether a refusal is about the content of the request, and not about its credential.
fn says_of_content(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::Rejected { .. } | ErrorKind::RangeNotSatisfiable { .. })
}

/// Whether the credential may be what is refused.
pub(super) fn is_refused(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

fn is_challenge(followed: &Followed) -> bool {
    followed.response.status() == StatusCode::UNAUTHORIZED && !followed.away
}
