//! Manifests by tag: trusted for a while, then confirmed by one HEAD, however many ask.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use http::Method;

use crate::cache::manifest::files;
use forebay_test_support::manifest::{asked, manifest};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    until::bounded,
};

/// Makes every tag of a mirror that is not running look as if it had been confirmed so long ago.
pub fn age(cache: &Path, by: Duration) {
    let then = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - by;
    let records = files(&cache.join("tags"));
    assert!(!records.is_empty(), "no tag was kept");
    for record in records {
        let text = fs::read_to_string(&record).unwrap();
        let lines = text.lines().map(|line| match line.starts_with("confirmed = ") {
            true => format!("confirmed = {}\n", then.as_secs()),
            false => format!("{line}\n"),
        });
        let aged: String = lines.collect();
        assert_ne!(aged, text, "{}", record.display());
        fs::write(record, aged).unwrap();
    }
}

/// A mirror that asks about a tag every time.
pub async fn never_trusting(registry: &FakeRegistry) -> Mirror {
    Mirror::build(registry).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await
}

#[tokio::test]
async fn within_its_time_a_tag_is_trusted() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = Mirror::of(&registry).await;
    let first = mirror.get(&manifest(1)).await;
    assert_eq!(first.header("cache-status"), Some("forebay; fwd=miss; stored"));
    registry.forget_requests();
    registry.untag("team/app", "1");
    let etag = format!("\"{}\"", image.manifest);
    for _ in 0..2 {
        let get = mirror.get(&manifest(1)).await;
        assert_eq!(
            (get.status, get.body, get.headers["cache-status"].as_bytes()),
            (200, image.manifest_bytes.clone(), &b"forebay; hit"[..])
        );
        let head = mirror.head(&manifest(1)).await;
        assert_eq!((head.status, head.header("cache-status")), (200, Some("forebay; hit")));
        let known = mirror.get_with(&manifest(1), &[("if-none-match", &etag)]).await;
        assert_eq!((known.status, known.header("docker-content-digest")), (304, Some(image.manifest.as_str())));
        assert!(known.body.is_empty());
        mirror.restart().await;
    }
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn an_unchanged_tag_costs_one_head_and_no_get() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    registry.forget_requests();
    for heads in 1..=3 {
        let again = mirror.get(&manifest(1)).await;
        assert_eq!((again.status, again.body.clone()), (200, image.manifest_bytes.clone()));
        assert_eq!(again.header("cache-status"), Some("forebay; hit; detail=revalidated"));
        assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (heads, 0));
    }
    mirror.until_metric("forebay_requests_total", &[("outcome", "revalidated"), ("operation", "manifest")], 3.0).await;
    // Not even where the registry leaves the rest of the head out.
    registry.fault(When::manifests(), Fault::Header("content-type", None));
    registry.fault(When::manifests(), Fault::NoContentLength);
    assert_eq!(
        mirror.get(&manifest(1)).await.header("content-type"),
        Some("application/vnd.oci.image.manifest.v1+json")
    );
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (4, 0));
}

#[tokio::test]
async fn a_confirmed_tag_is_trusted_again() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = Mirror::of(&registry).await;
    mirror.get(&manifest(1)).await;
    mirror.drain().await;
    age(&mirror.cache_dir(), Duration::from_secs(61));
    mirror.start().await;
    registry.forget_requests();
    assert_eq!(mirror.get(&manifest(1)).await.header("cache-status"), Some("forebay; hit; detail=revalidated"));
    for _ in 0..2 {
        assert_eq!(mirror.get(&manifest(1)).await.header("cache-status"), Some("forebay; hit"));
        mirror.restart().await;
    }
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn a_changed_tag_costs_one_get() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    registry.forget_requests();
    let changed = mirror.get(&manifest(1)).await;
    assert_eq!((changed.status, changed.body), (200, new.manifest_bytes.clone()));
    assert_eq!(changed.headers["cache-status"], "forebay; fwd=miss; stored");
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 1));
    assert_eq!(mirror.get(&manifest(1)).await.header("cache-status"), Some("forebay; hit; detail=revalidated"));
    // Back again: the old one is still there, and so it is by its digest.
    registry.tag("team/app", "1", &old.manifest);
    assert_eq!(mirror.get(&manifest(1)).await.body, old.manifest_bytes);
    registry.forget_requests();
    for image in [&old, &new] {
        assert_eq!(mirror.get(&manifest(&image.manifest)).await.body, image.manifest_bytes);
    }
    assert!(registry.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_requests_for_a_tag_cost_one_head() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = Mirror::of(&registry).await;
    mirror.get(&manifest(1)).await;
    mirror.drain().await;
    age(&mirror.cache_dir(), Duration::from_secs(3600));
    mirror.start().await;
    registry.forget_requests();
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::HoldHead(gate.clone()));
    let all = async { join_all((0..20).map(|_| async { mirror.get(&manifest(1)).await })).await };
    let open = async {
        gate.reached().await;
        gate.open();
    };
    let (answers, ()) = bounded(async { tokio::join!(all, open) }).await;
    for answer in answers {
        assert_eq!((answer.status, &answer.body), (200, &image.manifest_bytes));
    }
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_requests_for_a_missing_tag_cost_one_get() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::HoldHead(gate.clone()));
    for path in [manifest(1), manifest(&image.manifest)] {
        let all = async { join_all((0..20).map(|_| async { mirror.get(&path).await })).await };
        let open = async {
            gate.reached().await;
            gate.open();
        };
        let (answers, ()) = bounded(async { tokio::join!(all, open) }).await;
        for answer in answers {
            assert_eq!((answer.status, &answer.body), (200, &image.manifest_bytes));
        }
    }
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_outlives_its_first_client() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::HoldHead(gate.clone()));
    let path = manifest(1);
    tokio::select! {
        _ = mirror.get(&path) => panic!("the gate is closed"),
        () = gate.reached() => {}
    }
    mirror.until_metric("forebay_connections", &[], 0.0).await;
    gate.open();
    assert_eq!(mirror.get(&manifest(1)).await.body, image.manifest_bytes);
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn a_tag_belongs_to_its_repository() {
    let registry = FakeRegistry::start().await;
    let images = ["team/app", "team", "team/app/1", "app"].map(|name| (name, registry.add_image(name, "1", &[b"x"])));
    let mirror = Mirror::of(&registry).await;
    for _ in 0..2 {
        for (name, image) in &images {
            let path = format!("/v2/{name}/manifests/1");
            assert_eq!(mirror.get(&path).await.body, image.manifest_bytes, "{name}");
        }
    }
    assert_eq!(registry.requests().len(), images.len());
}
