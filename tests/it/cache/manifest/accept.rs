//! What a client can read decides what it gets, and is told to the upstream as the client told it.

use http::Method;

use forebay_test_support::manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, asked, manifest};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Server},
    mirror::Mirror,
    raw::Raw,
};

const DOCKER: &[u8] = b"{\"schemaVersion\":2,\"layers\":[]}";

async fn get(mirror: &Mirror, reference: impl std::fmt::Display, accept: &str) -> (u16, Option<String>, String) {
    let answer = mirror.get_with(&manifest(reference), &[("accept", accept)]).await;
    let text = |name| answer.header(name).map(str::to_owned);
    (answer.status, text("content-type"), text("cache-status").unwrap_or_default())
}

#[tokio::test]
async fn a_converted_tag_is_kept_for_each_class_of_accept() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let index = registry.add_manifest("team/app", OCI_INDEX, b"{\"schemaVersion\":2,\"manifests\":[]}".as_slice());
    let converted = registry.add_manifest("team/app", DOCKER_MANIFEST, DOCKER);
    let modern = &*format!("{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_MANIFEST}");
    registry.tag("team/app", "1", &index);
    assert_eq!(get(&mirror, 1, modern).await.1.as_deref(), Some(OCI_INDEX));
    // What this registry says to a client that knows Docker's format alone.
    registry.tag("team/app", "1", &converted);
    assert_eq!(get(&mirror, 1, DOCKER_MANIFEST).await.1.as_deref(), Some(DOCKER_MANIFEST));
    assert_eq!(asked(&registry, Method::GET), 2);
    registry.forget_requests();
    registry.take_down(Server::Api).await;
    for _ in 0..2 {
        for (accept, media_type) in [(modern, OCI_INDEX), (DOCKER_MANIFEST, DOCKER_MANIFEST)] {
            let (status, got, cache_status) = get(&mirror, 1, accept).await;
            assert_eq!((status, got.as_deref(), &*cache_status), (200, Some(media_type), "forebay; hit"));
        }
        mirror.restart().await;
    }
    // The order and the spelling of the same types make no other kind.
    let same = &*format!("{DOCKER_MANIFEST};q=0.1,{OCI_MANIFEST} ,{}", OCI_INDEX.to_uppercase());
    assert_eq!(get(&mirror, 1, same).await.2, "forebay; hit");
}

#[tokio::test]
async fn a_type_the_client_does_not_accept_is_fetched_anew() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    assert_eq!(get(&mirror, &image.manifest, OCI_MANIFEST).await.0, 200);
    registry.forget_requests();
    assert_eq!(get(&mirror, &image.manifest, DOCKER_MANIFEST).await.0, 200, "the upstream has nothing else");
    assert_eq!(asked(&registry, Method::GET), 1);
    assert_eq!(registry.requests()[0].header("accept"), Some(DOCKER_MANIFEST));
    let head = mirror.request(Method::HEAD, &manifest(&image.manifest), &[("accept", DOCKER_MANIFEST)]).await;
    assert_eq!((head.status, asked(&registry, Method::HEAD)), (200, 1));
    registry.take_down(Server::Api).await;
    assert_eq!(get(&mirror, &image.manifest, DOCKER_MANIFEST).await.0, 404, "it is not there in a form it can read");
    let head = mirror.request(Method::HEAD, &manifest(&image.manifest), &[("accept", DOCKER_MANIFEST)]).await;
    assert_eq!(head.status, 404, "a HEAD says what a GET says");
    assert_eq!(get(&mirror, &image.manifest, "application/*").await.2, "forebay; hit");
    assert_eq!(get(&mirror, &image.manifest, "*/*;q=0.1").await.2, "forebay; hit");
}

#[tokio::test]
async fn in_an_outage_a_readable_type_of_another_class_is_served() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    assert_eq!(get(&mirror, 1, OCI_MANIFEST).await.0, 200);
    registry.take_down(Server::Api).await;
    for _ in 0..2 {
        for accept in [&*format!("{OCI_MANIFEST}, {DOCKER_MANIFEST}"), "*/*"] {
            let (status, media_type, cache_status) = get(&mirror, 1, accept).await;
            assert_eq!((status, media_type.as_deref()), (200, Some(OCI_MANIFEST)), "{accept}");
            assert_eq!(cache_status, "forebay; hit; detail=stale");
            let head = mirror.request(Method::HEAD, &manifest(1), &[("accept", accept)]).await;
            assert_eq!(head.header("docker-content-digest"), Some(image.manifest.as_str()));
        }
        assert_eq!(get(&mirror, 1, DOCKER_MANIFEST).await.0, 502, "it could not read it");
        mirror.restart().await;
    }
}

#[tokio::test]
async fn what_a_client_accepts_is_forwarded_as_it_came() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let lines = [("accept", "application/vnd.oci.image.manifest.v1+json;q=0.9 , x/y"), ("accept", DOCKER_MANIFEST)];
    mirror.get_with(&manifest(1), &lines).await;
    let seen: Vec<_> = registry.requests()[0].headers.get_all("accept").iter().cloned().collect();
    assert_eq!(seen, lines.map(|(_, value)| value));
    registry.forget_requests();
    let none = Raw::get(mirror.address(), &manifest(1), &[]).await;
    assert_eq!(none.status, 200);
    // RFC 9110 section 12.5.1: no Accept and `*/*` mean the same; the HTTP client writes the latter.
    let seen: Vec<_> = registry.requests()[0].headers.get_all("accept").iter().cloned().collect();
    assert!(seen.is_empty() || seen == ["*/*"], "{seen:?}");
}
