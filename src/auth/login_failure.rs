//! Why a client's credentials were refused (pure): a label of the metrics, and a field of the log.

use super::Refusal;
use crate::metrics::Label;

/// Why a client's credentials were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginFailure {
    /// The user name or the password is wrong.
    Wrong,
    /// They are not Basic ones.
    Malformed,
    /// Too many passwords of this client were wrong: this one was not verified.
    TooMany,
    /// Too many passwords are being verified: this one was not.
    Busy,
    /// A password over clear HTTP.
    ClearHttp,
    /// A login at this host is for another registry.
    Elsewhere,
    /// The upstream, which decides by its clients' credentials, refuses them.
    Upstream,
}

impl Label for LoginFailure {
    const ALL: &'static [Self] =
        &[Self::Wrong, Self::Malformed, Self::TooMany, Self::Busy, Self::ClearHttp, Self::Elsewhere, Self::Upstream];

    fn as_str(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Malformed => "malformed",
            Self::TooMany => "too_many",
            Self::Busy => "busy",
            Self::ClearHttp => "clear_http",
            Self::Elsewhere => "elsewhere",
            Self::Upstream => "upstream",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl LoginFailure {
    /// `None`: the client sent no credentials, which is how each login begins.
    pub(crate) fn of(refusal: Refusal) -> Option<Self> {
        match refusal {
            Refusal::Missing => None,
            Refusal::Malformed => Some(Self::Malformed),
            Refusal::Wrong => Some(Self::Wrong),
            Refusal::Busy => Some(Self::Busy),
            Refusal::TooMany(_) => Some(Self::TooMany),
        }
    }
}
