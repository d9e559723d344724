//! The labels of the metrics of a cluster.

use crate::metrics::Label;

/// What came of a request to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerResult {
    /// It sent the content, or the registry's refusal.
    Answered,
    /// It could not answer: the registry did not, or limits it; or the peer itself refuses.
    Failed,
    /// It does not take this forebay for a peer.
    Refused,
    /// It could not be reached, or did not answer.
    Dead,
    /// It sent a blob that does not have its digest.
    Wrong,
}

impl Label for PeerResult {
    const ALL: &'static [Self] = &[Self::Answered, Self::Failed, Self::Refused, Self::Dead, Self::Wrong];

    fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Dead => "dead",
            Self::Wrong => "wrong",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Where a peer is as against this forebay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerPlace {
    SameZone,
    OtherZone,
    /// One of both does not say in which zone it is.
    Unknown,
}

impl PeerPlace {
    pub(super) fn of(own: Option<&str>, other: Option<&str>) -> Self {
        match (own, other) {
            (Some(own), Some(other)) if own == other => Self::SameZone,
            (Some(_), Some(_)) => Self::OtherZone,
            (None, _) | (_, None) => Self::Unknown,
        }
    }
}

impl Label for PeerPlace {
    const ALL: &'static [Self] = &[Self::SameZone, Self::OtherZone, Self::Unknown];

    fn as_str(self) -> &'static str {
        match self {
            Self::SameZone => "same",
            Self::OtherZone => "other",
            Self::Unknown => "unknown",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_compared_where_both_are_known() {
        for (own, other, expected) in [
            (Some("a"), Some("a"), PeerPlace::SameZone),
            (Some("a"), Some("b"), PeerPlace::OtherZone),
            (Some("a"), None, PeerPlace::Unknown),
            (None, Some("a"), PeerPlace::Unknown),
            (None, None, PeerPlace::Unknown),
        ] {
            assert_eq!(PeerPlace::of(own, other), expected, "{own:?} {other:?}");
        }
    }
}
