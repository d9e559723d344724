//! Rules: what the operator decides about tags and repositories.

pub mod deny;
pub mod freeze;
pub mod held_content;
pub mod immutable;
pub mod lifetimes;
pub mod minimum_age;
pub mod minimum_age_push;

use std::{fs, time::Duration};

use http::Method;
use serde_json::Value;

use forebay_test_support::{
    fake_registry::{FakeRegistry, Image},
    manifest::manifest,
    mirror::{Answer, Builder, Mirror, UPSTREAM},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A mirror with these rules, which asks about a tag every time unless a rule says otherwise.
fn build(registry: &FakeRegistry, rules: &str) -> Builder {
    let url = registry.url();
    let text = format!(
        "[cache]\ntag_ttl = 0\nnegative_ttl = 0\n\
         [[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{url}\"]\ndefault = true\n{rules}\n"
    );
    Mirror::parse(&text)
}

async fn mirror_of(registry: &FakeRegistry, rules: &str) -> Mirror {
    build(registry, rules).start().await
}

/// Restarts a mirror, to which it is that much later then.
async fn later(mirror: &mut Mirror, by: Duration) {
    mirror.drain().await;
    let file = mirror.config().state_directory.as_ref().unwrap().join("first-seen");
    let text = fs::read_to_string(&file).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for class in line["seen"].as_array_mut().unwrap() {
            for key in ["since", "checked"] {
                if let Some(time) = class.get(key).and_then(Value::as_u64) {
                    class[key] = (time - by.as_secs()).into();
                }
            }
        }
        format!("{line}\n")
    });
    fs::write(&file, lines.collect::<String>()).unwrap();
    mirror.start().await;
}

/// What a tag means: the same to a `GET` and to a `HEAD`.
async fn get_tag(mirror: &Mirror, tag: &str) -> Answer {
    let head = mirror.head(&manifest(tag)).await;
    let answer = mirror.get(&manifest(tag)).await;
    assert_eq!(head.status, answer.status, "{tag}");
    for header in ["docker-content-digest", "content-type", "etag"] {
        if answer.status == 200 {
            assert_eq!(head.header(header), answer.header(header), "{tag}");
        }
    }
    answer
}

async fn assert_tag_is(mirror: &Mirror, tag: &str, image: &Image) {
    let answer = get_tag(mirror, tag).await;
    assert_eq!((answer.status, &answer.body), (200, &image.manifest_bytes), "{tag}: {:?}", answer.headers);
    assert_eq!(answer.header("docker-content-digest"), Some(image.manifest.as_str()));
}

async fn assert_denied(mirror: &Mirror, path: &str, words: &[&str]) {
    let head = mirror.head(path).await;
    let answer = mirror.get(path).await;
    assert_eq!((head.status, answer.status, &*answer.error_code()), (403, 403, "DENIED"), "{path}");
    for word in words {
        assert!(answer.text().contains(word), "{path}: {word}: {}", answer.text());
    }
}

/// How often the upstream was asked about a tag.
fn asked_for_tag(registry: &FakeRegistry, tag: &str) -> usize {
    registry.count(|request| request.path == manifest(tag) && [Method::GET, Method::HEAD].contains(&request.method))
}

async fn held(mirror: &Mirror, result: &str) -> f64 {
    mirror.metric("forebay_rule_held_total", &[("result", result)]).await
}
