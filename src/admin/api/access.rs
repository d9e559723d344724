//! Who may do what by the control API (pure).
//!
//! What must hold: without a token, a client of the admin listener changes nothing, and learns nothing that an upstream tells
//! only to clients with a grant. A page of another site gets nothing at all: a browser on the operator's machine is not the
//! operator.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::oci::host::Authority;

/// Where a browser says which site sent a request. Source: Fetch Metadata Request Headers, section 2.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How a request reached the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// By the control socket, whose mode has decided already.
    Socket,
    /// By the admin listener.
    Listener {
        /// The client is on this machine.
        is_local: bool,
        token: Token,
    },
}

impl Caller {
    /// How the log tells by which way a person changed something.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Listener { .. } => "token",
        }
    }
}

/// What the client of the admin listener showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// `admin.token_file` is not set.
    NotConfigured,
    Missing,
    Wrong,
    Right,
}

/// What a resource needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Read,
    /// It changes what forebay keeps or does, or spends pulls at an upstream.
    Change,
}

/// What a caller gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Also what came from upstreams with `access = "client"`.
    pub of_clients: bool,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// 401: another token may help.
    Token(&'static str),
    /// 403.
    Never(&'static str),
}

/// Whether a caller may do this, and what it gets to see.
pub(crate) fn admit(caller: Caller, need: Need) -> Result<Sight, Denied> {
    match caller {
        Caller::Socket | Caller::Listener { token: Token::Right, .. } => Ok(Sight { of_clients: true }),
        Caller::Listener { token: Token::Missing, .. } => {
            Err(Denied::Token("send the token of admin.token_file as Authorization: Bearer"))
        }
        Caller::Listener { token: Token::Wrong, .. } => Err(Denied::Token("this is not the token of admin.token_file")),
        Caller::Listener { token: Token::NotConfigured, is_local } => match need {
            Need::Change => Err(Denied::Never(
                "set admin.token_file, or use the control socket: without a token nothing is changed here, and no pull of an \
                 upstream is spent (explain, test and warm do)",
            )),
            Need::Read if !is_local => {
                Err(Denied::Never("set admin.token_file: without a token only clients of this machine may read"))
            }
            Need::Read => Ok(Sight { of_clients: false }),
        },
    }
}

/// Whether a page of another site sent the request. `host`: that of the request.
///
/// A browser names the site of a page in `Origin` (with all methods that change something) and in `Sec-Fetch-Site`; other
/// programs send neither.
pub(crate) fn is_of_other_site(headers: &HeaderMap, host: Option<&str>) -> bool {
    let is_other_origin = headers.get(header::ORIGIN).is_some_and(|origin| !is_origin_of(origin, host));
    let is_other_site = headers
        .get(SEC_FETCH_SITE)
        .is_some_and(|site| !["same-origin", "none"].iter().any(|own| site.as_bytes() == own.as_bytes()));
    is_other_origin || is_other_site
}

fn is_origin_of(origin: &HeaderValue, host: Option<&str>) -> bool {
    let named =
        origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://").or(origin.strip_prefix("https://")));
    match (named, host) {
        (Some(named), Some(host)) => match (Authority::of_request(named), Authority::of_request(host)) {
            (Some(named), Some(host)) => named == host,
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_token_or_the_socket_changes_anything() {
        let remote = |token| Caller::Listener { is_local: false, token };
        let local = |token| Caller::Listener { is_local: true, token };
        let (all, some) = (Some(Sight { of_clients: true }), Some(Sight { of_clients: false }));
        for (caller, read, change) in [
            (Caller::Socket, all, all),
            (remote(Token::Right), all, all),
            (local(Token::Right), all, all),
            (remote(Token::Wrong), None, None),
            (local(Token::Wrong), None, None),
            (remote(Token::Missing), None, None),
            (local(Token::Missing), None, None),
            (remote(Token::NotConfigured), None, None),
            (local(Token::NotConfigured), some, None),
        ] {
            assert_eq!(admit(caller, Need::Read).ok(), read, "{caller:?}");
            assert_eq!(admit(caller, Need::Change).ok(), change, "{caller:?}");
        }
    }

    #[test]
    fn a_page_of_another_site_is_told_from_our_own() {
        const HOST: &str = "mirror.lan:5001";
        for (headers, expected) in [
            (&[][..], false),
            (&[("origin", "http://mirror.lan:5001")], false),
            (&[("origin", "https://MIRROR.lan:5001")], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("origin", "http://mirror.lan")], true),
            (&[("origin", "http://mirror.lan:5000")], true),
            (&[("origin", "http://evil.example")], true),
            (&[("origin", "http://mirror.lan:5001.evil.example")], true),
            (&[("origin", "null")], true),
            (&[("origin", "")], true),
            (&[("origin", "file://mirror.lan:5001")], true),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("origin", "http://mirror.lan:5001"), ("sec-fetch-site", "cross-site")], true),
        ] {
            let headers = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
            assert_eq!(is_of_other_site(&headers, Some(HOST)), expected, "{headers:?}");
        }
        let origin = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static("http://mirror.lan"))]);
        assert!(is_of_other_site(&origin, None));
    }
}
