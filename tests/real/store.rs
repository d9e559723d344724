//! A real object store behind forebay: what comes back after a disk is lost, and what a bad day of the store costs.

use std::{fs, time::Duration};

use forebay_test_support::{
    real::{
        download::{Download, download},
        forebay::Forebay,
        gate::Gate,
        image::Blob,
        registry::Registry,
        seaweedfs::{self, SeaweedFs},
        store_proxy::{Mood, StoreProxy},
        turn::Turn,
    },
    until::until,
};

mod cluster;
mod secrets;

/// Longer than a part of an upload.
const LARGE: usize = 40_000_000;

/// A forebay before this registry, with the store at this port.
async fn node(registry: &Registry, store: u16) -> Forebay {
    let upstream = format!("[[upstream]]\nname = \"docker.io\"\ndefault = true\nurls = [\"{}\"]\n", registry.url());
    Forebay::start(&format!("{upstream}{}", SeaweedFs::section(store)), &seaweedfs::keys()).await
}

/// It ends, loses its cache, and begins again.
async fn wipe(node: &mut Forebay) {
    node.kill();
    fs::remove_dir_all(node.cache()).expect("the cache can be removed");
    node.revive().await;
}

fn name_of(blob: &Blob) -> String {
    let hex = blob.digest.strip_prefix("sha256:").expect("a digest");
    format!("blobs/sha256/{}/{hex}", &hex[..2])
}

async fn assert_pulled(node: &Forebay, blob: &Blob) {
    let pulled = download(&node.blob_url("library/app", blob)).await;
    assert!(pulled.is_whole(&blob.digest), "{pulled:?}\n{}", node.log());
}

async fn until_uploaded(store: &SeaweedFs, blob: &Blob) {
    until("the blob is in the store", async || store.has(&name_of(blob)).await).await;
}

/// Nothing waits for the store, and requests are sent to it.
async fn until_idle(node: &Forebay) {
    until("the store gets requests again", async || node.metric("forebay_store_up", &[]).await == 2.0).await;
    until("the queue is empty", async || node.metric("forebay_store_upload_queue", &[]).await == 0.0).await;
}

async fn from_registry(node: &Forebay) -> f64 {
    node.metric("forebay_upstream_received_bytes_total", &["upstream=\"docker.io\""]).await
}

fn blobs(seed: u64, sizes: &[usize]) -> Vec<Blob> {
    (seed..).zip(sizes).map(|(seed, size)| Blob::random(seed, *size)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_was_wiped_asks_the_registry_for_nothing() {
    let _turn = Turn::of_the_big_blobs().await;
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let blobs = blobs(300, &[1, 1_000, 3_000_000, LARGE]);
    let mut node = node(&registry, store.port).await;
    for blob in &blobs {
        registry.store("library/app", blob);
        assert_pulled(&node, blob).await;
        until_uploaded(&store, blob).await;
        assert_eq!(store.object(&name_of(blob)).await.unwrap(), blob.bytes, "a part is missing");
    }
    assert_eq!(store.open_uploads().await, 0);
    wipe(&mut node).await;
    for blob in &blobs {
        assert_pulled(&node, blob).await;
        registry.assert_one_get_of(blob).await;
    }
    assert_eq!(from_registry(&node).await, 0.0);
    let size: usize = blobs.iter().map(|blob| blob.bytes.len()).sum();
    assert_eq!(node.metric("forebay_store_bytes_total", &["direction=\"in\""]).await, size as f64);
    node.assert_stored_blobs_are_right();
    // What came from the store is not uploaded again.
    assert_eq!(node.metric("forebay_store_bytes_total", &["direction=\"out\""]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_flipped_in_the_bucket_is_never_served_whole() {
    let _turn = Turn::of_the_big_blobs().await;
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let blobs = blobs(310, &[5_000, 3_000_000, LARGE]);
    let mut node = node(&registry, store.port).await;
    for blob in &blobs {
        registry.store("library/app", blob);
        assert_pulled(&node, blob).await;
        until_uploaded(&store, blob).await;
        let mut wrong = blob.bytes.to_vec();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        store.put(&name_of(blob), &wrong).await;
    }
    wipe(&mut node).await;
    for blob in &blobs {
        let first = download(&node.blob_url("library/app", blob)).await;
        assert!(first.is_whole(&blob.digest) || matches!(first, Download::Broken), "{first:?}");
        assert_pulled(&node, blob).await;
        until("right bytes take their place", async || {
            store.object(&name_of(blob)).await.is_some_and(|found| found == blob.bytes)
        })
        .await;
    }
    assert_eq!(node.metric("forebay_store_wrong_objects_total", &[]).await, blobs.len() as f64);
    assert_eq!(node.metric("forebay_digest_mismatches_total", &[]).await, 0.0, "the registry is not to blame");
    node.assert_stored_blobs_are_right();
    wipe(&mut node).await;
    for blob in &blobs {
        assert_pulled(&node, blob).await;
    }
    assert_eq!(from_registry(&node).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_bad_day_of_the_store_pulls_go_on_without_a_storm() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let proxy = StoreProxy::before(store.port).await;
    let node = node(&registry, proxy.port).await;
    // Each with the most requests for twenty pulls. A GET, a HEAD and a PUT each are what a good day costs.
    let moods = [
        (Mood::SlowDown, 20),
        (Mood::Late(Duration::from_secs(10)), 20),
        (Mood::Full, 50),
        (Mood::Down, 20),
        (Mood::Cut(1_000), 60),
    ];
    let mut all = Vec::new();
    for (number, (mood, most)) in (0..).zip(moods) {
        until_idle(&node).await;
        proxy.set(mood);
        let before = proxy.requests();
        let blobs = blobs(1_000 + 100 * number, &[200_000; 20]);
        for blob in &blobs {
            registry.store("library/app", blob);
            assert_pulled(&node, blob).await;
            registry.assert_one_get_of(blob).await;
        }
        let sent = proxy.requests() - before;
        assert!(sent <= most, "{mood:?}: {sent} requests");
        proxy.set(Mood::Well);
        all.extend(blobs);
    }
    until_idle(&node).await;
    for blob in &all {
        until_uploaded(&store, blob).await;
    }
    assert!(proxy.most_at_a_time() <= 8, "{} requests at a time", proxy.most_at_a_time());
    assert!(node.peak_memory() < 400_000_000, "{} bytes", node.peak_memory());
    for blob in &all {
        assert_eq!(store.object(&name_of(blob)).await.unwrap(), blob.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_only_uploads_is_left_alone() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let proxy = StoreProxy::before(store.port).await;
    let node = node(&registry, proxy.port).await;
    until("the probe is over", async || node.log().contains("honours conditions")).await;
    proxy.set(Mood::Full);
    let (blobs, before) = (blobs(1_600, &[200_000; 20]), proxy.writes());
    for blob in &blobs {
        registry.store("library/app", blob);
        assert_pulled(&node, blob).await;
    }
    // Four at once, and then each after a pause: the looks in between, which succeed, end none.
    until("it was tried again", async || proxy.writes() - before >= 5).await;
    let log = node.log();
    assert_eq!(log.matches("writes of the object store fail").count(), 1, "{log}");
    assert!(!log.contains("succeed again"), "{log}");
    proxy.set(Mood::Well);
    for blob in &blobs {
        until_uploaded(&store, blob).await;
    }
    assert!(proxy.writes() - before <= 8 + blobs.len(), "{} uploads", proxy.writes() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_sends_heads_alone_is_left_alone() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let proxy = StoreProxy::before(store.port).await;
    let mut node = node(&registry, proxy.port).await;
    let blobs = blobs(1_700, &[200_000; 8]);
    for blob in &blobs {
        registry.store("library/app", blob);
        assert_pulled(&node, blob).await;
        until_uploaded(&store, blob).await;
    }
    wipe(&mut node).await;
    proxy.set(Mood::Silent);
    for blob in &blobs {
        assert_pulled(&node, blob).await;
        assert_eq!(registry.gets_of(blob), 2);
    }
    let log = node.log();
    assert_eq!(log.matches("reads of the object store fail").count(), 1, "{log}");
    let timeouts = ["operation=\"get\"", "result=\"timeout\""];
    let asked = node.metric("forebay_store_requests_total", &timeouts).await;
    assert!((1.0..=2.0).contains(&asked), "{asked} pulls waited in vain");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_too_short_and_breaks_is_replaced() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let proxy = StoreProxy::before(store.port).await;
    let blob = Blob::random(1_800, 5_000_000);
    registry.store("library/app", &blob);
    let mut node = node(&registry, proxy.port).await;
    assert_pulled(&node, &blob).await;
    until_uploaded(&store, &blob).await;
    store.put(&name_of(&blob), &blob.bytes[..4_900_000]).await;
    proxy.set(Mood::Cut(500_000));
    wipe(&mut node).await;
    let first = download(&node.blob_url("library/app", &blob)).await;
    assert!(first.is_whole(&blob.digest) || matches!(first, Download::Broken), "{first:?}");
    assert_pulled(&node, &blob).await;
    assert_eq!(node.metric("forebay_store_wrong_objects_total", &[]).await, 1.0);
    assert_eq!(node.metric("forebay_digest_mismatches_total", &[]).await, 0.0, "the registry is not to blame");
    proxy.set(Mood::Well);
    until("right bytes take its place", async || {
        store.object(&name_of(&blob)).await.is_some_and(|found| found == blob.bytes)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_the_store_cuts_is_finished_by_the_registry() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let proxy = StoreProxy::before(store.port).await;
    let blob = Blob::random(340, 5_000_000);
    registry.store("library/app", &blob);
    let mut node = node(&registry, proxy.port).await;
    assert_pulled(&node, &blob).await;
    until_uploaded(&store, &blob).await;
    proxy.set(Mood::Cut(1_000_000));
    wipe(&mut node).await;
    assert_pulled(&node, &blob).await;
    let (store, registry) = (node.metric("forebay_store_bytes_total", &["\"in\""]).await, from_registry(&node).await);
    assert!(store >= 1_000_000.0 && registry < 4_100_000.0, "{store} bytes of the store, {registry} of the registry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_conditions_is_found_out_and_used() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let proxy = StoreProxy::before(store.port).await;
    for (seed, mood, expected) in
        [(350, Mood::Well, "honours conditions"), (351, Mood::NoConditions, "ignores conditions")]
    {
        proxy.set(mood);
        let blob = Blob::random(seed, 1_000_000);
        registry.store("library/app", &blob);
        let (one, other) = (node(&registry, proxy.port).await, node(&registry, proxy.port).await);
        until("the probe is over", async || one.log().contains(expected) && other.log().contains(expected)).await;
        tokio::join!(assert_pulled(&one, &blob), assert_pulled(&other, &blob));
        until_uploaded(&store, &blob).await;
        for node in [&one, &other] {
            until("both are done", async || node.metric("forebay_store_upload_queue", &[]).await == 0.0).await;
        }
        assert_eq!(store.object(&name_of(&blob)).await.unwrap(), blob.bytes);
    }
    assert!(store.objects().await.iter().all(|object| !object.name.starts_with("probes/")), "a probe leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_a_kill_cut_is_aborted_and_made_again() {
    let _turn = Turn::of_the_big_blobs().await;
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let gate = Gate::of_requests_to(store.port).await;
    let blob = Blob::random(360, LARGE);
    registry.store("library/app", &blob);
    let mut node = node(&registry, gate.port).await;
    gate.hold_after(LARGE as u64 / 2);
    assert_pulled(&node, &blob).await;
    gate.until_holding().await;
    node.kill();
    gate.cut();
    gate.open();
    assert_eq!(store.open_uploads().await, 1);
    node.revive().await;
    until_uploaded(&store, &blob).await;
    assert_eq!(store.object(&name_of(&blob)).await.unwrap(), blob.bytes);
    until("no part is left", async || store.open_uploads().await == 0).await;
    registry.assert_one_get_of(&blob).await;
}
