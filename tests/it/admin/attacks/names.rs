//! Names that are none: ways out of a directory, other encodings, and patterns that are all stars.

use super::{BEARER, World, assert_refused};

/// What no image and no upstream is called.
const TRICKS: &[&str] = &[
    "..",
    ".",
    "../..",
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "..%5c..%5cetc",
    "..%252f..%252fetc",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "//evil.example/a:1",
    "http:%2f%2fevil.example/a",
    "file:%2f%2f%2fetc%2fpasswd",
    "fake.example/../team/app:1",
    "fake.example/./team/app:1",
    "fake.example//team/app:1",
    "fake.example/team/app:..",
    "fake.example/team/app:1/../2",
    "fake.example/team/app:1%00.json",
    "fake.example/team/app@sha256:..%2f..%2fetc",
    "fake.example/team/app@sha256:00",
    "fake.example/team/app@md5:d41d8cd98f00b204e9800998ecf8427e",
    "fake.example/TEAM/app:1",
    "clients/../fake.example/team/app:1",
    "%ff%fe",
    "%c0%ae%c0%ae/",
    "%",
    "a%",
    "%zz",
    "a;b",
    "$(id)",
    "`id`",
    "a%20b",
    "a%7cb",
    "*%00",
];

/// Patterns that would lead out of a directory: a pattern is compared with names of images, and with no file.
const PATTERNS: &[&str] =
    &["..", ".", "../..", "../../../../etc/passwd", "/etc/passwd", "fake.example/../team/app:*", "clients/*"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trick_is_no_name_of_an_image() {
    let world = World::with_token().await;
    let long = "a".repeat(5000);
    for trick in TRICKS.iter().copied().chain([long.as_str()]) {
        for line in [
            format!("GET images/{trick}"),
            format!("GET images/{trick}?access=client"),
            format!("HEAD images/{trick}"),
            format!("GET export?name={trick}"),
            format!("GET export?name=fake.example/team/app:1&name={trick}"),
            format!("POST import?as={trick}"),
        ] {
            assert_refused(&line, &world.send(&line, &[BEARER], b"").await, &[400, 404]);
        }
        let kind = ("content-type", "application/json");
        // A caller of JSON writes the letters themselves.
        let name = percent_encoding::percent_decode_str(trick).decode_utf8_lossy().into_owned();
        for (line, body, statuses) in [
            ("POST explain", serde_json::json!({ "image": name }), &[200, 400][..]),
            ("POST export", serde_json::json!({ "images": [name] }), &[400]),
            ("POST images/refresh", serde_json::json!({ "match": name }), &[200, 400]),
            ("POST warm", serde_json::json!({ "images": [name] }), &[200, 400]),
        ] {
            let answer = world.send(line, &[BEARER, kind], body.to_string().as_bytes()).await;
            assert!(statuses.contains(&answer.status), "{line} {trick}: {answer:?}");
            let text = String::from_utf8_lossy(&answer.body);
            assert!(!text.contains("root:") && !text.contains(r#""result":"changed""#), "{line} {trick}: {text}");
        }
    }
    world.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trick_is_no_name_of_an_upstream() {
    let world = World::with_token().await;
    for trick in
        TRICKS.iter().copied().chain(["FAKE.example.", "fake.example%00", "fake.example%2f", "*", "", "clients"])
    {
        for verb in ["test", "pause", "resume"] {
            let line = format!("POST upstreams/{trick}/{verb}");
            assert_refused(&line, &world.send(&line, &[BEARER], b"").await, &[400, 404, 405]);
        }
    }
    world.assert_untouched().await;
}

/// What comes of a pattern through each endpoint that takes one.
async fn through_all(world: &World, pattern: &str) -> Vec<u16> {
    let body = serde_json::json!({ "match": pattern }).to_string();
    let kind = ("content-type", "application/json");
    let mut statuses = Vec::new();
    for line in [format!("GET images?match={pattern}"), format!("DELETE images?match={pattern}")] {
        statuses.push(world.send(&line, &[BEARER], b"").await.status);
    }
    for verb in ["refresh", "verify", "pin", "unpin"] {
        statuses.push(world.send(&format!("POST images/{verb}"), &[BEARER, kind], body.as_bytes()).await.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_is_bounded_and_matches_names_alone() {
    let world = World::with_token().await;
    // The time of one is that of reading it: see the tests of src/rule/glob.rs.
    for end in ["a", "a*b", ":a", "@a"] {
        for part in ["*", "*a", "*/", "a*"] {
            let all = part.repeat(600) + end;
            let longest = &all[all.len() - 600..];
            assert_eq!(through_all(&world, longest).await, [200; 6], "{longest}");
            assert_eq!(through_all(&world, &format!("*{longest}")).await, [400; 6], "{longest}");
        }
    }
    for pattern in PATTERNS {
        for status in through_all(&world, pattern).await {
            assert!(matches!(status, 200 | 400), "{pattern}: {status}");
        }
    }
    for (line, body) in [
        ("DELETE images", ""),
        ("DELETE images?match=", ""),
        ("DELETE images?match=a&match=*", ""),
        ("POST images/refresh", "{}"),
        ("POST images/refresh", r#"{"match":""}"#),
        ("POST images/pin", r#"{"match":""}"#),
        ("POST images/pin", r#"{"match":null}"#),
        ("POST images/unpin", r#"{"match":["*"]}"#),
        ("POST images/verify", r#"{"match":""}"#),
    ] {
        let answer = world.send(line, &[BEARER, ("content-type", "application/json")], body.as_bytes()).await;
        assert_refused(line, &answer, &[400]);
    }
    world.assert_untouched().await;
}
