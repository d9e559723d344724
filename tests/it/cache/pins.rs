//! Pinned images are not evicted: on a full disk, after a restart, and also what of them comes later.

use forebay_test_support::{
    blob::{self, add, content, path},
    control::{ask, get, post},
    fake_registry::{FakeRegistry, Image, Server},
    manifest::manifest,
    mirror::Mirror,
    until::until,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::images::{here, pull};

const MIB: usize = 1024 * 1024;
const NAME: &str = "fake.example/team/app:kept";

/// An image with layers of 1 MiB.
fn image(registry: &FakeRegistry, tag: &str, seeds: std::ops::Range<u64>) -> Image {
    let layers: Vec<_> = seeds.map(|seed| content(MIB, seed)).collect();
    let layers: Vec<&[u8]> = layers.iter().map(|layer| &**layer).collect();
    registry.add_image("team/app", tag, &layers)
}

/// Pulls so many other blobs that all that may be evicted is evicted.
async fn churn(mirror: &Mirror, registry: &FakeRegistry, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (digest, content) = add(registry, MIB, seed);
        assert_eq!(mirror.get(&path(&digest)).await.body, content);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    }
}

async fn until_pinned(mirror: &Mirror, bytes: usize) {
    let at_least = bytes as f64;
    until("that much is pinned", async || mirror.metric("forebay_cache_pinned_bytes", &[]).await >= at_least).await;
}

async fn pinned_images(mirror: &Mirror) -> Vec<Value> {
    let images = get(mirror, "images").await["images"].as_array().unwrap().clone();
    images.into_iter().filter(|image| image["pinned"] == true).map(|image| image["name"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_image_outlives_full_disks_and_restarts() {
    let registry = FakeRegistry::start().await;
    let kept = image(&registry, "kept", 0..3);
    let other = image(&registry, "other", 10..11);
    let mut mirror = Mirror::build(&registry).max_size(8 * MIB as u64).start().await;
    pull(&mirror, "kept", &kept).await;
    pull(&mirror, "other", &other).await;
    let (status, answer) = post(&mirror, "images/pin", json!({ "match": NAME })).await;
    assert_eq!((status, &answer["match"], &answer["until"]), (200, &NAME.into(), &Value::Null), "{answer}");
    until_pinned(&mirror, 3 * MIB).await;
    assert_eq!(pinned_images(&mirror).await, [NAME]);
    for (tag, pins) in [("kept", json!([NAME])), ("other", json!([]))] {
        assert_eq!(get(&mirror, &format!("images/fake.example/team/app:{tag}")).await["pins"], pins);
    }

    churn(&mirror, &registry, 100..112).await;
    assert_eq!((here(&mirror, &kept), here(&mirror, &other)), (vec![true; 3], vec![false]));

    // The first downloads after the start find a full disk.
    mirror.restart().await;
    churn(&mirror, &registry, 200..212).await;
    assert_eq!(here(&mirror, &kept), [true; 3]);
    assert_eq!(pinned_images(&mirror).await, [NAME]);
    registry.take_down(Server::Api).await;
    pull(&mirror, "kept", &kept).await;
    registry.bring_up(Server::Api).await;

    let (status, answer) = post(&mirror, "images/unpin", json!({ "match": NAME })).await;
    assert_eq!((status, &answer["still_pinned_by"]), (200, &json!([])), "{answer}");
    assert_eq!(mirror.metric("forebay_cache_pinned_bytes", &[]).await, 0.0);
    churn(&mirror, &registry, 300..312).await;
    assert_eq!(here(&mirror, &kept), [false; 3]);
    mirror.restart().await;
    assert_eq!(get(&mirror, "pins").await["pins"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_later_for_a_pattern_is_pinned_too() {
    let registry = FakeRegistry::start().await;
    let later = image(&registry, "later", 0..2);
    let mut mirror = Mirror::build(&registry).max_size(8 * MIB as u64).start().await;
    let (status, answer) = post(&mirror, "images/pin", json!({ "match": "fake.example/team/*", "for": "30d" })).await;
    assert_eq!((status, &answer["images"]), (200, &json!(0)), "{answer}");
    assert!(answer["until"].as_str().is_some_and(|until| until.ends_with('Z')), "{answer}");

    assert_eq!(mirror.get(&manifest("later")).await.status, 200);
    until("the name is pinned", async || pinned_images(&mirror).await == ["fake.example/team/app:later"]).await;
    churn(&mirror, &registry, 100..112).await;
    for digest in &later.layers {
        assert_eq!(mirror.get(&path(digest)).await.status, 200);
    }
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    churn(&mirror, &registry, 200..212).await;
    assert_eq!(here(&mirror, &later), [true; 2]);

    // A tag that moves: what it means now is kept, and what it meant is not.
    let moved = image(&registry, "later", 50..51);
    mirror.restart_with(|config| config.cache.tag_ttl = std::time::Duration::ZERO).await;
    pull(&mirror, "later", &moved).await;
    until("the old layers may go", async || mirror.metric("forebay_cache_pinned_bytes", &[]).await < 2.0 * MIB as f64)
        .await;
    churn(&mirror, &registry, 300..312).await;
    assert_eq!((here(&mirror, &later), here(&mirror, &moved)), (vec![false; 2], vec![true]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_take_four_fifths_and_the_sum_is_told() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::build(&registry).max_size(10 * MIB as u64).start().await;
    let images = [("a", 0..4), ("b", 10..13), ("c", 20..22)].map(|(tag, seeds)| (tag, image(&registry, tag, seeds)));
    for (tag, image) in &images {
        pull(&mirror, tag, image).await;
        until("it is read", async || get(&mirror, "images").await["reading"] == false).await;
    }
    let pin =
        async |tag: &str| post(&mirror, "images/pin", json!({ "match": format!("fake.example/team/app:{tag}") })).await;
    assert_eq!((pin("a").await.0, pin("b").await.0), (200, 200));
    let (status, answer) = pin("c").await;
    let error = answer["error"].as_str().unwrap();
    assert_eq!(status, 409, "{error}");
    assert!(error.starts_with("the pinned images would take 9") && error.contains("pins may keep 8.0 MiB"), "{error}");
    let list = get(&mirror, "pins").await;
    assert_eq!(list["pins"].as_array().unwrap().len(), 2);
    assert_eq!((&list["pinned_and_not_kept_bytes"], &list["max_pinned_bytes"]), (&json!(0), &json!(8_388_608)));

    // The rest of the cache takes what comes, and what is larger is served all the same.
    churn(&mirror, &registry, 100..104).await;
    let kept = images.iter().take(2).map(|(_, image)| here(&mirror, image)).collect::<Vec<_>>();
    assert_eq!(kept, [vec![true; 4], vec![true; 3]]);
    let (last, _) = add(&registry, MIB, 103);
    assert!(blob::file(&mirror.cache_dir(), &last).exists());
    let (large, content) = add(&registry, 5 * MIB, 200);
    assert_eq!(mirror.get(&path(&large)).await.body, content);
    assert!(!blob::file(&mirror.cache_dir(), &large).exists());

    // A smaller cache keeps less, and says so.
    mirror.restart_with(|config| config.cache.max_size = 5 * MIB as u64).await;
    until("the scan is over", async || get(&mirror, "status").await["cache"]["scanned"] == true).await;
    until("it is within its limit", async || get(&mirror, "status").await["cache"]["bytes"].as_u64() <= Some(5 << 20))
        .await;
    until_pinned(&mirror, 2 * MIB).await;
    assert!(mirror.metric("forebay_cache_pinned_bytes", &[]).await <= 4.0 * MIB as f64);
    // An end is set whatever the sum is.
    let pinned = post(&mirror, "images/pin", json!({ "match": "fake.example/team/app:a", "for": "1h" })).await;
    assert_eq!(pinned.0, 200, "{pinned:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_request_pins_nothing() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let whole = json!({ "match": "fake.example/*" });
    for (path, document, status, problem) in [
        ("images/pin", json!({ "match": "" }), 400, "match: must not be empty"),
        ("images/pin", json!({}), 400, "missing field `match`"),
        ("images/pin", json!({ "match": "fake.example" }), 400, "is a registry without a repository"),
        ("images/pin", json!({ "match": "a", "for": "soon" }), 400, "for: write a duration such as 12h or 30d"),
        ("images/pin", json!({ "match": "a", "until": 1 }), 400, "unknown field `until`"),
        ("images/pin?match=a", whole.clone(), 400, "there are no parameters here"),
        ("images/unpin", json!({ "match": "node" }), 404, "there is no pin \"docker.io/library/node:latest\""),
    ] {
        let (answered, answer) = post(&mirror, path, document).await;
        assert_eq!(answered, status, "{path} {answer}");
        assert!(answer["error"].as_str().unwrap().contains(problem), "{path} {answer}");
    }
    assert_eq!(get(&mirror, "pins").await["pins"], json!([]));

    mirror.restart_with(|config| config.state_directory = None).await;
    let (status, answer) = post(&mirror, "images/pin", whole).await;
    assert_eq!((status, &answer["error"]), (409, &"forebay has no place for pins: set state_directory".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_of_pins_keeps_it_from_starting() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    assert_eq!(post(&mirror, "images/pin", json!({ "match": "node:*" })).await.0, 200);
    mirror.drain().await;
    let file = mirror.config().state_directory.as_ref().unwrap().join("pins");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "forebay-pins 1 1\ndocker.io/library/node:* 0\n");
    std::fs::write(&file, "forebay-pins 1 2\ndocker.io/library/node:* 0\n").unwrap();
    let error = mirror.second().await.err().unwrap();
    assert!(
        error.is_configuration() && error.problem().contains("state/pins is damaged: it should have 2"),
        "{error:?}"
    );
    std::fs::remove_file(&file).unwrap();
    mirror.start().await;
    assert_eq!(get(&mirror, "pins").await["pins"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_that_came_by_a_tag_can_be_pinned() {
    let registry = FakeRegistry::start().await;
    let kept = image(&registry, "kept", 0..2);
    let mut mirror = Mirror::build(&registry).max_size(8 * MIB as u64).start().await;
    pull(&mirror, "kept", &kept).await;
    let name = format!("fake.example/team/app@{}", kept.manifest);
    let (status, answer) = post(&mirror, "images/pin", json!({ "match": name })).await;
    assert_eq!((status, &answer["names"]), (200, &json!([name])), "{answer}");
    // The tag moves, and the digest stays.
    let moved = image(&registry, "kept", 10..11);
    mirror.restart_with(|config| config.cache.tag_ttl = std::time::Duration::ZERO).await;
    pull(&mirror, "kept", &moved).await;
    churn(&mirror, &registry, 100..112).await;
    assert_eq!((here(&mirror, &kept), here(&mirror, &moved)), (vec![true; 2], vec![false]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_pins_that_are_not_read_are_few_at_a_time() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    assert_eq!(post(&mirror, "images/pin", json!({ "match": "a" })).await.0, 200);
    mirror.drain().await;
    // So many that a connection does not hold the list.
    let file = mirror.config().state_directory.as_ref().unwrap().join("pins");
    let lines: String = (0..10_000).map(|number| format!("fake.example/{}/{number}:1 0\n", "a".repeat(200))).collect();
    std::fs::write(&file, format!("forebay-pins 1 10000\n{lines}")).unwrap();
    mirror.start().await;
    let mut unread = Vec::new();
    for _ in 0..4 {
        let mut client = UnixStream::connect(mirror.config().admin.socket.as_deref().unwrap()).await.unwrap();
        client.write_all(b"GET /api/v1/pins HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        // The answer has begun.
        client.read_exact(&mut [0; 12]).await.unwrap();
        unread.push(client);
    }
    let (status, answer) = ask(&mirror, "GET", "pins", None).await;
    assert!(status == 429 && answer.contains("4 long answers are being made or read"), "{answer}");
    drop(unread);
    let answer = get(&mirror, "pins").await;
    assert_eq!(answer["pins"].as_array().unwrap().len(), 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_upstream_deletes_is_let_go_and_comes_back() {
    let registry = FakeRegistry::start().await;
    let kept = image(&registry, "kept", 0..2);
    let mut mirror = Mirror::build(&registry).max_size(8 * MIB as u64).start().await;
    pull(&mirror, "kept", &kept).await;
    assert_eq!(post(&mirror, "images/pin", json!({ "match": NAME })).await.0, 200);
    mirror.restart_with(|config| config.cache.tag_ttl = std::time::Duration::ZERO).await;
    until_pinned(&mirror, 2 * MIB).await;
    registry.untag("team/app", "kept");
    assert_eq!(mirror.get(&manifest("kept")).await.status, 404);
    until("nothing is kept", async || mirror.metric("forebay_cache_pinned_bytes", &[]).await == 0.0).await;
    churn(&mirror, &registry, 100..112).await;
    assert_eq!(here(&mirror, &kept), [false; 2]);
    // The pin is there still, and keeps what the tag means next.
    assert_eq!(get(&mirror, "pins").await["pins"][0]["match"], NAME);
    let again = image(&registry, "kept", 20..22);
    until("the 404 is forgotten", async || mirror.get(&manifest("kept")).await.status == 200).await;
    pull(&mirror, "kept", &again).await;
    until_pinned(&mirror, 2 * MIB).await;
    churn(&mirror, &registry, 200..212).await;
    assert_eq!(here(&mirror, &again), [true; 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_keeps_nothing_once_its_time_is_over() {
    let registry = FakeRegistry::start().await;
    let kept = image(&registry, "kept", 0..2);
    let mut mirror = Mirror::build(&registry).max_size(8 * MIB as u64).start().await;
    pull(&mirror, "kept", &kept).await;
    assert_eq!(post(&mirror, "images/pin", json!({ "match": NAME, "for": "1s" })).await.0, 200);
    let mut tags = 0..;
    until("it is over", async || {
        // A manifest that comes has forebay look at the pins.
        let tag = format!("other{}", tags.next().unwrap());
        registry.add_image("team/app", &tag, &[tag.as_bytes()]);
        assert_eq!(mirror.get(&manifest(&tag)).await.status, 200);
        get(&mirror, "pins").await["pins"] == json!([])
    })
    .await;
    assert_eq!(mirror.metric("forebay_cache_pinned_bytes", &[]).await, 0.0);
    assert_eq!(pinned_images(&mirror).await, [""; 0]);
    churn(&mirror, &registry, 100..112).await;
    assert_eq!(here(&mirror, &kept), [false; 2]);
    mirror.restart().await;
    assert_eq!(get(&mirror, "pins").await["pins"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_image_that_loses_a_part_needs_a_person() {
    let registry = FakeRegistry::start().await;
    let kept = image(&registry, "kept", 0..2);
    let mirror = Mirror::of(&registry).await;
    let attention = async |pin: &str| {
        // Each pin has them looked at.
        assert_eq!(post(&mirror, "images/pin", json!({ "match": pin })).await.0, 200);
        get(&mirror, "status").await["attention"].clone()
    };
    assert_eq!(mirror.get(&manifest("kept")).await.status, 200);
    assert_eq!(attention(NAME).await, json!([]), "its layers may be on their way");
    pull(&mirror, "kept", &kept).await;
    assert_eq!(attention("fake.example/a/*").await, json!([]));

    let file = blob::file(&mirror.cache_dir(), &kept.layers[1]);
    std::fs::write(&file, content(MIB, 9)).unwrap();
    let (status, told) = ask(&mirror, "POST", "images/verify", Some(json!({ "match": NAME }))).await;
    assert!(status == 200 && !file.exists(), "{told}");
    let expected = format!("1 pinned image is not complete: {NAME}; `forebay warm {NAME}` fetches what is missing");
    assert_eq!(attention("fake.example/b/*").await, json!([expected]));
    let (_, told) = ask(&mirror, "POST", "warm", Some(json!({ "images": [NAME] }))).await;
    assert!(told.contains("\"fetched\":1"), "{told}");
    assert_eq!(attention("fake.example/c/*").await, json!([]));
}
