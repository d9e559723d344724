//! `Warning` headers of upstreams for clients, and the media type of a manifest that a client requests as a blob.

use std::time::Duration;

use http::Method;

use crate::cache::list::STALE;
use forebay_test_support::manifest::{OCI_INDEX, OCI_MANIFEST, manifest};
use forebay_test_support::{
    blob::path,
    fake_registry::{FakeRegistry, Fault, Server, When},
    mirror::{Answer, Mirror},
};

const DEPRECATED: &str = r#"299 - "this image is deprecated""#;

fn warning(text: &str) -> Fault {
    Fault::Header("warning", Some(text.to_owned()))
}

fn warned(answer: &Answer) -> Option<&str> {
    assert_eq!(answer.status, 200);
    answer.header("warning")
}

#[tokio::test]
async fn warnings_pass_on_whatever_is_answered() {
    for push in [false, true] {
        let registry = FakeRegistry::start().await;
        registry.offer_referrers(true);
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].push = push).start().await;
        registry.fault(When::any(), warning(DEPRECATED));
        for path in [
            manifest(1),
            manifest(&image.manifest),
            path(&image.layers[0]),
            "/v2/team/app/tags/list".to_owned(),
            "/v2/_catalog".to_owned(),
            format!("/v2/team/app/referrers/{}", image.manifest),
        ] {
            // The second ones may be hits.
            for method in [Method::HEAD, Method::GET, Method::HEAD, Method::GET] {
                let answer = mirror.request(method.clone(), &path, &[]).await;
                assert_eq!(warned(&answer), Some(DEPRECATED), "{method} {path} {push}");
            }
        }
    }
}

#[tokio::test]
async fn other_warnings_are_no_word_to_clients() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    registry.fault(When::any(), warning(r#"110 - "response is stale""#));
    for path in [manifest(1), path(&image.layers[0]), "/v2/team/app/tags/list".to_owned()] {
        assert_eq!(warned(&mirror.get(&path).await), None, "{path}");
    }
}

#[tokio::test]
async fn a_warning_tells_no_private_name() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (text, passes) in [
        (r#"299 - "team/app is deprecated""#, true),
        (r#"299 - "use team/other in its place""#, false),
        (r#"299 - "127.0.0.1 is moved""#, false),
    ] {
        registry.heal();
        registry.fault(When::any(), warning(text));
        let digest = registry.add_blob("team/app", text.to_owned());
        let about = format!(r#"{{"schemaVersion":2,"about":{}}}"#, text.len());
        let about = registry.add_manifest("team/app", OCI_MANIFEST, about);
        registry.tag("team/app", "1", &about);
        for path in [manifest(&about), path(&digest), format!("/v2/team/app/tags/list?n={}", text.len())] {
            for method in [Method::HEAD, Method::GET, Method::GET] {
                let answer = mirror.request(method.clone(), &path, &[]).await;
                assert_eq!(warned(&answer), passes.then_some(text), "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_warning_is_for_its_repository_and_until_it_is_taken_back() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    registry.add_manifest("team/other", OCI_MANIFEST, image.manifest_bytes.clone());
    let mirror = Mirror::build(&registry).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
    registry.fault(When::any(), warning(DEPRECATED));
    assert_eq!(warned(&mirror.get(&manifest(1)).await), Some(DEPRECATED));
    let other = format!("/v2/team/other/manifests/{}", image.manifest);
    assert_eq!(warned(&mirror.get(&other).await), None);
    registry.take_down(Server::Api).await;
    let stale = mirror.get(&manifest(1)).await;
    assert_eq!((warned(&stale), stale.header("cache-status")), (Some(DEPRECATED), STALE));
    registry.bring_up(Server::Api).await;
    registry.heal();
    assert_eq!(warned(&mirror.get(&manifest(1)).await), None);
}

#[tokio::test]
async fn a_cached_manifest_has_its_type_as_a_blob() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    registry.add_blob("team/app", image.manifest_bytes.clone());
    let mut mirror = Mirror::of(&registry).await;
    mirror.get(&manifest(1)).await;
    let blob = path(&image.manifest);
    for _ in ["new", "after a restart"] {
        for method in [Method::HEAD, Method::GET, Method::GET] {
            let answer = mirror.request(method.clone(), &blob, &[]).await;
            assert_eq!((answer.status, answer.header("content-type")), (200, Some(OCI_MANIFEST)), "{method}");
        }
        mirror.restart().await;
    }
    let layer = mirror.get(&path(&image.layers[0])).await;
    assert_eq!(layer.header("content-type"), Some("application/octet-stream"));
}

#[tokio::test]
async fn a_manifest_that_comes_as_a_blob_has_the_upstreams_type() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (kind, expected) in [
        (OCI_INDEX, OCI_INDEX),
        ("application/vnd.oci.image.layer.v1.tar+gzip", "application/octet-stream"),
        ("application/json", "application/octet-stream"),
    ] {
        let digest = registry.add_blob("team/app", format!(r#"{{"schemaVersion":2,"x":"{kind}"}}"#));
        registry.heal();
        registry.fault(When::blobs(), Fault::Header("content-type", Some(kind.to_owned())));
        for method in [Method::HEAD, Method::GET, Method::GET, Method::HEAD] {
            let answer = mirror.request(method.clone(), &path(&digest), &[]).await;
            assert_eq!((answer.status, answer.header("content-type")), (200, Some(expected)), "{method} {kind}");
        }
        let part = mirror.get_with(&path(&digest), &[("range", "bytes=1-3")]).await;
        assert_eq!((part.status, part.header("content-type")), (206, Some(expected)));
    }
}

#[tokio::test]
async fn a_list_that_is_too_long_is_no_manifest() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let body = format!(r#"{{"name":"team/app","tags":["{}"]}}"#, "x".repeat(16 << 20));
    registry.fault(When::any(), Fault::Answer { status: 200, headers: vec![], body });
    let digest = format!("sha256:{}", "a".repeat(64));
    for path in ["/v2/team/app/tags/list", "/v2/_catalog", &format!("/v2/team/app/referrers/{digest}")] {
        let answer = mirror.get(path).await;
        assert_eq!((answer.status, &*answer.error_code()), (413, "SIZE_INVALID"), "{path}");
        assert!(answer.text().contains("the list is larger than 16 MiB"), "{}", answer.text());
    }
}
