//! `minimum_age` and pushes: what is pushed through forebay waits for nothing.

use super::*;
use forebay_test_support::manifest::OCI_MANIFEST;

const PUSH: &str = "push = true\n[[rule]]\nmatch = \"*\"\nminimum_age = \"7d\"";

async fn put(mirror: &Mirror, reference: &str, content: &str) {
    let headers = [("content-type", OCI_MANIFEST)];
    let put = mirror.send(Method::PUT, &manifest(reference), &headers, content.to_owned()).await;
    assert_eq!(put.status, 201, "{put:?}");
}

async fn assert_text(mirror: &Mirror, tag: &str, text: &str) {
    let answer = get_tag(mirror, tag).await;
    assert_eq!((answer.status, answer.text()), (200, text), "{tag}");
}

#[tokio::test]
async fn a_push_is_served_at_once_and_a_change_elsewhere_is_not() {
    let registry = FakeRegistry::start().await;
    let mut mirror = mirror_of(&registry, PUSH).await;
    put(&mirror, "1", "{\"v\":1}").await;
    assert_text(&mirror, "1", "{\"v\":1}").await;
    put(&mirror, "1", "{\"v\":2}").await;
    assert_text(&mirror, "1", "{\"v\":2}").await;
    registry.add_image("team/app", "1", &[b"of someone else"]);
    assert_text(&mirror, "1", "{\"v\":2}").await;
    mirror.restart().await;
    assert_text(&mirror, "1", "{\"v\":2}").await;
    // With the tags that the query names.
    let content = "{\"v\":3}";
    let digest = crate::push::digest(content.as_bytes());
    put(&mirror, &format!("{digest}?tag=1&tag=2"), content).await;
    for tag in ["1", "2"] {
        assert_text(&mirror, tag, content).await;
    }
}

#[tokio::test]
async fn what_was_deleted_is_served_no_more() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry, PUSH).await;
    let content = "{\"v\":1}";
    put(&mirror, "1", content).await;
    registry.add_image("team/app", "1", &[b"of someone else"]);
    assert_text(&mirror, "1", content).await;
    let digest = crate::push::digest(content.as_bytes());
    assert_eq!(mirror.request(Method::DELETE, &manifest(&digest), &[]).await.status, 202);
    assert_denied(&mirror, &manifest(1), &["(line "]).await;
}

#[tokio::test]
async fn a_head_before_a_push_tells_what_a_get_gives() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry, PUSH).await;
    assert_eq!(get_tag(&mirror, "1").await.status, 404, "a client pushes such a tag");
    put(&mirror, "1", "{\"v\":1}").await;
    registry.add_image("team/app", "1", &[b"of someone else"]);
    for _ in 0..2 {
        assert_text(&mirror, "1", "{\"v\":1}").await;
    }
}
