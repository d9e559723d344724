//! How a request was answered: a label of the metrics, and a field of the log.

use crate::metrics::Label;

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From the cache.
    Hit,
    /// From a download, or an upstream request, that another client started.
    Joined,
    /// From a download, or an upstream request, that this client started.
    Miss,
    /// From the cache, no longer fresh, because the upstream failed.
    Stale,
    /// From the cache, after the upstream confirmed it.
    Revalidated,
    /// Not from here: the client was sent to the object store.
    Redirected,
    /// Not from the cache: content that is never cached, and refusals.
    Bypass,
    /// forebay or the upstream could not answer, or broke the response off.
    Error,
}

impl Label for Outcome {
    const ALL: &'static [Self] = &[
        Self::Hit,
        Self::Joined,
        Self::Miss,
        Self::Stale,
        Self::Revalidated,
        Self::Redirected,
        Self::Bypass,
        Self::Error,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Outcome::Hit => "hit",
            Outcome::Joined => "joined",
            Outcome::Miss => "miss",
            Outcome::Stale => "stale",
            Outcome::Revalidated => "revalidated",
            Outcome::Redirected => "redirected",
            Outcome::Bypass => "bypass",
            Outcome::Error => "error",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}
