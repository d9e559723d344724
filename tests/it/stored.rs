//! Manifests and tags in the object store: what a forebay has got, it has again after its disk is gone.

use std::{fs, time::Duration};

use futures_util::future::join_all;
use http::Method;

use forebay_test_support::{
    cluster::KEY,
    fake_registry::{FakeRegistry, Fault, Image, Server, When},
    fake_s3::FakeS3,
    manifest::{OCI_MANIFEST, asked, manifest},
    mirror::{Answer, Builder, Mirror, UPSTREAM},
    raw::Raw,
    until::{bounded, until},
};

const TAGS: &str = "tags/fake.example/team/app/";
const HOUR: Duration = Duration::from_secs(3600);

/// A mirror in front of both, which trusts a tag for an hour. `more` is added to its file.
fn build(registry: &FakeRegistry, store: &FakeS3, more: &str) -> Builder {
    let builder = Mirror::parse(&format!(
        "{}[cluster]\nkey_file = \"cluster.key\"\n[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\n{more}",
        store.section(),
        registry.url()
    ));
    FakeS3::credentials(builder.directory());
    fs::write(builder.directory().join("cluster.key"), KEY).unwrap();
    builder.config(|config| config.cache.tag_ttl = HOUR)
}

async fn mirror_of(registry: &FakeRegistry, store: &FakeS3) -> Mirror {
    build(registry, store, "").start().await
}

/// Takes everything from it but the state directory.
async fn wipe(mirror: &mut Mirror) {
    mirror.drain().await;
    fs::remove_dir_all(mirror.cache_dir()).unwrap();
    mirror.start().await;
}

async fn get(mirror: &Mirror, reference: impl std::fmt::Display) -> Answer {
    mirror.get_with(&manifest(reference), &[("accept", OCI_MANIFEST)]).await
}

/// Pulls a tag, and waits until the store has it, its manifest, and its blobs.
async fn pull_and_wait(mirror: &Mirror, store: &FakeS3, image: &Image) {
    let got = get(mirror, 1).await;
    assert_eq!((got.status, got.body), (200, image.manifest_bytes.clone()));
    let name = object(&image.manifest);
    store.wait_for("the manifest", |objects| objects.contains_key(&name)).await;
    store.wait_for("the tag", |objects| objects.keys().any(|name| name.starts_with(TAGS))).await;
}

/// Makes the tag mean this image; the status of the answer.
async fn push(mirror: &Mirror, image: &Image) -> u16 {
    let (path, headers) = (manifest(1), [("content-type", OCI_MANIFEST)]);
    mirror.send(Method::PUT, &path, &headers, image.manifest_bytes.clone()).await.status
}

fn object(digest: &forebay::oci::Digest) -> String {
    format!("manifests/sha256/{}/{}", &digest.hex()[..2], digest.hex())
}

/// The name of the only record.
fn record(store: &FakeS3) -> String {
    let names = store.names(TAGS);
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].clone()
}

fn text(store: &FakeS3, name: &str) -> String {
    String::from_utf8(store.objects()[name].content.to_vec()).unwrap()
}

#[tokio::test]
async fn a_wiped_forebay_serves_tag_and_manifest_from_the_store() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = mirror_of(&registry, &store).await;
    pull_and_wait(&mirror, &store, &image).await;
    assert_eq!(store.objects()[&object(&image.manifest)].content, image.manifest_bytes);
    wipe(&mut mirror).await;
    registry.forget_requests();
    let again = get(&mirror, 1).await;
    assert_eq!((again.status, again.body.clone()), (200, image.manifest_bytes.clone()));
    assert_eq!(again.header("content-type"), Some(OCI_MANIFEST));
    assert_eq!(again.header("docker-content-digest"), Some(image.manifest.as_str()));
    assert_eq!(again.header("cache-status"), Some("forebay; fwd=miss; stored"));
    assert_eq!(get(&mirror, 1).await.header("cache-status"), Some("forebay; hit"));
    assert!(registry.requests().is_empty(), "{:?}", registry.requests());
    // It is on disk again.
    mirror.restart().await;
    assert_eq!(get(&mirror, 1).await.header("cache-status"), Some("forebay; hit"));
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn a_wiped_forebay_serves_from_the_store_in_an_outage() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = build(&registry, &store, "").config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
    pull_and_wait(&mirror, &store, &image).await;
    wipe(&mut mirror).await;
    registry.take_down(Server::Api).await;
    let head = mirror.request(Method::HEAD, &manifest(1), &[("accept", OCI_MANIFEST)]).await;
    assert_eq!((head.status, head.header("docker-content-digest")), (200, Some(image.manifest.as_str())));
    let stale = get(&mirror, 1).await;
    assert_eq!((stale.status, stale.body), (200, image.manifest_bytes.clone()));
    assert_eq!(stale.headers["cache-status"], "forebay; hit; detail=stale");
    assert_eq!(get(&mirror, &image.manifest).await.body, image.manifest_bytes);
}

#[tokio::test]
async fn a_manifest_of_the_store_costs_the_registry_no_get() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = build(&registry, &store, "").config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
    pull_and_wait(&mirror, &store, &image).await;
    wipe(&mut mirror).await;
    registry.forget_requests();
    let tag = get(&mirror, 1).await;
    assert_eq!((tag.status, tag.body), (200, image.manifest_bytes.clone()));
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 0));
    wipe(&mut mirror).await;
    registry.forget_requests();
    let all = (0..20).map(|_| get(&mirror, &image.manifest));
    assert!(bounded(join_all(all)).await.iter().all(|answer| answer.body == image.manifest_bytes));
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn a_thousand_pulls_of_a_tag_write_its_record_once() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = build(&registry, &store, "").config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
    pull_and_wait(&mirror, &store, &image).await;
    for _ in 0..50 {
        let all = (0..20).map(|_| get(&mirror, 1));
        assert!(bounded(join_all(all)).await.iter().all(|answer| answer.status == 200));
    }
    assert!(asked(&registry, Method::HEAD) >= 50, "each round confirmed the tag");
    // It looked whether there is one before the first pull, and before the write.
    assert_eq!((store.count("PUT", TAGS), store.count("GET", TAGS)), (1, 2));
    // What another digest says is written at once.
    let moved = registry.add_image("team/app", "1", &[b"other"]);
    assert_eq!(get(&mirror, 1).await.body, moved.manifest_bytes);
    let name = record(&store);
    store
        .wait_for("the record moves", |objects| {
            String::from_utf8_lossy(&objects[&name].content).contains(moved.manifest.as_str())
        })
        .await;
    assert_eq!(store.count("PUT", TAGS), 2);
}

#[tokio::test]
async fn a_forged_record_does_not_count() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let other = registry.add_image("team/app", "other", &[b"forged"]);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = mirror_of(&registry, &store).await;
    pull_and_wait(&mirror, &store, &image).await;
    let (name, right) = (record(&store), text(&store, &record(&store)));
    assert_eq!(get(&mirror, "other").await.body, other.manifest_bytes);
    store.wait_for("both", |objects| objects.keys().filter(|name| name.starts_with(TAGS)).count() == 2).await;
    let name_of_other = store.names(TAGS).into_iter().find(|other| *other != name).unwrap();
    let confirmed = right.lines().find(|line| line.starts_with("confirmed = ")).unwrap().to_owned();
    let class = name.rsplit('@').next().unwrap();
    let refused = async |mirror: &Mirror, reason: &str| {
        mirror.metric("forebay_store_records_refused_total", &[("reason", reason)]).await
    };
    for (what, forged, reason) in [
        ("digest", right.replace(image.manifest.as_str(), other.manifest.as_str()), "code"),
        ("time", right.replace(&confirmed, "confirmed = 1900000000"), "code"),
        ("another tag", text(&store, &name_of_other), "code"),
        ("no record", "x".to_owned(), "malformed"),
        ("too long", "x".repeat(100_000), ""),
    ] {
        assert_ne!(forged, right, "{what}");
        wipe(&mut mirror).await;
        store.put(&name, forged, Duration::ZERO);
        registry.forget_requests();
        assert_eq!(get(&mirror, 1).await.body, image.manifest_bytes, "{what}");
        assert_eq!(asked(&registry, Method::GET), 1, "{what}: the registry was asked");
        if !reason.is_empty() {
            // Once before the pull, and once before it is replaced.
            store.wait_for(what, |objects| objects[&name].content.starts_with(b"digest")).await;
            assert!(refused(&mirror, reason).await >= 1.0, "{what}");
        }
    }
    // Other repositories, and other classes of clients.
    for copy in [format!("tags/fake.example/team/evil/1@{class}"), format!("{TAGS}1@ff")] {
        store.put(&copy, right.clone(), Duration::ZERO);
    }
    wipe(&mut mirror).await;
    assert_eq!(mirror.get("/v2/team/evil/manifests/1").await.status, 404);
    let answer = mirror.get_with("/v2/team/evil/manifests/1", &[("accept", OCI_MANIFEST)]).await;
    assert_eq!(answer.status, 404);
    assert_eq!(refused(&mirror, "code").await, 1.0);
}

#[tokio::test]
async fn a_record_of_another_key_does_not_count() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = mirror_of(&registry, &store).await;
    pull_and_wait(&mirror, &store, &image).await;
    let before = text(&store, &record(&store));
    mirror.drain().await;
    fs::remove_dir_all(mirror.cache_dir()).unwrap();
    fs::write(mirror.cache_dir().with_file_name("cluster.key"), KEY.replace('0', "1")).unwrap();
    mirror.start().await;
    registry.take_down(Server::Api).await;
    assert_eq!(get(&mirror, 1).await.status, 502);
    assert_eq!(mirror.metric("forebay_store_records_refused_total", &[("reason", "code")]).await, 1.0);
    // Its content needs no key.
    assert_eq!(get(&mirror, &image.manifest).await.body, image.manifest_bytes);
    assert_eq!(text(&store, &record(&store)), before);
}

#[tokio::test]
async fn without_a_key_no_tag_is_read_or_written() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = build(&registry, &store, "").config(|config| config.cluster = None).start().await;
    assert_eq!(get(&mirror, 1).await.body, image.manifest_bytes);
    let name = object(&image.manifest);
    store.wait_for("the manifest", |objects| objects.contains_key(&name)).await;
    assert_eq!(get(&mirror, 2).await.status, 404);
    assert_eq!((store.count("GET", "tags/"), store.count("PUT", "tags/"), store.count("LIST", "tags/")), (0, 0, 0));
}

#[tokio::test]
async fn wrong_bytes_of_a_manifest_are_never_served() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = mirror_of(&registry, &store).await;
    pull_and_wait(&mirror, &store, &image).await;
    wipe(&mut mirror).await;
    let mut wrong = image.manifest_bytes.to_vec();
    wrong[10] ^= 1;
    let name = object(&image.manifest);
    store.put(&name, wrong.clone(), Duration::ZERO);
    for reference in ["1".to_owned(), image.manifest.to_string()] {
        let got = get(&mirror, reference).await;
        assert_eq!((got.status, got.body), (200, image.manifest_bytes.clone()));
    }
    store
        .wait_for("right bytes", |objects| objects.get(&name).is_some_and(|o| o.content == image.manifest_bytes))
        .await;
    assert_eq!(mirror.metric("forebay_store_wrong_objects_total", &[]).await, 1.0);
    assert_eq!(store.count("GET", &name), 1, "it is not read again");
}

#[tokio::test]
async fn a_push_ends_what_the_store_says_of_the_tag() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = build(&registry, &store, "push = true\n").start().await;
    pull_and_wait(&mirror, &store, &image).await;
    let next = registry.add_image("team/app", "next", &[b"next"]);
    assert_eq!(push(&mirror, &next).await, 201);
    store.wait_for("the record is gone", |objects| !objects.keys().any(|name| name.starts_with(TAGS))).await;
    wipe(&mut mirror).await;
    assert_eq!(get(&mirror, 1).await.body, next.manifest_bytes);
}

#[tokio::test]
async fn what_the_store_says_after_a_push_is_not_believed() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = build(&registry, &store, "push = true\n").start().await;
    pull_and_wait(&mirror, &store, &image).await;
    let (name, old) = (record(&store), text(&store, &record(&store)));
    let next = registry.add_image("team/app", "next", &[b"next"]);
    assert_eq!(push(&mirror, &next).await, 201);
    // Another forebay, which did not know of the push, writes what it knew.
    store.put(&name, old.clone(), Duration::ZERO);
    assert_eq!(get(&mirror, 1).await.body, next.manifest_bytes);
    // While the store refuses, nothing can be removed there: not even by the next process is it read.
    store
        .wait_for("the new record", |objects| {
            String::from_utf8_lossy(&objects[&name].content).contains(next.manifest.as_str())
        })
        .await;
    store.fail(Some(503));
    assert_eq!(push(&mirror, &image).await, 201);
    mirror.drain().await;
    fs::remove_dir_all(mirror.cache_dir()).unwrap();
    store.fail(None);
    mirror.start().await;
    assert_eq!(get(&mirror, 1).await.body, image.manifest_bytes);
    store
        .wait_for("the removal, or the new record", |objects| {
            objects
                .get(&name)
                .is_none_or(|object| String::from_utf8_lossy(&object.content).contains(image.manifest.as_str()))
        })
        .await;
}

#[tokio::test]
async fn a_record_written_elsewhere_takes_no_push_back() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let (old, new) = (registry.add_image("team/app", "1", &[b"old"]), registry.add_image("team/app", "new", &[b"new"]));
    let one = build(&registry, &store, "push = true\n").start().await;
    assert_eq!(push(&one, &new).await, 201);
    // As by a HEAD in flight, or a clock that is ahead: the other confirms the old image after the push.
    registry.tag("team/app", "1", &old.manifest);
    let two = build(&registry, &store, "").start().await;
    pull_and_wait(&two, &store, &old).await;
    registry.tag("team/app", "1", &new.manifest);
    assert_eq!(get(&one, 1).await.body, new.manifest_bytes);
}

/// Whoever may pull can make names up.
#[tokio::test]
async fn tags_that_clients_make_up_cost_the_store_no_removal() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = build(&registry, &store, "push = true\n").start().await;
    pull_and_wait(&mirror, &store, &image).await;
    let lists = store.count("LIST", "tags/");
    for number in 0..20 {
        assert_eq!(get(&mirror, format!("made-up-{number}")).await.status, 404);
    }
    // What forebay sends in the background for these comes before the record of a tag that is pulled later.
    let marker = registry.add_image("team/app", "marker", &[b"marker"]);
    assert_eq!(get(&mirror, "marker").await.body, marker.manifest_bytes);
    store.wait_for("its record", |objects| objects.keys().any(|name| name.contains("/marker@"))).await;
    // A removal begins with a listing.
    assert_eq!(store.count("LIST", "tags/"), lists);
    // Nor while the store is down, when forebay cannot know whether it has them.
    store.fail(Some(503));
    for number in 0..20 {
        assert_eq!(get(&mirror, format!("more-{number}")).await.status, 404);
    }
    let noted =
        fs::read_to_string(mirror.cache_dir().with_file_name("state").join("store-removals")).unwrap_or_default();
    assert_eq!(noted, "");
}

#[tokio::test]
async fn a_push_at_an_upstream_without_the_store_tells_it_nothing() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = build(&registry, &store, "push = true\nstore = false\n").start().await;
    assert_eq!(push(&mirror, &image).await, 201);
    assert_eq!(get(&mirror, 2).await.status, 404);
    assert_eq!(mirror.request(Method::DELETE, &manifest(&image.manifest), &[]).await.status, 202);
    for prefix in ["tags/", "manifests/"] {
        for method in ["LIST", "GET", "HEAD", "PUT", "DELETE"] {
            assert_eq!(store.count(method, prefix), 0, "{method} {prefix}");
        }
    }
}

#[tokio::test]
async fn a_deleted_manifest_does_not_come_back_from_the_store() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = build(&registry, &store, "push = true\n").start().await;
    pull_and_wait(&mirror, &store, &image).await;
    let deleted = mirror.request(Method::DELETE, &manifest(&image.manifest), &[]).await;
    assert_eq!(deleted.status, 202);
    store
        .wait_for("both are gone", |objects| {
            !objects.keys().any(|name| name.starts_with("tags/") || name.starts_with("manifests/"))
        })
        .await;
    wipe(&mut mirror).await;
    registry.untag("team/app", "1");
    assert_eq!(get(&mirror, &image.manifest).await.status, 404);
    assert_eq!(get(&mirror, 1).await.status, 404);
}

#[tokio::test]
async fn a_tag_that_a_rule_holds_is_in_no_store() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let rules = "[[rule]]\nmatch = \"fake.example/team/app:1\"\nfreeze = true\n\
                 [[rule]]\nmatch = \"fake.example/team/app:no\"\ndeny = true\n";
    let mirror = build(&registry, &store, rules).start().await;
    assert_eq!(get(&mirror, 1).await.body, image.manifest_bytes);
    let name = object(&image.manifest);
    store.wait_for("the manifest", |objects| objects.contains_key(&name)).await;
    assert_eq!(get(&mirror, "no").await.status, 403);
    assert_eq!((store.count("GET", "tags/"), store.count("PUT", "tags/")), (0, 0));
}

#[tokio::test]
async fn a_store_that_is_silent_costs_one_pull_a_second() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    store.silence(Some(""));
    let mirror = mirror_of(&registry, &store).await;
    for _ in 0..10 {
        assert_eq!(get(&mirror, 1).await.body, image.manifest_bytes);
    }
    for number in 2..12 {
        registry.tag("team/app", &number.to_string(), &image.manifest);
        assert_eq!(get(&mirror, number).await.body, image.manifest_bytes);
    }
    // On a slow machine the breaker may have let a probe through.
    assert!(store.count("GET", "") <= 3, "{}", store.count("GET", ""));
}

#[tokio::test]
async fn of_two_records_the_later_one_counts_in_an_outage() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let never = |config: &mut forebay::config::Config| config.cache.tag_ttl = Duration::ZERO;
    let one = build(&registry, &store, "").config(never).start().await;
    pull_and_wait(&one, &store, &old).await;
    // The other cannot reach the registry any more, and its record is older.
    let new = registry.add_image("team/app", "1", &[b"new"]);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let two = build(&registry, &store, "").config(never).start().await;
    assert_eq!(get(&two, 1).await.body, new.manifest_bytes);
    let name = record(&store);
    store
        .wait_for("the new record", |objects| {
            String::from_utf8_lossy(&objects[&name].content).contains(new.manifest.as_str())
        })
        .await;
    let digest = object(&new.manifest);
    store.wait_for("the new manifest", |objects| objects.contains_key(&digest)).await;
    registry.fault(When::manifests(), Fault::status(503));
    // It looked for the record when it pulled first: once in a minute is enough.
    let mut one = one;
    one.restart().await;
    let stale = get(&one, 1).await;
    assert_eq!((stale.status, stale.body), (200, new.manifest_bytes.clone()));
    assert_eq!(stale.headers["cache-status"], "forebay; hit; detail=stale");
    assert_eq!(get(&one, 1).await.body, new.manifest_bytes);
}

#[tokio::test]
async fn a_record_without_its_manifest_ends_no_stale_image() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let never = |config: &mut forebay::config::Config| config.cache.tag_ttl = Duration::ZERO;
    let mut one = build(&registry, &store, "").config(never).start().await;
    pull_and_wait(&one, &store, &old).await;
    // Another forebay has written a newer record, and its manifest still waits for its upload.
    let new = registry.add_image("team/app", "1", &[b"new"]);
    let two = build(&registry, &store, "").config(never).start().await;
    let (name, digest) = (record(&store), object(&new.manifest));
    until("the new record is written", async || {
        assert_eq!(get(&two, 1).await.body, new.manifest_bytes);
        text(&store, &name).contains(new.manifest.as_str())
    })
    .await;
    store.wait_for("the new manifest", |objects| objects.contains_key(&digest)).await;
    drop(two);
    store.remove(&digest);
    registry.fault(When::manifests(), Fault::status(503));
    one.restart().await;
    for _ in 0..2 {
        let stale = get(&one, 1).await;
        assert_eq!((stale.status, stale.body), (200, old.manifest_bytes.clone()));
        let head = one.request(Method::HEAD, &manifest(1), &[("accept", OCI_MANIFEST)]).await;
        assert_eq!((head.status, head.header("docker-content-digest")), (200, Some(old.manifest.as_str())));
    }
    assert!(store.count("GET", &digest) > 0, "it was looked for");
}

/// Lists the store at once.
fn at_once(config: &mut forebay::config::Config) {
    let times = &mut config.store.as_mut().unwrap().times;
    (times.first, times.page_pause) = (Duration::ZERO, Duration::ZERO);
}

#[tokio::test]
async fn a_restart_loses_no_upload() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"one layer", b"another"]);
    store.fail(Some(503));
    let mut mirror = build(&registry, &store, "").start().await;
    let got = get(&mirror, 1).await;
    assert_eq!(got.body, image.manifest_bytes);
    let blobs = [&image.layers[0], &image.layers[1], &image.config];
    for blob in blobs {
        assert_eq!(mirror.get(&forebay_test_support::blob::path(blob)).await.status, 200);
    }
    assert!(store.objects().is_empty());
    mirror.drain().await;
    store.fail(None);
    mirror.start_with(at_once).await;
    let names: Vec<String> = blobs
        .iter()
        .map(|blob| format!("blobs/sha256/{}/{}", &blob.hex()[..2], blob.hex()))
        .chain([object(&image.manifest)])
        .collect();
    store.wait_for("all of it", |objects| names.iter().all(|name| objects.contains_key(name))).await;
    assert_eq!(store.objects()[&names[3]].content, image.manifest_bytes);
    // What is there is not sent again.
    mirror.until_metric("forebay_store_upload_queue", &[], 0.0).await;
    let puts = store.count("PUT", "blobs/");
    mirror.restart().await;
    until("it was listed", async || mirror.metric("forebay_store_size_bytes", &[]).await > 0.0).await;
    mirror.until_metric("forebay_store_upload_queue", &[], 0.0).await;
    assert_eq!(store.count("PUT", "blobs/"), puts);
}

#[tokio::test]
async fn what_may_not_be_in_the_store_is_not_uploaded_later() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = build(&registry, &store, "store = false\n").config(at_once).start().await;
    let layer = forebay_test_support::blob::path(&image.layers[0]);
    assert_eq!(get(&mirror, 1).await.body, image.manifest_bytes);
    assert_eq!(mirror.get(&layer).await.status, 200);
    // By its length it shows that all was listed.
    store.put(&blob(0), vec![0; 1000], Duration::ZERO);
    let is_listed = async |mirror: &Mirror| {
        until("it was listed", async || mirror.metric("forebay_store_size_bytes", &[]).await >= 1000.0).await;
        mirror.until_metric("forebay_store_upload_queue", &[], 0.0).await;
    };
    mirror.restart().await;
    is_listed(&mirror).await;
    assert_eq!((store.names("blobs/"), store.names("manifests/").len()), (vec![blob(0)], 0));
    assert_eq!(store.names("tags/").len() + store.count("GET", "tags/") + store.count("GET", "manifests/"), 0);
    // Nor when this is the configuration no more: what is on disk is from before.
    let all = |config: &mut forebay::config::Config| {
        at_once(config);
        config.upstreams[0].store = true;
    };
    mirror.drain().await;
    mirror.start_with(all).await;
    is_listed(&mirror).await;
    assert_eq!((store.names("blobs/"), store.names("manifests/").len()), (vec![blob(0)], 0));
    // Until it is gone from there.
    mirror.drain().await;
    fs::remove_dir_all(mirror.cache_dir()).unwrap();
    store.fail(Some(503));
    mirror.start_with(all).await;
    let held_back = mirror.cache_dir().with_file_name("state").join("store-held-back");
    until("nothing is held back", async || fs::read(&held_back).is_ok_and(|pools| pools.is_empty())).await;
    assert_eq!(mirror.get(&layer).await.status, 200);
    mirror.drain().await;
    store.fail(None);
    mirror.start_with(all).await;
    store.wait_for("the layer", |objects| objects.keys().filter(|name| name.starts_with("blobs/")).count() == 2).await;
}

fn digest(number: u32) -> forebay::oci::Digest {
    forebay::oci::Digest::of(forebay::oci::Algorithm::Sha256, &number.to_be_bytes())
}

fn blob(number: u32) -> String {
    format!("blobs/sha256/{}/{}", &digest(number).hex()[..2], digest(number).hex())
}

/// Seven blobs of 100 kB. The first is the oldest, but in use; the last two are young. Returns the hour of the use.
fn fill(store: &FakeS3) -> u64 {
    let day = 24 * HOUR;
    for (number, age) in (0..).zip([40 * day, 30 * day, 20 * day, 10 * day, 2 * day, HOUR, Duration::ZERO]) {
        store.put(&blob(number), vec![0; 100_000], age);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 3600;
    store.put(&format!("usage/0123456789abcdef/{now}"), format!("{}\n", &digest(0).hex()[..16]), Duration::ZERO);
    now
}

/// Which of these blobs are left.
fn left(store: &FakeS3) -> Vec<u32> {
    (0..7).filter(|number| store.objects().contains_key(&blob(*number))).collect()
}

/// The store may take 500 kB.
fn limit(config: &mut forebay::config::Config) {
    config.store.as_mut().unwrap().max_size = Some(500_000);
}

#[tokio::test]
async fn what_was_used_longest_ago_leaves_the_store_first() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let now = fill(&store);
    store.put("other/object", vec![0; 5_000_000], 99 * 24 * HOUR);
    let mirror = build(&registry, &store, "").config(at_once).config(limit).start().await;
    mirror.until_metric("forebay_store_evicted_bytes_total", &[], 300_000.0).await;
    assert_eq!(left(&store), [0, 4, 5, 6]);
    assert_eq!(store.names("other/").len(), 1, "it is none of forebay's");
    // The list is in the summary.
    store.wait_for("the summary", |objects| !objects.keys().any(|name| name.starts_with("usage/0"))).await;
    assert_eq!(store.names("usage/"), ["usage/summary"]);
    let summary = text(&store, "usage/summary");
    assert_eq!(summary, format!("{} {now}\n", &digest(0).hex()[..16]));
    assert_eq!(mirror.metric("forebay_store_size_bytes", &[]).await, 700_000.0);
}

#[tokio::test]
async fn what_clients_get_from_the_store_itself_counts_as_used() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    let content = vec![7; 2 << 20];
    let digest = registry.add_blob("team/app", content.clone());
    store.put(&format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex()), content, 40 * 24 * HOUR);
    let often = |config: &mut forebay::config::Config| {
        at_once(config);
        let store = config.store.as_mut().unwrap();
        store.redirect_clients = vec!["127.0.0.0/8".parse().unwrap()];
        store.max_size = Some(1 << 40);
        store.times.usage_interval = Duration::from_millis(100);
    };
    let mirror = build(&registry, &store, "redirect = true\n").config(often).start().await;
    let path = forebay_test_support::blob::path(&digest);
    assert_eq!(Raw::get(mirror.address(), &path, &[]).await.status, 307);
    let line = format!("{}\n", &digest.hex()[..16]);
    let is_told = |content: &[u8]| String::from_utf8_lossy(content).contains(&line);
    store
        .wait_for("a list of usage", |objects| {
            objects.iter().any(|(name, object)| name.starts_with("usage/") && is_told(&object.content))
        })
        .await;
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 0);
}

#[tokio::test]
async fn a_store_that_is_full_is_emptied() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    fill(&store);
    store.refuse("PUT", usize::MAX);
    // Nor does it delete at once: the crate does that by `POST`.
    store.refuse("POST", 2);
    let mirror = build(&registry, &store, "").config(at_once).config(limit).start().await;
    mirror.until_metric("forebay_store_evicted_bytes_total", &[], 300_000.0).await;
    assert_eq!(left(&store), [0, 4, 5, 6]);
    assert_eq!(store.names("usage/summary"), [""; 0]);
    assert_eq!(store.names("usage/").len(), 1, "no list is lost");
    assert_eq!(store.count("LIST", "blobs/sha256/f"), 1, "in one pass");
    // Two were refused, three did it, and the probe of the start may have had one.
    assert!((5..=6).contains(&store.count("POST", "")), "{}", store.count("POST", ""));
    store.refuse("PUT", 0);
    store.wait_for("the summary", |objects| !objects.keys().any(|name| name.starts_with("usage/0"))).await;
    assert_eq!(store.names("usage/"), ["usage/summary"]);
}

#[tokio::test]
async fn objects_that_make_no_sense_stop_no_upkeep() {
    let (registry, store) = (FakeRegistry::start().await, FakeS3::start().await);
    fill(&store);
    // Names that the crate refuses, a list and a summary that are too long, and a list from the future.
    let shelf = &blob(5)[..14];
    assert_eq!((shelf.len(), (1..4).any(|number| blob(number).starts_with(shelf))), (14, false));
    for name in ["usage//1".to_owned(), format!("{shelf}0//x"), "usage/app/2024".to_owned()] {
        store.put(&name, "x", HOUR);
    }
    for name in ["usage/summary", "usage/0000000000000000/1"] {
        store.put(name, vec![b'x'; 20_000_000], HOUR);
    }
    let future = format!("usage/ffffffffffffffff/{}", u32::MAX);
    store.put(&future, format!("{}\n", &digest(6).hex()[..16]), HOUR);
    let mirror = build(&registry, &store, "").config(at_once).config(limit).start().await;
    mirror.until_metric("forebay_store_evicted_bytes_total", &[], 200_000.0).await;
    store.wait_for("the summary", |objects| objects["usage/summary"].content.len() < 1000).await;
    store.wait_for("the lists are gone", |objects| !objects.contains_key(&future)).await;
    assert_eq!(store.names("usage/"), ["usage//1", "usage/app/2024", "usage/summary"]);
    assert!(!text(&store, "usage/summary").contains(&u32::MAX.to_string()));
    assert_eq!(store.count("LIST", shelf), 2, "once to compare, and once to remove");
}
