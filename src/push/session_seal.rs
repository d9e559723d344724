//! Seals the state of an upload into its URL: where the upload continues at the upstream.
//!
//! What must hold: this instance opens only a state that it, or an instance with the same key, has sealed, and only for
//! the same upstream and repository; a client cannot read the state. AES-256-GCM with a random nonce for each state.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    error::Unspecified,
    rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::Config;
use crate::{cluster::ClusterKey, oci::Repository, small_file, state_dir::StateDirectory};

/// The shortest key file, in bytes: 128 bits in hexadecimal digits.
const MIN_KEY: usize = 32;
/// The longest key file that is read, in bytes.
const MAX_KEY: u64 = 64 * 1024;
/// The file in the state directory.
const KEY_FILE: &str = "push.key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot make {path}")]
    Make { path: PathBuf, source: io::Error },
    #[error("{path} must have at least {MIN_KEY} bytes of random data, as of `openssl rand -hex 32`")]
    Short { path: PathBuf },
    #[error("the system has no randomness for a key")]
    Random,
}

/// Seals and opens the state of uploads. A cheap handle.
#[derive(Clone)]
pub(crate) struct Seal(Arc<SealKeys>);

/// The first one seals; all of them open.
struct SealKeys {
    first: RandomizedNonceKey,
    others: Vec<RandomizedNonceKey>,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal([REDACTED])")
    }
}

impl Seal {
    /// Reads the key in the state directory, or makes it; an earlier version of forebay kept it in the cache directory.
    /// Blocks.
    ///
    /// # Errors
    /// The key cannot be read or made, or an attacker could guess it.
    pub(crate) fn kept(state: &StateDirectory, cache: &Path) -> Result<Self, KeyError> {
        let path = state.file(KEY_FILE);
        let failed = |source| KeyError::Make { path: path.clone(), source };
        state.take_over(KEY_FILE, cache).map_err(failed)?;
        if !path.exists() {
            let mut key = [0; 32];
            rand::fill(&mut key).map_err(|Unspecified| KeyError::Random)?;
            state.write(KEY_FILE, format!("{}\n", hex::encode(key)).as_bytes()).map_err(failed)?;
        }
        Self::read(&path)
    }

    /// Checks the key file of the configuration, if there is one.
    ///
    /// # Errors
    /// The file cannot be read, or an attacker could guess the key.
    pub(crate) fn check(config: &Config) -> Result<(), KeyError> {
        config.key_file.as_deref().map_or(Ok(()), |path| Self::read(path).map(drop))
    }

    /// Reads the key in this file.
    ///
    /// # Errors
    /// The file cannot be read, or an attacker could guess the key.
    pub(crate) fn read(path: &Path) -> Result<Self, KeyError> {
        let read = small_file::read(path, MAX_KEY);
        let secret = read.map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        let secret = secret.trim_ascii();
        if secret.len() < MIN_KEY {
            return Err(KeyError::Short { path: path.to_owned() });
        }
        Self::of(secret, std::iter::empty()).map_err(|Unspecified| KeyError::Random)
    }

    /// Of the keys of a cluster: an upload may go on at another member.
    ///
    /// # Errors
    /// There is no key.
    pub(crate) fn of_cluster(key: &ClusterKey) -> Result<Self, KeyError> {
        let mut secrets = key.secrets();
        let first = secrets.next().unwrap_or_default();
        Self::of(first, secrets).map_err(|Unspecified| KeyError::Random)
    }

    /// A key of its own.
    #[cfg(test)]
    #[allow(clippy::unwrap_used, reason = "a test says what must hold by failing")]
    pub(crate) fn for_test() -> Self {
        Self::of(b"the key of a test", std::iter::empty()).unwrap()
    }

    /// Hashes the content of the file into a key of the right length, which has no other use.
    fn of<'a>(first: &[u8], others: impl Iterator<Item = &'a [u8]>) -> Result<Self, Unspecified> {
        let key = |secret: &[u8]| {
            let key = Sha256::new().chain_update("forebay: the state of uploads, 1\0").chain_update(secret).finalize();
            RandomizedNonceKey::new(&AES_256_GCM, &key)
        };
        Ok(Self(Arc::new(SealKeys { first: key(first)?, others: others.map(key).collect::<Result<_, _>>()? })))
    }

    /// `None` if the system provides no randomness.
    pub(crate) fn seal(&self, upstream: &str, repository: &Repository, state: &str) -> Option<String> {
        let mut sealed = state.as_bytes().to_vec();
        let nonce = self.0.first.seal_in_place_append_tag(owner(upstream, repository), &mut sealed).ok()?;
        Some(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &sealed].concat()))
    }

    /// The state; `None` if it was not sealed with this key for this repository.
    pub(crate) fn open(&self, upstream: &str, repository: &Repository, sealed: &str) -> Option<String> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
        let open = |key: &RandomizedNonceKey| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut rest = rest.to_vec();
            let state = key.open_in_place(nonce, owner(upstream, repository), &mut rest).ok()?;
            String::from_utf8(state.to_vec()).ok()
        };
        std::iter::once(&self.0.first).chain(&self.0.others).find_map(open)
    }
}

/// The data that the seal binds to; no upstream's name contains a line end.
fn owner(upstream: &str, repository: &Repository) -> Aad<Vec<u8>> {
    Aad::from(format!("{upstream}\n{repository}").into_bytes())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use proptest::prelude::*;

    use super::*;

    fn name(name: &str) -> Repository {
        name.parse().unwrap()
    }

    fn seal(secret: &str) -> Seal {
        Seal::of(secret.as_bytes(), std::iter::empty()).unwrap()
    }

    const STATE: &str = "/v2/team/app/blobs/uploads/1?_state=x%2Fy";

    #[test]
    fn a_state_is_opened_for_the_same_repository_alone() {
        let sealed = seal("a").seal("hub", &name("team/app"), STATE).unwrap();
        assert_eq!(seal("a").open("hub", &name("team/app"), &sealed).as_deref(), Some(STATE));
        for (key, upstream, repository) in
            [("b", "hub", "team/app"), ("a", "other", "team/app"), ("a", "hub", "team/ap"), ("a", "hub", "team/app/x")]
        {
            assert_eq!(seal(key).open(upstream, &name(repository), &sealed), None, "{key} {upstream} {repository}");
        }
        assert!(!sealed.contains("team") && !format!("{:?}", seal("hunter2")).contains("hunter2"));
        let again = seal("a").seal("hub", &name("team/app"), STATE).unwrap();
        assert_ne!(sealed, again, "each has a nonce of its own");
    }

    #[test]
    fn an_upload_goes_on_while_the_key_of_a_cluster_changes() {
        let key = |text: &str| Seal::of_cluster(&ClusterKey::for_test(text)).unwrap();
        let (old, new) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
        let (both, swapped) = (key(&format!("{old}\n{new}")), key(&format!("{new}\n{old}")));
        for (sealing, opening) in [(&key(old), &both), (&both, &key(old)), (&both, &swapped), (&swapped, &both)] {
            let sealed = sealing.seal("hub", &name("a"), STATE).unwrap();
            assert_eq!(opening.open("hub", &name("a"), &sealed).as_deref(), Some(STATE));
        }
        let sealed = swapped.seal("hub", &name("a"), STATE).unwrap();
        assert_eq!(key(old).open("hub", &name("a"), &sealed), None);
    }

    #[test]
    fn the_key_is_created_once_and_readable_by_its_owner_only() {
        let (directory, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = || Seal::kept(&StateDirectory::open(directory.path()).unwrap(), cache.path()).unwrap();
        let sealed = kept().seal("hub", &name("a"), STATE).unwrap();
        let again = kept();
        assert_eq!(again.open("hub", &name("a"), &sealed).as_deref(), Some(STATE));
        let file = directory.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        // Another instance with the same key.
        let shared = Config { key_file: Some(file.clone()) };
        let instance = Seal::read(&file).unwrap();
        assert_eq!(instance.open("hub", &name("a"), &sealed).as_deref(), Some(STATE));
        // The key of an earlier version of forebay, in the cache directory.
        fs::rename(&file, cache.path().join(KEY_FILE)).unwrap();
        assert_eq!(kept().open("hub", &name("a"), &sealed).as_deref(), Some(STATE));
        assert!(!cache.path().join(KEY_FILE).exists());
        for short in ["", "secret\n", &format!("{}\n", "a".repeat(31))] {
            fs::write(&file, short).unwrap();
            assert!(matches!(Seal::check(&shared), Err(KeyError::Short { .. })), "{short:?}");
        }
        fs::remove_file(&file).unwrap();
        assert!(matches!(Seal::check(&shared), Err(KeyError::Read { .. })));
    }

    proptest! {
        #[test]
        fn any_state_comes_back_and_any_other_text_does_not(state in ".{0,80}", at in 0usize..1000, to in any::<u8>()) {
            let seal = seal("key");
            let sealed = seal.seal("hub", &name("a"), &state).unwrap();
            prop_assert_eq!(seal.open("hub", &name("a"), &sealed), Some(state));
            let mut bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            prop_assert_eq!(seal.open("hub", &name("a"), &URL_SAFE_NO_PAD.encode(&bytes)), None);
            prop_assert_eq!(seal.open("hub", &name("a"), &URL_SAFE_NO_PAD.encode(&bytes[..at])), None);
        }

        #[test]
        fn any_text_is_opened_without_a_panic(text in ".{0,60}|[A-Za-z0-9_-]{0,60}") {
            prop_assert_eq!(seal("key").open("hub", &name("a"), &text), None);
        }
    }
}
