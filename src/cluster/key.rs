//! The key that all members of a cluster share.

use std::{fmt, io, path::Path, sync::Arc};

use aws_lc_rs::hmac;

use crate::small_file;

/// The shortest key, in bytes: 128 bits in hexadecimal digits.
const MIN_LEN: usize = 32;
/// The longest key file that is read, in bytes.
const MAX_LEN: u64 = 4096;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("must have at least {MIN_LEN} bytes; make it with: openssl rand -hex 32")]
    Short,
}

/// The key, never shown.
#[derive(Clone)]
pub struct ClusterKey {
    proofs: Arc<hmac::Key>,
    secret: Arc<[u8]>,
}

impl ClusterKey {
    /// Reads the key of a file. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or an attacker could guess the key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        Self::of(&small_file::read(path, MAX_LEN)?)
    }

    /// # Errors
    /// An attacker could guess the key.
    pub(super) fn of(text: &[u8]) -> Result<Self, KeyError> {
        let secret = text.trim_ascii();
        if secret.len() < MIN_LEN {
            return Err(KeyError::Short);
        }
        Ok(Self { proofs: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)), secret: secret.into() })
    }

    /// What proofs are signed with.
    pub(super) fn proofs(&self) -> &hmac::Key {
        &self.proofs
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey")
    }
}

impl PartialEq for ClusterKey {
    fn eq(&self, other: &Self) -> bool {
        self.secret == other.secret
    }
}

impl Eq for ClusterKey {}
