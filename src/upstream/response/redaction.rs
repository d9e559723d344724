//! Names that clients are not to learn, and the texts that tell them (pure).
//!
//! What must hold: a text that names nothing but what the client asked for passes. One that may name more does not: it is better
//! lost than told.

use serde_json::Value;

/// What upstreams' own paths are made of, and so is no name.
const PATHS: [&str; 7] = ["api", "artifactory", "docker", "registry", "repositories", "repository", "v2"];
/// What stands behind a repository's name in a path.
const ENDPOINTS: [&str; 7] = ["manifests", "blobs", "tags", "referrers", "_manifests", "_layers", "_uploads"];
/// What Artifactory calls the file of a manifest, behind the name and the tag.
const FILES: [&str; 2] = ["manifest.json", "list.manifest.json"];
/// What looks like a repository's name, and is none: media types, platforms.
const OTHER_FIRST: [&str; 5] = ["application", "text", "linux", "windows", "darwin"];
const PROSE: [&str; 6] = ["and/or", "pull/push", "push/pull", "read/write", "username/password", "user/password"];
/// The keys of a detail that tell a repository's name.
const NAMING: [&str; 6] = ["name", "repository", "repositoryname", "repository_name", "repo", "image"];
/// Those that tell what its name begins with.
const NAMING_FRONT: [&str; 5] = ["namespace", "organization", "project", "project_name", "projectname"];

pub(in crate::upstream) struct PrivateNames {
    /// Such as forebay's account.
    pub names: Vec<String>,
    /// The repositories that were asked for, where no other may be named; else none.
    pub asked: Vec<String>,
}

/// The names in the path of a URL.
pub(in crate::upstream) fn names_in(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty() && !PATHS.iter().any(|usual| name.eq_ignore_ascii_case(usual)))
}

impl PrivateNames {
    pub(in crate::upstream) fn is_told_by(&self, text: &str) -> bool {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
        [text, &decoded].into_iter().any(|text| self.is_name_in(text) || self.is_another_in(text))
    }

    pub(in crate::upstream) fn is_told_in(&self, detail: &Value) -> bool {
        match detail {
            Value::String(text) => self.is_told_by(text),
            Value::Array(list) => list.iter().any(|one| self.is_told_in(one)),
            Value::Object(map) => map.iter().any(|(key, value)| {
                let is_one = |keys: &[&str]| keys.iter().any(|one| key.eq_ignore_ascii_case(one));
                self.is_told_by(key)
                    || self.is_told_in(value)
                    || (is_one(&NAMING) && self.is_another_named(value, |name| self.is_asked(without_tag(name))))
                    || (is_one(&NAMING_FRONT) && self.is_another_named(value, |name| self.is_front(name)))
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    fn is_name_in(&self, text: &str) -> bool {
        // What was asked for may have such a name in it.
        let text = self.asked.iter().fold(text.to_ascii_lowercase(), |text, asked| without(&text, asked));
        self.names.iter().filter(|name| !name.is_empty()).any(|name| {
            let name = name.to_ascii_lowercase();
            parted(&text, &name).any(|(before, after)| !before.ends_with(is_of_word) && !after.starts_with(is_of_word))
        })
    }

    /// Whether the text names a repository that was not asked for.
    fn is_another_in(&self, text: &str) -> bool {
        let is_part = |letter: char| is_of_name(letter) || matches!(letter, '/' | ':' | '@');
        !self.asked.is_empty()
            && text.split(|letter| !is_part(letter)).any(|word| match named(word.trim_matches(['.', ':', '-'])) {
                NamedSecrets::Nothing => false,
                NamedSecrets::Repository(name) => !self.is_asked(&name) && !self.is_asked(without_host(&name)),
                NamedSecrets::Front(name) => !self.is_front(&name),
            })
    }

    /// Whether a value names what is not `known` of the repositories that were asked for.
    fn is_another_named(&self, value: &Value, known: impl Fn(&str) -> bool + Copy) -> bool {
        match value {
            Value::String(name) => !self.asked.is_empty() && !known(name),
            Value::Array(list) => list.iter().any(|one| self.is_another_named(one, known)),
            Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// Whether what was asked for begins with it.
    fn is_front(&self, name: &str) -> bool {
        let is_of =
            |asked: &String| asked.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.asked.iter().any(is_of)
    }

    fn is_asked(&self, name: &str) -> bool {
        self.asked.iter().any(|asked| asked == name)
    }
}

/// What a word of a text names.
enum NamedSecrets {
    Nothing,
    Repository(String),
    /// What the names of repositories begin with.
    Front(String),
}

fn named(word: &str) -> NamedSecrets {
    // A scope of a token.
    if let Some(("repository", rest)) = word.split_once(':')
        && let Some((name, _)) = rest.split_once(':')
    {
        return NamedSecrets::Repository(name.to_owned());
    }
    let (is_url, path) = match word.split_once("://") {
        Some((_, rest)) => (true, rest.split_once('/').map_or("", |(_, path)| path)),
        None => (false, word),
    };
    let path = without_tag(path);
    let mut names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let is_path = names.contains(&"v2");
    if let Some(at) = names.iter().position(|name| *name == "v2") {
        names.drain(..=at);
    } else if is_url {
        // Of a page for people.
        return NamedSecrets::Nothing;
    } else if names.first().is_some_and(|first| is_host(first, names.len())) {
        names.remove(0);
    } else if let Some((_, last)) = names.first().and_then(|first| first.rsplit_once([':', '@'])) {
        names.splice(..1, [last]);
    }
    if let ["projects", project, "locations", _, "repositories", repository, ..] = names.as_slice() {
        return NamedSecrets::Front(format!("{project}/{repository}"));
    }
    if names.len() > 1 && matches!(names.first(), Some(&("repository" | "repositories"))) {
        names.remove(0);
    }
    if let Some(end) = names.iter().position(|name| ENDPOINTS.contains(name)) {
        names.truncate(end);
    }
    if names.len() > 2 && names.last().is_some_and(|last| FILES.contains(last)) {
        names.truncate(names.len() - 2);
    }
    let name = names.join("/");
    let is_name = match names.as_slice() {
        [] => false,
        [one] => is_path && !one.starts_with('_'),
        [first, .., last] => {
            !OTHER_FIRST.contains(first)
                && !PROSE.contains(&name.as_str())
                // A version, a date, a share of something.
                && !last.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        }
    };
    // No repository has capital letters.
    let is_small = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    if is_name && is_small { NamedSecrets::Repository(name) } else { NamedSecrets::Nothing }
}

/// Whether what a word of so many parts begins with is a host, as against the first part of a name.
fn is_host(first: &str, parts: usize) -> bool {
    let (host, port) = first.rsplit_once(':').unwrap_or((first, ""));
    let has_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    has_port || host == "localhost" || (parts > 2 && host.contains('.') && !host.contains(':'))
}

fn without_host(name: &str) -> &str {
    name.split_once('/').filter(|(host, _)| host.contains('.')).map_or(name, |(_, rest)| rest)
}

/// Without the tag, the digest or the actions behind the last part of a name.
fn without_tag(name: &str) -> &str {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name.get(last..).and_then(|last| last.find([':', '@'])).map_or(name.len(), |end| last + end);
    name.get(..end).unwrap_or(name)
}

/// The text with spaces in place of this repository's name.
fn without(text: &str, repository: &str) -> String {
    let is_part = |letter: char| letter == '_' || is_of_word(letter);
    let found =
        parted(text, repository).find(|(before, after)| !before.ends_with(is_of_name) && !after.starts_with(is_part));
    match found {
        Some((before, after)) => format!("{before} {}", without(after, repository)),
        None => text.to_owned(),
    }
}

/// What stands before and after each place where the text has `name`.
fn parted<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    text.match_indices(name).filter_map(|(at, found)| Some((text.get(..at)?, text.get(at + found.len()..)?)))
}

fn is_of_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric()
}

fn is_of_name(letter: char) -> bool {
    is_of_word(letter) || matches!(letter, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn private() -> PrivateNames {
        PrivateNames {
            names: ["robot$ci", "registry.internal", "hidden-project"].map(str::to_owned).to_vec(),
            asked: vec!["team/app".to_owned()],
        }
    }

    #[test]
    fn a_text_that_names_what_was_asked_for_alone_passes() {
        for text in [
            "",
            "requested access to the resource is denied",
            "access to team/app denied",
            "unauthorized to access repository: team/app, action: pull: unauthorized to access repository: team/app",
            "repository \"team/app\" not found.",
            "The repository with name 'team/app' does not exist in the registry with id '123456789012'",
            "Failed to fetch \"latest\" from request \"/v2/team/app/manifests/latest\".",
            "GET https://registry.example/v2/team/app/manifests/1: denied",
            "manifest for registry.example/team/app:1 not found",
            "localhost:5000/team/app@sha256:0a: unknown",
            "repository:team/app:pull,push",
            "not authorized on resource: arn:aws:ecr:us-east-1:123456789012:repository/team/app",
            "denied on resource \"projects/team/locations/us/repositories/app\" (or it may not exist)",
            "visit https://aka.ms/acr/authorization for more information.",
            "You have reached your pull rate limit: https://www.docker.com/increase-rate-limit",
            "no manifest for linux/arm64 of application/vnd.oci.image.index.v1+json",
            "pull/push is N/A and/or TCP/IP since 2026/01/02, 5/10, docker/24.0.1",
            "robot$cid and myregistry.internal",
            "sha256:e3b0c442",
            "there is no team/app/1/manifest.json",
            "/v2/_catalog and /v2/",
        ] {
            assert!(!private().is_told_by(text), "{text}");
        }
    }

    #[test]
    fn a_text_that_may_name_more_does_not_pass() {
        for text in [
            "user ROBOT$ci has no rights",
            "ask at https://registry.internal/login",
            "access to secret/other denied",
            "access to team/app denied, as to secret/other",
            "no access to hidden-project/team/app",
            "the project hidden-project is frozen",
            "team/app/secret",
            "secret/team/app",
            "secret%2Fother",
            "GET /token?account=robot%24ci",
            "/data/secret/other",
            "/v2/secret/manifests/1",
            "https://registry.example/v2/secret/other/manifests/1",
            "registry.example/secret/other:1",
            "localhost:5000/secret/other@sha256:0a",
            "repository:secret:pull",
            "repository:secret/other:pull,push",
            "User: arn:aws:iam::123456789012:user/ci is not authorized",
            "projects/secret/locations/us/repositories/other",
            "(secret/other)",
            "secret.other/app",
            "there is no secret/other/1/manifest.json",
        ] {
            assert!(private().is_told_by(text), "{text}");
        }
    }

    #[test]
    fn a_detail_tells_what_its_keys_and_texts_tell() {
        for (detail, told) in [
            (json!([{ "Type": "repository", "Class": "", "Name": "team/app", "Action": "pull" }]), false),
            (json!({ "name": "team/app", "revision": "sha256:0a" }), false),
            (json!({ "name": "team/app:1", "Tag": "1" }), false),
            (json!({ "digest": "sha256:0a", "size": 7, "more": [null, true] }), false),
            (json!({ "name": "secret" }), true),
            (json!({ "Name": ["team/app", "secret"] }), true),
            (json!({ "repo": "secret" }), true),
            (json!({ "path": "/data/secret/other" }), true),
            (json!({ "scope": "repository:secret:pull" }), true),
            (json!({ "project": "team", "Namespace": ["team"] }), false),
            (json!({ "project": "secret" }), true),
            (json!({ "namespace": "te" }), true),
            (json!({ "hint": ["x", { "y": "robot$ci" }] }), true),
            (json!({ "robot$ci": 1 }), true),
            (json!({ "secret/other": 1 }), true),
        ] {
            assert_eq!(private().is_told_in(&detail), told, "{detail}");
        }
    }

    #[test]
    fn where_any_repository_may_be_named_names_alone_are_private() {
        let private = PrivateNames { asked: vec![], ..private() };
        assert!(private.is_told_by("robot$ci may not pull team/other"));
        assert!(!private.is_told_by("ann may not pull team/other"));
        assert!(!private.is_told_in(&json!({ "name": "team/other" })));
    }

    #[test]
    fn what_was_asked_for_may_have_a_private_name_in_it() {
        let private =
            PrivateNames { names: vec!["team".to_owned(), "app".to_owned()], asked: vec!["team/app".to_owned()] };
        assert!(!private.is_told_by("access to team/app:1 denied; team/app is frozen"));
        assert!(private.is_told_by("team may not read team/app"));
    }

    #[test]
    fn a_name_of_one_part_may_have_its_host() {
        let private = PrivateNames { names: vec![], asked: vec!["nginx".to_owned()] };
        assert!(!private.is_told_by("registry.example/nginx:1 is gone, as is /v2/nginx/manifests/1"));
        assert!(private.is_told_by("registry.example/secret:1 is gone"));
    }

    #[test]
    fn names_in_the_path_of_a_url() {
        for (path, expected) in [
            ("/", &[][..]),
            ("/v2/", &[]),
            ("/artifactory/api/docker/hidden/", &["hidden"]),
            ("/hidden-project/x", &["hidden-project", "x"]),
        ] {
            assert_eq!(names_in(path).collect::<Vec<_>>(), expected, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in "[ -~\\PC]{0,60}", asked in "[a-z/.]{1,9}") {
            let private = PrivateNames { names: vec!["a".to_owned(), String::new()], asked: vec![asked] };
            let _ = private.is_told_by(&text);
            let _ = private.is_told_in(&Value::String(text));
        }
    }
}
