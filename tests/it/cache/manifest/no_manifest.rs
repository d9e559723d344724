//! 200 for a tag, and no manifest: of a balancer, a portal, an object store. It never becomes the tag.

use forebay::oci::{Algorithm, Digest};
use http::Method;

use crate::cache::{list::STALE, manifest::tag::never_trusting};
use forebay_test_support::manifest::{OCI_MANIFEST, manifest};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, When},
    mirror::Mirror,
};

/// An answer that names no digest.
fn answer(kind: Option<&str>, body: &str) -> Fault {
    let headers = kind.map(|kind| ("content-type", kind.to_owned())).into_iter().collect();
    Fault::Answer { status: 200, headers, body: body.to_owned() }
}

const BODIES: [&str; 14] = [
    "",
    "busy",
    "null",
    "2",
    "[]",
    "{}",
    r#"[2,"application/vnd.oci.image.manifest.v1+json"]"#,
    r#"{"errors":[{"code":"UNAVAILABLE"}]}"#,
    r#"{"schemaVersion":3}"#,
    r#"{"schemaVersion":"2"}"#,
    r#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#,
    r#"{"schemaVersion":2,"layers":[],"config":{"dig"#,
    "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code></Error>",
    "<html><body>please log in</body></html>",
];

fn pages() -> impl Iterator<Item = Fault> {
    let kinds = [None, Some("text/plain"), Some("application/json"), Some(OCI_MANIFEST), Some("text/html")];
    BODIES.into_iter().flat_map(move |body| kinds.map(|kind| answer(kind, body)))
}

#[tokio::test]
async fn what_is_no_manifest_never_becomes_the_tag() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    for page in pages() {
        registry.fault(When::manifests(), page.clone());
        for method in [Method::GET, Method::HEAD] {
            let stale = mirror.request(method.clone(), &manifest(1), &[]).await;
            assert_eq!((stale.status, stale.header("cache-status")), (200, STALE), "{method} {page:?}");
            assert_eq!(stale.header("docker-content-digest"), Some(image.manifest.as_str()), "{method} {page:?}");
        }
        registry.heal();
        let back = mirror.get(&manifest(1)).await;
        assert_eq!(back.header("cache-status"), Some("forebay; hit; detail=revalidated"), "{page:?}");
        assert_eq!(back.body, image.manifest_bytes);
    }
}

#[tokio::test]
async fn where_nothing_is_cached_no_manifest_is_an_outage() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    for page in pages() {
        registry.fault(When::manifests(), page.clone());
        for method in [Method::HEAD, Method::GET] {
            assert_eq!(mirror.request(method, &manifest(1), &[]).await.status, 502, "{page:?}");
        }
        registry.heal();
    }
    assert_eq!(mirror.get(&manifest(1)).await.body, image.manifest_bytes);
}

#[tokio::test]
async fn a_page_instead_of_a_manifest_leads_to_the_next_url() {
    let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = second.add_image("team/app", "1", &[b"layer"]);
    let text = format!("name = \"x.example\"\nurls = [\"{}\", \"{}\"]\ndefault = true\n", first.url(), second.url());
    let zero = |config: &mut forebay::config::Config| config.cache.tag_ttl = std::time::Duration::ZERO;
    let mirror = Mirror::parse(&format!("[[upstream]]\n{text}")).config(zero).start().await;
    for page in pages() {
        first.heal();
        first.fault(When::manifests(), page.clone());
        assert_eq!(mirror.get(&manifest(1)).await.body, image.manifest_bytes, "{page:?}");
    }
}

#[tokio::test]
async fn a_manifest_that_names_no_digest_is_one() {
    let registry = FakeRegistry::start().await;
    let mirror = never_trusting(&registry).await;
    for (kind, body) in [
        (None, r#"{"schemaVersion":2}"#),
        (Some("text/plain"), r#" {"schemaVersion":2,"manifests":[]}"#),
        (Some("application/json"), r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#),
        (Some("application/vnd.example.x+json"), r#"{"mediaType":"application/vnd.example.x+json"}"#),
        (Some("application/x-thing; v=1"), r#"{"mediaType":"application/x-thing"}"#),
    ] {
        registry.heal();
        registry.fault(When::manifests(), answer(kind, body));
        let got = mirror.get(&manifest(1)).await;
        assert_eq!((got.status, got.text()), (200, body), "{kind:?}");
    }
}

/// A digest of its own makes no manifest of nothing.
#[tokio::test]
async fn an_empty_body_never_becomes_the_tag() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    for kind in ["text/plain", "application/json", OCI_MANIFEST] {
        registry.heal();
        registry.fault(When::manifests(), named(kind, &Digest::of(Algorithm::Sha256, b""), ""));
        let stale = mirror.get(&manifest(1)).await;
        assert_eq!((stale.status, stale.header("cache-status")), (200, STALE), "{kind}");
        assert_eq!(stale.header("docker-content-digest"), Some(image.manifest.as_str()), "{kind}");
    }
}

/// An answer that names a digest.
fn named(kind: &str, digest: &Digest, body: &str) -> Fault {
    let headers = vec![("content-type", kind.to_owned()), ("docker-content-digest", digest.to_string())];
    Fault::Answer { status: 200, headers, body: body.to_owned() }
}

#[tokio::test]
async fn a_wrong_digest_leads_to_the_next_url() {
    let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = second.add_image("team/app", "1", &[b"layer"]);
    let text = format!("name = \"fake.example\"\nurls = [\"{}\", \"{}\"]\ndefault = true\n", first.url(), second.url());
    let other = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    for body in [other, "{", "{}"] {
        first.heal();
        first.fault(When::manifests(), named(OCI_MANIFEST, &image.manifest, body));
        let mirror = Mirror::parse(&format!("[[upstream]]\n{text}")).start().await;
        for reference in ["1", image.manifest.as_str()] {
            let told = mirror.get(&manifest(reference)).await;
            assert_eq!((told.status, &told.body), (200, &image.manifest_bytes), "{body} {reference}");
        }
        mirror.until_metric("forebay_digest_mismatches_total", &[("upstream", "fake.example")], 1.0).await;
    }
}
