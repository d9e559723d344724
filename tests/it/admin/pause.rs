//! An upstream that an operator has paused: it gets no request, and clients get what is cached.

use http::Method;
use serde_json::{Value, json};

use super::ask::{done, post_with};
use forebay_test_support::{
    blob,
    fake_registry::FakeRegistry,
    manifest::manifest,
    mirror::{Mirror, UPSTREAM},
    test_server::client,
    until::until,
};
use std::time::Duration;

const PAUSE: &str = "upstreams/fake.example/pause";
const RESUME: &str = "upstreams/FAKE.example/resume";

/// A mirror that trusts no tag without asking.
async fn mirror_of(registry: &FakeRegistry) -> Mirror {
    let builder = Mirror::build(registry).config(|config| {
        config.cache.tag_ttl = Duration::ZERO;
        config.upstreams[0].push = true;
    });
    builder.start().await
}

async fn document(mirror: &Mirror, resource: &str) -> Value {
    let url = format!("http://{}/api/v1/{resource}", mirror.app().admin_addr());
    serde_json::from_str(&client().get(url).send().await.unwrap().text().await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_upstream_gets_no_request_and_the_cache_serves() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let cold = registry.add_blob("team/app", "cold");
    let mirror = mirror_of(&registry).await;
    mirror.get(&manifest(1)).await;
    mirror.get(&blob::path(&image.config)).await;
    mirror.get(&blob::path(&image.layers[0])).await;
    mirror.until_metric("forebay_cache_objects", &[("kind", "blob")], 2.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;

    let paused = done(&mirror, PAUSE).await;
    assert_eq!(paused["upstream"], UPSTREAM);
    let since = paused["paused_since"].as_str().unwrap();
    assert_eq!(done(&mirror, PAUSE).await["paused_since"], since, "a second pause changes nothing");
    registry.forget_requests();

    let tag = mirror.get(&manifest(1)).await;
    assert_eq!((tag.status, tag.header("cache-status")), (200, Some("forebay; hit; detail=stale")));
    assert_eq!(mirror.get(&manifest(&image.manifest)).await.header("cache-status"), Some("forebay; hit"));
    assert_eq!(mirror.get(&blob::path(&image.layers[0])).await.body, "layer");
    for path in [manifest(2), blob::path(&cold), "/v2/team/app/tags/list".to_owned()] {
        let refused = mirror.get(&path).await;
        assert_eq!((refused.status, &*refused.error_code()), (503, "UNAVAILABLE"), "{path}");
        let told: Value = serde_json::from_slice(&refused.body).unwrap();
        let told = &told["errors"][0];
        let message = told["message"].as_str().unwrap();
        let what = "an operator of this mirror has paused fake.example, and nothing is cached";
        assert!(message.starts_with(what), "{path}: {message}");
        let id = refused.header("x-request-id").unwrap();
        let detail = json!({ "upstream": UPSTREAM, "paused": true, "stale": false, "request_id": id });
        assert_eq!(told["detail"], detail, "{path}");
    }
    let push = mirror.request(Method::POST, "/v2/team/app/blobs/uploads/", &[]).await;
    assert_eq!((push.status, &*push.error_code()), (503, "UNAVAILABLE"), "{}", push.text());
    let test = done(&mirror, "upstreams/fake.example/test").await;
    assert_eq!((&test["result"], &test["cause"]), (&json!("failed"), &Value::Null));
    assert!(test["problem"].as_str().unwrap().contains("paused"), "{test}");
    assert_eq!(registry.count(|_| true), 0, "{:?}", registry.requests());
    // It has not failed.
    for cause in ["refused", "status", "timeout"] {
        let labels = [("upstream", UPSTREAM), ("cause", cause)];
        assert_eq!(mirror.metric("forebay_upstream_errors_total", &labels).await, 0.0);
    }
    assert_eq!(mirror.metric("forebay_upstream_up", &[]).await, 1.0);

    assert_eq!(done(&mirror, RESUME).await["paused_since"], Value::Null);
    assert_eq!(mirror.get(&blob::path(&cold)).await.body, "cold");
    assert_eq!(mirror.request(Method::POST, "/v2/team/app/blobs/uploads/", &[]).await.status, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_told_and_outlasts_a_reload_not_a_restart() {
    let registry = FakeRegistry::start().await;
    let mut mirror = mirror_of(&registry).await;
    let labels = [("upstream", UPSTREAM)];
    let paused = async |mirror: &Mirror| document(mirror, "upstreams").await["upstreams"][0].clone();
    assert_eq!(paused(&mirror).await["paused_since"], Value::Null);
    assert_eq!(mirror.metric("forebay_upstream_paused", &labels).await, 0.0);
    assert!(mirror.metrics().await.contains("forebay_upstream_paused{upstream=\"fake.example\"} 0"));

    let since = done(&mirror, PAUSE).await["paused_since"].clone();
    mirror.app().reload(mirror.config().clone()).unwrap();
    let told = paused(&mirror).await;
    assert_eq!((&told["state"], &told["paused_since"]), (&json!("paused"), &since));
    assert_eq!(mirror.metric("forebay_upstream_paused", &labels).await, 1.0);
    let status = document(&mirror, "status").await;
    let attention = status["attention"][0].as_str().unwrap();
    assert!(attention.starts_with("fake.example is paused since 20"), "{attention}");
    assert_eq!(mirror.get("/v2/team/app/tags/list").await.status, 503);

    mirror.restart().await;
    assert_eq!(paused(&mirror).await["state"], "unknown");
    assert_eq!(mirror.metric("forebay_upstream_paused", &labels).await, 0.0);
    assert_eq!(post_with(&mirror, "upstreams/other.example/pause", "", "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_ends_with_its_upstream() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let mut other = mirror.config().clone();
    other.upstreams[0].name = "other.example".into();
    done(&mirror, PAUSE).await;
    mirror.app().reload(other).unwrap();
    assert_eq!(mirror.metric("forebay_upstream_paused", &[("upstream", UPSTREAM)]).await, 0.0);
    mirror.app().reload(mirror.config().clone()).unwrap();
    until("the upstream gets requests", async || mirror.get("/v2/team/app/tags/list").await.status != 503).await;
}
