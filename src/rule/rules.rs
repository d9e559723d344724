//! All rules, and what they say about a tag or a request.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{First, Rule, RuleName, pattern::Relation, subject::Subject};
use crate::oci::{Repository, Tag, is_referrers_tag};

/// The rules of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// By upstream; they come before the general ones.
    of_upstreams: BTreeMap<Arc<str>, Vec<Rule>>,
    general: Vec<Rule>,
}

/// What the rules say about a tag. `None`: no rule sets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagRules {
    pub tag_ttl: Option<Duration>,
    pub stale_if_error: Option<Duration>,
    /// A record of the tag never expires. Never set beside `hold`.
    pub is_immutable: bool,
    pub hold: Option<Hold>,
}

/// A tag may mean another digest than the upstream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// How long the tag must have named a digest before clients get it; zero if only `is_final` holds it.
    pub minimum_age: Duration,
    pub first: First,
    /// The first eligible digest stays.
    pub is_final: bool,
    /// The rule that holds the tag.
    pub rule: Arc<RuleName>,
}

impl Rules {
    /// The rules of upstreams by the upstreams' names, and the general ones, each in the order of the file.
    pub fn new(of_upstreams: impl IntoIterator<Item = (Arc<str>, Vec<Rule>)>, general: Vec<Rule>) -> Self {
        let of_upstreams = of_upstreams.into_iter().filter(|(_, rules)| !rules.is_empty()).collect();
        Self { of_upstreams, general }
    }

    pub fn is_empty(&self) -> bool {
        self.general.is_empty() && self.of_upstreams.is_empty()
    }

    /// The rules of an upstream's own section.
    pub fn of_upstream(&self, upstream: &str) -> &[Rule] {
        self.of_upstreams.get(upstream).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn general(&self) -> &[Rule] {
        &self.general
    }

    /// All rules that may match something of an upstream, in their order.
    fn of<'a>(&'a self, upstream: &str) -> impl Iterator<Item = &'a Rule> {
        self.of_upstreams.get(upstream).into_iter().flatten().chain(&self.general)
    }

    /// All rules that match a subject, in their order.
    pub fn matching<'a>(&'a self, upstream: &str, subject: &'a Subject) -> impl Iterator<Item = &'a Rule> {
        self.of(upstream).filter(|rule| rule.pattern.matches(subject))
    }

    /// What the rules say about a tag.
    pub fn tag(&self, upstream: &str, repository: &Repository, tag: &Tag) -> TagRules {
        if self.is_empty() {
            return TagRules::default();
        }
        let subject = Subject::tag(upstream, repository, tag);
        let mut found = TagRules::default();
        let (mut immutable, mut freeze, mut minimum_age, mut first) = (None, None, None, None);
        for Rule { name, keys, .. } in self.of(upstream).filter(|rule| rule.pattern.matches(&subject)) {
            found.tag_ttl = found.tag_ttl.or(keys.tag_ttl);
            found.stale_if_error = found.stale_if_error.or(keys.stale_if_error);
            immutable = immutable.or(keys.immutable);
            freeze = freeze.or(keys.freeze.map(|freeze| (freeze, name)));
            minimum_age = minimum_age.or(keys.minimum_age.map(|age| (age, name)));
            first = first.or(keys.minimum_age_first);
        }
        let is_immutable = immutable == Some(true);
        let freeze = freeze.filter(|(freeze, _)| *freeze).map(|(_, name)| name);
        let minimum_age = minimum_age.filter(|(age, _)| !age.is_zero());
        // Such a tag is a list of what refers to a digest, or a signature of it.
        if is_referrers_tag(tag) {
            return found;
        }
        if let Some(rule) = minimum_age.map(|(_, name)| name).or(freeze) {
            found.hold = Some(Hold {
                minimum_age: minimum_age.map_or(Duration::ZERO, |(age, _)| age),
                first: first.unwrap_or_default(),
                is_final: freeze.is_some() || is_immutable,
                rule: rule.clone(),
            });
        } else {
            found.is_immutable = is_immutable;
        }
        found
    }

    /// The rule that denies a request about this subject; `None`: no rule does, or the request is about no repository.
    ///
    /// A rule for tags denies tags alone. If it allows some, it allows the digests and blobs of their repositories as
    /// well: a tag that clients get is of no use without those.
    pub fn denial(&self, upstream: &str, subject: impl FnOnce() -> Option<Subject>) -> Option<Arc<RuleName>> {
        if self.of(upstream).all(|rule| rule.keys.deny.is_none()) {
            return None;
        }
        let subject = subject()?;
        for rule in self.of(upstream) {
            match (rule.keys.deny, rule.pattern.relation(&subject)) {
                (Some(true), Relation::Matches) => return Some(rule.name.clone()),
                (Some(false), Relation::Matches | Relation::OfItsTags) => return None,
                _ => {}
            }
        }
        None
    }

    /// Whether a rule needs the times when tags were first seen.
    pub fn hold_tags(&self) -> bool {
        let holds =
            |rule: &Rule| rule.keys.freeze == Some(true) || rule.keys.minimum_age.is_some_and(|age| !age.is_zero());
        self.of_upstreams.values().flatten().chain(&self.general).any(holds)
    }

    /// The rules that never take effect, each with the reason.
    pub fn warnings(&self, upstreams: &[Arc<str>]) -> Vec<(Arc<RuleName>, String)> {
        let mut warnings = Vec::new();
        for (upstream, rules) in &self.of_upstreams {
            let about = |rule: &Rule| rule.pattern.may_match_upstream(upstream);
            let nothing = format!("matches nothing of {upstream}; a match begins with \"{upstream}/\" or \"*\"");
            warn_of(rules, about, &nothing, &mut warnings);
        }
        let about = |rule: &Rule| upstreams.iter().any(|upstream| rule.pattern.may_match_upstream(upstream));
        let nothing = "matches nothing of any upstream; a match begins with an upstream's name or \"*\"";
        warn_of(&self.general, about, nothing, &mut warnings);
        warnings
    }
}

fn warn_of(rules: &[Rule], about: impl Fn(&Rule) -> bool, nothing: &str, warnings: &mut Vec<(Arc<RuleName>, String)>) {
    for (index, rule) in rules.iter().enumerate() {
        if !about(rule) {
            warnings.push((rule.name.clone(), nothing.to_owned()));
            continue;
        }
        let earlier: Vec<&Rule> =
            rules[..index].iter().filter(|earlier| earlier.pattern.covers(&rule.pattern)).collect();
        let is_set_before = |key: usize| earlier.iter().any(|earlier| earlier.keys.set()[key]);
        let mut keys = rule.keys.set().into_iter().enumerate().filter(|(_, is_set)| *is_set);
        if let Some(first) = earlier.first()
            && keys.all(|(key, _)| is_set_before(key))
        {
            let why =
                format!("is never reached: an earlier rule, {}, sets the same keys for all it matches", first.name);
            warnings.push((rule.name.clone(), why));
        } else if rule.keys.deny == Some(true) && rule.pattern.is_of_tags() && !rule.name.pattern.contains([':', '*']) {
            let why = "denies the tag latest alone; add \"*\" to deny the repository".to_owned();
            warnings.push((rule.name.clone(), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Pattern, RuleKeys},
        *,
    };
    use crate::oci::{Algorithm, Digest};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn rule(pattern: &str, keys: RuleKeys) -> Rule {
        let parsed = Pattern::parse(pattern, |name| name == "x.io").unwrap();
        Rule { name: Arc::new(RuleName { pattern: pattern.into(), line: Some(7) }), pattern: parsed, keys }
    }

    fn ttl(pattern: &str, days: u32) -> Rule {
        rule(pattern, RuleKeys { tag_ttl: Some(DAY * days), ..RuleKeys::default() })
    }

    fn deny(pattern: &str, deny: bool) -> Rule {
        rule(pattern, RuleKeys { deny: Some(deny), ..RuleKeys::default() })
    }

    fn general(rules: &[Rule]) -> Rules {
        Rules::new([], rules.to_vec())
    }

    fn of_tag(rules: &Rules, repository: &str, tag: &str) -> TagRules {
        rules.tag("x.io", &repository.parse().unwrap(), &tag.parse().unwrap())
    }

    #[test]
    fn each_key_is_of_the_first_rule_that_sets_it() {
        let both = RuleKeys { tag_ttl: Some(DAY), immutable: Some(false), ..RuleKeys::default() };
        let immutable = RuleKeys { immutable: Some(true), stale_if_error: Some(9 * DAY), ..RuleKeys::default() };
        let rules = general(&[rule("x.io/a*", both), ttl("*", 2), rule("*", immutable)]);
        let expected = TagRules { tag_ttl: Some(DAY), stale_if_error: Some(9 * DAY), ..TagRules::default() };
        assert_eq!(of_tag(&rules, "a", "1"), expected);
        assert_eq!(of_tag(&rules, "b", "1"), TagRules { tag_ttl: Some(2 * DAY), is_immutable: true, ..expected });
        assert_eq!(of_tag(&Rules::default(), "b", "1"), TagRules::default());
    }

    #[test]
    fn an_upstreams_rules_come_before_the_general_ones() {
        let of_upstream = [("x.io".into(), vec![ttl("x.io/a*", 1)]), ("y.io".into(), vec![ttl("*", 9)])];
        let rules = Rules::new(of_upstream, vec![ttl("*", 2)]);
        let days = |repository: &str| of_tag(&rules, repository, "1").tag_ttl;
        assert_eq!((days("a"), days("b")), (Some(DAY), Some(2 * DAY)));
    }

    #[test]
    fn a_minimum_age_or_a_freeze_holds_a_tag() {
        let age = |age| RuleKeys { minimum_age: Some(age), ..RuleKeys::default() };
        let freeze = |freeze| RuleKeys { freeze: Some(freeze), ..RuleKeys::default() };
        let immutable = RuleKeys { immutable: Some(true), ..RuleKeys::default() };
        let allow = RuleKeys { minimum_age_first: Some(First::Allow), ..RuleKeys::default() };
        let hold = |rules: &[(&str, &RuleKeys)]| {
            let rules: Vec<Rule> = rules.iter().map(|(pattern, keys)| rule(pattern, RuleKeys::clone(keys))).collect();
            let found = of_tag(&general(&rules), "a", "1");
            let hold = found.hold.map(|hold| (hold.minimum_age / 24 / 60 / 60, hold.first, hold.is_final));
            (hold.map(|(age, first, is_final)| (age.as_secs(), first, is_final)), found.is_immutable)
        };
        let none = age(Duration::ZERO);
        for (rules, expected, is_immutable) in [
            (&[("*", &age(7 * DAY))][..], Some((7, First::Deny, false)), false),
            (&[("*", &age(7 * DAY)), ("x.io/*", &allow)], Some((7, First::Allow, false)), false),
            (&[("x.io/a*", &none), ("*", &age(7 * DAY))], None, false),
            (&[("*", &freeze(true))], Some((0, First::Deny, true)), false),
            (&[("x.io/a*", &freeze(false)), ("*", &freeze(true))], None, false),
            (&[("*", &freeze(true)), ("*", &age(7 * DAY))], Some((7, First::Deny, true)), false),
            (&[("*", &immutable), ("*", &age(7 * DAY))], Some((7, First::Deny, true)), false),
            (&[("*", &immutable), ("*", &none)], None, true),
        ] {
            assert_eq!(hold(rules), (expected, is_immutable), "{rules:?}");
        }
        let referrers = format!("sha256-{}.sig", "a".repeat(64));
        let rules = general(&[rule("*", age(DAY)), rule("*", immutable)]);
        assert_eq!(of_tag(&rules, "a", &referrers), TagRules::default(), "a list is never held");
        assert!(rules.hold_tags() && !general(&[rule("*", none)]).hold_tags());
    }

    #[test]
    fn the_first_rule_that_matches_allows_or_denies() {
        let digest = Digest::of(Algorithm::Sha256, b"blob");
        let denied = |rules: &Rules, repository: &str| {
            let (upstream, repository) = ("x.io", repository.parse().unwrap());
            let subjects = [
                Subject::tag(upstream, &repository, &"latest".parse().unwrap()),
                Subject::tag(upstream, &repository, &"1".parse().unwrap()),
                Subject::digest(upstream, &repository, &digest),
                Subject::repository(upstream, &repository),
            ];
            subjects.map(|subject| rules.denial(upstream, || Some(subject)).is_some())
        };
        for (rules, repository, expected) in [
            (general(&[]), "a", [false; 4]),
            (general(&[deny("*", true)]), "a", [true; 4]),
            (general(&[deny("x.io/b*", false), deny("*", true)]), "a", [true; 4]),
            (general(&[deny("x.io/a*", false), deny("*", true)]), "a", [false; 4]),
            (general(&[deny("*:latest", true)]), "a", [true, false, false, false]),
            (general(&[deny("x.io/a:*", true)]), "a", [true, true, false, true]),
            // Digests and blobs may be those of the tag that is allowed.
            (general(&[deny("x.io/a:1", false), deny("*", true)]), "a", [true, false, false, false]),
            (general(&[deny("x.io/a:1", false), deny("*", true)]), "b", [true; 4]),
            (Rules::new([("x.io".into(), vec![deny("*", false)])], vec![deny("*", true)]), "a", [false; 4]),
            (Rules::new([("y.io".into(), vec![deny("*", true)])], vec![]), "a", [false; 4]),
            (general(&[ttl("*", 1)]), "a", [false; 4]),
        ] {
            assert_eq!(denied(&rules, repository), expected, "{rules:?}");
        }
    }

    #[test]
    fn rules_without_effect_are_named_with_the_reason() {
        let upstreams = ["x.io".into(), "y.io".into()];
        for (rules, expected) in [
            (general(&[deny("x.io/*", true), ttl("*", 1)]), &[][..]),
            (general(&[deny("z.io/*", true)]), &["matches nothing of any upstream"]),
            (general(&[ttl("*", 1), ttl("x.io/*", 2)]), &["is never reached"]),
            (general(&[ttl("*", 1), deny("x.io/*", true)]), &[]),
            (general(&[ttl("x.io/*", 1), deny("x.io/a*", true), ttl("x.io/a*", 2)]), &["is never reached"]),
            (general(&[deny("x.io/a", true)]), &["denies the tag latest alone"]),
            (general(&[deny("x.io/a:latest", true), deny("x.io/a*", true)]), &[]),
            (Rules::new([("x.io".into(), vec![ttl("y.io/*", 1)])], vec![]), &["matches nothing of x.io"]),
        ] {
            let warnings = rules.warnings(&upstreams);
            assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
            assert!(warnings.iter().zip(expected).all(|((_, why), start)| why.starts_with(start)), "{warnings:?}");
        }
    }
}
