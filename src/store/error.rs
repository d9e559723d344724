//! Why the store did not do what it was asked for.
//!
//! What must hold: a text has no credential in it. Responses of stores repeat what they got, the signature among it: only
//! their codes are kept.

use std::{borrow::Cow, fmt, time::Duration};

use object_store::{
    Error as EngineError,
    client::{HttpError, HttpErrorKind},
};

use super::{http::StatusError, labels::StoreResult};
use crate::error_chain::{ErrorChain, sources};

/// The longest text of an error, in bytes.
const MAX_TEXT: usize = 300;

/// The store did not do what it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    pub kind: ErrorKind,
    text: Cow<'static, str>,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// There is no such object.
    Missing,
    /// There is such an object, and it was to be created.
    Exists,
    /// It wants fewer requests.
    SlowDown,
    /// It did not answer in time.
    Timeout,
    /// It cannot be reached, or the connection broke.
    Unreachable,
    /// It does not accept the credentials, or they cannot be had.
    Denied,
    /// Another refusal, such as for want of room.
    Failed,
    /// It was not asked, since it failed lately.
    NotAsked,
}

impl ErrorKind {
    /// Whether the store is not as it should be.
    pub(crate) fn is_outage(self) -> bool {
        !matches!(self, Self::Missing | Self::Exists | Self::NotAsked)
    }

    pub(super) fn result(self) -> Option<StoreResult> {
        Some(match self {
            Self::Missing => StoreResult::Missing,
            Self::Exists => StoreResult::Exists,
            Self::SlowDown => StoreResult::SlowDown,
            Self::Timeout => StoreResult::Timeout,
            Self::Unreachable => StoreResult::Unreachable,
            Self::Denied => StoreResult::Denied,
            Self::Failed => StoreResult::Failed,
            Self::NotAsked => return None,
        })
    }
}

impl Error {
    pub(super) fn new(kind: ErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, text: text.into() }
    }

    /// What the engine says.
    pub(super) fn of_engine(error: &EngineError) -> Self {
        let kind = kind_of(error);
        let text = match kind {
            ErrorKind::Missing => Cow::Borrowed("there is no such object"),
            ErrorKind::Exists => Cow::Borrowed("there is such an object"),
            _ => match status_of(error) {
                Some(status) => status.to_string().into(),
                None => shortened(cause_of(error)).into(),
            },
        };
        Self { kind, text }
    }

    pub(super) fn timeout(limit: Duration) -> Self {
        Self::new(ErrorKind::Timeout, format!("no answer within {} s", limit.as_secs()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the object store: {}", self.text)
    }
}

impl std::error::Error for Error {}

fn kind_of(error: &EngineError) -> ErrorKind {
    match error {
        EngineError::NotFound { .. } => ErrorKind::Missing,
        EngineError::AlreadyExists { .. } | EngineError::Precondition { .. } | EngineError::NotModified { .. } => {
            ErrorKind::Exists
        }
        EngineError::PermissionDenied { .. } | EngineError::Unauthenticated { .. } => ErrorKind::Denied,
        _ => match (status_of(error), http_of(error)) {
            (Some(status), _) => status.kind(),
            (None, Some(HttpErrorKind::Timeout)) => ErrorKind::Timeout,
            (None, Some(HttpErrorKind::Connect | HttpErrorKind::Request | HttpErrorKind::Interrupted)) => {
                ErrorKind::Unreachable
            }
            (None, Some(_)) => ErrorKind::Unreachable,
            (None, None) => ErrorKind::Failed,
        },
    }
}

fn status_of(error: &EngineError) -> Option<&StatusError> {
    sources(error).find_map(|source| source.downcast_ref())
}

fn http_of(error: &EngineError) -> Option<HttpErrorKind> {
    sources(error).find_map(|source| source.downcast_ref::<HttpError>()).map(HttpError::kind)
}

/// The innermost cause: the outer ones repeat it.
fn cause_of(error: &EngineError) -> String {
    sources(error).last().map_or_else(|| ErrorChain(error).to_string(), ToString::to_string)
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}
