//! The key that all members of a cluster share.
//!
//! The file has one line, or two while the key is changed: each of them proves what comes, and the first one proves what
//! goes.

use std::{fmt, io, path::Path, sync::Arc};

use aws_lc_rs::hmac;

use crate::small_file;

/// The shortest key, in bytes: 128 bits in hexadecimal digits.
const MIN_LEN: usize = 32;
/// How many keys a file may have: the one before a change and the one after it.
const MAX_KEYS: usize = 2;
/// The longest key file that is read, in bytes.
const MAX_LEN: u64 = 4096;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("must have at least {MIN_LEN} bytes in each line; make it with: openssl rand -hex 32")]
    Short,
    #[error("must have one line, or {MAX_KEYS} while the key is changed")]
    Many,
}

/// The key, never shown. A cheap handle.
#[derive(Clone)]
pub struct ClusterKey(Arc<[Secret]>);

struct Secret {
    text: Box<[u8]>,
    proofs: hmac::Key,
}

impl ClusterKey {
    /// Reads the key of a file. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, has more than two lines, or an attacker could guess the key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        Self::of(&small_file::read(path, MAX_LEN)?)
    }

    /// # Errors
    /// There are more than two lines, or an attacker could guess the key.
    pub(super) fn of(text: &[u8]) -> Result<Self, KeyError> {
        let text = text.trim_ascii();
        // A line end among random bytes ends no line.
        let is_text = text.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
        let lines: Vec<&[u8]> = match is_text {
            true => text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect(),
            false => vec![text],
        };
        if lines.is_empty() || lines.iter().any(|line| line.len() < MIN_LEN) {
            return Err(KeyError::Short);
        }
        if lines.len() > MAX_KEYS {
            return Err(KeyError::Many);
        }
        let secret = |line: &[u8]| Secret { text: line.into(), proofs: hmac::Key::new(hmac::HMAC_SHA256, line) };
        Ok(Self(lines.into_iter().map(secret).collect()))
    }

    #[cfg(test)]
    #[allow(clippy::unwrap_used, reason = "a test says what must hold by failing")]
    pub(crate) fn for_test(text: &str) -> Self {
        Self::of(text.as_bytes()).unwrap()
    }

    /// The code of a message, by the first key.
    pub(super) fn sign(&self, message: &[u8]) -> Option<hmac::Tag> {
        self.0.first().map(|secret| hmac::sign(&secret.proofs, message))
    }

    /// Whether the code is the message's, by one of the keys.
    pub(super) fn verifies(&self, message: &[u8], code: &[u8]) -> bool {
        self.0.iter().any(|secret| hmac::verify(&secret.proofs, message, code).is_ok())
    }

    /// The keys, the first one first.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|secret| &*secret.text)
    }

    /// The code of a record that members of the cluster leave for one another, in hexadecimal digits. `parts`: all that it
    /// says, in a fixed order.
    pub(super) fn record_code(&self, parts: &[&[u8]]) -> String {
        // There is always a key.
        self.sign(&record(parts)).map(hex::encode).unwrap_or_default()
    }

    /// Whether this is the code of a record with these parts.
    pub(super) fn is_record_code(&self, parts: &[&[u8]], code: &str) -> bool {
        hex::decode(code).is_ok_and(|code| self.verifies(&record(parts), &code))
    }
}

/// Its first bytes are those of no proof. Each part is preceded by its length, so that no two records have the same message.
fn record(parts: &[&[u8]]) -> Vec<u8> {
    let mut message = b"forebay record 1\0".to_vec();
    for part in parts {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "fedcba9876543210fedcba9876543210";

    fn key(text: &str) -> ClusterKey {
        ClusterKey::of(text.as_bytes()).unwrap()
    }

    #[test]
    fn members_understand_each_other_while_the_key_changes() {
        // Each step at one member, while the others are at this step or the one before.
        let steps = [OLD.to_owned(), format!("{OLD}\n{NEW}\n"), format!("{NEW}\r\n\n{OLD}"), format!("{NEW}\n")];
        for (before, after) in steps.iter().zip(&steps[1..]) {
            for (one, other) in [(before, after), (after, before)] {
                let code = key(one).sign(b"message").unwrap();
                assert!(key(other).verifies(b"message", code.as_ref()), "{one} to {other}");
                assert!(!key(other).verifies(b"another message", code.as_ref()));
            }
        }
        let code = key(OLD).sign(b"message").unwrap();
        assert!(!key(NEW).verifies(b"message", code.as_ref()));
    }

    #[test]
    fn a_file_has_one_key_or_two() {
        let short = "0123456789abcdef0123456789abcde";
        for (text, expected) in [
            (String::new(), "at least 32 bytes"),
            (short.to_owned(), "at least 32 bytes"),
            (format!("{OLD}\n{short}"), "at least 32 bytes"),
            (format!("{OLD}\n{NEW}\n{OLD}"), "one line, or 2"),
        ] {
            let error = ClusterKey::of(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let mut bytes = [7; 32];
        bytes[9] = b'\n';
        assert_eq!(ClusterKey::of(&bytes).unwrap().secrets().count(), 1);
        assert_eq!(format!("{:?}", key(OLD)), "ClusterKey");
    }

    #[test]
    fn the_code_of_a_record_is_for_its_parts_and_key_alone() {
        let code = key(OLD).record_code(&[b"ab", b"c"]);
        assert!(key(OLD).is_record_code(&[b"ab", b"c"], &code));
        assert!(key(&format!("{NEW}\n{OLD}")).is_record_code(&[b"ab", b"c"], &code));
        assert!(!key(NEW).is_record_code(&[b"ab", b"c"], &code));
        for parts in [&[&b"a"[..], b"bc"][..], &[b"abc"], &[b"ab", b"c", b""], &[b"ab", b"d"], &[]] {
            assert!(!key(OLD).is_record_code(parts, &code), "{parts:?}");
        }
        for wrong in ["", "zz", &code[2..], &format!("{code}00")] {
            assert!(!key(OLD).is_record_code(&[b"ab", b"c"], wrong), "{wrong}");
        }
    }
}
