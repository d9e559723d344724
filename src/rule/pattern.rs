//! Patterns of rules: which tags, digests and repositories a rule is about.
//!
//! A pattern matches `upstream/repository:tag` or `upstream/repository@digest` whole; `*` is any run of characters, `/`
//! too. A colon behind the last `/` of a pattern is that of a tag: it never matches the colon of a digest, or of an
//! upstream's port. A pattern without `*` is a name as for docker: `node` is `docker.io/library/node:latest`.

use std::borrow::Cow;

use super::{
    glob::Glob,
    subject::{Subject, SubjectKind},
};

/// The longest pattern, in bytes: longer than any name with a digest.
const MAX_LEN: usize = 600;
/// What names a registry, a repository, a tag or a digest may have, and `*`.
const PUNCTUATION: &[u8] = b"*/:@._-+[]";
/// The registry of names without one, and where it keeps its official images.
const DOCKER_HUB: &str = "docker.io";
const LIBRARY: &str = "library";

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("must not be empty; \"*\" matches everything")]
    Empty,
    #[error("must be at most {MAX_LEN} characters long")]
    TooLong,
    #[error("has {0:?} in it, which no name has; only \"*\" stands for other characters")]
    Character(char),
    #[error("is a registry without a repository; for all of it write \"{0}/*\"")]
    Registry(String),
}

/// The pattern of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// It says nothing about what part is the reference.
    Whole(Glob),
    Tag {
        name: Glob,
        tag: Glob,
    },
    Digest {
        name: Glob,
        digest: Glob,
    },
}

/// How a pattern is about a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Matches,
    /// It is about tags of the subject's repository, and the subject is no tag.
    OfItsTags,
    None,
}

impl Pattern {
    /// Reads a pattern; `is_upstream` says whether a name is that of an upstream.
    ///
    /// # Errors
    /// The text is empty, too long, or cannot match anything.
    pub fn parse(text: &str, is_upstream: impl Fn(&str) -> bool) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(PatternError::TooLong);
        }
        let is_good = |c: &char| c.is_ascii_alphanumeric() || (c.is_ascii() && PUNCTUATION.contains(&(*c as u8)));
        if let Some(bad) = text.chars().find(|c| !is_good(c)) {
            return Err(PatternError::Character(bad));
        }
        if is_upstream(text.trim_end_matches('/')) {
            return Err(PatternError::Registry(text.trim_end_matches('/').to_owned()));
        }
        let text = if text.contains('*') { Cow::Borrowed(text) } else { full_name(text, is_upstream).into() };
        Ok(Self(match split(&text) {
            (name, None) => Form::Whole(Glob::new(name)),
            (name, Some((':', tag))) => Form::Tag { name: Glob::new(name), tag: Glob::new(tag) },
            (name, Some((_, digest))) => Form::Digest { name: Glob::new(name), digest: Glob::new(digest) },
        }))
    }

    /// Reads a pattern as people type it in a command: where only the tag or the digest has a `*`, the name is one as for
    /// docker: `node:*` is `docker.io/library/node:*`.
    ///
    /// # Errors
    /// As [`Pattern::parse`].
    pub fn typed(text: &str, is_upstream: impl Fn(&str) -> bool) -> Result<Self, PatternError> {
        Self::typed_in_full(text, is_upstream).map(|(pattern, _)| pattern)
    }

    /// The same, and its text with the name in full: the same pattern whatever upstreams there are
    /// ([`Pattern::parse_in_full`]).
    ///
    /// # Errors
    /// As [`Pattern::parse`].
    pub fn typed_in_full(text: &str, is_upstream: impl Fn(&str) -> bool) -> Result<(Self, String), PatternError> {
        let pattern = match split(text) {
            (name, Some(_)) if !name.is_empty() && !name.contains('*') => {
                Self::parse(&full_name(text, &is_upstream), &is_upstream)
            }
            _ => Self::parse(text, &is_upstream),
        }?;
        let is_name = !split(text).0.is_empty() && !split(text).0.contains('*');
        Ok((pattern, if is_name { full_name(text, is_upstream) } else { text.to_owned() }))
    }

    /// Reads a text with the name in full.
    ///
    /// # Errors
    /// As [`Pattern::parse`].
    pub fn parse_in_full(text: &str) -> Result<Self, PatternError> {
        let registry = text.split_once('/').map(|(registry, _)| registry);
        Self::parse(text, |name| Some(name) == registry)
    }

    /// Whether the pattern matches the subject whole.
    pub fn matches(&self, subject: &Subject) -> bool {
        self.relation(subject) == Relation::Matches
    }

    pub(super) fn relation(&self, subject: &Subject) -> Relation {
        let (is_match, name) = match (&self.0, subject.kind) {
            (Form::Whole(glob), SubjectKind::Tag | SubjectKind::Digest) => (glob.matches(subject.as_str()), None),
            // A list is about all tags.
            (Form::Whole(glob), SubjectKind::Repository) => (glob.is_open() && glob.matches(subject.name()), None),
            (Form::Tag { name, tag }, SubjectKind::Tag) => {
                (tag.matches(subject.reference_text()) && name.matches(subject.name()), None)
            }
            (Form::Tag { name, tag }, SubjectKind::Repository) if tag.as_str() == "*" => {
                (name.matches(subject.name()), None)
            }
            (Form::Tag { name, .. }, SubjectKind::Digest | SubjectKind::Repository) => (false, Some(name)),
            (Form::Digest { name, digest }, SubjectKind::Digest) => {
                (digest.matches(subject.reference_text()) && name.matches(subject.name()), None)
            }
            (Form::Digest { .. }, SubjectKind::Tag | SubjectKind::Repository) => (false, None),
        };
        match name {
            _ if is_match => Relation::Matches,
            Some(name) if name.matches(subject.name()) => Relation::OfItsTags,
            _ => Relation::None,
        }
    }

    /// Whether the pattern can match anything of this upstream.
    pub(super) fn may_match_upstream(&self, upstream: &str) -> bool {
        let (Form::Whole(name) | Form::Tag { name, .. } | Form::Digest { name, .. }) = &self.0;
        name.may_begin_with(&format!("{upstream}/"))
    }

    /// Whether everything that `other` matches is known to match this, too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Form::Whole(this), Form::Whole(other)) => this.covers(other),
            // The name comes first in the whole text, and the rest of that matches whatever it is.
            (Form::Whole(this), Form::Tag { name, .. } | Form::Digest { name, .. }) => {
                this.is_open() && this.covers(name)
            }
            (Form::Tag { name, tag }, Form::Tag { name: other, tag: others }) => {
                name.covers(other) && tag.covers(others)
            }
            (Form::Digest { name, digest }, Form::Digest { name: other, digest: others }) => {
                name.covers(other) && digest.covers(others)
            }
            _ => false,
        }
    }

    /// Whether the pattern is about tags alone.
    pub(super) fn is_of_tags(&self) -> bool {
        matches!(self.0, Form::Tag { .. })
    }
}

/// The name, and the reference with the mark before it.
fn split(text: &str) -> (&str, Option<(char, &str)>) {
    if let Some((name, digest)) = text.split_once('@') {
        return (name, Some(('@', digest)));
    }
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some((':', tag))),
        _ => (text, None),
    }
}

/// A name as docker completes it: `node` is `docker.io/library/node:latest`. `is_upstream` says whether a name is that of an
/// upstream.
pub fn full_name(text: &str, is_upstream: impl Fn(&str) -> bool) -> String {
    let (name, reference) = split(text);
    let looks_like_host = |first: &str| first.contains(['.', ':']) || first == "localhost" || is_upstream(first);
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if looks_like_host(first) => (first, rest),
        _ => (DOCKER_HUB, name),
    };
    let library =
        if registry == DOCKER_HUB && !repository.contains('/') { format!("{LIBRARY}/") } else { String::new() };
    let (mark, reference) = reference.unwrap_or((':', "latest"));
    format!("{registry}/{library}{repository}{mark}{reference}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn parse(text: &str) -> Result<Pattern, PatternError> {
        Pattern::parse(text, |name| ["docker.io", "harbor.lan:8443", "hub"].contains(&name))
    }

    /// `upstream repository:tag`, `upstream repository@digest` or `upstream repository`.
    fn subject(text: &str) -> Subject {
        let (upstream, rest) = text.split_once(' ').unwrap();
        if let Some((repository, digest)) = rest.split_once('@') {
            return Subject::digest(upstream, &repository.parse().unwrap(), &digest.parse().unwrap());
        }
        match rest.split_once(':') {
            Some((repository, tag)) => Subject::tag(upstream, &repository.parse().unwrap(), &tag.parse().unwrap()),
            None => Subject::repository(upstream, &rest.parse().unwrap()),
        }
    }

    #[test]
    fn a_pattern_matches_the_whole_reference() {
        use Relation::{Matches, None, OfItsTags};
        let digest = format!("docker.io library/nginx@sha256:{HEX}");
        for (pattern, of, expected) in [
            ("*", "docker.io library/nginx:1", Matches),
            ("*", &digest, Matches),
            ("*", "docker.io library/nginx", Matches),
            ("docker.io/library/*", "docker.io library/nginx:1", Matches),
            ("docker.io/library/*", &digest, Matches),
            ("docker.io/library/*", "docker.io library/nginx", Matches),
            ("docker.io/library/*", "docker.io team/nginx:1", None),
            ("docker.io/library/nginx*", "docker.io library/nginx-unprivileged:1", Matches),
            // A pattern of tags is about no digest, although a digest has a colon.
            ("docker.io/*:1*", "docker.io library/nginx:1.27", Matches),
            ("docker.io/*:1*", &digest, OfItsTags),
            ("docker.io/*:1*", "docker.io library/nginx", OfItsTags),
            ("docker.io/*:*", "docker.io library/nginx", Matches),
            ("docker.io/*:*", &digest, OfItsTags),
            ("docker.io/team/*:1", &digest, None),
            ("*:8*", "harbor.lan:8443 team/app:1", None),
            ("*:8*", "harbor.lan:8443 team/app:8.1", Matches),
            ("harbor.lan:8443/*", "harbor.lan:8443 team/app:1", Matches),
            ("harbor.lan:8443/*", "harbor.lan:8443 team/app", Matches),
            ("*@sha256:1*", &digest, Matches),
            ("*@sha256:2*", &digest, None),
            ("*@sha256:1*", "docker.io library/nginx:sha256", None),
            ("*@*", "docker.io library/nginx", None),
            ("*-rc1", "docker.io library/nginx:2-rc1", Matches),
            ("*-rc1", "docker.io library/nginx", None),
            // Names without a star are those of docker.
            ("nginx", "docker.io library/nginx:latest", Matches),
            ("nginx", "docker.io library/nginx:1", None),
            ("nginx:1", "docker.io library/nginx:1", Matches),
            ("team/app", "docker.io team/app:latest", Matches),
            ("docker.io/nginx:1", "docker.io library/nginx:1", Matches),
            ("harbor.lan:8443/team/app:1", "harbor.lan:8443 team/app:1", Matches),
            ("harbor.lan:8443/app", "harbor.lan:8443 app:latest", Matches),
            ("hub/team/app:1", "hub team/app:1", Matches),
            (&format!("nginx@sha256:{HEX}"), &digest, Matches),
        ] {
            assert_eq!(parse(pattern).unwrap().relation(&subject(of)), expected, "{pattern} {of}");
        }
    }

    #[test]
    fn what_is_typed_is_a_name_as_for_docker() {
        let typed = |text: &str| Pattern::typed(text, |name| ["docker.io", "harbor.lan:8443"].contains(&name));
        for (text, same) in [
            ("node", "docker.io/library/node:latest"),
            ("node:*", "docker.io/library/node:*"),
            ("team/app:v*", "docker.io/team/app:v*"),
            ("node@sha256:1*", "docker.io/library/node@sha256:1*"),
            ("harbor.lan:8443/team/app:*", "harbor.lan:8443/team/app:*"),
            ("harbor.lan:8443/*", "harbor.lan:8443/*"),
            ("*/node:*", "*/node:*"),
            ("node*", "node*"),
            (":*", ":*"),
        ] {
            assert_eq!(typed(text), parse(same), "{text}");
        }
        for text in
            ["node", "node:*", "team/app:v*", "hub/team/app:1", "hub/app:v*", "harbor.lan:8443/*", "*/node:*", "*"]
        {
            let is_upstream = |name: &str| ["docker.io", "harbor.lan:8443", "hub"].contains(&name);
            let (pattern, full) = Pattern::typed_in_full(text, is_upstream).unwrap();
            assert_eq!(Pattern::parse_in_full(&full), Ok(pattern), "{text} {full}");
        }
        assert_eq!(typed(""), Err(PatternError::Empty));
        assert_eq!(typed("no de:*"), Err(PatternError::Character(' ')));
    }

    #[test]
    fn what_can_match_nothing_is_refused() {
        for (text, expected) in [
            ("", PatternError::Empty),
            ("docker.io/library/nginx ", PatternError::Character(' ')),
            ("docker.io/library/[a-z]?", PatternError::Character('?')),
            ("docker.io", PatternError::Registry("docker.io".to_owned())),
            ("harbor.lan:8443/", PatternError::Registry("harbor.lan:8443".to_owned())),
            ("é", PatternError::Character('é')),
            (&"a".repeat(MAX_LEN + 1), PatternError::TooLong),
        ] {
            assert_eq!(parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_pattern_may_be_about_an_upstream_or_not() {
        for (pattern, upstream, expected) in [
            ("*", "docker.io", true),
            ("*:v1", "docker.io", true),
            ("docker.io/library/*", "docker.io", true),
            ("docker.io/library/*", "ghcr.io", false),
            ("*.io/*", "ghcr.io", true),
            ("*/library/*", "ghcr.io", true),
            ("index.docker.io/*", "docker.io", false),
            ("nginx", "docker.io", true),
            ("node:*", "docker.io", false),
            ("harbor.lan:8443*", "harbor.lan:8443", false),
        ] {
            assert_eq!(parse(pattern).unwrap().may_match_upstream(upstream), expected, "{pattern} {upstream}");
        }
    }

    #[test]
    fn a_wider_pattern_covers_a_narrower_one() {
        for (wide, narrow, expected) in [
            ("*", "docker.io/library/*:v*", true),
            ("*", "nginx", true),
            ("docker.io/*", "docker.io/library/*:v*", true),
            ("docker.io/*", "docker.io/*", true),
            ("docker.io/*:*", "docker.io/library/*:v*", true),
            ("docker.io/*:*", "docker.io/library/*", false),
            ("docker.io/library/*:v*", "docker.io/*", false),
            ("*@*", "*:*", false),
            ("ghcr.io/*", "docker.io/*", false),
        ] {
            assert_eq!(parse(wide).unwrap().covers(&parse(narrow).unwrap()), expected, "{wide} {narrow}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern_or_refused(text in "[ -~é]{0,40}", tag in "[a-z0-9]{1,4}") {
            if let Ok(pattern) = parse(&text) {
                let of = subject(&format!("docker.io team/app:{tag}"));
                prop_assert!(!pattern.matches(&of) || pattern.may_match_upstream("docker.io"));
            }
        }

        #[test]
        fn a_covered_pattern_adds_no_match(one in "(\\*|x/a|x/)(\\*|b)?(:\\*|:v\\*|:v)?", other in "(\\*|x/a|x/)(\\*|b)?(:\\*|:v\\*|:v)?", repository in "[ab]{1,3}", tag in "[vw]{1,2}") {
            let parse = |text: &str| Pattern::parse(text, |name| name == "x");
            if let (Ok(one), Ok(other)) = (parse(&one), parse(&other)) {
                let of = subject(&format!("x {repository}:{tag}"));
                prop_assert!(!one.covers(&other) || !other.matches(&of) || one.matches(&of));
            }
        }
    }
}
