//! HEAD of an upstream that tells a wrong length, none, or nothing at all.

use std::time::Duration;

use http::Method;

use forebay_test_support::manifest::{asked, manifest};
use forebay_test_support::{
    blob::{add, path},
    fake_registry::{FakeRegistry, Fault, Record, When},
    mirror::Mirror,
};

fn head(when: When) -> When {
    when.method(Method::HEAD)
}

/// A mirror that asks about a tag every time.
async fn mirror_of(registry: &FakeRegistry, push: bool) -> Mirror {
    let mirror = Mirror::build(registry).config(|config| {
        config.cache.tag_ttl = Duration::ZERO;
        config.upstreams[0].push = push;
    });
    mirror.start().await
}

async fn assert_len(mirror: &Mirror, path: &str, len: usize, why: &str) {
    let told = mirror.head(path).await;
    assert_eq!((told.status, told.header("content-length")), (200, Some(&*len.to_string())), "{path}: {why}");
}

/// What comes in place of a HEAD that is of use; a wrong length can be told where what it is of is cached.
fn useless() -> [(&'static str, Fault); 5] {
    [
        ("0", Fault::ContentLength(0)),
        ("none", Fault::NoContentLength),
        ("405", Fault::status(405)),
        ("501", Fault::status(501)),
        ("405 of something else", Fault::page(405)),
    ]
}

#[tokio::test]
async fn an_impossible_manifest_length_is_not_believed() {
    for push in [false, true] {
        let no_manifests =
            [("too short", Fault::ContentLength(18)), ("too long", Fault::ContentLength((16 << 20) + 1))];
        for (name, fault) in useless().into_iter().chain(no_manifests) {
            let registry = FakeRegistry::start().await;
            let images = ["1", "2"].map(|tag| registry.add_image("team/app", tag, &[b"layer"]));
            let mirror = mirror_of(&registry, push).await;
            registry.fault(head(When::manifests()), fault);
            for (path, image) in [(manifest(1), &images[0]), (manifest(&images[1].manifest), &images[1])] {
                assert_len(&mirror, &path, image.manifest_bytes.len(), name).await;
            }
            assert_eq!(asked(&registry, Method::GET), 2, "{name} {push}");
        }
    }
}

#[tokio::test]
async fn a_cached_manifest_is_as_long_as_it_is() {
    for push in [false, true] {
        for (name, fault) in useless().into_iter().chain([("7", Fault::ContentLength(7))]) {
            let registry = FakeRegistry::start().await;
            let image = registry.add_image("team/app", "1", &[b"layer"]);
            let mirror = mirror_of(&registry, push).await;
            registry.fault(head(When::manifests()), fault);
            // By its digest: the tag is not known yet.
            mirror.get(&manifest(&image.manifest)).await;
            for path in [manifest(1), manifest(1), manifest(&image.manifest)] {
                assert_len(&mirror, &path, image.manifest_bytes.len(), name).await;
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_length_is_forgotten_once_the_manifest_is_here() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = Mirror::of(&registry).await;
    registry.fault(head(When::manifests()), Fault::ContentLength(70));
    assert_len(&mirror, &manifest(1), 70, "nothing tells better").await;
    mirror.get(&manifest(&image.manifest)).await;
    assert_len(&mirror, &manifest(1), image.manifest_bytes.len(), "in memory").await;
    mirror.restart().await;
    assert_len(&mirror, &manifest(1), image.manifest_bytes.len(), "on disk").await;
}

fn gets(registry: &FakeRegistry) -> Vec<Option<String>> {
    let is_get = |request: &Record| request.method == Method::GET && request.path.contains("/blobs/");
    let requests = registry.requests().into_iter().filter(is_get);
    requests.map(|request| request.header("range").map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_head_without_a_length_is_followed_by_a_one_byte_get() {
    for push in [false, true] {
        for (name, fault) in useless() {
            let registry = FakeRegistry::start().await;
            let (digest, content) = add(&registry, 100_000, 1);
            let mirror = mirror_of(&registry, push).await;
            registry.fault(head(When::blobs()), fault);
            assert_len(&mirror, &path(&digest), content.len(), name).await;
            assert_eq!(gets(&registry), [Some("bytes=0-0".to_owned())], "{name} {push}");
        }
    }
}

#[tokio::test]
async fn a_cached_blob_is_as_long_as_it_is() {
    for push in [false, true] {
        for (name, fault) in useless().into_iter().chain([("7", Fault::ContentLength(7))]) {
            let registry = FakeRegistry::start().await;
            let (digest, content) = add(&registry, 100_000, 1);
            let mirror = mirror_of(&registry, push).await;
            mirror.get(&path(&digest)).await;
            mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
            registry.fault(head(When::blobs()), fault);
            assert_len(&mirror, &path(&digest), content.len(), name).await;
        }
    }
}

#[tokio::test]
async fn only_the_empty_blob_has_no_bytes() {
    for push in [false, true] {
        let registry = FakeRegistry::start().await;
        let empty = registry.add_blob("team/app", &b""[..]);
        let mirror = mirror_of(&registry, push).await;
        assert_len(&mirror, &path(&empty), 0, "it is empty").await;
        assert!(gets(&registry).is_empty());
        // A registry that has nothing but wrong lengths: better none than one of them.
        let (digest, _) = add(&registry, 100_000, 1);
        registry.fault(When::blobs(), Fault::ContentLength(0));
        registry.fault(When::blobs(), Fault::IgnoreRange);
        let told = mirror.head(&path(&digest)).await;
        assert_eq!((told.status, told.header("content-length")), (200, None));
    }
}

#[tokio::test]
async fn a_head_of_a_blob_without_a_length_is_a_200() {
    let registry = FakeRegistry::start().await;
    let (digest, _) = add(&registry, 100_000, 1);
    let mirror = Mirror::of(&registry).await;
    registry.fault(head(When::blobs()), Fault::NoContentLength);
    registry.fault(When::blobs().method(Method::GET), Fault::too_many("60"));
    let told = mirror.head(&path(&digest)).await;
    assert_eq!((told.status, told.header("content-length")), (200, None));
}

/// Called a page, without a word of its digest.
fn called_a_page(registry: &FakeRegistry) {
    registry.fault(When::any(), Fault::Header("content-type", Some("text/html".to_owned())));
    registry.fault(When::any(), Fault::Header("docker-content-digest", None));
}

#[tokio::test]
async fn a_blob_called_a_page_has_the_head_of_its_get() {
    for push in [false, true] {
        let registry = FakeRegistry::start().await;
        let mirror = mirror_of(&registry, push).await;
        called_a_page(&registry);
        // The longest is too long to be a page.
        for len in [1, 100_000, 17 * 1024 * 1024] {
            let (digest, _) = add(&registry, len, 1);
            assert_len(&mirror, &path(&digest), len, "called a page").await;
        }
        let (digest, _) = add(&registry, 1000, 2);
        registry.fault(When::blobs(), Fault::html());
        for told in [mirror.head(&path(&digest)).await, mirror.get(&path(&digest)).await] {
            assert_eq!(told.status, 502, "a page");
        }
    }
}

#[tokio::test]
async fn a_manifest_called_a_page_has_the_head_of_its_get() {
    for push in [false, true] {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        let mirror = mirror_of(&registry, push).await;
        called_a_page(&registry);
        for path in [manifest(1), manifest(&image.manifest)] {
            assert_len(&mirror, &path, image.manifest_bytes.len(), "called a page").await;
        }
        registry.add_image("team/app", "2", &[b"layer"]);
        registry.fault(When::manifests(), Fault::html());
        for told in [mirror.head(&manifest(2)).await, mirror.get(&manifest(2)).await] {
            assert_eq!(told.status, 502, "a page");
        }
    }
}
