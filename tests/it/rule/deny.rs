//! `deny`: requests that never reach the upstream, nor the cache.

use std::fs;

use super::*;
use forebay_test_support::program::Program;

fn paths(image: &Image) -> [String; 4] {
    let blob = format!("/v2/team/app/blobs/{}", image.layers[0]);
    [manifest(1), manifest(&image.manifest), blob, "/v2/team/app/tags/list".to_owned()]
}

async fn statuses(mirror: &Mirror, image: &Image) -> [u16; 4] {
    let mut statuses = [0; 4];
    for (status, path) in statuses.iter_mut().zip(paths(image)) {
        *status = mirror.get(&path).await.status;
    }
    statuses
}

#[tokio::test]
async fn a_denied_repository_gives_nothing_cached_or_not() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    registry.add_image("team/other", "1", &[b"layer"]);
    let mut mirror = mirror_of(&registry, "").await;
    assert_eq!(statuses(&mirror, &image).await, [200; 4]);
    let rules = build(&registry, "[[rule]]\nmatch = \"fake.example/team/app*\"\ndeny = true");
    let rules = rules.start().await.config().rules.clone();
    // By a reload and by a restart.
    mirror.app().reload(forebay::config::Config { rules: rules.clone(), ..mirror.config().clone() }).unwrap();
    for round in 0..2 {
        registry.forget_requests();
        for path in paths(&image) {
            assert_denied(&mirror, &path, &["denies this", "\\\"fake.example/team/app*\\\" (line "]).await;
        }
        for (method, path) in [(Method::PUT, manifest(1)), (Method::POST, "/v2/team/app/blobs/uploads/".to_owned())] {
            assert_eq!(mirror.request(method, &path, &[]).await.status, 403);
        }
        assert!(registry.requests().is_empty(), "{:?}", registry.requests());
        assert_eq!(held(&mirror, "denied").await, 10.0, "{round}");
        assert_eq!(mirror.get("/v2/team/other/manifests/1").await.status, 200);
        assert_eq!(mirror.get("/v2/_catalog").await.status, 200);
        mirror.restart_with(|config| config.rules = rules.clone()).await;
    }
}

#[tokio::test]
async fn a_rule_for_tags_denies_tags_alone() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    for (rules, expected) in [
        ("[[rule]]\nmatch = \"*:1\"\ndeny = true", [403, 200, 200, 200]),
        ("[[rule]]\nmatch = \"*:2\"\ndeny = true", [200; 4]),
        ("[[rule]]\nmatch = \"*:1\"\ndeny = false\n[[rule]]\nmatch = \"*\"\ndeny = true", [200; 4]),
        ("[[rule]]\nmatch = \"*:2\"\ndeny = false\n[[rule]]\nmatch = \"*\"\ndeny = true", [403, 200, 200, 200]),
        ("[[rule]]\nmatch = \"*/other:*\"\ndeny = false\n[[rule]]\nmatch = \"*\"\ndeny = true", [403; 4]),
        ("[[rule]]\nmatch = \"*@*\"\ndeny = true", [200, 403, 403, 200]),
        ("[[upstream.rule]]\nmatch = \"fake.example/*\"\ndeny = false\n[[rule]]\nmatch = \"*\"\ndeny = true", [200; 4]),
    ] {
        assert_eq!(statuses(&mirror_of(&registry, rules).await, &image).await, expected, "{rules}");
    }
}

#[tokio::test]
async fn no_push_brings_what_is_denied_under_another_name() {
    let registry = FakeRegistry::start().await;
    let blob = registry.add_blob("team/secret", "content");
    let rules = "push = true\n[[rule]]\nmatch = \"fake.example/team/secret*\"\ndeny = true\n\
                 [[rule]]\nmatch = \"*:denied\"\ndeny = true";
    let mirror = mirror_of(&registry, rules).await;
    // The client uploads what it may not mount.
    for mount in [format!("mount={blob}"), format!("mount=x&mount={blob}")] {
        let path = format!("/v2/team/app/blobs/uploads/?{mount}&from=team%2Fsecret");
        let begun = mirror.request(Method::POST, &path, &[]).await;
        assert_eq!((begun.status, begun.header("location").is_some()), (202, true), "{begun:?}");
        let last = registry.requests().pop().unwrap();
        assert!(last.parameter("mount").is_empty() && last.parameter("from").is_empty(), "{last:?}");
    }
    assert_eq!(held(&mirror, "denied").await, 2.0);
    let from_allowed = format!("/v2/team/app/blobs/uploads/?mount={blob}&from=team%2Fother");
    mirror.request(Method::POST, &from_allowed, &[]).await;
    assert_eq!(registry.requests().pop().unwrap().parameter("mount"), [blob.as_str()]);
    // A manifest that is pushed by its digest gets the tags of the query.
    let content = "{\"v\":1}";
    let digest = crate::push::digest(content.as_bytes());
    let headers = [("content-type", forebay_test_support::manifest::OCI_MANIFEST)];
    for (query, status) in [("?tag=1&tag=denied", 403), ("?tag=1", 201)] {
        let path = format!("{}{query}", manifest(&digest));
        assert_eq!(mirror.send(Method::PUT, &path, &headers, content.to_owned()).await.status, status, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_the_rule() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    registry.add_image("team/app", "2", &[b"layer"]);
    let directory = tempfile::tempdir().unwrap();
    let (url, state) = (registry.url(), directory.path().join("state"));
    let text = format!(
        "state_directory = {state:?}\n[cache]\nmin_free = 1\n[[upstream]]\nname = \"a.example\"\nurls = [\"{url}\"]\n\
         [[rule]]\nmatch = \"*:1\"\ndeny = true\n[[rule]]\nmatch = \"*\"\nminimum_age = \"7d\"\n\
         [[rule]]\nmatch = \"b.example/*\"\ndeny = true\n"
    );
    fs::write(directory.path().join("forebay.toml"), text).unwrap();
    let program = Program::serve(directory, "info").await;
    for tag in [1, 2] {
        assert_eq!(program.get(&format!("/v2/a.example/team/app/manifests/{tag}")).await.0, 403);
    }
    let log = program.end().await;
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let rules: Vec<&str> =
        lines.iter().filter(|line| line["message"] == "request").map(|line| line["rule"].as_str().unwrap()).collect();
    assert_eq!(rules, ["\"*:1\" (line 8)", "\"*\" (line 11)"], "{log}");
    assert!(log.contains("matches nothing of any upstream"), "{log}");
}
