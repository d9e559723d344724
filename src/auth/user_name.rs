//! The name of a new user of the htpasswd file.
//!
//! What must hold: a line of the file that begins with the name and a colon is read as a line of this user, and a client can
//! send the name (RFC 7617).

use std::{fmt, str::FromStr};

use super::basic::MAX_USER;

/// A name that a line of the file can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName(String);

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserNameError {
    #[error("the name is empty")]
    Empty,
    #[error("the name is longer than {MAX_USER} bytes")]
    TooLong,
    #[error("a name has no colon")]
    Colon,
    #[error("a name has no control characters")]
    Control,
    #[error("a name begins and ends with no blank")]
    Blank,
    #[error("a line that begins with # is a comment")]
    Comment,
    #[error("the name begins with a byte order mark")]
    ByteOrderMark,
}

impl UserName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = UserNameError;

    fn from_str(text: &str) -> Result<Self, UserNameError> {
        match text {
            "" => Err(UserNameError::Empty),
            _ if text.len() > MAX_USER => Err(UserNameError::TooLong),
            _ if text.contains(':') => Err(UserNameError::Colon),
            _ if text.contains(char::is_control) => Err(UserNameError::Control),
            _ if text.trim() != text => Err(UserNameError::Blank),
            _ if text.starts_with('#') => Err(UserNameError::Comment),
            _ if text.starts_with('\u{feff}') => Err(UserNameError::ByteOrderMark),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_a_line_and_a_client_can_have() {
        let long = "n".repeat(MAX_USER + 1);
        for (text, expected) in [
            ("ann", None),
            ("ann@example.com", None),
            ("Ann Ärmel", None),
            ("a#b", None),
            (&long[1..], None),
            ("", Some(UserNameError::Empty)),
            (&*long, Some(UserNameError::TooLong)),
            ("certificate:*", Some(UserNameError::Colon)),
            ("a\nb", Some(UserNameError::Control)),
            ("a\u{7f}", Some(UserNameError::Control)),
            (" ann", Some(UserNameError::Blank)),
            ("ann\u{a0}", Some(UserNameError::Blank)),
            ("#ann", Some(UserNameError::Comment)),
            ("\u{feff}ann", Some(UserNameError::ByteOrderMark)),
        ] {
            assert_eq!(text.parse::<UserName>().err(), expected, "{text:?}");
        }
    }
}
