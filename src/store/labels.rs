//! The labels of the metrics of the store.

use crate::metrics::Label;

/// A request to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreOperation {
    Get,
    Head,
    Put,
    /// A request of an upload in parts.
    Part,
    Delete,
    List,
}

impl Label for StoreOperation {
    const ALL: &'static [Self] = &[Self::Get, Self::Head, Self::Put, Self::Part, Self::Delete, Self::List];

    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::Part => "part",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// What came of a request to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreResult {
    Ok,
    Missing,
    Exists,
    SlowDown,
    Timeout,
    Unreachable,
    Denied,
    Failed,
    Refused,
}

impl Label for StoreResult {
    const ALL: &'static [Self] = &[
        Self::Ok,
        Self::Missing,
        Self::Exists,
        Self::SlowDown,
        Self::Timeout,
        Self::Unreachable,
        Self::Denied,
        Self::Failed,
        Self::Refused,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Exists => "exists",
            Self::SlowDown => "slow_down",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Which way bytes go, as seen from forebay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

impl Label for Direction {
    const ALL: &'static [Self] = &[Self::In, Self::Out];

    fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// What became of content that was to be uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadResult {
    Uploaded,
    /// The store had it.
    Present,
    /// The queue had no room for it: the next reconciliation finds it.
    NoRoom,
    /// The store refused it; it is tried again later.
    Failed,
    /// It was evicted before its turn.
    Gone,
    /// It is a manifest whose bytes do not tell its type: such are in no store.
    Unfit,
}

impl Label for UploadResult {
    const ALL: &'static [Self] = &[Self::Uploaded, Self::Present, Self::NoRoom, Self::Failed, Self::Gone, Self::Unfit];

    fn as_str(self) -> &'static str {
        match self {
            Self::Uploaded => "uploaded",
            Self::Present => "present",
            Self::NoRoom => "no_room",
            Self::Failed => "failed",
            Self::Gone => "gone",
            Self::Unfit => "unfit",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}
