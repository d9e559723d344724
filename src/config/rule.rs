//! `[[rule]]` and `[[upstream.rule]]`: what the operator decides about tags and repositories.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    document::Document,
    error::{Error, Key},
    units::Period,
};
use crate::rule::{First, Pattern, Rule, RuleKeys, RuleName};

/// More rules would slow down each request: all that come before the one that matches are looked at.
const MAX_RULES: usize = 1_000;

/// The keys of a rule.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RuleSection {
    #[serde(rename = "match")]
    pattern: Option<String>,
    tag_ttl: Option<Period>,
    stale_if_error: Option<Period>,
    immutable: Option<bool>,
    freeze: Option<bool>,
    minimum_age: Option<Period>,
    minimum_age_first: Option<FirstForm>,
    deny: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FirstForm {
    Deny,
    Allow,
}

/// The rules of one array of the file; `upstreams` are the names of all upstreams.
///
/// The document notes what is wrong with a rule.
pub(super) fn read(document: &Document<'_>, array: &Key, sections: Vec<RuleSection>, upstreams: &[&str]) -> Vec<Rule> {
    if sections.len() > MAX_RULES {
        document.refuse(array, format!("must be at most {MAX_RULES} rules; use \"*\" in match"));
        return Vec::new();
    }
    let read = |(index, section): (usize, RuleSection)| {
        let key = array.item(index);
        // Without the value that was refused, the rest of the rule would be judged wrongly.
        if document.is_refused(&key) { None } else { document.keep(section.read(document, &key, upstreams)) }
    };
    sections.into_iter().enumerate().filter_map(read).collect()
}

impl RuleSection {
    fn read(self, document: &Document<'_>, key: &Key, upstreams: &[&str]) -> Result<Rule, Error> {
        let place = key.field("match");
        let Some(text) = &self.pattern else {
            return Err(document.error(key, "needs a pattern: match = \"docker.io/library/*\""));
        };
        let pattern = Pattern::parse(text, |name| upstreams.contains(&name))
            .map_err(|error| document.error(&place, error.to_string()))?;
        let name = Arc::new(RuleName { pattern: text.as_str().into(), line: document.line(&place) });
        let keys = self.keys();
        if keys.is_empty() {
            return Err(document.error(key, "sets no key beside match; add deny, minimum_age, tag_ttl or another one"));
        }
        let refuse = |field: &str, problem: &str| Err(document.error(&key.field(field), problem));
        let has_age = keys.minimum_age.is_some_and(|age| !age.is_zero());
        match (keys.immutable, keys.freeze) {
            (Some(true), Some(true)) => refuse("immutable", "and freeze are two ways to keep a tag; keep one of them"),
            (Some(true), _) if has_age => refuse(
                "minimum_age",
                "contradicts immutable: nothing new comes of a tag that never moves; keep one of them",
            ),
            _ => Ok(Rule { name, pattern, keys }),
        }
    }

    fn keys(&self) -> RuleKeys {
        let period = |given: Option<Period>| given.map(|Period(period)| period);
        RuleKeys {
            tag_ttl: period(self.tag_ttl),
            stale_if_error: period(self.stale_if_error),
            immutable: self.immutable,
            freeze: self.freeze,
            minimum_age: period(self.minimum_age),
            minimum_age_first: self.minimum_age_first.map(|first| match first {
                FirstForm::Deny => First::Deny,
                FirstForm::Allow => First::Allow,
            }),
            deny: self.deny,
        }
    }
}
