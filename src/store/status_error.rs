//! A store's refusal, by its status and code.

use std::fmt;

use http::StatusCode;

use super::error_kind::ErrorKind;

/// The store refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StatusError {
    pub status: StatusCode,
    /// Such as `SlowDown`.
    pub code: Option<Box<str>>,
}

impl StatusError {
    pub(super) fn kind(&self) -> ErrorKind {
        match (self.status.as_u16(), self.code.as_deref()) {
            (429 | 503, _) | (_, Some("SlowDown" | "ServerBusy" | "RequestLimitExceeded")) => ErrorKind::SlowDown,
            (401 | 403, _) | (_, Some("AuthorizationHeaderMalformed" | "ExpiredToken" | "InvalidToken")) => {
                ErrorKind::Denied
            }
            (404, _) => ErrorKind::Failed,
            (408 | 504, _) => ErrorKind::Timeout,
            (400..=499, _) => ErrorKind::Refused,
            _ => ErrorKind::Failed,
        }
    }

    /// Whether the whole bucket is missing, and not just one object.
    pub(super) fn is_about_bucket(&self) -> bool {
        matches!(self.code.as_deref(), Some("NoSuchBucket" | "ContainerNotFound"))
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it answered {}", self.status.as_u16())?;
        match &self.code {
            Some(code) => write!(f, " {code}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StatusError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_mean_what_stores_mean_by_them() {
        for (status, code, expected) in [
            (503, Some("SlowDown"), ErrorKind::SlowDown),
            (503, None, ErrorKind::SlowDown),
            (429, None, ErrorKind::SlowDown),
            (400, Some("SlowDown"), ErrorKind::SlowDown),
            (403, Some("SignatureDoesNotMatch"), ErrorKind::Denied),
            (404, Some("NoSuchBucket"), ErrorKind::Failed),
            (400, Some("ExpiredToken"), ErrorKind::Denied),
            (400, Some("EntityTooLarge"), ErrorKind::Refused),
            (416, None, ErrorKind::Refused),
            (500, Some("InternalError"), ErrorKind::Failed),
            (507, None, ErrorKind::Failed),
            (504, None, ErrorKind::Timeout),
        ] {
            let status = StatusError { status: status.try_into().unwrap(), code: code.map(Into::into) };
            assert_eq!(status.kind(), expected, "{status}");
        }
    }
}
