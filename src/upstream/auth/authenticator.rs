//! Answers the challenges of one upstream with Authorization headers.
//!
//! What must hold: a password goes to the upstream's own origin alone; a realm sees a credential only if [`realm`]
//! trusts it, and gets an anonymous request otherwise. forebay drops a refused token. It reads a refused credential
//! again before it counts as wrong; a wrong credential is logged, and forebay does not send it for a while. A refusal
//! counts only if it refuses the credential, and not the request: forebay verifies this by a request for the base, or
//! to the realm without a scope.
//!
//! [`realm`]: super::realm

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use parking_lot::Mutex;
use reqwest::Url;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    super::{
        ClientCredential, Config, Context, Principal, Verdict,
        client::Sender,
        endpoint::Endpoint,
        error::{Error, ErrorKind},
        health::HealthLog,
        redacted_url::RedactedUrl,
        response::refusal::Refusal,
        setup_error::SetupError,
    },
    authorization::{Authorization, Origin},
    credential::{Credential, basic_authorization},
    credential_provider::{CredentialProvider, Loaded},
    realm::{self, Realm},
    scheme::Scheme,
    scope::Scope,
    token::{Token, TokenKey, TokenSubject},
    token_cache::TokenCache,
    token_exchange::TokenRequest,
    token_result::TokenResult,
};
use crate::metrics::Metrics;

const NO_ENTRY: &str = "credentials are configured but were not used: their source has no entry for this upstream";

/// What an Authorization is for.
#[derive(Clone, Copy)]
pub(in crate::upstream) struct Cause<'a> {
    pub scope: &'a Scope,
    /// The client whose credential is used; `None`: forebay's own, if there is one.
    pub client: Option<&'a ClientCredential>,
    /// The longest use of a client's token, where the upstream authorizes clients; `None`: its whole life.
    pub client_ttl: Option<Duration>,
}

/// What a request may be sent with, before it is challenged.
pub(in crate::upstream) enum Known {
    /// Nothing was learned of this endpoint yet.
    Nothing,
    Authorization(Authorization),
    /// The last challenge led to this error. If the endpoint's challenge has not changed since, this error is the
    /// result.
    Failed(Scheme, Error),
}

/// Answers the challenges of one upstream.
pub(in crate::upstream) struct Authenticator {
    pub(super) upstream: Arc<str>,
    /// Hosts of realms that may see the credentials, besides the upstream's own.
    pub(super) realms: Vec<String>,
    pub(super) credentials: CredentialProvider,
    pub(super) tokens: TokenCache,
    /// Whether forebay has logged that the credentials are not used: it does so once.
    pub(super) warned: AtomicBool,
    /// The path below `/v2/` that the upstream last served with forebay's own password.
    pub(super) granted_path: Mutex<Option<Arc<str>>>,
    /// Held while a request verifies whether a refusal is about forebay's own password.
    pub(super) verification: Semaphore,
    /// When forebay last found that a refusal was not about the password.
    pub(super) unrelated_refusal: Mutex<Option<Instant>>,
    /// When a token was last renewed because of a 403.
    pub(super) renewed: Mutex<Option<Instant>>,
    pub(super) metrics: Metrics,
    pub(super) health: Arc<HealthLog>,
}

impl Authenticator {
    pub(in crate::upstream) fn new(config: &Config, context: &Context) -> Result<Self, SetupError> {
        Ok(Self {
            upstream: config.name.clone(),
            realms: config.realms.clone(),
            credentials: CredentialProvider::new(config)?,
            tokens: TokenCache::new(),
            warned: AtomicBool::new(false),
            granted_path: Mutex::default(),
            verification: Semaphore::new(1),
            unrelated_refusal: Mutex::default(),
            renewed: Mutex::default(),
            metrics: context.metrics.clone(),
            health: context.health.of(&config.name),
        })
    }

    /// forebay's own user name at the upstream.
    pub(in crate::upstream) fn account(&self) -> Option<String> {
        self.credentials.username()
    }

    /// The same, if the configuration has it.
    pub(in crate::upstream) fn configured_account(&self) -> Option<&str> {
        self.credentials.configured_username()
    }

    /// Where forebay's own credentials are.
    pub(in crate::upstream) fn credential_place(&self) -> Option<String> {
        self.credentials.place()
    }

    /// The Authorization that the endpoint's last challenge leads to.
    pub(in crate::upstream) async fn known(&self, sender: &Sender, endpoint: &Endpoint, cause: Cause<'_>) -> Known {
        let Some(scheme) = endpoint.scheme() else {
            return Known::Nothing;
        };
        match self.authorize(sender, endpoint, &scheme, cause).await {
            Ok(authorization) => Known::Authorization(authorization),
            Err(error) => {
                // A client's missing permission says nothing about the endpoint's challenge.
                if cause.client_ttl.is_none() {
                    endpoint.learn(None);
                }
                Known::Failed(scheme, error)
            }
        }
    }

    /// The Authorization that answers the challenge of a 401 with these headers.
    ///
    /// `failed` is the scheme that forebay tried before the challenge, and its error: forebay does not try it again.
    pub(in crate::upstream) async fn challenged(
        &self,
        sender: &Sender,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        cause: Cause<'_>,
        failed: Option<(Scheme, Error)>,
    ) -> Result<Authorization, Error> {
        let scheme = Scheme::choose(headers).ok_or_else(|| {
            let why =
                format!("upstream {} requires an authentication scheme that forebay does not support", self.upstream);
            Error::new(ErrorKind::Unauthorized, why)
        })?;
        if let Some((tried, error)) = failed
            && tried == scheme
        {
            return Err(error);
        }
        let authorization = self.authorize(sender, endpoint, &scheme, cause).await?;
        // Harbor requires Basic for the catalog and Bearer for all other requests: learn from the usual requests.
        if matches!(cause.scope, Scope::Pull(_) | Scope::PullMetadata(_) | Scope::Push { .. } | Scope::Delete(_)) {
            endpoint.learn(Some(scheme));
        }
        Ok(authorization)
    }

    /// Why `authorization` does not use the configured credentials; `None` if it does, or if none are configured. An
    /// upstream that accepts an anonymous request all the same hides a mistake in the configuration.
    ///
    /// # Errors
    /// The credentials cannot be read.
    pub(in crate::upstream) async fn unused(
        &self,
        authorization: &Authorization,
        of_client: bool,
    ) -> Result<Option<String>, Error> {
        let expected = of_client || !self.credentials.is_anonymous();
        match &authorization.origin {
            _ if !expected => Ok(None),
            Origin::Token { key, .. } if key.subject == TokenSubject::Anonymous => Ok(Some(untrusted(&key.realm))),
            _ if of_client || self.credentials.has_credential().await? => Ok(None),
            _ => Ok(Some(NO_ENTRY.to_owned())),
        }
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
        if let Some(ClientCredential { credential: Credential::Password { username, password }, verdict, .. }) = client
        {
            let origin = Origin::ClientPassword(verdict.clone());
            return Ok(Authorization { value: basic_authorization(username, password), origin });
        }
        let Loaded { credential, turn, .. } = self.credentials.load(scope.repository()).await?;
        let Some(credential) = credential else {
            let why = format!("upstream {} requires a user name and a password, and none is configured", self.upstream);
            // A configured source without an entry is not the client's fault.
            let is_ours = client.is_none() && !self.credentials.is_anonymous();
            return Err(Error::new(if is_ours { ErrorKind::OurCredentials } else { ErrorKind::Unauthorized }, why));
        };
        let Credential::Password { username, password } = &*credential else {
            let why = format!("upstream {} requires a password, but an identity token is configured", self.upstream);
            return Err(Error::new(ErrorKind::OurCredentials, why));
        };
        let value = basic_authorization(username, password);
        Ok(Authorization { value, origin: Origin::OwnPassword { credential, turn, scope: scope.clone() } })
    }

    async fn bearer(
        &self,
        sender: &Sender,
        realm: Realm,
        service: Option<String>,
        Cause { scope, client, client_ttl }: Cause<'_>,
    ) -> Result<Authorization, Error> {
        let has_credential = client.is_some() || !self.credentials.is_anonymous();
        let is_withheld = has_credential && !realm.trusted;
        if is_withheld {
            self.warn_unused(|| untrusted(&realm.url));
        }
        let subject = match client {
            _ if !realm.trusted => TokenSubject::Anonymous,
            Some(client) => TokenSubject::Client(client.principal),
            None if self.credentials.is_anonymous() => TokenSubject::Anonymous,
            None => TokenSubject::Configured,
        };
        let key = TokenKey { subject, realm: realm.url, service, scope: scope.clone() };
        let (begun, is_fetched) = (Instant::now(), AtomicBool::new(false));
        let fetch = async {
            is_fetched.store(true, Ordering::Relaxed);
            let token = Box::pin(self.fetch(sender, &key, client)).await;
            token.map(|token| token.limited_to(client_ttl))
        };
        // A client's login checks its password each time.
        let token = match (client, scope) {
            (Some(_), Scope::Login) => fetch.await,
            _ => self.tokens.get_or_fetch(key.clone(), fetch).await,
        };
        tracing::debug!(
            upstream = %self.upstream,
            host = key.realm.host_str(),
            cached = !is_fetched.into_inner(),
            seconds = begun.elapsed().as_secs_f64(),
            ok = token.is_ok(),
            "token",
        );
        let token =
            token.map_err(|error| if is_withheld { self.asked_anonymously(&key.realm, error) } else { error })?;
        let verdict =
            client.filter(|_| matches!(key.subject, TokenSubject::Client(_))).map(|client| client.verdict.clone());
        Ok(Authorization { value: token.authorization(), origin: Origin::Token { key: Box::new(key), token, verdict } })
    }

    /// Adds to a realm's error why forebay sent the realm no credentials.
    fn asked_anonymously(&self, realm: &Url, error: Error) -> Error {
        let why = format!(
            "upstream {}: forebay requested the token without credentials, since the realm {} is not among the upstream's \
             `realms`",
            self.upstream,
            RedactedUrl(realm)
        );
        let (retry_after, refusal) = (error.retry_after, error.refusal().cloned());
        let mut error = Error::new(error.kind, why).caused_by(error);
        error.retry_after = retry_after;
        match refusal {
            Some(refusal) => error.with_refusal(Refusal::clone(&refusal)),
            None => error,
        }
    }

    /// Requests a token, and counts the result.
    async fn request_token(
        &self,
        sender: &Sender,
        key: &TokenKey,
        credential: Option<&Credential>,
        client: Option<Principal>,
    ) -> Result<Token, Error> {
        let (realm, service, scope) = (&key.realm, key.service.as_deref(), &key.scope);
        let token = Box::pin(TokenRequest { realm, service, scope, credential, client }.fetch(sender)).await;
        let result = match &token {
            Ok(_) => TokenResult::Fetched,
            Err(error) if is_refusal(error) => TokenResult::Refused,
            Err(_) => TokenResult::Failed,
        };
        self.metrics.token(&self.upstream, result);
        token
    }

    async fn fetch(&self, sender: &Sender, key: &TokenKey, client: Option<&ClientCredential>) -> Result<Token, Error> {
        match client {
            _ if key.subject == TokenSubject::Anonymous => {
                self.request_token(sender, key, None, client.map(|_| Principal::ANONYMOUS)).await
            }
            Some(client) => self.fetch_for_client(sender, key, client).await,
            None => self.fetch_with_own_credential(sender, key).await,
        }
    }

    async fn fetch_for_client(
        &self,
        sender: &Sender,
        key: &TokenKey,
        client: &ClientCredential,
    ) -> Result<Token, Error> {
        let token = self.request_token(sender, key, Some(&client.credential), Some(client.principal)).await;
        match token.as_ref().map_err(|error| error.kind) {
            Err(ErrorKind::Unauthorized | ErrorKind::Denied) => client.verdict.note(Verdict::Refused),
            // A 200 without a token.
            Err(ErrorKind::Protocol) if !client.verdict.is_accepted() => client.verdict.note(Verdict::Refused),
            Ok(_) | Err(_) => {}
        }
        token
    }

    /// Fetches a token. Tries once more if the realm refused the credential, and the credential has changed since it
    /// was read.
    async fn fetch_with_own_credential(&self, sender: &Sender, key: &TokenKey) -> Result<Token, Error> {
        let mut refusal: Option<Error> = None;
        loop {
            let Loaded { credential, is_fresh, turn } = match self.credentials.load(None).await {
                Err(error) if error.kind == ErrorKind::OurCredentials => return Err(refusal.unwrap_or(error)),
                loaded => loaded?,
            };
            let token = self.request_token(sender, key, credential.as_deref(), None).await;
            let Some(credential) = credential else {
                self.warn_unused(|| NO_ENTRY.to_owned());
                return token;
            };
            let mut error = match token {
                Ok(token) => {
                    self.note_credential_accepted(&credential);
                    return Ok(token);
                }
                Err(error) => error,
            };
            if !is_refusal(&error) || !Box::pin(self.realm_refuses(sender, key, &credential)).await? {
                return Err(error);
            }
            self.note_credential_refused(&credential, None).await;
            drop(turn);
            error.kind = ErrorKind::OurCredentials;
            if is_fresh || refusal.is_some() {
                return Err(error);
            }
            refusal = Some(error);
        }
    }

    /// Whether a realm's 401 or 403 refuses forebay's own credential, and not the scope: without a scope, as for
    /// `docker login`, a realm issues a token to each user. forebay verifies one of several concurrent refusals.
    ///
    /// # Errors
    /// The realm does not answer the request without a scope, so forebay learns nothing about the credential.
    async fn realm_refuses(
        &self,
        sender: &Sender,
        key: &TokenKey,
        credential: &Arc<Credential>,
    ) -> Result<bool, Error> {
        let since = Instant::now();
        let _turn = self.verification_turn().await;
        if self.had_unrelated_refusal(since) {
            return Ok(false);
        }
        if key.scope == Scope::Login || self.credentials.is_withheld(credential) {
            return Ok(true);
        }
        let login = TokenKey { scope: Scope::Login, ..key.clone() };
        match Box::pin(self.request_token(sender, &login, Some(credential), None)).await {
            Ok(_) => {
                self.note_credential_accepted(credential);
                self.note_unrelated_refusal();
                Ok(false)
            }
            Err(error) if is_refusal(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Denied)
}

fn untrusted(realm: &Url) -> String {
    format!(
        "credentials are configured but were not used: realm {} is not trusted, list it in `realms`",
        realm.host_str().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{CredentialSource, PrincipalKey};

    fn authenticator(credential: CredentialSource) -> Authenticator {
        let config = Config { credential, ..Config::at("a.example", &[]) };
        Authenticator::new(&config, &Context::of_test()).unwrap()
    }

    fn token(subject: TokenSubject) -> Authorization {
        let realm = Url::parse("https://auth.example/token").unwrap();
        let key = Box::new(TokenKey { subject, realm, service: None, scope: Scope::Login });
        let token = Token::new("t", Duration::from_secs(60)).unwrap();
        Authorization { value: token.authorization(), origin: Origin::Token { key, token, verdict: None } }
    }

    #[tokio::test]
    async fn credentials_that_had_no_part_in_a_token_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "pw").unwrap();
        let password = CredentialSource::Password { username: "me".to_owned(), password_file: path };
        let client = PrincipalKey::generate().unwrap().credential("ann".into(), "pw".into()).principal;
        for (source, subject, of_client, expected) in [
            (&password, TokenSubject::Anonymous, false, true),
            (&password, TokenSubject::Configured, false, false),
            (&CredentialSource::Anonymous, TokenSubject::Anonymous, false, false),
            (&CredentialSource::Anonymous, TokenSubject::Anonymous, true, true),
            (&CredentialSource::Anonymous, TokenSubject::Client(client), true, false),
        ] {
            let why = authenticator(source.clone()).unused(&token(subject), of_client).await.unwrap();
            assert_eq!(
                why.is_some_and(|why| why.contains("auth.example")),
                expected,
                "{source:?} {subject:?} {of_client}"
            );
        }
    }
}
