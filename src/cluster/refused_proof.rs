//! Why a proof is refused.

use crate::metrics::Label;

/// Why a request that is said to be a peer's is not taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusedProof {
    /// The header is none, or the request is no GET or HEAD.
    Form,
    /// It was made with another key, or for another request.
    Key,
    /// It was made for another member.
    Target,
    /// It was made at another time: so many seconds after the time here, or before it.
    Clock { skew_seconds: i64 },
    /// It was used before.
    Replayed,
    /// Too many proofs were used within a minute; this one may be right.
    Full,
}

impl RefusedProof {
    /// What an operator may do, or look at.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Form => "it may have another version of forebay, or be no forebay",
            Self::Key => "its cluster.key_file has another key, or something between both changed the request",
            Self::Target => "it knows this forebay by another address: set cluster.advertise here",
            Self::Clock { .. } => "the clocks of both are more than a minute apart",
            Self::Replayed => "something between both repeats requests",
            Self::Full => "members ask more than this forebay remembers: it answers none of them for some seconds",
        }
    }
}

impl Label for RefusedProof {
    const ALL: &'static [Self] =
        &[Self::Form, Self::Key, Self::Target, Self::Clock { skew_seconds: 0 }, Self::Replayed, Self::Full];

    fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Key => "key",
            Self::Target => "target",
            Self::Clock { .. } => "clock",
            Self::Replayed => "replayed",
            Self::Full => "full",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Form => 0,
            Self::Key => 1,
            Self::Target => 2,
            Self::Clock { .. } => 3,
            Self::Replayed => 4,
            Self::Full => 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_place_among_all() {
        for (place, reason) in RefusedProof::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place, "{reason:?}");
        }
    }
}
