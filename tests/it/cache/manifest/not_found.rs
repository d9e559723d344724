//! What the upstream does not have: believed for a moment, and no longer.

use std::time::Duration;

use http::Method;

use forebay_test_support::manifest::manifest;
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Server, When},
    mirror::Mirror,
};

async fn never_remembering(registry: &FakeRegistry) -> Mirror {
    Mirror::build(registry).config(|config| config.cache.negative_ttl = Duration::ZERO).start().await
}

#[tokio::test]
async fn a_404_is_remembered_for_get_and_head_alike() {
    let missing = format!("sha256:{}", "0".repeat(64));
    for reference in ["1", &missing] {
        for first in [Method::GET, Method::HEAD] {
            let registry = FakeRegistry::start().await;
            let mirror = Mirror::of(&registry).await;
            let path = manifest(reference);
            assert_eq!(mirror.request(first, &path, &[]).await.status, 404);
            registry.forget_requests();
            for method in [Method::GET, Method::HEAD, Method::GET] {
                assert_eq!(mirror.request(method, &path, &[]).await.status, 404);
            }
            assert_eq!(mirror.get(&path).await.error_code(), "MANIFEST_UNKNOWN");
            assert!(registry.requests().is_empty(), "{reference}: {:?}", registry.requests());
            // What is missing under one name says nothing of another.
            registry.add_image("team/app", "2", &[b"layer"]);
            registry.add_image("team/other", "1", &[b"layer"]);
            assert_eq!(mirror.get(&manifest(2)).await.status, 200);
            assert_eq!(mirror.get("/v2/team/other/manifests/1").await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_signature_is_found_as_soon_as_it_is_there() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = never_remembering(&registry).await;
    let tag = format!("{}.sig", image.manifest.as_str().replace(':', "-"));
    for tag in [&*tag, &image.manifest.as_str().replace(':', "-"), "2"] {
        for _ in 0..2 {
            assert_eq!(mirror.get(&manifest(tag)).await.status, 404);
            assert_eq!(mirror.head(&manifest(tag)).await.status, 404);
        }
        let signature = registry.add_image("team/app", tag, &[b"signature"]);
        assert_eq!(mirror.get(&manifest(tag)).await.body, signature.manifest_bytes);
    }
}

#[tokio::test]
async fn only_a_404_is_remembered() {
    for fault in [
        Fault::status(401),
        Fault::status(403),
        Fault::too_many("60"),
        Fault::status(503),
        Fault::Disconnect,
        Fault::html(),
        Fault::Corrupt { at: 1 },
    ] {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        let mirror = Mirror::of(&registry).await;
        registry.fault(When::any(), fault.clone());
        for path in [manifest(1), manifest(&image.manifest)] {
            assert_ne!(mirror.get(&path).await.status, 200, "{fault:?}");
        }
        registry.heal();
        for path in [manifest(1), manifest(&image.manifest)] {
            assert_eq!(mirror.get(&path).await.body, image.manifest_bytes, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_404_is_not_kept_over_a_restart() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    assert_eq!(mirror.get(&manifest(1)).await.status, 404);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    mirror.restart().await;
    assert_eq!(mirror.get(&manifest(1)).await.body, image.manifest_bytes);
    registry.take_down(Server::Api).await;
    assert_eq!(mirror.get(&manifest(2)).await.status, 502, "an outage says nothing of what there is");
}
