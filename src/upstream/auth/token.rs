//! Tokens, and the cache that has each of them fetched once.
//!
//! What must hold: a token is used only for whom, where and what it was fetched for; it is not used
//! in the last moments of its life; however many ask for the same token at once, the realm is asked
//! once. How a token is fetched is `oauth`'s.

use std::{
    fmt,
    future::Future,
    time::{Duration, Instant},
};

use http::HeaderValue;
use moka::{Expiry, future::Cache, policy::EvictionPolicy};
use reqwest::Url;
use tokio::time::Instant as Moment;

use super::super::{error::Error, principal::Principal};
use crate::oci::Repository;

/// How many tokens one upstream may have at a time: one for each repository in use.
const MAX_TOKENS: u64 = 4096;
/// A token is given up this long before it dies, since the request it goes with takes its time, and
/// a resumed blob more of it; never more than a quarter of its life.
const MARGIN: Duration = Duration::from_secs(10);
/// No token is believed for longer; the longest real ones live 12 hours.
const MAX_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// What Azure's registries want for a list of tags.
const METADATA_READ: &str = "metadata_read";

/// What a token is for: what the request needs. A challenge may ask for `pull,push` where forebay only reads.
///
/// Source: distribution, "Token Scope Documentation".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) enum Scope {
    Pull(Repository),
    /// To pull, and to read what is said of the repository, such as its tags, where pulling does not allow that.
    PullMetadata(Repository),
    /// To push, and to read the repository that a blob is mounted from.
    Push {
        repository: Repository,
        from: Option<Repository>,
    },
    Delete(Repository),
    Catalog,
    /// Only who asks, as for `GET /v2/`.
    Login,
}

impl Scope {
    /// What it is about.
    pub(in crate::upstream) fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Pull(repository)
            | Self::PullMetadata(repository)
            | Self::Push { repository, .. }
            | Self::Delete(repository) => Some(repository),
            Self::Catalog | Self::Login => None,
        }
    }

    /// The repositories that a client named.
    pub(in crate::upstream) fn repositories(&self) -> impl Iterator<Item = &Repository> {
        let from = match self {
            Self::Push { from, .. } => from.as_ref(),
            Self::Pull(_) | Self::PullMetadata(_) | Self::Delete(_) | Self::Catalog | Self::Login => None,
        };
        self.repository().into_iter().chain(from)
    }

    /// The values of the `scope` parameter.
    pub(in crate::upstream) fn parameters(&self) -> Vec<String> {
        match self {
            Self::Pull(repository) => vec![format!("repository:{repository}:pull")],
            Self::PullMetadata(repository) => vec![format!("repository:{repository}:pull,{METADATA_READ}")],
            Self::Push { repository, from } => {
                let mut scopes = vec![format!("repository:{repository}:pull,push")];
                let other = from.as_ref().filter(|from| *from != repository);
                scopes.extend(other.map(|from| format!("repository:{from}:pull")));
                scopes
            }
            // Registries call it delete or push; a realm grants what it knows of them.
            Self::Delete(repository) => vec![format!("repository:{repository}:pull,push,delete")],
            Self::Catalog => vec!["registry:catalog:*".to_owned()],
            Self::Login => vec![],
        }
    }

    /// This one, and what a challenge's `scope` names beyond it; `None` when that is nothing that merely reads the same
    /// repository. Whatever else a challenge names, to push or to delete, is not asked for because of it.
    pub(in crate::upstream) fn widened(&self, named: &str) -> Option<Self> {
        let Self::Pull(repository) = self else { return None };
        let reads_more = |scope: &str| {
            let resource = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
            resource.is_some_and(|(name, actions)| {
                name == repository.as_str() && actions.split(',').any(|action| action == METADATA_READ)
            })
        };
        named.split(' ').any(reads_more).then(|| Self::PullMetadata(repository.clone()))
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) enum TokenSubject {
    Anonymous,
    /// With the credentials of the configuration.
    Configured,
    /// With a client's own.
    Client(Principal),
}

/// What tells one token from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct TokenKey {
    pub identity: TokenSubject,
    pub realm: Url,
    pub service: Option<String>,
    pub scope: Scope,
}

/// A token as it goes on the wire, and how long it may be used.
#[derive(Clone)]
pub struct Token {
    /// `Bearer …`, marked sensitive.
    authorization: HeaderValue,
    usable: Duration,
    obtained: Moment,
}

/// A token is the same whenever it came.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.authorization == other.authorization && self.usable == other.usable
    }
}

impl Eq for Token {}

impl Token {
    /// `None` when the text cannot be sent in a header.
    pub(in crate::upstream) fn new(text: &str, life: Duration) -> Option<Self> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
        authorization.set_sensitive(true);
        let life = life.min(MAX_LIFE);
        Some(Self { authorization, usable: life - MARGIN.min(life / 4), obtained: Moment::now() })
    }

    /// It came so long ago.
    pub(in crate::upstream) fn come_before(self, waited: Duration) -> Self {
        let obtained = self.obtained.checked_sub(waited).unwrap_or(self.obtained);
        Self { usable: self.usable.saturating_sub(waited), obtained, ..self }
    }

    /// Not used for longer than this.
    pub(in crate::upstream) fn used_for(self, most: Option<Duration>) -> Self {
        let age = Duration::from_secs(self.obtained.elapsed().as_secs());
        let left = most.map(|most| most.saturating_sub(age));
        Self { usable: left.map_or(self.usable, |left| self.usable.min(left)), ..self }
    }

    pub fn authorization(&self) -> HeaderValue {
        self.authorization.clone()
    }

    /// When it came.
    pub(in crate::upstream) fn obtained(&self) -> Moment {
        self.obtained
    }

    /// How long after its receipt it may be used.
    pub fn usable(&self) -> Duration {
        self.usable
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token([REDACTED], usable for {:?})", self.usable)
    }
}

/// The tokens of one upstream.
pub(in crate::upstream) struct TokenCache(Cache<TokenKey, Token>);

impl TokenCache {
    pub(in crate::upstream) fn new() -> Self {
        let builder = Cache::builder().max_capacity(MAX_TOKENS).eviction_policy(EvictionPolicy::lru());
        Self(builder.expire_after(Lifetime).build())
    }

    /// The token of `key`; `fetch` is run if there is none, once for everyone who waits for it. An
    /// error goes to all of them and is not remembered.
    pub(in crate::upstream) async fn get_or_fetch(
        &self,
        key: TokenKey,
        fetch: impl Future<Output = Result<Token, Error>>,
    ) -> Result<Token, Error> {
        self.0.try_get_with(key, fetch).await.map_err(|error| (*error).clone())
    }

    /// Forgets `token`, which the upstream refused, unless a newer one has taken its place already.
    pub(in crate::upstream) async fn forget(&self, key: &TokenKey, token: &Token) {
        if self.0.get(key).await.as_ref() == Some(token) {
            self.0.invalidate(key).await;
        }
    }
}

struct Lifetime;

impl Expiry<TokenKey, Token> for Lifetime {
    fn expire_after_create(&self, _: &TokenKey, token: &Token, _: Instant) -> Option<Duration> {
        Some(token.usable)
    }

    fn expire_after_update(&self, _: &TokenKey, token: &Token, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(token.usable)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::upstream::ErrorKind;

    fn key(repository: &str) -> TokenKey {
        TokenKey {
            identity: TokenSubject::Anonymous,
            realm: Url::parse("https://auth.docker.io/token").unwrap(),
            service: Some("registry.docker.io".into()),
            scope: Scope::Pull(repository.parse().unwrap()),
        }
    }

    fn token(text: &str, seconds: u64) -> Token {
        Token::new(text, Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn a_token_is_given_up_before_it_dies() {
        for (life, usable) in [(300, 290), (60, 50), (40, 30), (20, 15), (1, 0), (u64::MAX, 86_390)] {
            assert_eq!(token("t", life).usable.as_secs(), usable, "{life}");
        }
    }

    #[test]
    fn a_token_is_remembered_for_as_long_as_it_may_be_used() {
        let (key, now) = (key("a"), Instant::now());
        for (token, seconds) in [
            (token("t", 300), 290),
            (token("t", 300).used_for(Some(Duration::from_secs(30))), 30),
            (token("t", 300).used_for(Some(Duration::from_secs(600))), 290),
            (token("t", 300).used_for(None), 290),
            // It came late.
            (token("t", 300).come_before(Duration::from_secs(55)).used_for(Some(Duration::from_secs(60))), 5),
        ] {
            let usable = Some(Duration::from_secs(seconds));
            assert_eq!(Some(token.usable()), usable);
            assert_eq!(Lifetime.expire_after_create(&key, &token, now), usable);
            // A token that takes the place of another one is as good as a first one.
            assert_eq!(Lifetime.expire_after_update(&key, &token, now, Some(Duration::ZERO)), usable);
        }
    }

    #[test]
    fn a_scope_is_what_the_request_needs() {
        let name = |name: &str| name.parse::<Repository>().unwrap();
        let push = |from: Option<&str>| Scope::Push { repository: name("a/b"), from: from.map(name) };
        for (scope, parameters) in [
            (key("library/nginx").scope, &["repository:library/nginx:pull"][..]),
            (Scope::PullMetadata(name("a/b")), &["repository:a/b:pull,metadata_read"]),
            (push(None), &["repository:a/b:pull,push"]),
            (push(Some("a/b")), &["repository:a/b:pull,push"]),
            (push(Some("c")), &["repository:a/b:pull,push", "repository:c:pull"]),
            (Scope::Delete(name("a")), &["repository:a:pull,push,delete"]),
            (Scope::Catalog, &["registry:catalog:*"]),
            (Scope::Login, &[]),
        ] {
            assert_eq!(scope.parameters(), parameters, "{scope:?}");
        }
    }

    #[test]
    fn a_challenge_widens_a_scope_to_read_more_of_the_same_repository_and_to_nothing_else() {
        let name = || "a/b".parse::<Repository>().unwrap();
        for (named, widened) in [
            ("repository:a/b:metadata_read", true),
            ("repository:a/b:pull,metadata_read", true),
            ("repository:a/b:delete,metadata_read,push", true),
            ("repository:c:pull repository:a/b:metadata_read", true),
            ("repository:a/b:pull", false),
            ("repository:a/b:pull,push,delete,*", false),
            ("repository:a/b:metadata_read_all", false),
            ("repository:a/b/c:metadata_read", false),
            ("repository:c:metadata_read", false),
            ("registry:a/b:metadata_read", false),
            ("metadata_read", false),
            ("", false),
        ] {
            let expected = widened.then(|| Scope::PullMetadata(name()));
            assert_eq!(Scope::Pull(name()).widened(named), expected, "{named}");
        }
        for scope in [Scope::Delete(name()), Scope::PullMetadata(name()), Scope::Catalog, Scope::Login] {
            assert_eq!(scope.widened("repository:a/b:metadata_read"), None, "{scope:?}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_and_what_is_one_is_not_printed() {
        assert!(Token::new("a\r\nb", MARGIN).is_none());
        assert!(!format!("{:?}", token("hunter2", 60)).contains("hunter2"));
        assert!(!format!("{:?}", token("hunter2", 60).authorization()).contains("hunter2"));
    }

    #[tokio::test]
    async fn fifty_askers_fetch_one_token() {
        let (cache, fetched) = (TokenCache::new(), AtomicUsize::new(0));
        let ask = || {
            cache.get_or_fetch(key("a"), async {
                tokio::task::yield_now().await;
                fetched.fetch_add(1, Ordering::Relaxed);
                Ok(token("t", 60))
            })
        };
        let tokens = futures_util::future::join_all((0..50).map(|_| ask())).await;
        assert!(tokens.into_iter().all(|found| found.unwrap() == token("t", 60)));
        assert_eq!(fetched.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_error_is_not_remembered_and_a_refused_token_is_forgotten_once() {
        let cache = TokenCache::new();
        let failed = cache.get_or_fetch(key("a"), async { Err(Error::new(ErrorKind::Unavailable, "down")) }).await;
        assert_eq!(failed.unwrap_err().kind, ErrorKind::Unavailable);
        let first = cache.get_or_fetch(key("a"), async { Ok(token("1", 60)) }).await.unwrap();
        cache.forget(&key("a"), &first).await;
        let second = cache.get_or_fetch(key("a"), async { Ok(token("2", 60)) }).await.unwrap();
        assert_eq!(second, token("2", 60));
        // A straggler that was refused with the first token must not throw the second away.
        cache.forget(&key("a"), &first).await;
        assert_eq!(cache.get_or_fetch(key("a"), async { Ok(token("3", 60)) }).await.unwrap(), second);
    }

    #[tokio::test]
    async fn tokens_are_kept_apart() {
        let cache = TokenCache::new();
        let other_identity = TokenKey { identity: TokenSubject::Configured, ..key("a") };
        let other_service = TokenKey { service: None, ..key("a") };
        for (index, key) in [key("a"), key("b"), other_identity, other_service].into_iter().enumerate() {
            let fresh = token(&index.to_string(), 60);
            assert_eq!(cache.get_or_fetch(key, async { Ok(fresh.clone()) }).await.unwrap(), fresh);
        }
    }
}
