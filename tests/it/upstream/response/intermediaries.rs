//! Refusals by what stands in front of a registry (an ingress, a CDN, a firewall): none of them is the registry's word.

use std::time::Duration;

use forebay::{oci::Algorithm, upstream::CredentialSource};
use http::Method;

use crate::cache::{list::STALE, manifest::tag::never_trusting};
use forebay_test_support::manifest::{asked, manifest};
use forebay_test_support::{
    blob::{add, path},
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Gate, Record, Server, When},
    mirror::Mirror,
    raw::Raw,
};

/// An answer that neither a registry's header nor its errors go with.
fn answer(status: u16, kind: &str, body: &str) -> Fault {
    Fault::Answer { status, headers: vec![("content-type", kind.to_owned())], body: body.to_owned() }
}

fn pages() -> Vec<Fault> {
    vec![
        Fault::no_backend(),
        Fault::page(404),
        Fault::page(403),
        Fault::page(401),
        Fault::page(400),
        Fault::page(405),
        Fault::page(410),
        Fault::page(416),
        Fault::page(421),
        answer(404, "text/plain", ""),
        // Traefik's, without a route.
        answer(404, "text/plain; charset=utf-8", "404 page not found\n"),
        answer(403, "application/json", r#"{"message":"blocked"}"#),
        answer(404, "application/json", r#"{"errors":[]}"#),
        answer(403, "application/json", r#"{"errors":[{"code":1020}]}"#),
        answer(404, "application/xml", "<Error><Code>NoSuchKey</Code></Error>"),
        answer(403, "text/html", &"<p>".repeat(100_000)),
    ]
}

#[tokio::test]
async fn a_page_leaves_the_old_tag() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    for page in pages() {
        registry.fault(When::any(), page.clone());
        for method in [Method::GET, Method::HEAD] {
            let stale = mirror.request(method.clone(), &manifest(1), &[]).await;
            assert_eq!((stale.status, stale.header("cache-status")), (200, STALE), "{method} {page:?}");
            assert_eq!(stale.header("docker-content-digest"), Some(image.manifest.as_str()));
        }
        registry.heal();
        let back = mirror.get(&manifest(1)).await;
        assert_eq!(
            (back.status, back.header("cache-status")),
            (200, Some("forebay; hit; detail=revalidated")),
            "{page:?}"
        );
    }
}

#[tokio::test]
async fn the_registrys_own_404_still_ends_a_tag() {
    let plain = answer(404, "text/plain", r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#);
    for refusal in [Fault::status(404), plain] {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[b"layer"]);
        let mirror = never_trusting(&registry).await;
        mirror.get(&manifest(1)).await;
        registry.fault(When::any(), refusal.clone());
        assert_eq!(mirror.get(&manifest(1)).await.status, 404, "{refusal:?}");
        registry.take_down(Server::Api).await;
        assert_ne!(mirror.get(&manifest(1)).await.status, 200, "{refusal:?}");
    }
}

#[tokio::test]
async fn where_nothing_is_cached_a_404_passes_and_is_not_kept() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let paths = [manifest(1), manifest(&image.manifest), path(&image.layers[0]), "/v2/team/app/tags/list".to_owned()];
    for page in pages() {
        registry.fault(When::any(), page.clone());
        let Fault::Answer { status, .. } = &page else { panic!("it is an answer") };
        let expected = if matches!(status, 404 | 410) { 404 } else { 502 };
        for path in &paths {
            for method in [Method::GET, Method::HEAD] {
                let told = mirror.request(method.clone(), path, &[]).await;
                assert_eq!(told.status, expected, "{method} {path} {page:?}");
            }
        }
        registry.heal();
    }
    for path in &paths {
        assert_eq!(mirror.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn an_error_page_leads_to_the_next_url() {
    for page in pages() {
        let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let image = second.add_image("team/app", "1", &[b"layer"]);
        let text =
            format!("name = \"fake.example\"\nurls = [\"{}\", \"{}\"]\ndefault = true\n", first.url(), second.url());
        let mirror = Mirror::parse(&format!("[[upstream]]\n{text}")).start().await;
        first.fault(When::any(), page.clone());
        for path in [manifest(1), path(&image.layers[0]), "/v2/team/app/tags/list".to_owned()] {
            assert_eq!(mirror.get(&path).await.status, 200, "{path} {page:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_the_middle_of_a_blob_is_a_pause() {
    for page in pages() {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        let (digest, content) = add(&registry, 400_000, 1);
        registry.fault_times(1, When::blobs(), Fault::Truncate { at: 200_000 });
        // In place of the rest; forebay requests the whole blob then.
        registry.fault_times(1, When::blobs().ranged(), page.clone());
        let end = Raw::get(mirror.address(), &path(&digest), &[]).await.rest().await;
        assert!(end.is_whole() && end.bytes() == content, "{page:?}");
    }
}

/// Servers of shared hosts say so when an account has used up what it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_508_that_no_forebay_said_is_a_pause() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 400_000, 1);
    registry.fault_times(1, When::blobs(), Fault::Truncate { at: 200_000 });
    registry.fault_times(1, When::blobs().ranged(), Fault::page(508));
    let end = Raw::get(mirror.address(), &path(&digest), &[]).await.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
}

/// In the middle of a blob nothing but pages come for a while, for the part and for the whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_in_the_middle_of_a_blob_are_outwaited() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 400_000, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: 200_000, gate: gate.clone() });
    registry.fault_times(1, When::blobs(), Fault::Truncate { at: 200_000 });
    let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    registry.fault_times(6, When::blobs(), Fault::no_backend());
    gate.open();
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
}

#[tokio::test]
async fn a_page_says_nothing_about_referrers() {
    for page in pages() {
        let registry = FakeRegistry::start().await;
        let subject = registry.add_image("team/app", "1", &[]).manifest;
        let referrers = format!("/v2/team/app/referrers/{subject}");
        let mirror = Mirror::of(&registry).await;
        registry.fault(When::any(), page.clone());
        assert_ne!(mirror.get(&referrers).await.status, 200, "{page:?}");
        // The registry has no such endpoint, and it is the tag that is not to be had.
        registry.heal();
        registry.fault(When::manifests(), page.clone());
        assert_ne!(mirror.get(&referrers).await.status, 200, "{page:?}");
        registry.heal();
        assert_eq!(mirror.get(&referrers).await.status, 200, "{page:?}");
    }
}

#[tokio::test]
async fn a_page_in_a_realms_place_leaves_the_old_tag() {
    let users = vec![("me".to_owned(), "se:cret".to_owned())];
    let directory = tempfile::tempdir().unwrap();
    let password_file = directory.path().join("password");
    std::fs::write(&password_file, "se:cret").unwrap();
    let password = CredentialSource::Password { username: "me".to_owned(), password_file };
    for credential in [CredentialSource::Anonymous, password] {
        for page in [
            Fault::page(403),
            Fault::page(401),
            Fault::page(404),
            Fault::no_backend(),
            answer(403, "text/plain", "blocked"),
            answer(403, "application/json", r#"{"message":"blocked"}"#),
        ] {
            let registry = FakeRegistry::start().await;
            let anonymous = credential == CredentialSource::Anonymous;
            registry.require(Auth::Bearer(Bearer { anonymous, users: users.clone(), ..Bearer::default() }));
            registry.add_image("team/app", "1", &[b"layer"]);
            let mirror = Mirror::build(&registry).config(|config| {
                config.cache.tag_ttl = Duration::ZERO;
                config.upstreams[0].credential = credential.clone();
            });
            let mirror = mirror.start().await;
            assert_eq!(mirror.get(&manifest(1)).await.status, 200);
            registry.revoke_tokens();
            registry.fault(When::tokens(), page.clone());
            assert_eq!(mirror.get(&manifest(1)).await.header("cache-status"), STALE, "{page:?}");
            // It says nothing of a password.
            let ok = mirror.metric("forebay_upstream_credentials_ok", &[]).await;
            assert_eq!(ok, if anonymous { 0.0 } else { 1.0 }, "{page:?}");
        }
    }
}

#[tokio::test]
async fn a_page_leaves_the_old_list() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let mirror = Mirror::of(&registry).await;
    let list = "/v2/team/app/tags/list";
    mirror.get(list).await;
    for page in pages() {
        registry.fault(When::any(), page.clone());
        assert_eq!(mirror.get(list).await.header("cache-status"), STALE, "{page:?}");
        registry.heal();
    }
}

fn gets(registry: &FakeRegistry) -> usize {
    registry.count(|request: &Record| request.method == Method::GET)
}

/// It has no body: only a GET tells whose word it is.
#[tokio::test]
async fn a_page_to_a_head_is_followed_by_a_get() {
    for page in pages() {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        let mirror = Mirror::of(&registry).await;
        registry.fault(When::any().method(Method::HEAD), page.clone());
        for path in [manifest(1), path(&image.layers[0])] {
            assert_eq!(mirror.head(&path).await.status, 200, "{path} {page:?}");
        }
        assert_eq!(gets(&registry), 2, "{page:?}");
    }
}

/// A mirror that asks another one has what is cached go on, too.
#[tokio::test]
async fn a_page_takes_nothing_away_from_a_mirror_of_a_mirror() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let near_registry = Mirror::build(&registry).config(|config| {
        config.cache.tag_ttl = Duration::ZERO;
        config.cache.stale_if_error = Duration::ZERO;
    });
    let near_registry = near_registry.start().await;
    let text = format!("[[upstream]]\nname = \"next.example\"\nurls = [\"{}\"]\ndefault = true\n", near_registry.url());
    let near_client = Mirror::parse(&text).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
    assert_eq!(near_client.get(&manifest(1)).await.status, 200);
    for page in [Fault::no_backend(), Fault::page(404)] {
        registry.fault(When::any(), page.clone());
        assert_eq!(near_registry.get(&manifest(1)).await.status, 404, "{page:?}");
        for method in [Method::GET, Method::HEAD] {
            let stale = near_client.request(method, &manifest(1), &[]).await;
            assert_eq!((stale.status, stale.header("cache-status")), (200, STALE), "{page:?}");
        }
        registry.heal();
        assert_eq!(near_client.get(&manifest(1)).await.body, image.manifest_bytes);
    }
}

/// A client that pushes is told by it what to send.
#[tokio::test]
async fn where_pushes_are_taken_a_404_to_the_head_of_a_blob_passes() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].push = true).start().await;
    mirror.get(&manifest(1)).await;
    registry.fault(When::any().method(Method::HEAD), Fault::no_backend());
    registry.forget_requests();
    assert_eq!(mirror.head(&path(&image.layers[0])).await.status, 404);
    assert_eq!(gets(&registry), 0);
    // Not so that of a manifest.
    assert_eq!(mirror.head(&manifest(1)).await.status, 200);
    assert_eq!(asked(&registry, Method::GET), 1);
    registry.fault(When::any(), Fault::no_backend());
    let stale = mirror.head(&manifest(1)).await;
    assert_eq!((stale.status, stale.header("docker-content-digest")), (200, Some(image.manifest.as_str())));
}

/// What a client reads under such a tag it puts back with one entry more: a page must not be an empty one.
#[tokio::test]
async fn where_pushes_are_taken_a_page_is_no_empty_tag() {
    let registry = FakeRegistry::start().await;
    let subject = registry.add_image("team/app", "1", &[]).manifest;
    let tag = format!("{}-{}", Algorithm::Sha256.as_str(), subject.hex());
    registry.add_image("team/app", &tag, &[]);
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].push = true).start().await;
    for page in pages() {
        registry.fault(When::any(), page.clone());
        assert_eq!(mirror.get(&manifest(&tag)).await.status, 502, "{page:?}");
        registry.heal();
        assert_eq!(mirror.get(&manifest(&tag)).await.status, 200, "{page:?}");
    }
}
