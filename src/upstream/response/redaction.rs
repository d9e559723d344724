//! Names that clients must not see, and texts that contain them (pure).
//!
//! What must hold: a text that names only what the client requested passes. One that may name more is removed.

use serde_json::Value;

/// Usual parts of upstreams' paths, which are no names.
const PATHS: [&str; 7] = ["api", "artifactory", "docker", "registry", "repositories", "repository", "v2"];
/// What follows a repository's name in a path.
const ENDPOINTS: [&str; 7] = ["manifests", "blobs", "tags", "referrers", "_manifests", "_layers", "_uploads"];
/// Artifactory's names of a manifest's file, after the name and the tag.
const FILES: [&str; 2] = ["manifest.json", "list.manifest.json"];
/// The first parts of what looks like a repository's name: media types, platforms.
const OTHER_FIRST: [&str; 5] = ["application", "text", "linux", "windows", "darwin"];
const PROSE: [&str; 6] = ["and/or", "pull/push", "push/pull", "read/write", "username/password", "user/password"];
/// The keys of a detail whose value is a repository's name.
const NAME_KEYS: [&str; 6] = ["name", "repository", "repositoryname", "repository_name", "repo", "image"];
/// The keys whose value is the beginning of a name.
const PREFIX_KEYS: [&str; 5] = ["namespace", "organization", "project", "project_name", "projectname"];

pub(in crate::upstream) struct PrivateNames {
    /// Such as forebay's account.
    pub names: Vec<String>,
    /// The requested repositories, if texts must not name others; otherwise empty.
    pub requested: Vec<String>,
}

/// The names in the path of a URL.
pub(in crate::upstream) fn names_in(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty() && !PATHS.iter().any(|usual| name.eq_ignore_ascii_case(usual)))
}

impl PrivateNames {
    pub(in crate::upstream) fn is_named_in_text(&self, text: &str) -> bool {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
        [text, &decoded].into_iter().any(|text| self.is_name_in(text) || self.names_other_repository(text))
    }

    pub(in crate::upstream) fn is_named_in_detail(&self, detail: &Value) -> bool {
        match detail {
            Value::String(text) => self.is_named_in_text(text),
            Value::Array(list) => list.iter().any(|one| self.is_named_in_detail(one)),
            Value::Object(map) => map.iter().any(|(key, value)| {
                let is_one = |keys: &[&str]| keys.iter().any(|one| key.eq_ignore_ascii_case(one));
                self.is_named_in_text(key)
                    || self.is_named_in_detail(value)
                    || (is_one(&NAME_KEYS) && self.is_unknown_name(value, |name| self.is_requested(without_tag(name))))
                    || (is_one(&PREFIX_KEYS) && self.is_unknown_name(value, |name| self.is_prefix(name)))
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    fn is_name_in(&self, text: &str) -> bool {
        // The requested repository may have a private name in it.
        let text = self.requested.iter().fold(text.to_ascii_lowercase(), |text, requested| without(&text, requested));
        self.names.iter().filter(|name| !name.is_empty()).any(|name| {
            let name = name.to_ascii_lowercase();
            parted(&text, &name).any(|(before, after)| !before.ends_with(is_of_word) && !after.starts_with(is_of_word))
        })
    }

    /// Whether the text names a repository that was not requested.
    fn names_other_repository(&self, text: &str) -> bool {
        let is_part = |letter: char| is_of_name(letter) || matches!(letter, '/' | ':' | '@');
        !self.requested.is_empty()
            && text.split(|letter| !is_part(letter)).any(|word| match named(word.trim_matches(['.', ':', '-'])) {
                WordName::Nothing => false,
                WordName::Repository(name) => !self.is_requested(&name) && !self.is_requested(without_host(&name)),
                WordName::Prefix(name) => !self.is_prefix(&name),
            })
    }

    /// Whether a value is a name that is not `known`.
    fn is_unknown_name(&self, value: &Value, known: impl Fn(&str) -> bool + Copy) -> bool {
        match value {
            Value::String(name) => !self.requested.is_empty() && !known(name),
            Value::Array(list) => list.iter().any(|one| self.is_unknown_name(one, known)),
            Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// Whether a requested name begins with it.
    fn is_prefix(&self, name: &str) -> bool {
        let is_of = |requested: &String| {
            requested.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.requested.iter().any(is_of)
    }

    fn is_requested(&self, name: &str) -> bool {
        self.requested.iter().any(|requested| requested == name)
    }
}

/// What a word of a text names.
enum WordName {
    Nothing,
    Repository(String),
    /// The beginning of repositories' names.
    Prefix(String),
}

fn named(word: &str) -> WordName {
    // A scope of a token.
    if let Some(("repository", rest)) = word.split_once(':')
        && let Some((name, _)) = rest.split_once(':')
    {
        return WordName::Repository(name.to_owned());
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
        // The URL of an HTML page.
        return WordName::Nothing;
    } else if names.first().is_some_and(|first| is_host(first, names.len())) {
        names.remove(0);
    } else if let Some((_, last)) = names.first().and_then(|first| first.rsplit_once([':', '@'])) {
        names.splice(..1, [last]);
    }
    if let ["projects", project, "locations", _, "repositories", repository, ..] = names.as_slice() {
        return WordName::Prefix(format!("{project}/{repository}"));
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
    if is_name && is_small { WordName::Repository(name) } else { WordName::Nothing }
}

/// Whether the first of so many parts is a host, and not the first part of a name.
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
            requested: vec!["team/app".to_owned()],
        }
    }

    #[test]
    fn a_text_that_names_only_requested_repositories_passes() {
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
            assert!(!private().is_named_in_text(text), "{text}");
        }
    }

    #[test]
    fn a_text_that_may_name_others_is_removed() {
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
            assert!(private().is_named_in_text(text), "{text}");
        }
    }

    #[test]
    fn details_are_searched_in_keys_and_texts() {
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
            assert_eq!(private().is_named_in_detail(&detail), told, "{detail}");
        }
    }

    #[test]
    fn without_requested_repositories_only_names_are_private() {
        let private = PrivateNames { requested: vec![], ..private() };
        assert!(private.is_named_in_text("robot$ci may not pull team/other"));
        assert!(!private.is_named_in_text("ann may not pull team/other"));
        assert!(!private.is_named_in_detail(&json!({ "name": "team/other" })));
    }

    #[test]
    fn a_requested_repository_may_contain_a_private_name() {
        let private =
            PrivateNames { names: vec!["team".to_owned(), "app".to_owned()], requested: vec!["team/app".to_owned()] };
        assert!(!private.is_named_in_text("access to team/app:1 denied; team/app is frozen"));
        assert!(private.is_named_in_text("team may not read team/app"));
    }

    #[test]
    fn a_name_of_one_part_may_have_its_host() {
        let private = PrivateNames { names: vec![], requested: vec!["nginx".to_owned()] };
        assert!(!private.is_named_in_text("registry.example/nginx:1 is gone, as is /v2/nginx/manifests/1"));
        assert!(private.is_named_in_text("registry.example/secret:1 is gone"));
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
        fn any_text_is_judged_without_a_panic(text in "[ -~\\PC]{0,60}", requested in "[a-z/.]{1,9}") {
            let private = PrivateNames { names: vec!["a".to_owned(), String::new()], requested: vec![requested] };
            let _ = private.is_named_in_text(&text);
            let _ = private.is_named_in_detail(&Value::String(text));
        }
    }
}
