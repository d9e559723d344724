//! How a request for a token ended: a label of the metrics.

use crate::metrics::Label;

/// How asking for a token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenResult {
    Fetched,
    /// The token server said no.
    Refused,
    /// The token server could not be asked, or answered nonsense.
    Failed,
}

impl Label for TokenResult {
    const ALL: &'static [Self] = &[Self::Fetched, Self::Refused, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            TokenResult::Fetched => "fetched",
            TokenResult::Refused => "refused",
            TokenResult::Failed => "failed",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}
