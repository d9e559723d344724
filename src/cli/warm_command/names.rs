//! Reads the names of images from a text, whose form its content tells (pure).
//!
//! What must hold: what is read is bounded by the caller; a text that is not understood is refused as a whole, so that no
//! image is left out by a mistake.

use std::collections::HashSet;

use serde_json::Value;

use super::compose::{self, Compose, ComposeError};

/// How deep names stand in objects of Kubernetes: a CronJob has its containers at depth 8.
const MAX_DEPTH: usize = 16;
/// The lists of containers of a pod.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What a text names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Each once, in their order.
    pub images: Vec<String>,
    /// What was left out, in sentences.
    pub remarks: Vec<String>,
}

/// Why a text names no images.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NamesError {
    #[error("it is neither a list of JSON nor what kubectl get pods -o json prints: {0}")]
    Json(String),
    #[error(transparent)]
    Compose(#[from] ComposeError),
    #[error("line {line}: {text:?} is no name of an image; write one name a line, and # before a comment")]
    Line { line: usize, text: String },
    #[error("it names no image")]
    None,
}

/// Reads a text; `variable`: the value of a variable of the environment.
///
/// # Errors
/// The text is of no known form, or names no image.
pub(super) fn read(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Names, NamesError> {
    let text = text.trim_start_matches('\u{feff}');
    let names = match text.trim_start().chars().next() {
        Some('{' | '[') => of_json(text)?,
        _ if compose::has_services(text) => {
            let Compose { images, remarks } = compose::read(text, variable)?;
            Names { images, remarks }
        }
        _ => of_lines(text)?,
    };
    let mut seen = HashSet::new();
    let images: Vec<String> = names.images.into_iter().filter(|image| seen.insert(image.clone())).collect();
    if images.is_empty() { Err(NamesError::None) } else { Ok(Names { images, ..names }) }
}

fn of_json(text: &str) -> Result<Names, NamesError> {
    let document: Value = serde_json::from_str(text).map_err(|error| NamesError::Json(error.to_string()))?;
    let mut names = Names::default();
    match &document {
        Value::Array(items) if items.iter().all(Value::is_string) => {
            names.images.extend(items.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        Value::Object(_) => collect(&document, 0, &mut names.images),
        _ => return Err(NamesError::Json("the list has items that are no text".to_owned())),
    }
    Ok(names)
}

/// The images of all containers: in pods, and in the templates of what makes pods.
fn collect(value: &Value, depth: usize, images: &mut Vec<String>) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let containers = value.as_array().filter(|_| CONTAINERS.contains(&&**name));
                match containers {
                    Some(containers) => {
                        let named = containers.iter().filter_map(|container| container["image"].as_str());
                        images.extend(named.filter(|image| !image.is_empty()).map(str::to_owned));
                    }
                    None => collect(value, depth + 1, images),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, depth + 1, images)),
        _ => {}
    }
}

fn of_lines(text: &str) -> Result<Names, NamesError> {
    let mut names = Names::default();
    for (index, line) in text.lines().enumerate() {
        // A name has no `#`.
        let name = line.split('#').next().unwrap_or_default().trim();
        if name.is_empty() {
            continue;
        }
        if !is_name(name) {
            let text = name.chars().take(80).collect();
            return Err(NamesError::Line { line: index + 1, text });
        }
        names.images.push(name.to_owned());
    }
    Ok(names)
}

/// Whether a text may be a name: forebay knows better.
fn is_name(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+[]".contains(&byte);
    text.bytes().all(is_good) && text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn images(text: &str) -> Result<Vec<String>, String> {
        let variable = |name: &str| (name == "TAG").then(|| "22".to_owned());
        read(text, variable).map(|names| names.images).map_err(|error| error.to_string())
    }

    #[test]
    fn the_content_tells_the_form() {
        let pod = r#"{"kind":"List","items":[
            {"spec":{"initContainers":[{"image":"busybox"}],"containers":[{"image":"node:22"},{"image":"ghcr.io/o/a"}]}},
            {"spec":{"containers":[{"image":"node:22"}],"ephemeralContainers":[{"image":"debug@sha256:0"}]},
             "status":{"containerStatuses":[{"image":"docker.io/library/node:22"}]}}]}"#;
        let job = r#"{"spec":{"jobTemplate":{"spec":{"template":{"spec":{"containers":[{"image":"job:1"}]}}}}}}"#;
        let compose = "services:\n  web:\n    image: node:$TAG\n  db:\n    image: postgres\n";
        for (text, expected) in [
            ("node:22\nghcr.io/o/a:v1", &["node:22", "ghcr.io/o/a:v1"][..]),
            ("# these\n\n  node:22  # the new one\r\nnode:22\n[::1]:5000/a\n", &["node:22", "[::1]:5000/a"]),
            ("\u{feff}node", &["node"]),
            (r#"["node:22", "php", "node:22"]"#, &["node:22", "php"]),
            (pod, &["busybox", "node:22", "ghcr.io/o/a", "debug@sha256:0"]),
            (job, &["job:1"]),
            (compose, &["node:22", "postgres"]),
        ] {
            let mut found = images(text).unwrap();
            let mut expected: Vec<&str> = expected.to_vec();
            if text.starts_with('{') {
                // The fields of an object have no order.
                found.sort();
                expected.sort_unstable();
            }
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_text_that_is_not_understood_is_refused_with_its_place() {
        for (text, expected) in [
            ("", "it names no image"),
            ("# nothing\n", "it names no image"),
            ("[]", "it names no image"),
            ("{}", "it names no image"),
            ("services: {}\n", "it names no image"),
            ("node:22\n- php\n", "line 2: \"- php\" is no name of an image"),
            ("node:22 php", "line 1: \"node:22 php\" is no name of an image"),
            ("FROM node", "line 1"),
            ("\u{1b}[2J", "line 1"),
            ("[1]", "the list has items that are no text"),
            ("[[\"a\"]]", "the list has items that are no text"),
            ("{\"a\":", "it is neither a list of JSON"),
            ("services:\n  web: [\n", "it is no compose file"),
        ] {
            let error = images(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
        assert!(images(&deep).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in "(services:\n)?[ -~\n\t]{0,200}") {
            let _ = images(&text);
        }
    }
}
