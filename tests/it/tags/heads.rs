//! HEAD by tag: what costs no pull must not be made to cost one, and registries that cannot answer it.

use http::Method;

use super::never_trusting;
use crate::{
    manifests::{OCI_MANIFEST, asked, manifest},
    support::{
        fake_registry::{FakeRegistry, Fault, Image, Server, When},
        mirror::{Answer, Mirror},
    },
};

fn assert_is_head_of(head: &Answer, image: &Image) {
    assert_eq!((head.status, head.header("content-type")), (200, Some(OCI_MANIFEST)));
    assert_eq!(head.header("docker-content-digest"), Some(image.manifest.as_str()));
    assert_eq!(head.header("content-length"), Some(&*image.manifest_bytes.len().to_string()));
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn a_head_is_a_head_and_a_later_get_works() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    for cache_status in ["forebay; fwd=miss", "forebay; hit"] {
        let head = mirror.head(&manifest(1)).await;
        assert_is_head_of(&head, &image);
        assert_eq!(head.header("cache-status"), Some(cache_status));
    }
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 0));
    for cache_status in ["forebay; fwd=miss; stored", "forebay; hit"] {
        let get = mirror.get(&manifest(1)).await;
        assert_eq!((get.body.clone(), get.header("cache-status")), (image.manifest_bytes.clone(), Some(cache_status)));
    }
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 1));
}

#[tokio::test]
async fn a_head_of_an_old_tag_is_one_head() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    let unchanged = mirror.head(&manifest(1)).await;
    assert_is_head_of(&unchanged, &old);
    assert_eq!(unchanged.header("cache-status"), Some("forebay; hit; detail=revalidated"));
    let new = registry.add_image("team/app", "1", &[b"new"]);
    assert_is_head_of(&mirror.head(&manifest(1)).await, &new);
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (2, 1));
    assert_eq!(mirror.get(&manifest(1)).await.body, new.manifest_bytes);
}

#[tokio::test]
async fn a_registry_whose_head_is_of_no_use_is_asked_by_get() {
    let head = || When::manifests().method(Method::HEAD);
    let faults = [
        ("HEAD is not allowed", Fault::status(405)),
        ("no digest", Fault::Header("docker-content-digest", None)),
        ("no length", Fault::NoContentLength),
        ("no type", Fault::Header("content-type", None)),
        // Harbor, of what it would have to fetch from its own upstream first.
        ("404 to a HEAD alone", Fault::status(404)),
    ];
    for (name, fault) in faults {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        let mirror = Mirror::of(&registry).await;
        registry.fault(head(), fault);
        for path in [manifest(1), manifest(&image.manifest)] {
            assert_is_head_of(&mirror.head(&path).await, &image);
        }
        assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 1), "{name}");
        assert_eq!(mirror.get(&manifest(1)).await.header("cache-status"), Some("forebay; hit"), "{name}");
    }
}

#[tokio::test]
async fn a_known_tag_whose_head_says_404_is_asked_for_by_get() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    registry.fault(When::manifests().method(Method::HEAD), Fault::status(404));
    assert_eq!(mirror.get(&manifest(1)).await.body, image.manifest_bytes);
    assert_is_head_of(&mirror.head(&manifest(1)).await, &image);
}

#[tokio::test]
async fn a_head_of_a_tag_is_stale_when_nobody_can_be_asked() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = never_trusting(&registry).await;
    mirror.head(&manifest(1)).await;
    registry.take_down(Server::Api).await;
    for _ in 0..2 {
        let stale = mirror.head(&manifest(1)).await;
        assert_is_head_of(&stale, &image);
        assert_eq!(stale.header("cache-status"), Some("forebay; hit; detail=stale"));
        mirror.restart().await;
    }
    assert_eq!(mirror.get(&manifest(1)).await.status, 502, "only its head is known");
}
