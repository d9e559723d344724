//! Why the store did not do what it was asked for.
//!
//! What must hold: a text has no credential in it. Responses of stores repeat what they got, the signature among it:
//! only their codes are kept.

use std::{borrow::Cow, fmt, time::Duration};

use object_store::{
    Error as EngineError,
    client::{HttpError, HttpErrorKind},
};

use super::{error_kind::ErrorKind, labels::StoreOperation, status_error::StatusError};
use crate::error_chain::{ErrorChain, sources};

/// The longest text of an error, in bytes.
const MAX_TEXT: usize = 300;

/// The store did not do what it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    pub kind: ErrorKind,
    text: Cow<'static, str>,
    is_local: bool,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, text: text.into(), is_local: false }
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
        Self { kind, text, is_local: false }
    }

    /// There may be no such object; but if there is no place for one, the store is another than the configuration says.
    pub(super) fn of_place(self, operation: StoreOperation) -> Self {
        match (self.kind, operation) {
            (ErrorKind::Missing, StoreOperation::Put | StoreOperation::List) => Self::new(
                ErrorKind::Failed,
                "it answered 404: is this the endpoint of a store, and is the bucket there?",
            ),
            _ => self,
        }
    }

    /// Whether it is the store that fails, and not what it was asked for.
    pub(crate) fn is_of_store(&self) -> bool {
        self.kind.is_outage() && !self.is_local
    }

    /// The content cannot be read, or the store cannot take it: another try does not help.
    pub(super) fn local(text: impl Into<Cow<'static, str>>) -> Self {
        Self { is_local: true, ..Self::new(ErrorKind::Failed, text) }
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
        // Somebody else's object has a name that the engine cannot tell: its page is lost, and no other.
        EngineError::InvalidPath { .. } => ErrorKind::Refused,
        EngineError::PermissionDenied { .. } | EngineError::Unauthenticated { .. } => ErrorKind::Denied,
        _ => match (status_of(error), http_of(error)) {
            (Some(status), _) => status.kind(),
            (None, Some(HttpErrorKind::Timeout)) => ErrorKind::Timeout,
            // It makes no sense, or is too long.
            (None, Some(HttpErrorKind::Decode)) => ErrorKind::Failed,
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
