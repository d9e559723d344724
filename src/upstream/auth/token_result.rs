//! How a token request ended: a label of the metrics.

use crate::metrics::Label;

/// How a token request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenResult {
    Fetched,
    /// The token realm refused the request.
    Refused,
    /// The token realm could not be reached, or its response was invalid.
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
