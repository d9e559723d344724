//! Hashes of secrets, under a key that is random for each process.
//!
//! What must hold: the key never leaves this file, and a hash never leaves the process: a reader of its memory cannot try
//! passwords against a hash without the key.

use aws_lc_rs::{hmac, rand::SystemRandom};

/// The system has no random numbers.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cannot make a random key")]
pub struct NoRandomSource;

/// Makes hashes that tell secrets apart.
pub(crate) struct HashKey(hmac::Key);

impl HashKey {
    /// # Errors
    /// When the system has no random numbers.
    pub(crate) fn generate() -> Result<Self, NoRandomSource> {
        hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map(Self).map_err(|_| NoRandomSource)
    }

    /// The HMAC-SHA-256 of a user name and a password. The name's length tells `ann` + `b:c` from `ann:b` + `c`.
    pub(crate) fn hash(&self, user: &str, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&(user.len() as u64).to_be_bytes());
        context.update(user.as_bytes());
        context.update(password);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_name_and_password_have_the_same_hash() {
        let key = HashKey::generate().unwrap();
        let hash = key.hash("ann", b"secret");
        assert_eq!(key.hash("ann", b"secret"), hash);
        for (user, password) in [("ann", "Secret"), ("an", "nsecret"), ("", "annsecret"), ("annsecret", "")] {
            assert_ne!(key.hash(user, password.as_bytes()), hash, "{user} {password}");
        }
        assert_ne!(HashKey::generate().unwrap().hash("ann", b"secret"), hash);
    }
}
