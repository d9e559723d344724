//! The kinds of failures of the store.

use super::labels::StoreResult;

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
    /// Another failure, such as for want of room.
    Failed,
    /// It refuses this one request: another one may succeed.
    Refused,
    /// The object has more bytes than it may have.
    TooLong,
    /// It was not asked, since it failed lately.
    NotAsked,
}

impl ErrorKind {
    /// Whether the store is not as it should be.
    pub(crate) fn is_outage(self) -> bool {
        !matches!(self, Self::Missing | Self::Exists | Self::Refused | Self::TooLong | Self::NotAsked)
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
            Self::Refused => StoreResult::Refused,
            Self::TooLong | Self::NotAsked => return None,
        })
    }
}
