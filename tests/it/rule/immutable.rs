//! `immutable`: a tag that is known is never asked about again.

use std::fs;

use super::*;

const IMMUTABLE: &str = "[[rule]]\nmatch = \"*:v*\"\nimmutable = true";

#[tokio::test]
async fn a_known_tag_is_a_hit_for_ever() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "v1", &[b"layer"]);
    let mut mirror = mirror_of(&registry, IMMUTABLE).await;
    assert_tag_is(&mirror, "v1", &image).await;
    registry.add_image("team/app", "v1", &[b"another"]);
    registry.forget_requests();
    for days in [999, 9_999] {
        let answer = get_tag(&mirror, "v1").await;
        assert_eq!((answer.header("cache-status"), &answer.body), (Some("forebay; hit"), &image.manifest_bytes));
        assert_eq!(answer.headers.get("age"), None, "a mirror behind this one need not ask again");
        mirror.drain().await;
        crate::cache::manifest::tag::age(&mirror.cache_dir(), days * DAY);
        mirror.start().await;
    }
    assert_eq!(asked_for_tag(&registry, "v1"), 0);
    // Its manifest was evicted.
    mirror.drain().await;
    fs::remove_dir_all(mirror.cache_dir().join("manifests")).unwrap();
    fs::create_dir(mirror.cache_dir().join("manifests")).unwrap();
    mirror.start().await;
    assert_tag_is(&mirror, "v1", &image).await;
    assert_eq!(asked_for_tag(&registry, "v1"), 0);
}

#[tokio::test]
async fn a_push_through_forebay_moves_it() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry, &format!("push = true\n{IMMUTABLE}")).await;
    for content in ["{\"v\":1}", "{\"v\":2}"] {
        let headers = [("content-type", forebay_test_support::manifest::OCI_MANIFEST)];
        mirror.send(Method::PUT, &manifest("v1"), &headers, content.to_owned()).await;
        let answer = get_tag(&mirror, "v1").await;
        assert_eq!(answer.text(), content);
    }
}
