//! A credential for an upstream, in memory.
//!
//! What must hold: no secret is ever printed.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;

/// Text that is not printed.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::upstream) struct Secret(String);

impl Secret {
    pub(in crate::upstream) fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The text itself; call this only to build a request.
    pub(in crate::upstream) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// What authenticates forebay, or one of its clients, to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Credential {
    Password {
        username: String,
        password: Secret,
    },
    /// An OAuth2 refresh token, as some registries issue at `docker login`.
    IdentityToken {
        username: String,
        token: Secret,
    },
}

impl Credential {
    pub(in crate::upstream) fn username(&self) -> &str {
        match self {
            Self::Password { username, .. } | Self::IdentityToken { username, .. } => username,
        }
    }
}

/// The value of an Authorization header of the Basic scheme, marked sensitive.
pub(in crate::upstream) fn basic_authorization(username: &str, password: &Secret) -> HeaderValue {
    let pair = STANDARD.encode(format!("{username}:{}", password.expose()));
    // base64 is visible ASCII, so the fallback is never used.
    let mut value = HeaderValue::try_from(format!("Basic {pair}")).unwrap_or(HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let credential =
            Credential::Password { username: "me".to_owned(), password: Secret::new("hunter2".to_owned()) };
        assert_eq!(format!("{credential:?}"), r#"Password { username: "me", password: [REDACTED] }"#);
        assert_eq!(format!("{:?}", basic_authorization("me", &Secret::new("hunter2".to_owned()))), "Sensitive");
    }
}
