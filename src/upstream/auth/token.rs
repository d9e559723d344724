//! A bearer token, what it was issued for, and how long it is used.

use std::{fmt, time::Duration};

use http::HeaderValue;
use reqwest::Url;
use tokio::time::Instant;

use super::{super::principal::Principal, scope::Scope};

/// forebay does not use a token in this last part of its life, since a request takes time, and a resumed blob takes
/// more. The part is never more than a quarter of the token's life.
const MARGIN: Duration = Duration::from_secs(10);
/// The longest life that forebay believes; the longest real ones are 12 hours.
const MAX_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// In whose name a token is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) enum TokenSubject {
    Anonymous,
    /// forebay, with the credentials of the configuration.
    Configured,
    /// A client, with its own credentials.
    Client(Principal),
}

/// What a token was issued for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct TokenKey {
    pub subject: TokenSubject,
    pub realm: Url,
    pub service: Option<String>,
    pub scope: Scope,
}

/// A token as a request sends it, and how long forebay may use it.
#[derive(Clone)]
pub struct Token {
    /// `Bearer …`, marked sensitive.
    authorization: HeaderValue,
    usable: Duration,
    obtained: Instant,
}

/// Equal tokens may have been obtained at different times.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.authorization == other.authorization && self.usable == other.usable
    }
}

impl Eq for Token {}

impl Token {
    /// `None` if the text cannot stand in a header.
    pub(in crate::upstream) fn new(text: &str, life: Duration) -> Option<Self> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
        authorization.set_sensitive(true);
        let life = life.min(MAX_LIFE);
        Some(Self { authorization, usable: life - MARGIN.min(life / 4), obtained: Instant::now() })
    }

    /// The same token, whose response arrived `age` ago and waited until forebay read it.
    pub(in crate::upstream) fn obtained_before(self, age: Duration) -> Self {
        let obtained = self.obtained.checked_sub(age).unwrap_or(self.obtained);
        Self { usable: self.usable.saturating_sub(age), obtained, ..self }
    }

    /// The same token, used no longer than `limit` after it was obtained.
    pub(in crate::upstream) fn limited_to(self, limit: Option<Duration>) -> Self {
        let age = Duration::from_secs(self.obtained.elapsed().as_secs());
        let left = limit.map(|limit| limit.saturating_sub(age));
        Self { usable: left.map_or(self.usable, |left| self.usable.min(left)), ..self }
    }

    /// The value of the Authorization header.
    pub fn authorization(&self) -> HeaderValue {
        self.authorization.clone()
    }

    /// When the token's response arrived.
    pub(in crate::upstream) fn obtained(&self) -> Instant {
        self.obtained
    }

    /// How long forebay may use the token, from when it was fetched.
    pub fn usable(&self) -> Duration {
        self.usable
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token([REDACTED], usable for {:?})", self.usable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, seconds: u64) -> Token {
        Token::new(text, Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn a_token_is_not_used_until_its_last_moment() {
        for (life, usable) in [(300, 290), (60, 50), (40, 30), (20, 15), (1, 0), (u64::MAX, 86_390)] {
            assert_eq!(token("t", life).usable.as_secs(), usable, "{life}");
        }
    }

    #[test]
    fn a_limit_and_an_age_shorten_the_use_of_a_token() {
        let token = || token("t", 300);
        for (token, seconds) in [
            (token(), 290),
            (token().limited_to(Some(Duration::from_secs(30))), 30),
            (token().limited_to(Some(Duration::from_secs(600))), 290),
            (token().limited_to(None), 290),
            (token().obtained_before(Duration::from_secs(55)).limited_to(Some(Duration::from_secs(60))), 5),
        ] {
            assert_eq!(token.usable(), Duration::from_secs(seconds));
        }
    }

    #[test]
    fn an_unusable_text_is_no_token_and_a_token_is_redacted() {
        assert!(Token::new("a\r\nb", MARGIN).is_none());
        assert!(!format!("{:?}", token("hunter2", 60)).contains("hunter2"));
        assert!(!format!("{:?}", token("hunter2", 60).authorization()).contains("hunter2"));
    }
}
