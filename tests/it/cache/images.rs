//! Images are removed, refreshed and verified by an operator.

use std::{fs, sync::Arc, time::Duration};

use forebay_test_support::{
    blob::{self, Random, content, path},
    control::{ask, events, get, post},
    fake_registry::{FakeRegistry, Fault, Image, Server, When},
    manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, manifest},
    mirror::Mirror,
    raw::Raw,
    until::{bounded, until},
};
use serde_json::{Value, json};

const MIB: usize = 1024 * 1024;

fn image(registry: &FakeRegistry, tag: &str, layers: &[u64], len: usize) -> Image {
    let layers: Vec<_> = layers.iter().map(|seed| content(len, *seed)).collect();
    let layers: Vec<&[u8]> = layers.iter().map(|layer| &**layer).collect();
    registry.add_image("team/app", tag, &layers)
}

/// Pulls all of an image, and waits until it is cached.
pub(super) async fn pull(mirror: &Mirror, tag: &str, image: &Image) {
    assert_eq!(mirror.get(&manifest(tag)).await.status, 200);
    for digest in image.layers.iter().chain([&image.config]) {
        assert_eq!(mirror.get(&path(digest)).await.status, 200);
    }
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
}

/// Which of the layers of an image are cached.
pub(super) fn here(mirror: &Mirror, image: &Image) -> Vec<bool> {
    image.layers.iter().map(|digest| blob::file(&mirror.cache_dir(), digest).exists()).collect()
}

async fn names(mirror: &Mirror) -> Vec<Value> {
    let images = get(mirror, "images").await["images"].as_array().unwrap().clone();
    images.into_iter().map(|image| image["name"].clone()).collect()
}

async fn until_read(mirror: &Mirror) {
    until("all is read", async || get(mirror, "images").await["reading"] == false).await;
}

/// The results by image, and what the end says.
async fn run(mirror: &Mirror, method: &str, path: &str, document: Option<Value>) -> (Vec<(String, String)>, Value) {
    let (status, body) = ask(mirror, method, path, document).await;
    assert_eq!(status, 200, "{body}");
    let mut events = events(&body);
    let (name, done) = events.pop().unwrap();
    assert_eq!(name, "done", "{body}");
    let of_images = events.into_iter().filter(|(name, _)| name == "image");
    let word = |data: &Value, key: &str| data[key].as_str().unwrap_or_default().to_owned();
    (of_images.map(|(_, data)| (word(&data, "name"), word(&data, "result"))).collect(), done)
}

fn name(tag: &str) -> String {
    format!("fake.example/team/app:{tag}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_image_is_gone_with_what_no_other_has() {
    let registry = FakeRegistry::start().await;
    let one = image(&registry, "one", &[1, 2], 5000);
    let two = image(&registry, "two", &[2, 3], 5000);
    let mut mirror = Mirror::of(&registry).await;
    pull(&mirror, "one", &one).await;
    pull(&mirror, "two", &two).await;
    until_read(&mirror).await;

    // First what would go; nothing is removed by that.
    let query = "images?match=fake.example/team/app:one";
    let (told, done) = run(&mirror, "DELETE", &format!("{query}&dry_run=true"), None).await;
    assert_eq!(told, [(name("one"), "would_remove".to_owned())]);
    assert_eq!((&done["images"], &done["dry_run"]), (&json!(1), &json!(true)));
    assert_eq!(here(&mirror, &one), [true, true]);

    let (told, removed) = run(&mirror, "DELETE", query, None).await;
    assert_eq!(told, [(name("one"), "removed".to_owned())]);
    assert_eq!((&removed["bytes"], &removed["objects"]), (&done["bytes"], &done["objects"]));
    // Its manifest, its configuration and the layer that is its own.
    assert_eq!(removed["objects"], 3);
    assert_eq!((here(&mirror, &one), here(&mirror, &two)), (vec![false, true], vec![true, true]));
    assert_eq!(names(&mirror).await, [name("two")]);

    // Nothing of it comes back from memory, nor from disk after a restart.
    registry.take_down(Server::Api).await;
    for _ in 0..2 {
        assert_ne!(mirror.get(&manifest("one")).await.status, 200);
        assert_ne!(mirror.get(&manifest(&one.manifest)).await.status, 200);
        assert_eq!(mirror.get(&manifest("two")).await.status, 200);
        mirror.restart().await;
        until_read(&mirror).await;
        assert_eq!(names(&mirror).await, [name("two")]);
    }
    registry.bring_up(Server::Api).await;
    pull(&mirror, "one", &one).await;
    assert_eq!(here(&mirror, &one), [true, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_wants_a_match_and_leaves_what_is_pinned() {
    let registry = FakeRegistry::start().await;
    let images = ["one", "two"].map(|tag| (tag, image(&registry, tag, &[1], 5000)));
    let mirror = Mirror::of(&registry).await;
    for (tag, image) in &images {
        pull(&mirror, tag, image).await;
    }
    until_read(&mirror).await;
    for (path, problem) in [
        ("images", "match must be given"),
        ("images?match=", "must not be empty"),
        ("images?dry_run=true", "match must be given"),
        ("images?match=*&dry_run=yes", "write true or false"),
        ("images?match=*&force=true", "there is no parameter"),
    ] {
        let (status, body) = ask(&mirror, "DELETE", path, None).await;
        assert!(status == 400 && body.contains(problem), "{path}: {body}");
    }
    assert_eq!(post(&mirror, "images/pin", json!({ "match": name("two") })).await.0, 200);
    let (mut told, done) = run(&mirror, "DELETE", "images?match=*", None).await;
    told.sort();
    assert_eq!(told, [(name("one"), "removed".to_owned()), (name("two"), "pinned".to_owned())]);
    assert_eq!((&done["images"], &done["pinned"]), (&json!(1), &json!(1)));
    assert_eq!(here(&mirror, &images[1].1), [true], "both had this layer");
    assert_eq!(names(&mirror).await, [name("two")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_is_of_one_upstream_or_of_what_is_old() {
    let registry = FakeRegistry::start().await;
    let one = image(&registry, "one", &[1], 5000);
    let mirror = Mirror::of(&registry).await;
    pull(&mirror, "one", &one).await;
    until_read(&mirror).await;
    let told = async |query: &str| run(&mirror, "DELETE", &format!("images?match=*{query}"), None).await.0;
    for query in
        ["&upstream=other.example", "&older_than=1h", "&older_than=1000years", "&upstream=fake.example&older_than=30d"]
    {
        assert_eq!(told(query).await, [], "{query}");
    }
    for (query, problem) in [
        ("&upstream=", "must not be empty"),
        ("&older_than=30", "write a duration"),
        ("&older_than=", "write a duration"),
    ] {
        let (status, body) = ask(&mirror, "DELETE", &format!("images?match=*{query}"), None).await;
        assert!(status == 400 && body.contains(problem), "{query}: {body}");
    }
    // Each of them alone names no image.
    assert_eq!(ask(&mirror, "DELETE", "images?upstream=fake.example&older_than=0s", None).await.0, 400);
    assert_eq!(told("&upstream=fake.example&older_than=0s").await, [(name("one"), "removed".to_owned())]);
    assert_eq!(names(&mirror).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_gets_all_of_what_is_removed_meanwhile() {
    let registry = FakeRegistry::start().await;
    let big = image(&registry, "big", &[1], 8 * MIB);
    let mirror = Mirror::of(&registry).await;
    pull(&mirror, "big", &big).await;
    until_read(&mirror).await;
    let mut reader = Raw::get(mirror.address(), &path(&big.layers[0]), &[]).await;
    reader.read(1000).await;
    run(&mirror, "DELETE", "images?match=fake.example/*", None).await;
    assert_eq!(here(&mirror, &big), [false]);
    let end = reader.rest().await;
    assert!(end.is_whole() && end.bytes() == content(8 * MIB, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_asks_the_upstream_whatever_is_fresh() {
    let registry = FakeRegistry::start().await;
    let old = image(&registry, "1", &[1], 100);
    let mirror =
        Mirror::build(&registry).config(|config| config.cache.tag_ttl = Duration::from_secs(3600)).start().await;
    pull(&mirror, "1", &old).await;
    let new = image(&registry, "1", &[2], 100);
    let digest_of = async || mirror.get(&manifest("1")).await.header("docker-content-digest").map(str::to_owned);
    assert_eq!(digest_of().await.as_deref(), Some(old.manifest.as_str()));

    // An upstream that does not answer takes nothing away.
    let refresh = async || {
        let (status, body) = ask(&mirror, "POST", "images/refresh", Some(json!({ "match": name("1") }))).await;
        assert_eq!(status, 200, "{body}");
        events(&body)
    };
    registry.fault(When::any(), Fault::status(500));
    let told = refresh().await;
    assert_eq!((&told[0].1["result"], &told[1].1["failed"]), (&json!("failed"), &json!(1)), "{told:?}");
    registry.heal();
    assert_eq!(digest_of().await.as_deref(), Some(old.manifest.as_str()));

    let told = refresh().await;
    assert_eq!(told[0].1["result"], "changed", "{told:?}");
    assert_eq!(
        (&told[0].1["before"], &told[0].1["digest"]),
        (&json!(old.manifest.as_str()), &json!(new.manifest.as_str()))
    );
    assert_eq!(digest_of().await.as_deref(), Some(new.manifest.as_str()));
    assert_eq!(refresh().await[0].1["result"], "unchanged");

    registry.untag("team/app", "1");
    let told = refresh().await;
    assert_eq!((&told[0].1["result"], &told[1].1["failed"]), (&json!("gone"), &json!(1)), "{told:?}");
    assert_eq!(told[0].1["before"], new.manifest.as_str());
    assert_eq!(told[0].1["problem"], "gone at the registry, removed from the cache");
    assert_eq!(mirror.get(&manifest("1")).await.status, 404);
    assert_eq!(refresh().await[0].1["result"], "failed", "nothing of it was cached");
    for (pattern, problem) in [
        ("", "must not be empty"),
        (&*format!("fake.example/team/app@{}", new.manifest), "a digest never means anything else"),
    ] {
        let (status, answer) = post(&mirror, "images/refresh", json!({ "match": pattern })).await;
        assert!(status == 400 && answer["error"].as_str().unwrap().contains(problem), "{answer}");
    }
    let (told, _) = run(&mirror, "POST", "images/refresh", Some(json!({ "match": "other.example/a:1" }))).await;
    assert_eq!(told, [("other.example/a:1".to_owned(), "refused".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_names_the_types_of_the_manifests_it_wants() {
    let registry = FakeRegistry::start().await;
    let one = image(&registry, "1", &[1], 100);
    registry.fault(When::manifests(), Fault::RefuseUnnamedType);
    let mirror = Mirror::of(&registry).await;
    assert_eq!(mirror.get_with(&manifest("1"), &[("accept", DOCKER_MANIFEST)]).await.status, 404);
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [{ "mediaType": OCI_MANIFEST, "digest": one.manifest.as_str(), "size": one.manifest_bytes.len() }],
    }));
    let index = registry.add_manifest("team/app", OCI_INDEX, index.unwrap());
    registry.tag("team/app", "2", &index);
    for (tag, digest) in [("1", &one.manifest), ("2", &index)] {
        let request = Some(json!({ "match": name(tag) }));
        let (told, _) = run(&mirror, "POST", "images/refresh", request).await;
        assert_eq!(told, [(name(tag), "changed".to_owned())]);
        let accept = [("accept", OCI_INDEX), ("accept", OCI_MANIFEST)];
        let answer = mirror.get_with(&manifest(tag), &accept).await;
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_of_what_is_gone_leaves_what_is_pinned() {
    let registry = FakeRegistry::start().await;
    let images = ["one", "two"].map(|tag| (tag, image(&registry, tag, &[1], 5000)));
    let mirror =
        Mirror::build(&registry).config(|config| config.cache.tag_ttl = Duration::from_secs(3600)).start().await;
    for (tag, image) in &images {
        pull(&mirror, tag, image).await;
        registry.untag("team/app", tag);
    }
    assert_eq!(post(&mirror, "images/pin", json!({ "match": name("two") })).await.0, 200);
    until_read(&mirror).await;
    let (mut told, done) = run(&mirror, "POST", "images/refresh", Some(json!({ "match": "fake.example/*" }))).await;
    told.sort();
    assert_eq!(told, [(name("one"), "gone".to_owned()), (name("two"), "kept".to_owned())]);
    assert_eq!((&done["changed"], &done["failed"]), (&json!(0), &json!(2)));
    assert_eq!(names(&mirror).await, [name("two")]);
    for (tag, status) in [("one", 404), ("two", 200)] {
        assert_eq!(mirror.get(&manifest(tag)).await.status, status, "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_finds_a_flipped_byte_and_names_the_image() {
    let registry = FakeRegistry::start().await;
    let one = image(&registry, "one", &[1, 2], 50_000);
    let two = image(&registry, "two", &[3], 50_000);
    let mirror = Mirror::build(&registry).config(|config| config.cache.verify_every = Duration::ZERO).start().await;
    pull(&mirror, "one", &one).await;
    pull(&mirror, "two", &two).await;
    until_read(&mirror).await;
    let verify =
        async |pattern: Option<&str>| run(&mirror, "POST", "images/verify", Some(json!({ "match": pattern }))).await;
    let (told, done) = verify(Some("fake.example/team/app:*")).await;
    assert_eq!(told.len(), 2);
    assert_eq!((&done["objects"], &done["damaged"]), (&json!(7), &json!(0)));

    let file = blob::file(&mirror.cache_dir(), &one.layers[1]);
    let mut bytes = fs::read(&file).unwrap();
    bytes[40_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_eq!(verify(Some(&name("two"))).await.1["damaged"], 0, "it is of another image");
    let (told, done) = verify(Some("fake.example/*")).await;
    assert_eq!(told[0], (name("one"), "damaged".to_owned()));
    assert_eq!(done["damaged"], 1);
    assert_eq!((here(&mirror, &one), file.exists()), (vec![true, false], false));
    assert_eq!(mirror.metric("forebay_cache_corrupt_objects_total", &[("kind", "blob")]).await, 1.0);
    assert_eq!(mirror.get(&path(&one.layers[1])).await.body, content(50_000, 2));
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;

    // All that is in the cache, without a pattern.
    let file = blob::file(&mirror.cache_dir(), &two.layers[0]);
    fs::write(&file, content(50_000, 9)).unwrap();
    let (told, done) = verify(None).await;
    assert_eq!(told, [(name("two"), "damaged".to_owned())]);
    assert_eq!((&done["objects"], &done["damaged"]), (&json!(7), &json!(1)));
}

/// Any order of pins, removals, evictions and downloads: each byte that a client gets is right, and at the end nothing is
/// held, and what is pinned is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_removals_and_pulls_at_once_leave_all_right() {
    let registry = FakeRegistry::start().await;
    let images: Arc<Vec<_>> = Arc::new(
        (0..8).map(|n| (format!("t{n}"), image(&registry, &format!("t{n}"), &[n, n + 1, n + 2], 200_000))).collect(),
    );
    let mirror = Arc::new(Mirror::build(&registry).max_size(2 * MIB as u64).start().await);
    let clients = (0..6).map(|client| {
        let (mirror, images) = (mirror.clone(), images.clone());
        tokio::spawn(async move {
            let mut random = Random::new(client);
            for _ in 0..25 {
                let at = random.below(images.len());
                let (tag, image) = &images[at];
                match (client, random.below(3)) {
                    (0, 0) => drop(post(&mirror, "images/pin", json!({ "match": name(tag) })).await),
                    (0, _) => drop(post(&mirror, "images/unpin", json!({ "match": name(tag) })).await),
                    (1, 0) => drop(ask(&mirror, "DELETE", &format!("images?match={}", name(tag)), None).await),
                    _ => {
                        assert_eq!(bounded(mirror.get(&manifest(tag))).await.status, 200);
                        for (digest, seed) in image.layers.iter().zip(at as u64..) {
                            assert_eq!(bounded(mirror.get(&path(digest))).await.body, content(200_000, seed));
                        }
                    }
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    blob::assert_verified(&mirror.cache_dir());
    for pin in get(&mirror, "pins").await["pins"].as_array().unwrap() {
        assert_eq!(post(&mirror, "images/unpin", json!({ "match": pin["match"] })).await.0, 200);
    }
    assert_eq!(mirror.metric("forebay_cache_pinned_bytes", &[]).await, 0.0);
    until_read(&mirror).await;
    run(&mirror, "DELETE", "images?match=*", None).await;
    assert_eq!(names(&mirror).await, Vec::<Value>::new());
}
