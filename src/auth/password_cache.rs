//! Passwords that were verified lately, so that a pull of a hundred requests costs one bcrypt.
//!
//! Neither the password nor its bcrypt hash is kept, but a [keyed hash](HashKey).

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use crate::keyed_hash::HashKey;

/// How many users (or machines with several passwords) are remembered; the least recently used is verified again.
const MAX_ENTRIES: NonZeroUsize = match NonZeroUsize::new(1024) {
    Some(n) => n,
    None => NonZeroUsize::MIN,
};

pub(super) struct PasswordCache {
    /// `None` if the system has no random numbers: then nothing is remembered.
    key: Option<HashKey>,
    users: LruCache<[u8; 32], Arc<str>>,
}

impl PasswordCache {
    pub(super) fn new() -> PasswordCache {
        PasswordCache { key: HashKey::generate().ok(), users: LruCache::new(MAX_ENTRIES) }
    }

    pub(super) fn get(&mut self, user: &str, password: &[u8]) -> Option<Arc<str>> {
        let hash = self.key.as_ref()?.hash(user, password);
        self.users.get(&hash).cloned()
    }

    pub(super) fn insert(&mut self, password: &[u8], user: Arc<str>) {
        if let Some(key) = &self.key {
            self.users.put(key.hash(&user, password), user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_name_and_password_are_found() {
        let mut verified = PasswordCache::new();
        verified.insert(b"secret", "ann".into());
        assert_eq!(verified.get("ann", b"secret").as_deref(), Some("ann"));
        assert_eq!(verified.get("ann", b"Secret"), None);
        assert_eq!(verified.get("an", b"nsecret"), None);
        assert_eq!(verified.get("", b"annsecret"), None);
        assert_eq!(PasswordCache::new().get("ann", b"secret"), None);
    }

    #[test]
    fn the_least_recently_used_is_forgotten() {
        let mut verified = PasswordCache::new();
        for n in 0..=MAX_ENTRIES.get() {
            verified.insert(b"secret", n.to_string().into());
        }
        assert_eq!(verified.get("0", b"secret"), None);
        assert!(verified.get("1", b"secret").is_some());
    }
}
