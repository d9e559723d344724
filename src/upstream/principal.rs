//! Clients of upstreams that get their clients' own credentials.
//!
//! What must hold: a client's password lives no longer than its requests and what they started, is never printed, and
//! is no key of any map: caches know a client by a keyed hash of name and password, whose key is random for each
//! process: see [`HashKey`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use http::HeaderValue;
use parking_lot::Mutex;

use super::auth::credential::{Credential, Secret, basic_authorization};
use crate::keyed_hash::HashKey;
pub use crate::keyed_hash::NoRandomSource;

/// Identifies a client for caching: anonymous, or a keyed hash of user name and password.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Principal(Option<[u8; 32]>);

impl Principal {
    pub const ANONYMOUS: Self = Self(None);
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Principal([REDACTED])" } else { "Principal(anonymous)" })
    }
}

/// A client's credential, for requests to the upstream.
pub struct ClientCredential {
    pub(super) principal: Principal,
    pub(super) credential: Credential,
    pub(super) verdict: PrincipalVerdict,
    /// Called when no request uses the credential any more.
    on_drop: Mutex<Option<OnVerdict>>,
}

type OnVerdict = Box<dyn FnOnce(Verdict) + Send>;

impl ClientCredential {
    /// The header that the client sent.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        match &self.credential {
            Credential::Password { username, password } => Some(basic_authorization(username, password)),
            Credential::IdentityToken { .. } => None,
        }
    }

    /// Calls `then` when no request uses the credential any more.
    pub(super) fn on_verdict(&self, then: impl FnOnce(Verdict) + Send + 'static) {
        *self.on_drop.lock() = Some(Box::new(then));
    }
}

impl Drop for ClientCredential {
    fn drop(&mut self) {
        if let Some(then) = self.on_drop.get_mut().take() {
            then(self.verdict.verdict());
        }
    }
}

/// What the upstream said about a credential, as against what its client may access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// The upstream said nothing, or got no request.
    Unknown,
    Refused,
    /// A request was granted with it, or with a token for it, that was refused without it.
    Accepted,
}

/// The verdict on the credential of one request.
#[derive(Clone, Debug, Default)]
pub(super) struct PrincipalVerdict(Arc<VerdictState>);

#[derive(Debug, Default)]
struct VerdictState {
    verdict: AtomicU8,
    was_accepted: AtomicBool,
}

impl PrincipalVerdict {
    /// An acceptance outweighs a refusal.
    pub(super) fn note(&self, verdict: Verdict) {
        self.0.verdict.fetch_max(verdict as u8, Ordering::Relaxed);
    }

    pub(super) fn verdict(&self) -> Verdict {
        let noted = self.0.verdict.load(Ordering::Relaxed);
        [Verdict::Refused, Verdict::Accepted]
            .into_iter()
            .find(|verdict| *verdict as u8 == noted)
            .unwrap_or(Verdict::Unknown)
    }

    /// The upstream accepted the credential with an earlier request.
    pub(super) fn note_accepted_before(&self) {
        self.0.was_accepted.store(true, Ordering::Relaxed);
    }

    /// Whether the upstream has ever accepted it, as far as is known.
    pub(super) fn is_accepted(&self) -> bool {
        self.0.was_accepted.load(Ordering::Relaxed) || self.verdict() == Verdict::Accepted
    }
}

impl fmt::Debug for ClientCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credential.fmt(f)
    }
}

/// The key of the hashes that identify clients.
pub struct PrincipalKey(HashKey);

impl PrincipalKey {
    /// # Errors
    /// The system has no random numbers.
    pub fn generate() -> Result<Self, NoRandomSource> {
        HashKey::generate().map(Self)
    }

    /// A name and a password as a client sent them.
    pub fn credential(&self, username: String, password: String) -> Arc<ClientCredential> {
        let hash = self.0.hash(&username, password.as_bytes());
        let credential = Credential::Password { username, password: Secret::new(password) };
        Arc::new(ClientCredential {
            principal: Principal(Some(hash)),
            credential,
            verdict: PrincipalVerdict::default(),
            on_drop: Mutex::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_and_password_are_the_same_principal() {
        let key = PrincipalKey::generate().unwrap();
        let of = |name: &str, password: &str| key.credential(name.to_owned(), password.to_owned()).principal;
        assert_eq!(of("ann", "secret"), of("ann", "secret"));
        for other in
            [of("ann", "Secret"), of("an", "nsecret"), of("", "annsecret"), of("annsecret", ""), Principal::ANONYMOUS]
        {
            assert_ne!(of("ann", "secret"), other);
        }
        let other_process = PrincipalKey::generate().unwrap().credential("ann".into(), "secret".into()).principal;
        assert_ne!(of("ann", "secret"), other_process);
    }

    #[test]
    fn a_password_that_was_accepted_once_stays_accepted() {
        use Verdict::{Accepted, Refused};
        for (before, noted, is_accepted) in [
            (false, None, false),
            (false, Some(Refused), false),
            (false, Some(Accepted), true),
            (true, None, true),
            (true, Some(Refused), true),
        ] {
            let credential = PrincipalVerdict::default();
            if before {
                credential.note_accepted_before();
            }
            noted.into_iter().for_each(|verdict| credential.note(verdict));
            assert_eq!(credential.is_accepted(), is_accepted, "{before} {noted:?}");
        }
    }

    #[test]
    fn an_acceptance_outweighs_a_refusal() {
        use Verdict::{Accepted, Refused, Unknown};
        for (noted, verdict) in [
            (&[][..], Unknown),
            (&[Refused], Refused),
            (&[Accepted, Refused], Accepted),
            (&[Refused, Accepted], Accepted),
        ] {
            let credential = PrincipalVerdict::default();
            noted.iter().for_each(|verdict| credential.clone().note(*verdict));
            assert_eq!(credential.verdict(), verdict, "{noted:?}");
        }
    }

    #[test]
    fn neither_password_nor_hash_is_printed() {
        let credential = PrincipalKey::generate().unwrap().credential("ann".into(), "hunter2".into());
        assert_eq!(format!("{credential:?}"), r#"Password { username: "ann", password: [REDACTED] }"#);
        assert_eq!(format!("{:?}", credential.principal), "Principal([REDACTED])");
    }
}
