//! The token of `admin.token_file`, by which clients of the admin listener show that they are operators.
//!
//! What must hold: the token is in no log and no response; it is compared by its hash, so that the time of a comparison
//! tells nothing of it. What a client was admitted for by one token does not go on under another.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::api::access::Token;
use crate::{
    file_watch::{self, Changed, Fingerprint, POLL_INTERVAL},
    metrics::Metrics,
    small_file,
};

/// The longest file, in bytes.
const MAX_FILE: u64 = 4 * 1024;
/// The shortest token, in characters: a shorter one can be guessed.
const MIN_LEN: usize = 16;

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has a token of fewer than {MIN_LEN} characters; make one with `openssl rand -hex 32`", .0.display())]
    Short(PathBuf),
    #[error("{} must have one line of visible ASCII characters", .0.display())]
    NotText(PathBuf),
}

/// The token of a file. Blocks.
///
/// # Errors
/// The file cannot be read, or has no token.
pub fn read_token(path: &Path) -> Result<String, TokenError> {
    let failed = |source| TokenError::Read { path: path.to_owned(), source };
    let mut text = small_file::read_text(path, MAX_FILE).map_err(failed)?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TokenError::NotText(path.to_owned()));
    }
    if text.len() < MIN_LEN {
        return Err(TokenError::Short(path.to_owned()));
    }
    Ok(text)
}

/// A token file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenFile {
    path: PathBuf,
    /// The SHA-256 of the token.
    hash: Fingerprint,
}

impl TokenFile {
    /// Reads the file. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or has no token.
    pub(crate) fn load(path: &Path) -> Result<Self, TokenError> {
        Ok(Self { path: path.to_owned(), hash: Sha256::digest(read_token(path)?).into() })
    }
}

/// The token in force. A cheap handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct AdminToken(Arc<ArcSwap<InForce>>);

/// What requests are judged by.
#[derive(Clone, Debug, Default)]
struct InForce {
    /// `None` without `admin.token_file`.
    file: Option<TokenFile>,
    /// Cancelled when another token takes its place, or none does.
    replaced: CancellationToken,
}

impl InForce {
    fn hash(&self) -> Option<&Fingerprint> {
        self.file.as_ref().map(|file| &file.hash)
    }

    /// What follows it.
    fn next(&self, file: Option<TokenFile>) -> Self {
        let is_same = self.hash() == file.as_ref().map(|file| &file.hash);
        Self { file, replaced: if is_same { self.replaced.clone() } else { CancellationToken::new() } }
    }

    /// Ends what was admitted by it, unless what follows has the same token.
    fn end(&self, next: Option<&Fingerprint>) {
        if self.hash() != next {
            self.replaced.cancel();
        }
    }
}

impl AdminToken {
    pub(crate) fn set(&self, file: Option<TokenFile>) {
        let before = self.0.rcu(|before| before.next(file.clone()));
        before.end(file.as_ref().map(|file| &file.hash));
    }

    /// What the headers of a request show, and what is cancelled when that counts no more.
    pub(crate) fn judge(&self, headers: &HeaderMap) -> (Token, CancellationToken) {
        let in_force = self.0.load();
        let token = match (in_force.hash(), headers.get(header::AUTHORIZATION)) {
            (None, _) => Token::NotConfigured,
            (Some(_), None) => Token::Missing,
            (Some(hash), Some(shown)) => match bearer(shown.as_bytes()) {
                Some(token) if Fingerprint::from(Sha256::digest(token)) == *hash => Token::Right,
                _ => Token::Wrong,
            },
        };
        (token, in_force.replaced.clone())
    }

    /// Reads the file again when it changes, until `shutdown`.
    pub(crate) async fn watch(self, metrics: Metrics, shutdown: CancellationToken) {
        let watched = self.clone();
        let read = move || {
            let current = watched.0.load_full();
            let Some(TokenFile { path, hash }) = &current.file else { return Ok(None) };
            let file = TokenFile::load(path)?;
            Ok((file.hash != *hash).then(|| Changed { fingerprint: file.hash, content: (file, current.clone()) }))
        };
        file_watch::watch(POLL_INTERVAL, shutdown, read, |read: Result<_, TokenError>| match read {
            Ok((file, current)) => {
                let path = file.path.clone();
                // A reload of the configuration in the meantime has read the file itself.
                let next = Arc::new(current.next(Some(file)));
                if Arc::ptr_eq(&self.0.compare_and_swap(&current, next.clone()), &current) {
                    current.end(next.hash());
                    metrics.reload("token", true);
                    info!(token_file = %path.display(), "the new token is in force");
                }
            }
            Err(failure) => {
                metrics.reload("token", false);
                error!(error = &failure as &dyn std::error::Error, "the token file is not usable; the old token stays");
            }
        })
        .await;
    }
}

/// The token of `Bearer TOKEN`. Source: RFC 6750, section 2.1; RFC 9110, section 11.1 (the scheme's case).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn a_file_has_one_line_that_cannot_be_guessed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for (content, expected) in [
            (TOKEN, None),
            ("0123456789abcdef\n", None),
            ("0123456789abcdef\r\n", None),
            ("", Some("fewer than 16")),
            ("0123456789abcde\n", Some("fewer than 16")),
            ("0123456789abcdef\n0123456789abcdef\n", Some("one line")),
            ("0123456789 abcdef", Some("one line")),
            ("0123456789äbcdef", Some("one line")),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = TokenFile::load(&path).err().map(|error| error.to_string());
            match expected {
                Some(expected) => assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{error:?}"),
                None => assert_eq!(error, None),
            }
        }
        assert!(TokenFile::load(directory.path()).is_err());
    }

    #[test]
    fn only_the_token_itself_is_right() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, TOKEN).unwrap();
        let token = AdminToken::default();
        let judge = |value: Option<&'static str>| {
            let value = value.map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value)));
            token.judge(&value.into_iter().collect()).0
        };
        assert_eq!(judge(Some("Bearer 0123456789abcdef")), Token::NotConfigured);
        token.set(Some(TokenFile::load(&path).unwrap()));
        for (value, expected) in [
            (None, Token::Missing),
            (Some("Bearer 0123456789abcdef"), Token::Right),
            (Some("bearer  0123456789abcdef "), Token::Right),
            (Some("Bearer"), Token::Wrong),
            (Some("Bearer "), Token::Wrong),
            (Some("Bearer 0123456789abcdeF"), Token::Wrong),
            (Some("Bearer 0123456789abcdef0"), Token::Wrong),
            (Some("Basic 0123456789abcdef"), Token::Wrong),
            (Some("0123456789abcdef"), Token::Wrong),
        ] {
            assert_eq!(judge(value), expected, "{value:?}");
        }
    }

    #[test]
    fn what_a_token_admitted_ends_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, token: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, token).unwrap();
            TokenFile::load(&path).unwrap()
        };
        let token = AdminToken::default();
        let admitted = || token.judge(&HeaderMap::new()).1;
        let without = admitted();
        token.set(None);
        assert!(!without.is_cancelled(), "a reload that changes nothing");
        token.set(Some(file("a", TOKEN)));
        let first = admitted();
        assert_eq!((without.is_cancelled(), first.is_cancelled()), (true, false));
        token.set(Some(file("b", TOKEN)));
        assert!(!first.is_cancelled(), "another file has the same token");
        token.set(Some(file("b", "fedcba9876543210")));
        assert!(first.is_cancelled());
        let second = admitted();
        token.set(None);
        assert_eq!((second.is_cancelled(), admitted().is_cancelled()), (true, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_in_force_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, TOKEN).unwrap();
        let (token, shutdown) = (AdminToken::default(), CancellationToken::new());
        token.set(Some(TokenFile::load(&path).unwrap()));
        let metrics = Metrics::new().unwrap();
        let watching = tokio::spawn(token.clone().watch(metrics.clone(), shutdown.clone()));
        std::fs::write(&path, "short").unwrap();
        tokio::time::sleep(POLL_INTERVAL * 5).await;
        let judge =
            |value| token.judge(&HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))])).0;
        assert_eq!(judge("Bearer 0123456789abcdef"), Token::Right);
        assert_eq!(metrics.failed_reloads(), ["token"]);
        std::fs::write(&path, "fedcba9876543210").unwrap();
        tokio::time::sleep(POLL_INTERVAL * 5).await;
        assert_eq!((judge("Bearer fedcba9876543210"), metrics.failed_reloads().len()), (Token::Right, 0));
        assert_eq!(judge("Bearer 0123456789abcdef"), Token::Wrong);
        shutdown.cancel();
        watching.await.unwrap();
    }
}
