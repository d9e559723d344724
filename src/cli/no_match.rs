//! What a person is told whose pattern matches nothing: what was looked for, and how to write more of it.

use forebay::rule::Pattern;

use super::{control, output, running::Places};

/// What names a pattern is about, on standard error.
pub(super) fn remark(places: &Places, pattern: &str) {
    output::remark(&hint(pattern, &upstreams(places)));
}

/// Says on standard error that nothing of an image will come, if a pattern with its name in full is of no upstream.
pub(super) fn warn_of_no_upstream(places: &Places, pattern: &str) {
    let upstreams = upstreams(places);
    if let Some(name) = foreign(pattern, &upstreams) {
        output::remark(&format!("warning: no upstream is named {name}: nothing comes from there"));
    }
}

/// The names of the upstreams; none if forebay does not tell them.
fn upstreams(places: &Places) -> Vec<String> {
    let document = control::get(places, "/api/v1/upstreams").unwrap_or_default();
    let names = document["upstreams"].as_array().into_iter().flatten().filter_map(|upstream| upstream["name"].as_str());
    names.map(str::to_owned).collect()
}

/// The registry of a pattern, if that is none of the upstreams.
fn foreign<'a>(pattern: &'a str, upstreams: &[String]) -> Option<&'a str> {
    let (first, _) = pattern.split_once('/')?;
    (!upstreams.is_empty() && !first.contains('*') && !upstreams.iter().any(|name| name == first)).then_some(first)
}

fn hint(pattern: &str, upstreams: &[String]) -> String {
    if pattern == "*" {
        return "no image is in the cache yet".to_owned();
    }
    let is_upstream = |name: &str| upstreams.iter().any(|upstream| upstream == name);
    let full = Pattern::typed_in_full(pattern, is_upstream).map_or_else(|_| pattern.to_owned(), |(_, text)| text);
    let mut hint = format!("nothing matches {full}");
    if let Some(name) = foreign(&full, upstreams) {
        hint += &format!("; no upstream is named {name}");
        if !name.contains(['.', ':']) && is_upstream("docker.io") {
            hint += &format!("; of Docker Hub: 'docker.io/{full}'");
        }
        return hint;
    }
    let name = full.split_once('@').map_or(&*full, |(name, _)| name);
    let name = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(name, _)| name);
    if !full.contains('*') {
        hint += &format!("; all its tags: '{name}:*'");
    }
    let behind_upstream = name.split_once('/').map_or(name, |(_, rest)| rest);
    let last = behind_upstream.rsplit('/').find_map(|part| part.split('*').find(|word| !word.is_empty()));
    match last {
        // A `*` at both ends finds all that there is.
        Some(word) if !full.starts_with('*') => hint + &format!("; any part of a name: '*{word}*'"),
        _ => hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_says_what_was_looked_for_and_what_to_write() {
        let upstreams = ["docker.io", "harbor.lan:8443"].map(str::to_owned);
        for (pattern, expected) in [
            ("*", "no image is in the cache yet"),
            (
                "node",
                "nothing matches docker.io/library/node:latest; all its tags: 'docker.io/library/node:*'; any part of a \
                 name: '*node*'",
            ),
            (
                "team/app@sha256:1f",
                "nothing matches docker.io/team/app@sha256:1f; all its tags: 'docker.io/team/app:*'; any part of a name: \
                 '*app*'",
            ),
            ("node:2*", "nothing matches docker.io/library/node:2*; any part of a name: '*node*'"),
            ("nod*", "nothing matches nod*; any part of a name: '*nod*'"),
            ("docker.io/*", "nothing matches docker.io/*"),
            ("harbor.lan:8443/a*", "nothing matches harbor.lan:8443/a*; any part of a name: '*a*'"),
            ("*nod*", "nothing matches *nod*"),
            ("team/*", "nothing matches team/*; no upstream is named team; of Docker Hub: 'docker.io/team/*'"),
            ("nvcr.io/a/b", "nothing matches nvcr.io/a/b:latest; no upstream is named nvcr.io"),
        ] {
            assert_eq!(hint(pattern, &upstreams), expected);
        }
        assert_eq!(hint("nvcr.io/a/*", &[]), "nothing matches nvcr.io/a/*; any part of a name: '*a*'");
        let none_of_docker_hub = ["ghcr.io".to_owned()];
        assert_eq!(hint("team/*", &none_of_docker_hub), "nothing matches team/*; no upstream is named team");
        assert_eq!(foreign("nvcr.io/a/*", &upstreams), Some("nvcr.io"));
        assert_eq!(foreign("*.io/a/*", &upstreams), None);
    }
}
