//! From a challenge to the Authorization header that answers it.
//!
//! What must hold: Basic goes to the upstream's own origin alone, and a credential goes to a realm
//! only if [`realm`] says that it may see it; a realm that may not is asked anonymously. What was
//! refused is dropped, and a credential that was remembered is read anew before it counts as wrong. One of forebay's own that
//! was refused is told of, and shown again after a while alone. Whether it refuses the credential, or the request,
//! is asked before it counts.
//!
//! [`realm`]: self::realm

pub mod challenge;
pub(crate) mod credential;
pub(crate) mod credential_helper;
pub(crate) mod credential_trial;
pub(crate) mod realm;
pub(crate) mod token;
pub mod token_exchange;
mod token_result;
pub use token_result::TokenResult;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use http::{HeaderMap, HeaderValue, header};
use reqwest::Url;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use self::{
    challenge::Challenge,
    credential::{Credential, Credentials, Loaded},
    credential_trial::TrialTurn,
    realm::Realm,
    token::{Scope, Token, TokenCache, TokenKey, TokenSubject},
    token_exchange::Exchange,
};
use super::{
    ClientCredential, Config, Context, Principal, Verdict,
    client::Sender,
    error::{Error, ErrorKind, SetupError, Shown},
    failover::{Endpoint, Scheme},
    principal::PrincipalVerdict,
    response::refusal::Refusal,
};
use crate::{metrics::Metrics, oci::Repository};

/// How long a request waits while another one asks whether the upstream refuses the password.
const ASKING_TIMEOUT: Duration = Duration::from_secs(30);
/// How old a token has to be for a 403 to mean that it has died, and how often that is tried.
const RENEWAL: Duration = Duration::from_secs(60);

/// The value of an Authorization header, and what to drop when it is refused.
pub(super) struct Authorization {
    pub value: HeaderValue,
    proof: Proof,
}

impl Authorization {
    /// Whether a realm has given it, as against a password being sent as it is.
    pub(super) fn is_token(&self) -> bool {
        matches!(self.proof, Proof::Token { .. })
    }

    /// What tells it from other tokens, if it is one.
    pub(super) fn token(&self) -> Option<&TokenKey> {
        match &self.proof {
            Proof::Token { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Whether it is forebay's own password.
    pub(super) fn is_own_password(&self) -> bool {
        matches!(self.proof, Proof::Basic { .. })
    }

    /// The same, where it is shown for this repository.
    pub(super) fn repository(&self) -> Option<&Repository> {
        let Proof::Basic { scope, .. } = &self.proof else { return None };
        scope.repository()
    }

    /// The same, where it is shown to the base.
    pub(super) fn is_login(&self) -> bool {
        matches!(&self.proof, Proof::Basic { scope: Scope::Login, .. })
    }

    /// The same for a request whose answer takes its time: no other one waits for what the upstream says of it.
    pub(super) fn without_turn(mut self) -> Self {
        if let Proof::Basic { turn, .. } = &mut self.proof {
            *turn = None;
        }
        self
    }

    /// Whether it is a client's password, of which there is no newer one to be read.
    pub(super) fn is_clients_password(&self) -> bool {
        matches!(self.proof, Proof::BasicOfClient(_))
    }

    /// Whether it is a client's password that the upstream has not taken yet, or what the realm gave for one: some realms give
    /// a token for any password.
    pub(super) fn may_be_guess(&self) -> bool {
        self.proof.judged().is_some_and(|judged| !judged.is_taken())
    }

    /// Whether it is a token that had come before this moment.
    pub(super) fn came_before(&self, moment: Instant) -> bool {
        matches!(&self.proof, Proof::Token { token, .. } if token.obtained() < moment)
    }

    /// Notes what the answer, of success or of this error, says of a client's password that went with what was refused
    /// without it. Registries say 403 or 404 to a wrong one, too; to one that was taken that is about something else. A 404 to a
    /// token is not about the password: who pushes is told so of each blob that is yet to be sent.
    pub(super) fn judge(&self, error: Option<ErrorKind>) {
        let Some(judged) = self.proof.judged() else { return };
        let is_no = |kind| match self.proof {
            Proof::Token { .. } => matches!(kind, ErrorKind::Unauthorized | ErrorKind::Denied),
            _ => says_no(kind),
        };
        match error {
            None => judged.note(Verdict::Accepted),
            Some(kind) if is_no(kind) && !judged.is_taken() => judged.note(Verdict::Refused),
            Some(_) => {}
        }
    }
}

/// Whether an error may mean that the credential is wrong.
fn says_no(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Unauthorized
        | ErrorKind::Denied
        | ErrorKind::NotFound
        | ErrorKind::Unsupported
        | ErrorKind::Rejected { .. }
        | ErrorKind::Foreign { .. }
        | ErrorKind::Protocol => true,
        ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::Exhausted
        | ErrorKind::OurCredentials
        | ErrorKind::TooManyRequests
        | ErrorKind::TooLarge
        | ErrorKind::Loop
        | ErrorKind::RangeNotSatisfiable { .. } => false,
    }
}

enum Proof {
    /// `judged`: of a client whose password the realm was shown.
    Token { key: Box<TokenKey>, token: Token, judged: Option<PrincipalVerdict> },
    Basic {
        credential: Arc<Credential>,
        turn: Option<TrialTurn>,
        /// What it is shown for.
        scope: Scope,
    },
    /// A client's, of which nothing is remembered beyond its request.
    BasicOfClient(PrincipalVerdict),
}

impl Proof {
    /// Where it is noted what the upstream says of a client's password.
    fn judged(&self) -> Option<&PrincipalVerdict> {
        match self {
            Self::Token { judged, .. } => judged.as_ref(),
            Self::Basic { .. } => None,
            Self::BasicOfClient(judged) => Some(judged),
        }
    }
}

/// What an Authorization is for.
#[derive(Clone, Copy)]
pub(super) struct Cause<'a> {
    pub scope: &'a Scope,
    /// In whose name; `None`: ours, or nobody's.
    pub client: Option<&'a ClientCredential>,
    /// How long a client's token is used, where its upstream decides by it; else as long as it lives.
    pub client_ttl: Option<Duration>,
}

/// What can be sent without having been challenged.
pub(super) enum Known {
    /// Nothing was learned of this endpoint yet.
    Nothing,
    Authorization(Authorization),
    /// What was learned did not lead to an Authorization. The endpoint may have changed its mind;
    /// if it has not, this is the error.
    Failed(Scheme, Error),
}

/// Answers the challenges of one upstream.
pub(super) struct Authenticator {
    upstream: Arc<str>,
    realms: Vec<String>,
    credentials: Credentials,
    tokens: TokenCache,
    /// Whether it was said that the credentials are not used: once is enough.
    warned: AtomicBool,
    /// What follows `/v2/` of what was last given for a password of forebay's own.
    given: Mutex<Option<Arc<str>>>,
    /// Held while it is asked whether a refusal is about a password of forebay's own.
    asking: Semaphore,
    /// When one was last about something else.
    cleared: Mutex<Option<Instant>>,
    /// When a token was last renewed because of a 403.
    renewed: Mutex<Option<Instant>>,
    metrics: Metrics,
}

impl Authenticator {
    pub(super) fn new(config: &Config, context: &Context) -> Result<Self, SetupError> {
        Ok(Self {
            upstream: config.name.clone(),
            realms: config.realms.clone(),
            credentials: Credentials::new(config)?,
            tokens: TokenCache::new(),
            warned: AtomicBool::new(false),
            given: Mutex::default(),
            asking: Semaphore::new(1),
            cleared: Mutex::default(),
            renewed: Mutex::default(),
            metrics: context.metrics.clone(),
        })
    }

    /// Looks at the file that the credentials come from, if any. Blocks on it.
    pub(super) fn check_credentials(&self) -> Result<(), SetupError> {
        self.credentials.check()
    }

    /// The user name that the upstream is asked by.
    pub(super) fn account(&self) -> Option<String> {
        self.credentials.account()
    }

    /// The Authorization that the endpoint's last challenge leads to.
    pub(super) async fn known(&self, sender: &Sender, endpoint: &Endpoint, cause: Cause<'_>) -> Known {
        let Some(scheme) = endpoint.scheme() else {
            return Known::Nothing;
        };
        match self.authorize(sender, endpoint, &scheme, cause).await {
            Ok(authorization) => Known::Authorization(authorization),
            Err(error) => {
                // That a client may not, says nothing of how to ask.
                if cause.client_ttl.is_none() {
                    endpoint.learn(None);
                }
                Known::Failed(scheme, error)
            }
        }
    }

    /// The Authorization that the challenge in `headers`, which came with a 401, leads to.
    ///
    /// `failed` is what was tried before the challenge and led to nothing: it is not tried again.
    pub(super) async fn challenged(
        &self,
        sender: &Sender,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        cause: Cause<'_>,
        failed: Option<(Scheme, Error)>,
    ) -> Result<Authorization, Error> {
        let scheme = choose(&challenges(headers)).ok_or_else(|| {
            let why = format!("upstream {} wants to know who asks, in no way that forebay knows", self.upstream);
            Error::new(ErrorKind::Unauthorized, why)
        })?;
        if let Some((tried, error)) = failed
            && tried == scheme
        {
            return Err(error);
        }
        let authorization = self.authorize(sender, endpoint, &scheme, cause).await?;
        // Harbor wants Basic for the catalogue and Bearer for all else: learn from what is usual.
        if matches!(cause.scope, Scope::Pull(_) | Scope::PullMetadata(_) | Scope::Push { .. } | Scope::Delete(_)) {
            endpoint.learn(Some(scheme));
        }
        Ok(authorization)
    }

    /// The upstream refused it.
    pub(super) async fn refused(&self, authorization: &Authorization) {
        match &authorization.proof {
            Proof::Token { key, token, .. } => self.tokens.forget(key, token).await,
            Proof::Basic { credential, .. } => self.note_refused(credential, None).await,
            Proof::BasicOfClient(judged) => judged.note(Verdict::Refused),
        }
    }

    /// A password of forebay's own was refused by the repository that it was shown for, and nothing else tells whether it is right.
    pub(super) async fn refused_there(&self, authorization: &Authorization) {
        if let Proof::Basic { credential, scope, .. } = &authorization.proof {
            self.note_refused(credential, scope.repository()).await;
        }
    }

    /// Whether it is a password of forebay's own that the upstream took when it was last shown.
    pub(super) fn was_taken(&self, authorization: &Authorization) -> bool {
        matches!(&authorization.proof, Proof::Basic { credential, .. } if self.credentials.is_taken(credential))
    }

    /// Whether it is a password of forebay's own that the upstream refused lately.
    pub(super) fn is_withheld(&self, authorization: &Authorization) -> bool {
        matches!(&authorization.proof, Proof::Basic { credential, .. } if self.credentials.is_withheld(credential))
    }

    /// The upstream answered to it as to those whom it knows.
    pub(super) fn taken(&self, authorization: &Authorization) {
        if let Proof::Basic { credential, .. } = &authorization.proof {
            self.note_taken(credential);
        }
    }

    /// What follows `/v2/` of what was last given for a password of forebay's own.
    pub(super) fn given(&self) -> Option<Arc<str>> {
        self.given.lock().clone()
    }

    /// This was given for a password of forebay's own.
    pub(super) fn note_given(&self, path: &str) {
        *self.given.lock() = Some(path.into());
    }

    /// To be held while it is asked whether a refusal is about a password of forebay's own.
    pub(super) async fn turn_to_ask(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed; an answer may take as long.
        timeout(ASKING_TIMEOUT, self.asking.acquire()).await.ok()?.ok()
    }

    /// A refusal was about something else than the password.
    pub(super) fn note_cleared(&self) {
        *self.cleared.lock() = Some(Instant::now());
    }

    /// Whether one was, since then.
    pub(super) fn was_cleared(&self, since: Instant) -> bool {
        self.cleared.lock().is_some_and(|cleared| since < cleared)
    }

    /// Drops a token of forebay's own to which the upstream said 403, if that may mean that it has died: some registries say so
    /// in place of 401. Whether it is worth to ask with another one.
    pub(super) async fn renew(&self, authorization: &Authorization) -> bool {
        let Proof::Token { key, token, judged: None } = &authorization.proof else { return false };
        if matches!(key.identity, TokenSubject::Client(_)) || token.obtained().elapsed() < RENEWAL {
            return false;
        }
        {
            let mut renewed = self.renewed.lock();
            if renewed.is_some_and(|renewed| renewed.elapsed() < RENEWAL) {
                return false;
            }
            *renewed = Some(Instant::now());
        }
        self.tokens.forget(key, token).await;
        true
    }

    async fn note_refused(&self, credential: &Arc<Credential>, at: Option<&Repository>) {
        let Some(is_news) = self.credentials.refused(credential, at).await else { return };
        self.metrics.upstream_credentials(&self.upstream, false);
        if is_news {
            tracing::warn!(
                upstream = %self.upstream,
                "the upstream refuses forebay's own credentials: what is cached is served, and what needs them is not; they \
                 are shown again when they have changed, and after a while"
            );
        }
    }

    fn note_taken(&self, credential: &Arc<Credential>) {
        self.metrics.upstream_credentials(&self.upstream, true);
        if self.credentials.taken(credential) {
            tracing::info!(upstream = %self.upstream, "the upstream takes forebay's own credentials again");
        }
    }

    /// Why the configured credentials had no part in `authorization`; `None` when they had, or when
    /// there are none. An upstream that answers all the same hides a mistake in the configuration.
    ///
    /// # Errors
    /// When the credentials cannot be read.
    pub(super) async fn unused(&self, authorization: &Authorization, of_client: bool) -> Result<Option<String>, Error> {
        if of_client {
            return Ok(match &authorization.proof {
                Proof::Token { key, .. } if key.identity == TokenSubject::Anonymous => Some(untrusted(&key.realm)),
                _ => None,
            });
        }
        if self.credentials.is_anonymous() {
            return Ok(None);
        }
        Ok(match &authorization.proof {
            Proof::Token { key, .. } if key.identity == TokenSubject::Anonymous => Some(untrusted(&key.realm)),
            Proof::Token { .. } | Proof::Basic { .. } | Proof::BasicOfClient(_) => {
                (!self.credentials.has_one().await?).then(|| NO_ENTRY.to_owned())
            }
        })
    }

    fn warn_unused(&self, why: impl FnOnce() -> String) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(upstream = %self.upstream, "{}", why());
        }
    }

    async fn authorize(
        &self,
        sender: &Sender,
        endpoint: &Endpoint,
        scheme: &Scheme,
        cause: Cause<'_>,
    ) -> Result<Authorization, Error> {
        match scheme {
            Scheme::Basic => self.basic(cause.client, cause.scope).await,
            Scheme::Bearer { realm, service } => {
                let realm = realm::judge(endpoint.base(), realm, &self.realms)?;
                self.bearer(sender, realm, service.clone(), cause).await
            }
        }
    }

    async fn basic(&self, client: Option<&ClientCredential>, scope: &Scope) -> Result<Authorization, Error> {
        if let Some(ClientCredential { credential: Credential::Password { username, password }, judged, .. }) = client {
            let proof = Proof::BasicOfClient(judged.clone());
            return Ok(Authorization { value: token_exchange::basic(username, password), proof });
        }
        let Loaded { credential, turn, .. } = self.credentials.load(scope.repository()).await?;
        let value = match credential.as_deref() {
            Some(Credential::Password { username, password }) => Some(token_exchange::basic(username, password)),
            Some(Credential::IdentityToken { .. }) | None => None,
        };
        match (credential, value) {
            (Some(credential), Some(value)) => {
                Ok(Authorization { value, proof: Proof::Basic { credential, turn, scope: scope.clone() } })
            }
            (Some(_), None) => {
                let why = format!("upstream {} wants a password, and has an identity token", self.upstream);
                Err(Error::new(ErrorKind::OurCredentials, why))
            }
            (None, _) => {
                let why = format!("upstream {} wants a user name and a password, and has none", self.upstream);
                // A source without an entry is no client's fault.
                let is_ours = client.is_none() && !self.credentials.is_anonymous();
                Err(Error::new(if is_ours { ErrorKind::OurCredentials } else { ErrorKind::Unauthorized }, why))
            }
        }
    }

    async fn bearer(
        &self,
        sender: &Sender,
        realm: Realm,
        service: Option<String>,
        Cause { scope, client, client_ttl }: Cause<'_>,
    ) -> Result<Authorization, Error> {
        let has_credential = client.is_some() || !self.credentials.is_anonymous();
        let identity = match client {
            _ if !realm.trusted => TokenSubject::Anonymous,
            Some(client) => TokenSubject::Client(client.asker),
            None if self.credentials.is_anonymous() => TokenSubject::Anonymous,
            None => TokenSubject::Configured,
        };
        if !realm.trusted && has_credential {
            self.warn_unused(|| untrusted(&realm.url));
        }
        let key = TokenKey { identity, realm: realm.url, service, scope: scope.clone() };
        let fetch = async {
            let token = Box::pin(self.fetch(sender, &key, client)).await;
            token.map(|token| token.used_for(client_ttl))
        };
        // Whether a password is still right is asked each time.
        let token = match (client, scope) {
            (Some(_), Scope::Login) => fetch.await,
            _ => self.tokens.get_or_fetch(key.clone(), fetch).await,
        };
        let token = token.map_err(|error| {
            if realm.trusted || !has_credential {
                return error;
            }
            // Without a word on why, nobody would guess that the credentials were not even sent.
            let why = format!(
                "upstream {}: the token realm {} was asked anonymously, since it is not among the upstream's `realms`",
                self.upstream,
                Shown(&key.realm)
            );
            let (retry_after, refusal) = (error.retry_after, error.refusal().cloned());
            let mut error = Error::new(error.kind, why).caused_by(error);
            error.retry_after = retry_after;
            match refusal {
                Some(refusal) => error.in_words(Refusal::clone(&refusal)),
                None => error,
            }
        })?;
        let judged =
            client.filter(|_| matches!(key.identity, TokenSubject::Client(_))).map(|client| client.judged.clone());
        Ok(Authorization { value: token.authorization(), proof: Proof::Token { key: Box::new(key), token, judged } })
    }

    /// Asks the realm for a token.
    async fn ask(
        &self,
        sender: &Sender,
        key: &TokenKey,
        credential: Option<&Credential>,
        client: Option<Principal>,
    ) -> Result<Token, Error> {
        let (realm, service, scope) = (&key.realm, key.service.as_deref(), &key.scope);
        let token = Box::pin(Exchange { realm, service, scope, credential, client }.fetch(sender)).await;
        let result = match &token {
            Ok(_) => TokenResult::Fetched,
            Err(error) if matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Denied) => TokenResult::Refused,
            Err(_) => TokenResult::Failed,
        };
        self.metrics.token(&self.upstream, result);
        token
    }

    async fn fetch(&self, sender: &Sender, key: &TokenKey, client: Option<&ClientCredential>) -> Result<Token, Error> {
        if key.identity == TokenSubject::Anonymous {
            return self.ask(sender, key, None, client.map(|_| Principal::ANONYMOUS)).await;
        }
        if let Some(client) = client {
            let token = self.ask(sender, key, Some(&client.credential), Some(client.asker)).await;
            match token.as_ref().map_err(|error| error.kind) {
                Err(ErrorKind::Unauthorized | ErrorKind::Denied) => client.judged.note(Verdict::Refused),
                // 200, and no token.
                Err(ErrorKind::Protocol) if !client.judged.is_taken() => client.judged.note(Verdict::Refused),
                Ok(_) | Err(_) => {}
            }
            return token;
        }
        let mut refusal: Option<Error> = None;
        loop {
            let loaded = self.credentials.load(None).await;
            let Loaded { credential, fresh, turn } = match loaded {
                Err(error) if error.kind == ErrorKind::OurCredentials => return Err(refusal.unwrap_or(error)),
                loaded => loaded?,
            };
            let token = self.ask(sender, key, credential.as_deref(), None).await;
            let Some(credential) = credential else {
                self.warn_unused(|| NO_ENTRY.to_owned());
                return token;
            };
            let is_refused = match token.as_ref().map_err(|error| error.kind) {
                Err(ErrorKind::Unauthorized | ErrorKind::Denied) => {
                    Box::pin(self.denies_credential(sender, key, &credential)).await?
                }
                Ok(_) | Err(_) => false,
            };
            match token {
                Err(mut error) if is_refused => {
                    self.note_refused(&credential, None).await;
                    drop(turn);
                    error.kind = ErrorKind::OurCredentials;
                    // The password may have been changed since it was read.
                    if fresh || refusal.is_some() {
                        return Err(error);
                    }
                    refusal = Some(error);
                }
                token => {
                    if token.is_ok() {
                        self.note_taken(&credential);
                    }
                    return token;
                }
            }
        }
    }
}

impl Authenticator {
    /// Whether a realm's 401 or 403 refuses forebay's own credential, and not the scope. Without a scope, as to `docker login`, a realm gives
    /// a token to each user. Of requests that are refused together, one asks.
    ///
    /// # Errors
    /// The realm cannot be asked, which is no word.
    async fn denies_credential(
        &self,
        sender: &Sender,
        key: &TokenKey,
        credential: &Arc<Credential>,
    ) -> Result<bool, Error> {
        let since = Instant::now();
        let _turn = self.turn_to_ask().await;
        if self.was_cleared(since) {
            return Ok(false);
        }
        if key.scope == Scope::Login || self.credentials.is_withheld(credential) {
            return Ok(true);
        }
        let login = TokenKey { scope: Scope::Login, ..key.clone() };
        match Box::pin(self.ask(sender, &login, Some(credential), None)).await {
            Ok(_) => {
                self.note_taken(credential);
                self.note_cleared();
                Ok(false)
            }
            Err(error) if matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Denied) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

const NO_ENTRY: &str = "credentials are configured but were not used: their source has no entry for this upstream";

fn untrusted(realm: &Url) -> String {
    format!(
        "credentials are configured but were not used: realm {} is not trusted, list it in `realms`",
        realm.host_str().unwrap_or_default()
    )
}

/// Whether the challenge in `headers`, which refused what the endpoint's usual one led to, names another way in.
pub(super) fn names_another_way(endpoint: &Endpoint, headers: &HeaderMap) -> bool {
    choose(&challenges(headers)) != endpoint.scheme()
}

/// The scope, with what the challenge in `headers` wants beyond it; `None` when that is nothing that may be asked for.
pub(super) fn widened(scope: &Scope, headers: &HeaderMap) -> Option<Scope> {
    challenges(headers).iter().find_map(|challenge| match challenge {
        Challenge::Bearer(bearer) => scope.widened(bearer.scope.as_deref()?),
        Challenge::Basic { .. } | Challenge::Other(_) => None,
    })
}

/// Whether the challenge in `headers` is one that forebay can answer, with whatever credentials.
pub(super) fn is_answerable(headers: &HeaderMap) -> bool {
    choose(&challenges(headers)).is_some()
}

/// Whether the challenge in `headers` wants a password.
pub(super) fn wants_password(headers: &HeaderMap) -> bool {
    choose(&challenges(headers)) == Some(Scheme::Basic)
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    challenge::parse(headers.get_all(header::WWW_AUTHENTICATE).iter())
}

/// Bearer before Basic: a token is worth less to a thief than a password. Where both are offered,
/// as at Quay, it is also what an anonymous client needs.
fn choose(challenges: &[Challenge]) -> Option<Scheme> {
    let bearer = challenges.iter().find_map(|challenge| match challenge {
        Challenge::Bearer(bearer) => {
            Some(Scheme::Bearer { realm: bearer.realm.clone(), service: bearer.service.clone() })
        }
        Challenge::Basic { .. } | Challenge::Other(_) => None,
    });
    bearer.or_else(|| {
        challenges.iter().any(|challenge| matches!(challenge, Challenge::Basic { .. })).then_some(Scheme::Basic)
    })
}

#[cfg(test)]
mod tests;
