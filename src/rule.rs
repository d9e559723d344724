//! Rules: what the operator decides about tags and repositories, whatever the registry says (pure).
//!
//! A rule has a pattern and some keys. Each key is taken from the first rule that matches and sets it; the rules of the
//! upstream come before the general ones. What must hold: the time that a match takes is bounded by the lengths of
//! pattern and text; the same request always meets the same rules.

mod current;
mod glob;
mod pattern;
mod result;
mod rules;
mod subject;

use std::{fmt, sync::Arc, time::Duration};

pub use self::{
    current::CurrentRules,
    pattern::{Pattern, PatternError, full_name},
    result::RuleResult,
    rules::{Hold, Rules, TagRules},
    subject::Subject,
};

/// One `[[rule]]` or `[[upstream.rule]]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: Arc<RuleName>,
    pub pattern: Pattern,
    pub keys: RuleKeys,
}

/// How the log, a client and the metrics name a rule.
#[derive(Clone, Debug)]
pub struct RuleName {
    /// The pattern as it is written in the file.
    pub pattern: Box<str>,
    /// The line of the file where `match` stands.
    pub line: Option<usize>,
}

/// The keys of a rule; `None`: the rule does not set the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleKeys {
    /// How long a tag is trusted without asking the upstream.
    pub tag_ttl: Option<Duration>,
    /// How long after its last confirmation a tag is served while the upstream cannot answer.
    pub stale_if_error: Option<Duration>,
    /// Whether the upstream is never asked again about a tag that is known.
    pub immutable: Option<bool>,
    /// Whether a tag stays what it was when it was first seen.
    pub freeze: Option<bool>,
    /// For how long a tag must have named a digest before clients get it; zero: no time.
    pub minimum_age: Option<Duration>,
    pub minimum_age_first: Option<First>,
    pub deny: Option<bool>,
}

/// What clients get of a tag that has no digest of the minimum age yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum First {
    /// Nothing.
    #[default]
    Deny,
    /// The first digest that the mirror sees, at once.
    Allow,
}

impl First {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        }
    }
}

impl Rule {
    /// Whether the rule can be about anything of this upstream.
    pub fn may_match_upstream(&self, upstream: &str) -> bool {
        self.pattern.may_match_upstream(upstream)
    }
}

impl RuleKeys {
    /// Which keys the rule sets, by their position in the file's documentation.
    fn set(&self) -> [bool; 7] {
        [
            self.tag_ttl.is_some(),
            self.stale_if_error.is_some(),
            self.immutable.is_some(),
            self.freeze.is_some(),
            self.minimum_age.is_some(),
            self.minimum_age_first.is_some(),
            self.deny.is_some(),
        ]
    }

    /// Whether the rule sets no key.
    pub fn is_empty(&self) -> bool {
        !self.set().contains(&true)
    }
}

impl PartialEq for RuleName {
    /// Where a rule stands changes nothing.
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for RuleName {}

impl fmt::Display for RuleName {
    /// `"docker.io/library/*:v*" (line 12)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.pattern)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}
