//! The cache of tokens: concurrent requests share one token request.
//!
//! What must hold: forebay uses a token only for the principal, realm, service and scope that it was issued for, and no
//! longer than [`Token::usable`].

use std::{
    future::Future,
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache, policy::EvictionPolicy};

use super::{
    super::error::Error,
    token::{Token, TokenKey},
};

/// How many tokens of one upstream are cached: one for each repository in use.
const MAX_TOKENS: u64 = 4096;

/// The tokens of one upstream.
pub(in crate::upstream) struct TokenCache(Cache<TokenKey, Token>);

impl TokenCache {
    pub(in crate::upstream) fn new() -> Self {
        let builder = Cache::builder().max_capacity(MAX_TOKENS).eviction_policy(EvictionPolicy::lru());
        Self(builder.expire_after(Lifetime).build())
    }

    /// The token of `key`. If there is none, `fetch` runs, once for all concurrent callers. An error is returned to all
    /// of them and is not cached.
    pub(in crate::upstream) async fn get_or_fetch(
        &self,
        key: TokenKey,
        fetch: impl Future<Output = Result<Token, Error>>,
    ) -> Result<Token, Error> {
        self.0.try_get_with(key, fetch).await.map_err(|error| (*error).clone())
    }

    /// Removes `token`, which the upstream refused, unless a newer token has replaced it.
    pub(in crate::upstream) async fn remove(&self, key: &TokenKey, token: &Token) {
        if self.0.get(key).await.as_ref() == Some(token) {
            self.0.invalidate(key).await;
        }
    }
}

/// Expires a token when it is no longer usable.
struct Lifetime;

impl Expiry<TokenKey, Token> for Lifetime {
    fn expire_after_create(&self, _: &TokenKey, token: &Token, _: Instant) -> Option<Duration> {
        Some(token.usable())
    }

    fn expire_after_update(&self, _: &TokenKey, token: &Token, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(token.usable())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use reqwest::Url;

    use super::*;
    use crate::upstream::{
        ErrorKind,
        auth::{scope::Scope, token::TokenSubject},
    };

    fn key(repository: &str) -> TokenKey {
        TokenKey {
            subject: TokenSubject::Anonymous,
            realm: Url::parse("https://auth.docker.io/token").unwrap(),
            service: Some("registry.docker.io".into()),
            scope: Scope::Pull(repository.parse().unwrap()),
        }
    }

    fn token(text: &str, seconds: u64) -> Token {
        Token::new(text, Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn a_token_is_cached_for_as_long_as_it_is_usable() {
        let (key, now) = (key("a"), Instant::now());
        for life in [300, 60, 20, 1] {
            let token = token("t", life);
            assert_eq!(Lifetime.expire_after_create(&key, &token, now), Some(token.usable()));
            // A token that replaces another one lives as long as a first one.
            assert_eq!(Lifetime.expire_after_update(&key, &token, now, Some(Duration::ZERO)), Some(token.usable()));
        }
    }

    #[tokio::test]
    async fn fifty_concurrent_requests_fetch_one_token() {
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
    async fn an_error_is_not_cached_and_a_refused_token_is_removed() {
        let cache = TokenCache::new();
        let failed = cache.get_or_fetch(key("a"), async { Err(Error::new(ErrorKind::Unavailable, "down")) }).await;
        assert_eq!(failed.unwrap_err().kind, ErrorKind::Unavailable);
        let first = cache.get_or_fetch(key("a"), async { Ok(token("1", 60)) }).await.unwrap();
        cache.remove(&key("a"), &first).await;
        let second = cache.get_or_fetch(key("a"), async { Ok(token("2", 60)) }).await.unwrap();
        assert_eq!(second, token("2", 60));
        // A late refusal of the first token must not remove the second.
        cache.remove(&key("a"), &first).await;
        assert_eq!(cache.get_or_fetch(key("a"), async { Ok(token("3", 60)) }).await.unwrap(), second);
    }

    #[tokio::test]
    async fn tokens_of_different_keys_are_kept_apart() {
        let cache = TokenCache::new();
        let other_subject = TokenKey { subject: TokenSubject::Configured, ..key("a") };
        let other_service = TokenKey { service: None, ..key("a") };
        for (index, key) in [key("a"), key("b"), other_subject, other_service].into_iter().enumerate() {
            let fresh = token(&index.to_string(), 60);
            assert_eq!(cache.get_or_fetch(key, async { Ok(fresh.clone()) }).await.unwrap(), fresh);
        }
    }
}
