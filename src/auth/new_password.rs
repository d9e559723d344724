//! The password of a new user of the htpasswd file, and its hash.
//!
//! What must hold: no other password has the same hash (bcrypt truncates and repeats), and a client can send it (RFC 7617
//! allows no control characters).

use bcrypt::{BcryptError, Version};

use super::htpasswd::MAX_PASSWORD;

/// The bcrypt cost: 2^10 rounds take tens of milliseconds, a price that each wrong password has as well.
const COST: u32 = 10;

/// A password that a user can get. It has no `Debug`, so that it is never logged.
pub struct NewPassword(String);

/// Why this cannot be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NewPasswordError {
    #[error("the password is empty")]
    Empty,
    #[error("the password is longer than {MAX_PASSWORD} bytes, of which bcrypt takes no more")]
    TooLong,
    #[error("the password is not UTF-8 text")]
    NotText,
    #[error("a password has no control characters, and so no second line")]
    Control,
}

impl NewPassword {
    /// # Errors
    /// No user can have this password.
    pub fn parse(bytes: &[u8]) -> Result<Self, NewPasswordError> {
        let text = std::str::from_utf8(bytes).map_err(|_| NewPasswordError::NotText)?;
        match text {
            "" => Err(NewPasswordError::Empty),
            _ if text.len() > MAX_PASSWORD => Err(NewPasswordError::TooLong),
            _ if text.contains(char::is_control) => Err(NewPasswordError::Control),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// The hash as `htpasswd -B` writes it. Takes tens of milliseconds of CPU.
    pub(super) fn hash(&self) -> Result<String, BcryptError> {
        Ok(bcrypt::hash_with_result(&self.0, COST)?.format_for_version(Version::TwoY))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::htpasswd::Users, *};

    #[test]
    fn a_password_is_what_bcrypt_tells_from_all_others() {
        let longest = "p".repeat(MAX_PASSWORD);
        for (bytes, expected) in [
            ("pä ss:word".as_bytes(), None),
            (b" ", None),
            (longest.as_bytes(), None),
            (b"", Some(NewPasswordError::Empty)),
            (&[longest.as_bytes(), b"p"].concat(), Some(NewPasswordError::TooLong)),
            (b"a\0b", Some(NewPasswordError::Control)),
            (b"two\nlines", Some(NewPasswordError::Control)),
            (b"\xff", Some(NewPasswordError::NotText)),
        ] {
            assert_eq!(NewPassword::parse(bytes).err(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn the_hash_is_one_that_forebay_verifies() {
        let longest = "p".repeat(MAX_PASSWORD);
        for password in ["secret", &longest] {
            let hash = NewPassword::parse(password.as_bytes()).ok().unwrap().hash().unwrap();
            assert!(hash.starts_with("$2y$10$"), "{hash}");
            let users = Users::parse(&format!("ann:{hash}\n")).unwrap();
            assert!(users.verify("ann", password.as_bytes()).is_some());
            assert!(users.verify("ann", b"wrong").is_none());
        }
    }
}
