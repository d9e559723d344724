//! While little is left of an upstream's limit: HEADs go on, and no pull is spent on a tag whose manifest is here.

use std::time::Duration;

use http::Method;

use crate::cache::manifest::tag::never_trusting;
use forebay_test_support::manifest::{asked, manifest};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, When},
    mirror::Mirror,
};

const STALE: Option<&str> = Some("forebay; hit; detail=stale");

/// From now on the registry says that so many of a hundred pulls are left.
fn tell(registry: &FakeRegistry, remaining: &str) {
    registry.heal();
    registry.fault(When::manifests(), Fault::Header("ratelimit-limit", Some("100;w=21600".to_owned())));
    registry.fault(When::manifests(), Fault::Header("ratelimit-remaining", Some(format!("{remaining};w=21600"))));
}

#[tokio::test]
async fn a_scarce_pull_is_not_spent_on_a_tag_that_moved() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mirror = never_trusting(&registry).await;
    tell(&registry, "9");
    mirror.get(&manifest(1)).await;
    // HEADs are free, and tell that nothing changed.
    let same = mirror.get(&manifest(1)).await;
    assert_eq!(same.header("cache-status"), Some("forebay; hit; detail=revalidated"));
    let new = registry.add_image("team/app", "1", &[b"new"]);
    for _ in 0..2 {
        for method in [Method::GET, Method::HEAD] {
            let stale = mirror.request(method, &manifest(1), &[]).await;
            assert_eq!((stale.status, stale.header("cache-status")), (200, STALE));
            assert_eq!(stale.header("docker-content-digest"), Some(old.manifest.as_str()));
        }
    }
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (5, 1));
    mirror.until_metric("forebay_requests_total", &[("operation", "manifest"), ("outcome", "stale")], 4.0).await;
    // forebay requests what is not cached.
    registry.add_image("team/app", "2", &[b"other"]);
    assert_eq!(mirror.get(&manifest(2)).await.status, 200);
    assert_eq!(mirror.get(&manifest(&new.manifest)).await.status, 200);
    assert_eq!(asked(&registry, Method::GET), 3);
    // It is here now, at no further cost.
    assert_eq!(mirror.get(&manifest(1)).await.body, new.manifest_bytes);
    assert_eq!(asked(&registry, Method::GET), 3);
}

#[tokio::test]
async fn a_head_that_tells_of_enough_ends_the_sparing() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"old"]);
    let mirror = never_trusting(&registry).await;
    tell(&registry, "0");
    mirror.get(&manifest(1)).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    assert_eq!(mirror.get(&manifest(1)).await.header("cache-status"), STALE);
    tell(&registry, "10");
    for method in [Method::HEAD, Method::GET] {
        let fresh = mirror.request(method, &manifest(1), &[]).await;
        assert_eq!(fresh.header("docker-content-digest"), Some(new.manifest.as_str()));
    }
    assert_eq!(asked(&registry, Method::GET), 2);
}

#[tokio::test]
async fn a_head_of_no_use_is_followed_by_no_scarce_pull() {
    let head = || When::manifests().method(Method::HEAD);
    for fault in [Fault::status(405), Fault::Header("docker-content-digest", None), Fault::page(404), Fault::html()] {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[b"layer"]);
        let mirror = never_trusting(&registry).await;
        tell(&registry, "5");
        mirror.get(&manifest(1)).await;
        registry.fault(head(), fault.clone());
        for method in [Method::HEAD, Method::GET] {
            let stale = mirror.request(method, &manifest(1), &[]).await;
            assert_eq!(stale.header("cache-status"), STALE, "{fault:?}");
        }
        assert_eq!(asked(&registry, Method::GET), 1, "{fault:?}");
    }
}

/// That a tag is not there costs no pull.
#[tokio::test]
async fn a_tag_that_went_is_gone_while_a_limit_is_scarce() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = never_trusting(&registry).await;
    tell(&registry, "5");
    mirror.get(&manifest(1)).await;
    registry.untag("team/app", "1");
    assert_eq!(mirror.get(&manifest(1)).await.status, 404);
}

#[tokio::test]
async fn a_scarce_pull_is_spent_beyond_stale_if_error() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"old"]);
    let mirror = Mirror::build(&registry).config(|config| {
        config.cache.tag_ttl = Duration::ZERO;
        config.cache.stale_if_error = Duration::ZERO;
    });
    let mirror = mirror.start().await;
    tell(&registry, "5");
    mirror.get(&manifest(1)).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    assert_eq!(mirror.get(&manifest(1)).await.body, new.manifest_bytes);
}

/// A client puts such a tag back with one entry more: it must not be what was there before.
#[tokio::test]
async fn a_referrers_tag_that_is_pushed_is_no_former_one() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| {
        config.cache.tag_ttl = Duration::ZERO;
        config.upstreams[0].push = true;
    });
    let mirror = mirror.start().await;
    let tag = format!("sha256-{}", "a".repeat(64));
    registry.add_image("team/app", &tag, &[b"old"]);
    tell(&registry, "5");
    assert_eq!(mirror.get(&manifest(&tag)).await.status, 200);
    let new = registry.add_image("team/app", &tag, &[b"new"]);
    assert_eq!(mirror.get(&manifest(&tag)).await.body, new.manifest_bytes);
    registry.add_image("team/app", &tag, &[b"newer"]);
    registry.fault(When::manifests().method(Method::GET), Fault::too_many("1"));
    assert_eq!(mirror.get(&manifest(&tag)).await.status, 429);
}
