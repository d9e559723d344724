//! In whose name an upstream is asked that decides by its clients' own credentials.
//!
//! What must hold: a client's password lives no longer than its requests and what was begun for them, is never printed,
//! and is never a key of anything: what is remembered of an asker is a hash of name and password, under a key that
//! is random for each process: see [`HashKey`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use parking_lot::Mutex;

use super::auth::credential::{Credential, Secret};
use crate::keyed_hash::HashKey;
pub use crate::keyed_hash::NoRandomSource;

/// Who asks, as far as it makes a difference to what is remembered: nobody by name, or whoever has this name and password.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Principal(Option<[u8; 32]>);

impl Principal {
    /// Who says nothing of themselves.
    pub const ANONYMOUS: Self = Self(None);
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Asker([REDACTED])" } else { "Asker(nobody)" })
    }
}

/// What a client showed, to be shown to the upstream in its place.
pub struct ClientCredential {
    pub(super) asker: Principal,
    pub(super) credential: Credential,
    pub(super) judged: PrincipalVerdict,
    /// Told what the upstream said once nothing more is asked with this credential.
    left: Mutex<Option<OnVerdict>>,
}

type OnVerdict = Box<dyn FnOnce(Verdict) + Send>;

impl ClientCredential {
    /// Its client has left; what was begun in its name may still end.
    pub(super) fn on_verdict(&self, then: impl FnOnce(Verdict) + Send + 'static) {
        *self.left.lock() = Some(Box::new(then));
    }
}

impl Drop for ClientCredential {
    fn drop(&mut self) {
        let left = self.left.get_mut().take();
        if let Some(then) = left {
            then(self.judged.verdict());
        }
    }
}

/// What the upstream said of a credential itself, as against what its client may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing, or it was not asked.
    Unknown,
    Refused,
    /// It, or a token that its realm gave for it, got what was refused without it.
    Accepted,
}

/// Where the verdict on the credential of one request is noted.
#[derive(Clone, Debug, Default)]
pub(super) struct PrincipalVerdict(Arc<Notes>);

#[derive(Debug, Default)]
struct Notes {
    verdict: AtomicU8,
    was_taken: AtomicBool,
}

impl PrincipalVerdict {
    /// A token for one thing outweighs the refusal of one for another.
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

    /// The upstream took the credential with an earlier request.
    pub(super) fn note_accepted_before(&self) {
        self.0.was_taken.store(true, Ordering::Relaxed);
    }

    /// Whether the upstream has ever taken it, as far as is known.
    pub(super) fn is_taken(&self) -> bool {
        self.0.was_taken.load(Ordering::Relaxed) || self.verdict() == Verdict::Accepted
    }
}

impl fmt::Debug for ClientCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credential.fmt(f)
    }
}

/// What askers are told apart by.
pub struct PrincipalKey(HashKey);

impl PrincipalKey {
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate() -> Result<Self, NoRandomSource> {
        HashKey::generate().map(Self)
    }

    /// A name and a password as a client sent them.
    pub fn credential(&self, username: String, password: String) -> Arc<ClientCredential> {
        let hash = self.0.hash(&username, password.as_bytes());
        let credential = Credential::Password { username, password: Secret::new(password) };
        Arc::new(ClientCredential {
            asker: Principal(Some(hash)),
            credential,
            judged: PrincipalVerdict::default(),
            left: Mutex::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_name_and_password_are_the_same_asker() {
        let key = PrincipalKey::generate().unwrap();
        let of = |name: &str, password: &str| key.credential(name.to_owned(), password.to_owned()).asker;
        assert_eq!(of("ann", "secret"), of("ann", "secret"));
        for other in
            [of("ann", "Secret"), of("an", "nsecret"), of("", "annsecret"), of("annsecret", ""), Principal::ANONYMOUS]
        {
            assert_ne!(of("ann", "secret"), other);
        }
        let other_process = PrincipalKey::generate().unwrap().credential("ann".into(), "secret".into()).asker;
        assert_ne!(of("ann", "secret"), other_process);
    }

    #[test]
    fn a_password_that_was_taken_once_is_one() {
        use Verdict::{Accepted, Refused};
        for (before, noted, is_taken) in [
            (false, None, false),
            (false, Some(Refused), false),
            (false, Some(Accepted), true),
            (true, None, true),
            (true, Some(Refused), true),
        ] {
            let judged = PrincipalVerdict::default();
            if before {
                judged.note_accepted_before();
            }
            noted.into_iter().for_each(|verdict| judged.note(verdict));
            assert_eq!(judged.is_taken(), is_taken, "{before} {noted:?}");
        }
    }

    #[test]
    fn a_token_outweighs_a_refusal() {
        use Verdict::{Accepted, Refused, Unknown};
        for (noted, verdict) in [
            (&[][..], Unknown),
            (&[Refused], Refused),
            (&[Accepted, Refused], Accepted),
            (&[Refused, Accepted], Accepted),
        ] {
            let judged = PrincipalVerdict::default();
            noted.iter().for_each(|verdict| judged.clone().note(*verdict));
            assert_eq!(judged.verdict(), verdict, "{noted:?}");
        }
    }

    #[test]
    fn neither_password_nor_hash_is_printed() {
        let credential = PrincipalKey::generate().unwrap().credential("ann".into(), "hunter2".into());
        assert_eq!(format!("{credential:?}"), r#"Password { username: "ann", password: [REDACTED] }"#);
        assert_eq!(format!("{:?}", credential.asker), "Asker([REDACTED])");
    }
}
