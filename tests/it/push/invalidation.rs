//! A change through forebay is visible at once to every client that pulls through it.

use std::time::Duration;

use http::Method;

use super::{build, push_blob, put_manifest};
use forebay_test_support::manifest::OCI_MANIFEST;
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::{Answer, Mirror},
    until::{bounded, until},
};

const ACCEPTS: [&str; 3] = [OCI_MANIFEST, "*/*", "application/vnd.docker.distribution.manifest.v2+json, */*"];

/// A mirror that believes everything for an hour.
async fn mirror_of(registry: &FakeRegistry) -> Mirror {
    let hour = Duration::from_secs(3600);
    let believing = build(registry).config(|config| {
        config.cache.tag_ttl = hour;
        config.cache.negative_ttl = hour;
    });
    believing.start().await
}

async fn get(mirror: &Mirror, reference: &str, accept: &str) -> Answer {
    mirror.get_with(&format!("/v2/team/app/manifests/{reference}"), &[("accept", accept)]).await
}

async fn assert_everywhere(mirror: &Mirror, reference: &str, status: u16, content: Option<&str>) {
    for accept in ACCEPTS {
        let headers = [("accept", accept)];
        let head = mirror.request(Method::HEAD, &format!("/v2/team/app/manifests/{reference}"), &headers).await;
        let got = get(mirror, reference, accept).await;
        assert_eq!((head.status, got.status), (status, status), "{reference} {accept}");
        if let Some(content) = content {
            assert_eq!(got.text(), content, "{reference} {accept}");
            assert_eq!(head.header("docker-content-digest"), got.header("docker-content-digest"));
        }
    }
}

#[tokio::test]
async fn a_tag_that_was_pushed_is_what_is_pulled() {
    let registry = FakeRegistry::start().await;
    let mut mirror = mirror_of(&registry).await;
    // Believed to be missing, for an hour.
    assert_everywhere(&mirror, "1", 404, None).await;
    for version in ["{\"v\":1}", "{\"v\":2}", "{\"v\":3}"] {
        assert_eq!(put_manifest(&mirror, "1", version).await.status, 201);
        assert_everywhere(&mirror, "1", 200, Some(version)).await;
        assert_everywhere(&mirror, "1", 200, Some(version)).await;
        // On disk as well.
        mirror.restart().await;
        assert_everywhere(&mirror, "1", 200, Some(version)).await;
    }
    // Pushed by its digest, with tags; each of which, and the digest, was believed to be missing or another.
    let version = "{\"v\":4}";
    let digest = super::digest(version.as_bytes());
    assert_everywhere(&mirror, digest.as_str(), 404, None).await;
    assert_everywhere(&mirror, "2", 404, None).await;
    assert_eq!(put_manifest(&mirror, &format!("{digest}?tag=1&tag=2"), version).await.status, 201);
    for reference in ["1", "2", digest.as_str()] {
        assert_everywhere(&mirror, reference, 200, Some(version)).await;
    }
    // A push that was refused changes nothing.
    registry.forget_requests();
    assert_eq!(put_manifest(&mirror, "1", "nonsense").await.status, 400);
    assert_everywhere(&mirror, "1", 200, Some(version)).await;
    assert_eq!(registry.count(|request| request.method == Method::GET), 0, "still believed");
}

#[tokio::test]
async fn what_was_deleted_is_gone() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let (one, two) = ("{\"v\":1}", "{\"v\":2}");
    for (tag, content) in [("1", one), ("one", one), ("2", two)] {
        assert_eq!(put_manifest(&mirror, tag, content).await.status, 201);
        assert_everywhere(&mirror, tag, 200, Some(content)).await;
    }
    let deleted = mirror.request(Method::DELETE, "/v2/team/app/manifests/1", &[]).await;
    assert_eq!(deleted.status, 202);
    assert_everywhere(&mirror, "1", 404, None).await;
    assert_everywhere(&mirror, "one", 200, Some(one)).await;
    // By its digest, with all its tags; another one's are left alone.
    let digest = super::digest(one.as_bytes());
    assert_everywhere(&mirror, digest.as_str(), 200, Some(one)).await;
    let path = format!("/v2/team/app/manifests/{digest}");
    assert_eq!(mirror.request(Method::DELETE, &path, &[]).await.status, 202);
    assert_everywhere(&mirror, "one", 404, None).await;
    assert_everywhere(&mirror, digest.as_str(), 404, None).await;
    registry.forget_requests();
    assert_everywhere(&mirror, "2", 200, Some(two)).await;
    assert_eq!(registry.count(|request| request.method == Method::GET), 0);
    // Deleted by another way, and what is cached of it when that is noticed.
    assert_eq!(put_manifest(&mirror, "3", "{\"v\":3}").await.status, 201);
    let third = super::digest(b"{\"v\":3}");
    assert_everywhere(&mirror, third.as_str(), 200, Some("{\"v\":3}")).await;
    registry.remove_manifest("team/app", &third);
    let third = format!("/v2/team/app/manifests/{third}");
    assert_eq!(mirror.request(Method::DELETE, &third, &[]).await.status, 404);
    assert_eq!(mirror.get(&third).await.status, 404);
    // What is not there is not deleted; and what is put again is there again.
    assert_eq!(mirror.request(Method::DELETE, &path, &[]).await.status, 404);
    assert_eq!(put_manifest(&mirror, "1", one).await.status, 201);
    assert_everywhere(&mirror, "1", 200, Some(one)).await;
    assert_everywhere(&mirror, digest.as_str(), 200, Some(one)).await;
}

/// A response to a request from before a push, which comes after it, serves no request from after the push.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_on_its_way_is_not_believed() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let (old, new) = ("{\"v\":1}", "{\"v\":2}");
    assert_eq!(put_manifest(&mirror, "1", old).await.status, 201);
    let gate = Gate::new();
    let old_answer = Fault::HoldBody { at: 0, gate: gate.clone() };
    registry.fault_times(1, When::manifests().method(Method::GET), old_answer);
    let late = get(&mirror, "1", OCI_MANIFEST);
    let pushing = async {
        bounded(gate.reached()).await;
        assert_eq!(put_manifest(&mirror, "1", new).await.status, 201);
        // No client joins the request from before the push.
        assert_eq!(get(&mirror, "1", OCI_MANIFEST).await.text(), new);
        gate.open();
    };
    let (late, ()) = tokio::join!(late, pushing);
    assert_eq!(late.text(), old, "it was so when it was asked");
    assert_everywhere(&mirror, "1", 200, Some(new)).await;
}

#[tokio::test]
async fn a_deleted_blob_is_gone_until_it_is_pushed_again() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let blob = push_blob(&mirror, "team/app", b"content").await;
    push_blob(&mirror, "team/other", b"content").await;
    let (app, other) = (format!("/v2/team/app/blobs/{blob}"), format!("/v2/team/other/blobs/{blob}"));
    for path in [&app, &other] {
        assert_eq!(mirror.get(path).await.text(), "content");
    }
    assert_eq!(mirror.request(Method::DELETE, &app, &[]).await.status, 202);
    assert!(!forebay_test_support::blob::file(&mirror.cache_dir(), &blob).exists(), "its bytes are gone as well");
    for _ in 0..2 {
        let (got, head) = (mirror.get(&app).await, mirror.head(&app).await);
        assert_eq!((got.status, &*got.error_code(), head.status), (404, "BLOB_UNKNOWN", 404));
    }
    // Who has it in another repository fetches it again.
    assert_eq!(mirror.get(&other).await.text(), "content");
    push_blob(&mirror, "team/app", b"content").await;
    assert_eq!(mirror.get(&app).await.header("cache-status"), Some("forebay; hit"));
    // Mounted is as good as pushed; and so is what was pushed by another way.
    assert_eq!(mirror.request(Method::DELETE, &app, &[]).await.status, 202);
    let mount = format!("/v2/team/app/blobs/uploads/?mount={blob}&from=team/other");
    assert_eq!(mirror.request(Method::POST, &mount, &[]).await.status, 201);
    assert_eq!(mirror.get(&app).await.status, 200);
    assert_eq!(mirror.request(Method::DELETE, &app, &[]).await.status, 202);
    registry.add_blob("team/app", "content");
    assert_eq!(mirror.get(&app).await.status, 200);
}

/// Deleted while its GET was on the way, by tag or digest: the answer is right for that client, and for no later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_manifest_is_not_kept_by_a_late_answer() {
    for by_tag in [true, false] {
        let registry = FakeRegistry::start().await;
        let mut mirror = mirror_of(&registry).await;
        let content = "{\"v\":1}";
        assert_eq!(put_manifest(&mirror, "1", content).await.status, 201);
        let digest = super::digest(content.as_bytes());
        let reference = if by_tag { "1" } else { digest.as_str() };
        let gate = Gate::new();
        let on_its_way = Fault::HoldBody { at: 0, gate: gate.clone() };
        registry.fault_times(1, When::manifests().method(Method::GET), on_its_way);
        let late = get(&mirror, reference, OCI_MANIFEST);
        let deleting = async {
            bounded(gate.reached()).await;
            let deleted = mirror.request(Method::DELETE, &format!("/v2/team/app/manifests/{digest}"), &[]).await;
            assert_eq!(deleted.status, 202);
            gate.open();
        };
        let (late, ()) = tokio::join!(late, deleting);
        assert_eq!(late.status, 200, "it was so when it was asked");
        let hex = digest.as_str().split_once(':').unwrap().1;
        let file = mirror.cache_dir().join("manifests/sha256").join(&hex[..2]).join(hex);
        assert!(!file.exists(), "it is on disk again");
        for _ in 0..2 {
            assert_eq!(get(&mirror, digest.as_str(), OCI_MANIFEST).await.status, 404, "{reference}");
            assert_everywhere(&mirror, digest.as_str(), 404, None).await;
            mirror.restart().await;
        }
    }
}

/// The clients of another repository that has it bring it into the cache again, which outlives a restart.
#[tokio::test]
async fn what_was_deleted_is_not_back_by_way_of_another_repository() {
    let registry = FakeRegistry::start().await;
    let mut mirror = mirror_of(&registry).await;
    let content = "{\"v\":1}";
    assert_eq!(put_manifest(&mirror, "1", content).await.status, 201);
    let manifest = registry.add_manifest("team/other", OCI_MANIFEST, content);
    let blob = push_blob(&mirror, "team/app", b"content").await;
    push_blob(&mirror, "team/other", b"content").await;
    let of =
        |repository: &str| [format!("/v2/{repository}/manifests/{manifest}"), format!("/v2/{repository}/blobs/{blob}")];
    for (app, other) in of("team/app").iter().zip(of("team/other").iter()) {
        for path in [app, other] {
            assert_eq!(mirror.get(path).await.status, 200, "{path}");
        }
        assert_eq!(mirror.request(Method::DELETE, app, &[]).await.status, 202);
        for _ in 0..2 {
            assert_eq!(mirror.get(app).await.status, 404, "{app}");
            assert_eq!(mirror.get(other).await.status, 200, "{other}");
            assert_eq!((mirror.get(app).await.status, mirror.head(app).await.status), (404, 404), "{app}");
            mirror.restart().await;
        }
        // An upstream that knows no HEAD is asked by GET.
        registry.fault(When::any().method(Method::HEAD), Fault::status(405));
        assert_eq!((mirror.get(app).await.status, mirror.get(other).await.status), (404, 200), "{app}");
        registry.heal();
        // In an outage nothing tells that it is there again.
        registry.take_down(forebay_test_support::fake_registry::Server::Api).await;
        assert_eq!((mirror.get(app).await.status, mirror.get(other).await.status), (502, 200), "{app}");
        registry.bring_up(forebay_test_support::fake_registry::Server::Api).await;
    }
    // A push that was not made, as far as is known, makes nothing of it.
    registry.fault(When::any().method(Method::PUT), Fault::Disconnect);
    assert_eq!(put_manifest(&mirror, manifest.as_str(), content).await.status, 502);
    registry.heal();
    assert_eq!(mirror.get(&of("team/app")[0]).await.status, 404);
    // Pushed again it is there again, and the upstream is not asked any more.
    assert_eq!(put_manifest(&mirror, manifest.as_str(), content).await.status, 201);
    push_blob(&mirror, "team/app", b"content").await;
    registry.forget_requests();
    for path in of("team/app") {
        assert_eq!(mirror.get(&path).await.status, 200, "{path}");
    }
    mirror.restart().await;
    for path in of("team/app") {
        assert_eq!(mirror.get(&path).await.header("cache-status"), Some("forebay; hit"), "{path}");
    }
    assert!(registry.count(|request| request.method == Method::HEAD) == 0, "{:?}", registry.requests());
}

#[tokio::test]
async fn what_is_deleted_after_a_reload_is_gone_after_a_restart() {
    let registry = FakeRegistry::start().await;
    let mut mirror = build(&registry).config(|config| config.upstreams[0].push = false).start().await;
    let (app, other) = (registry.add_image("team/app", "1", &[b"layer"]), "team/other");
    registry.add_image(other, "1", &[b"layer"]);
    registry.add_manifest(other, OCI_MANIFEST, app.manifest_bytes.clone());
    let of = |repository: &str| {
        [format!("/v2/{repository}/manifests/{}", app.manifest), format!("/v2/{repository}/blobs/{}", app.layers[0])]
    };
    let mut config = mirror.config().clone();
    config.upstreams[0].push = true;
    mirror.app().reload(config).unwrap();
    for (app, other) in of("team/app").iter().zip(of(other).iter()) {
        assert_eq!((mirror.get(app).await.status, mirror.get(other).await.status), (200, 200), "{app}");
        assert_eq!(mirror.request(Method::DELETE, app, &[]).await.status, 202);
        assert_eq!((mirror.get(app).await.status, mirror.get(other).await.status), (404, 200), "{app}");
    }
    mirror.restart_with(|config| config.upstreams[0].push = true).await;
    for (app, other) in of("team/app").iter().zip(of(other).iter()) {
        assert_eq!((mirror.get(app).await.status, mirror.get(other).await.status), (404, 200), "{app}");
    }
}

/// Another instance, or a client of the registry itself, has put it meanwhile.
#[tokio::test]
async fn a_404_is_forgotten_when_a_head_says_200() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    for reference in ["1", image.manifest.as_str()] {
        registry.untag("team/app", "1");
        registry.remove_manifest("team/app", &image.manifest);
        let mirror = mirror_of(&registry).await;
        let missing = async || {
            for accept in ACCEPTS {
                assert_eq!(get(&mirror, reference, accept).await.status, 404, "{reference} {accept}");
            }
        };
        missing().await;
        registry.add_image("team/app", "1", &[b"layer"]);
        missing().await;
        assert_everywhere(&mirror, reference, 200, Some(&String::from_utf8_lossy(&image.manifest_bytes))).await;
    }
}

/// Who is on the way with what a tag was leaves no record of it.
#[tokio::test]
async fn a_tag_that_moved_by_a_head_is_not_what_it_was() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let gate = Gate::new();
    let late = Fault::HoldBody { at: 0, gate: gate.clone() };
    registry.add_image("team/app", "2", &[b"old"]);
    registry.fault_times(1, When::manifests().method(Method::GET), late);
    let on_its_way = get(&mirror, "2", "*/*");
    let moving = async {
        bounded(gate.reached()).await;
        let moved = registry.add_image("team/app", "2", &[b"new"]);
        assert_eq!(mirror.head("/v2/team/app/manifests/2").await.status, 200);
        assert_eq!(get(&mirror, "2", "*/*").await.body, moved.manifest_bytes);
        gate.open();
        moved
    };
    let (late, moved) = tokio::join!(on_its_way, moving);
    assert_ne!(late.body, moved.manifest_bytes);
    assert_eq!(get(&mirror, "2", "*/*").await.body, moved.manifest_bytes);
}

/// A client that pushes asks what is there, and leaves that out: what is cached by way of another repository is not.
#[tokio::test]
async fn a_pusher_sees_the_repository_and_not_the_cache() {
    let registry = FakeRegistry::start().await;
    let mut mirror = mirror_of(&registry).await;
    let image = registry.add_image("team/source", "1", &[b"layer"]);
    let of = |repository: &str| {
        [
            format!("/v2/{repository}/manifests/{}", image.manifest),
            format!("/v2/{repository}/blobs/{}", image.layers[0]),
        ]
    };
    for path in of("team/source") {
        assert_eq!(mirror.get(&path).await.status, 200);
    }
    for path in of("team/app") {
        assert_eq!(mirror.head(&path).await.status, 404, "{path}");
    }
    for path in of("team/source") {
        assert_eq!((mirror.head(&path).await.status, mirror.get(&path).await.status), (200, 200), "{path}");
    }
    // Another client has moved the tag: a HEAD says where it points now, so a pusher sends the manifest.
    let tag = "/v2/team/source/manifests/1";
    assert_eq!(mirror.get(tag).await.header("docker-content-digest"), Some(image.manifest.as_str()));
    let moved = registry.add_manifest("team/source", OCI_MANIFEST, "{\"moved\":true}");
    registry.tag("team/source", "1", &moved);
    assert_eq!(mirror.head(tag).await.header("docker-content-digest"), Some(moved.as_str()));
    // Docker asks for no more of the tag than this; it is known of it in an outage.
    assert_eq!(mirror.get(&format!("/v2/team/source/manifests/{moved}")).await.status, 200);
    // In an outage nothing can be pushed either.
    registry.take_down(forebay_test_support::fake_registry::Server::Api).await;
    for path in of("team/source").into_iter().chain([tag.to_owned()]) {
        assert_eq!(mirror.head(&path).await.status, 200, "{path}");
    }
    assert_eq!(mirror.head(tag).await.header("docker-content-digest"), Some(moved.as_str()));
    assert_eq!(mirror.get(tag).await.header("docker-content-digest"), Some(moved.as_str()));
    registry.bring_up(forebay_test_support::fake_registry::Server::Api).await;
    // Without pushes no request is needed.
    mirror.restart_with(|config| config.upstreams[0].push = false).await;
    registry.forget_requests();
    for path in of("team/source") {
        assert_eq!(mirror.head(&path).await.status, 200, "{path}");
    }
    assert!(registry.requests().is_empty());
}

/// cosign reads an image's signatures under a tag, and puts them back with its own: another client's must not be lost.
#[tokio::test]
async fn a_signature_tag_is_revalidated_before_it_is_served() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    for suffix in ["", ".sig", ".att", ".sbom"] {
        let tag = format!("sha256-{}{suffix}", "0".repeat(64));
        let put = |content: &str| {
            let digest = registry.add_manifest("team/app", OCI_MANIFEST, content.to_owned());
            registry.tag("team/app", &tag, &digest);
        };
        put("{\"signatures\":1}");
        assert_eq!(get(&mirror, &tag, "*/*").await.text(), "{\"signatures\":1}", "{tag}");
        put("{\"signatures\":2}");
        assert_eq!(get(&mirror, &tag, "*/*").await.text(), "{\"signatures\":2}", "{tag}");
        put("{\"signatures\":3}");
        for (fault, status) in [(Fault::too_many("7"), 429), (Fault::status(503), 502)] {
            registry.fault(When::manifests().method(Method::HEAD), fault);
            assert_eq!(get(&mirror, &tag, "*/*").await.status, status, "{tag}");
            registry.heal();
        }
        registry.fault(When::manifests().method(Method::HEAD), Fault::status(405));
        assert_eq!(get(&mirror, &tag, "*/*").await.text(), "{\"signatures\":3}", "{tag}");
        registry.heal();
    }
}

/// A front end that compresses leaves out the length, and one that is old the digest.
#[tokio::test]
async fn a_tag_has_moved_also_where_the_head_does_not_tell_all() {
    for header in ["content-length", "content-type", "docker-content-digest"] {
        let registry = FakeRegistry::start().await;
        let mirror = mirror_of(&registry).await;
        registry.add_image("team/app", "1", &[b"old"]);
        assert_eq!(get(&mirror, "1", "*/*").await.status, 200);
        let moved = registry.add_image("team/app", "1", &[b"new"]);
        registry.fault(When::manifests().method(Method::HEAD), Fault::Header(header, None));
        let head = mirror.head("/v2/team/app/manifests/1").await;
        assert_eq!(head.header("docker-content-digest"), Some(moved.manifest.as_str()), "{header}");
        assert_eq!(get(&mirror, "1", "*/*").await.body, moved.manifest_bytes, "{header}");
    }
}

/// The upstream has made the change by then, and nothing tells forebay.
#[tokio::test]
async fn a_client_that_leaves_before_the_answer_leaves_nothing_stale() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let (old, new) = ("{\"v\":1}", "{\"v\":2}");
    for leave in ["at a push", "at a deletion"] {
        registry.heal();
        assert_eq!(put_manifest(&mirror, "1", old).await.status, 201);
        assert_everywhere(&mirror, "1", 200, Some(old)).await;
        let gate = Gate::new();
        let method = if leave == "at a push" { Method::PUT } else { Method::DELETE };
        registry.fault(When::manifests().method(method), Fault::HoldAnswer(gate.clone()));
        let change = async {
            match leave {
                "at a push" => put_manifest(&mirror, "1", new).await,
                _ => mirror.request(Method::DELETE, "/v2/team/app/manifests/1", &[]).await,
            }
        };
        tokio::select! {
            answer = change => panic!("it was answered: {answer:?}"),
            () = gate.reached() => {}
        }
        let expected = if leave == "at a push" { Some(new) } else { None };
        until("what is so now is given", async || {
            let got = get(&mirror, "1", "*/*").await;
            (got.status == 200).then_some(got.text()) == expected
        })
        .await;
    }
}
