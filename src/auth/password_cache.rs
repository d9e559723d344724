//! Passwords that were verified lately, so that a pull of a hundred requests costs one bcrypt.
//!
//! Neither password nor bcrypt hash is kept, but a hash under a key that is made at random and never leaves this
//! value: who reads the memory cannot try passwords against it faster than against the key.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use sha2::{Digest as _, Sha256};

/// Users (or machines with several passwords) remembered at once; the least recent is asked again.
const REMEMBERED: NonZeroUsize = match NonZeroUsize::new(1024) {
    Some(n) => n,
    None => NonZeroUsize::MIN,
};

pub(super) struct PasswordCache {
    /// `None` when there is no randomness to be had: then nothing is remembered.
    key: Option<[u8; 32]>,
    users: LruCache<[u8; 32], Arc<str>>,
}

impl PasswordCache {
    pub(super) fn new() -> PasswordCache {
        let mut key = [0; 32];
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        let key = random.fill(&mut key).is_ok().then_some(key);
        PasswordCache { key, users: LruCache::new(REMEMBERED) }
    }

    pub(super) fn get(&mut self, user: &str, password: &[u8]) -> Option<Arc<str>> {
        let hash = self.hash(user, password)?;
        self.users.get(&hash).cloned()
    }

    pub(super) fn insert(&mut self, password: &[u8], user: Arc<str>) {
        if let Some(hash) = self.hash(&user, password) {
            self.users.put(hash, user);
        }
    }

    /// The key stands before the message and no hash leaves this file, so that SHA-256's length extension is of no
    /// use. The length tells `ann` + `b:c` from `ann:b` + `c`.
    fn hash(&self, user: &str, password: &[u8]) -> Option<[u8; 32]> {
        let hash = Sha256::new()
            .chain_update(self.key?)
            .chain_update((user.len() as u64).to_be_bytes())
            .chain_update(user)
            .chain_update(password);
        Some(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_pair_is_remembered() {
        let mut verified = PasswordCache::new();
        verified.insert(b"secret", "ann".into());
        assert_eq!(verified.get("ann", b"secret").as_deref(), Some("ann"));
        assert_eq!(verified.get("ann", b"Secret"), None);
        assert_eq!(verified.get("an", b"nsecret"), None);
        assert_eq!(verified.get("", b"annsecret"), None);
        assert_eq!(PasswordCache::new().get("ann", b"secret"), None);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut verified = PasswordCache::new();
        for n in 0..=REMEMBERED.get() {
            verified.insert(b"secret", n.to_string().into());
        }
        assert_eq!(verified.get("0", b"secret"), None);
        assert!(verified.get("1", b"secret").is_some());
    }
}
