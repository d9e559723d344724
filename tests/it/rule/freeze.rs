//! `freeze`: a tag stays as it was first seen.

use std::fs;

use super::*;
use forebay_test_support::{
    control,
    fake_registry::{Fault, Server, When},
};

const FREEZE: &str = "[[rule]]\nmatch = \"fake.example/team/app:1\"\nfreeze = true";

#[tokio::test]
async fn a_frozen_tag_is_never_asked_about_again() {
    let registry = FakeRegistry::start().await;
    let first = registry.add_image("team/app", "1", &[b"first"]);
    let mut mirror = mirror_of(&registry, FREEZE).await;
    assert_tag_is(&mirror, "1", &first).await;
    let second = registry.add_image("team/app", "1", &[b"second"]);
    registry.forget_requests();
    assert_tag_is(&mirror, "1", &first).await;
    later(&mut mirror, 999 * DAY).await;
    assert_tag_is(&mirror, "1", &first).await;
    // Another kind of client is no reason to look.
    let answer = mirror.get_with(&manifest(1), &[("accept", "*/*")]).await;
    assert_eq!(answer.body, first.manifest_bytes);
    // It does not depend on the cache.
    mirror.drain().await;
    fs::remove_dir_all(mirror.cache_dir()).unwrap();
    mirror.start().await;
    assert_tag_is(&mirror, "1", &first).await;
    assert_eq!(asked_for_tag(&registry, "1"), 0);
    registry.take_down(Server::Api).await;
    assert_tag_is(&mirror, "1", &first).await;
    registry.bring_up(Server::Api).await;
    // Other tags move.
    registry.add_image("team/app", "2", &[b"first"]);
    get_tag(&mirror, "2").await;
    registry.tag("team/app", "2", &second.manifest);
    assert_tag_is(&mirror, "2", &second).await;
}

#[tokio::test]
async fn a_refresh_by_a_person_freezes_what_the_tag_names_now() {
    let registry = FakeRegistry::start().await;
    let first = registry.add_image("team/app", "1", &[b"first"]);
    let mut mirror = mirror_of(&registry, FREEZE).await;
    assert_tag_is(&mirror, "1", &first).await;
    let second = registry.add_image("team/app", "1", &[b"second"]);
    let refresh = async |mirror: &Mirror| {
        let document = serde_json::json!({ "match": "fake.example/team/app:1" });
        let (status, body) = control::ask(mirror, "POST", "images/refresh", Some(document)).await;
        assert_eq!(status, 200, "{body}");
        control::events(&body)[0].1.clone()
    };
    registry.fault(When::any(), Fault::status(500));
    assert_eq!(refresh(&mirror).await["result"], "failed");
    registry.heal();
    assert_tag_is(&mirror, "1", &first).await;
    let answer = refresh(&mirror).await;
    assert_eq!(
        (&answer["before"], &answer["digest"]),
        (&first.manifest.as_str().into(), &second.manifest.as_str().into())
    );
    registry.add_image("team/app", "1", &[b"third"]);
    assert_tag_is(&mirror, "1", &second).await;
    mirror.restart().await;
    assert_tag_is(&mirror, "1", &second).await;
}

#[tokio::test]
async fn a_deletion_through_forebay_ends_the_freeze() {
    let registry = FakeRegistry::start().await;
    let first = registry.add_image("team/app", "1", &[b"first"]);
    let mirror = mirror_of(&registry, &format!("push = true\n{FREEZE}")).await;
    assert_tag_is(&mirror, "1", &first).await;
    let second = registry.add_image("team/app", "1", &[b"second"]);
    assert_tag_is(&mirror, "1", &first).await;
    let deleted = mirror.request(Method::DELETE, &manifest(1), &[]).await;
    assert_eq!(deleted.status, 202, "{deleted:?}");
    registry.tag("team/app", "1", &second.manifest);
    assert_tag_is(&mirror, "1", &second).await;
}

/// Only the upstream knows whether a client may delete.
#[tokio::test]
async fn a_deletion_without_the_upstreams_word_ends_no_freeze() {
    let registry = FakeRegistry::start().await;
    let first = registry.add_image("team/app", "1", &[b"first"]);
    let mirror = mirror_of(&registry, &format!("push = true\n{FREEZE}")).await;
    assert_tag_is(&mirror, "1", &first).await;
    registry.add_image("team/app", "1", &[b"second"]);
    let paths = [manifest(1), manifest(&first.manifest)];
    let deletions = || When::any().method(Method::DELETE);
    for fault in [Fault::Disconnect, Fault::status(404), Fault::status(401), Fault::status(503)] {
        registry.fault(deletions(), fault.clone());
        for path in &paths {
            let answer = mirror.request(Method::DELETE, path, &[]).await;
            assert!(answer.status >= 400, "{fault:?}: {answer:?}");
        }
        registry.heal();
        assert_tag_is(&mirror, "1", &first).await;
    }
}
