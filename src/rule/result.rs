//! What a rule did to a request: a label of the metrics.

use crate::metrics::Label;

/// What a rule did to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleResult {
    /// It refused the request.
    Denied,
    /// It refused a tag, of which nothing has the minimum age yet.
    TooYoung,
    /// It served what the tag named before.
    Earlier,
}

impl Label for RuleResult {
    const ALL: &'static [Self] = &[Self::Denied, Self::TooYoung, Self::Earlier];

    fn as_str(self) -> &'static str {
        match self {
            RuleResult::Denied => "denied",
            RuleResult::TooYoung => "too_young",
            RuleResult::Earlier => "earlier",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}
