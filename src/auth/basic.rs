//! Basic credentials, RFC 7617.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;

/// The longest user name and password that are sent to an upstream, in bytes; some passwords are whole key files.
pub(super) const MAX_USER: usize = 256;
const MAX_PASSWORD: usize = 16 * 1024;

/// The credentials a client sent. They have no `Debug`, so that they are never logged.
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: Vec<u8>,
}

impl Credentials {
    /// `Basic`, in any case, and base64 of `user:password`; RFC 7617 section 2.
    pub(super) fn parse(authorization: &HeaderValue) -> Option<Credentials> {
        let (scheme, rest) = authorization.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = STANDARD.decode(rest.trim()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let user = std::str::from_utf8(&decoded[..colon]).ok()?.to_owned();
        Some(Credentials { user, password: decoded[colon + 1..].to_vec() })
    }
}

/// The user name and the password for an upstream to verify; `None` if the header has no Basic credentials, or if they
/// are no text, or too long.
pub(crate) fn basic(authorization: &HeaderValue) -> Option<(String, String)> {
    let Credentials { user, password } = Credentials::parse(authorization)?;
    let password = String::from_utf8(password).ok()?;
    (user.len() <= MAX_USER && password.len() <= MAX_PASSWORD).then_some((user, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_long_credentials_are_sent_to_no_upstream() {
        for (user, password, sent) in
            [(MAX_USER, MAX_PASSWORD, true), (MAX_USER + 1, 1, false), (1, MAX_PASSWORD + 1, false)]
        {
            let pair = STANDARD.encode(format!("{}:{}", "u".repeat(user), "p".repeat(password)));
            let header = HeaderValue::from_str(&format!("Basic {pair}")).unwrap();
            assert_eq!(basic(&header).is_some(), sent, "{user} {password}");
        }
    }

    #[test]
    fn basic_credentials_are_read_and_nothing_else_is() {
        let encode = |text: &str| STANDARD.encode(text);
        for (header, expected) in [
            (format!("Basic {}", encode("ann:secret")), Some(("ann", "secret"))),
            (format!("basic  {}", encode("ann:with:colons")), Some(("ann", "with:colons"))),
            (format!("BASIC {}", encode("ann:")), Some(("ann", ""))),
            (format!("Basic {}", encode(":secret")), Some(("", "secret"))),
            (format!("Basic {}", encode("no colon")), None),
            (format!("Bearer {}", encode("ann:secret")), None),
            ("Basic".to_owned(), None),
            ("Basic !!!".to_owned(), None),
            (String::new(), None),
        ] {
            let parsed = Credentials::parse(&HeaderValue::from_str(&header).unwrap());
            let parsed = parsed.as_ref().map(|c| (c.user.as_str(), std::str::from_utf8(&c.password).unwrap()));
            assert_eq!(parsed, expected, "{header}");
        }
        assert!(Credentials::parse(&HeaderValue::from_bytes(b"Basic \xff\xff").unwrap()).is_none());
    }
}
