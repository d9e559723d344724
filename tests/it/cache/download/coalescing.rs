//! One upstream transfer per blob, for any number of clients, whichever of them leaves.

use forebay_test_support::{
    blob::{add, content, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    raw::Raw,
    until::bounded,
};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_clients_are_one_transfer() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 2 * MIB, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldHead(gate.clone()));
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Raw::send(mirror.address(), &path(&digest), &[]).await.unwrap());
    }
    gate.reached().await;
    mirror.until_metric("forebay_connections", &[], 8.0).await;
    gate.open();
    let mut outcomes = Vec::new();
    for client in clients {
        let client = bounded(Raw::answer(client)).await.unwrap();
        outcomes.push(client.header("cache-status").unwrap().to_owned());
        let end = client.rest().await;
        assert!(end.is_whole() && end.bytes() == content);
    }
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "forebay; fwd=miss; stored").count(), 1, "{outcomes:?}");
    let received = mirror.metric("forebay_upstream_received_bytes_total", &[]).await;
    assert_eq!(received, (2 * MIB) as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_clients_go_on_when_the_first_leaves() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 2 * MIB, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: MIB, gate: gate.clone() });
    let mut first = Raw::get(mirror.address(), &path(&digest), &[]).await;
    assert_eq!(first.header("cache-status"), Some("forebay; fwd=miss; stored"));
    first.read(MIB / 2).await;
    let mut others = Vec::new();
    for _ in 0..7 {
        others.push(Raw::get(mirror.address(), &path(&digest), &[]).await);
    }
    drop(first);
    gate.reached().await;
    mirror.until_metric("forebay_connections", &[], 7.0).await;
    gate.open();
    for other in others {
        let end = other.rest().await;
        assert!(end.is_whole() && end.bytes() == content);
    }
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clients_leave_and_the_blob_comes_all_the_same() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, MIB, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: MIB / 2, gate: gate.clone() });
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Raw::get(mirror.address(), &path(&digest), &[]).await;
        client.read(MIB / 4).await;
        clients.push(client);
    }
    drop(clients);
    mirror.until_metric("forebay_connections", &[], 0.0).await;
    assert_eq!(mirror.metric("forebay_fills_in_flight", &[]).await, 1.0);
    gate.open();
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
    let answer = mirror.get(&path(&digest)).await;
    assert_eq!((answer.header("cache-status"), &answer.body), (Some("forebay; hit"), &content));
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_before_the_head_ends_no_other() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, MIB, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldHead(gate.clone()));
    let first = Raw::send(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    drop(first);
    mirror.until_metric("forebay_connections", &[], 0.0).await;
    let second = Raw::send(mirror.address(), &path(&digest), &[]).await.unwrap();
    mirror.until_metric("forebay_connections", &[], 1.0).await;
    gate.open();
    let second = bounded(Raw::answer(second)).await.unwrap();
    assert_eq!(second.rest().await.bytes(), content);
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_bounded_and_what_they_have_is_gone_on_with() {
    const BLOBS: usize = 20;
    const ORPHANS: usize = 16;
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: 150_000, gate: gate.clone() });
    let mut blobs = Vec::new();
    for seed in 0..BLOBS {
        let (digest, content) = add(&registry, 300_000, seed as u64);
        let mut client = Raw::get(mirror.address(), &path(&digest), &[]).await;
        client.read(140_000).await;
        drop(client);
        blobs.push((digest, content));
    }
    let abandoned = [("result", "abandoned")];
    mirror.until_metric("forebay_fills_total", &abandoned, (BLOBS - ORPHANS) as f64).await;
    mirror.until_metric("forebay_fills_in_flight", &[], ORPHANS as f64).await;
    gate.open();
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], ORPHANS as f64).await;
    let ranged = || registry.count(|request| request.header("range").is_some());
    assert_eq!(ranged(), 0);
    for (digest, content) in &blobs {
        assert_eq!(&mirror.get(&path(digest)).await.body, content);
    }
    assert_eq!(ranged(), BLOBS - ORPHANS);
    for request in registry.requests().iter().filter_map(|request| request.header("range")) {
        let first: usize = request.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
        assert!((140_000..=150_000).contains(&first), "{request}");
    }
    assert_eq!(mirror.metric("forebay_fills_total", &abandoned).await, (BLOBS - ORPHANS) as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_an_abandoned_download_gets_the_blob() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let gate = Gate::new();
    let mut orphans = Vec::new();
    for seed in 0..16 {
        let (digest, _) = add(&registry, 200_000, seed);
        registry.fault(When::blob(&digest), Fault::HoldBody { at: 100_000, gate: gate.clone() });
        orphans.push(Raw::get(mirror.address(), &path(&digest), &[]).await);
    }
    drop(orphans);
    mirror.until_metric("forebay_connections", &[], 0.0).await;
    let (digest, content) = add(&registry, 200_000, 99);
    registry.fault_times(1, When::blob(&digest), Fault::HoldBody { at: 100_000, gate: gate.clone() });
    let mut first = Raw::get(mirror.address(), &path(&digest), &[]).await;
    first.read(80_000).await;
    drop(first);
    let second = bounded(mirror.get(&path(&digest))).await;
    assert_eq!(second.body, content);
    gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_slows_no_other() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    // More than the sockets between take.
    let (digest, content) = add(&registry, 24 * MIB, 1);
    let slow = Raw::get(mirror.address(), &path(&digest), &[]).await;
    let quick = bounded(mirror.get(&path(&digest))).await;
    assert!(quick.body == content);
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
    assert_eq!(bounded(mirror.get_with(&path(&digest), &[("range", "bytes=-10")])).await.status, 206);
    let end = slow.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_blob_of_two_repositories_is_one_transfer() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let content = content(MIB, 1);
    let digest = registry.add_blob("team/app", content.clone());
    registry.add_blob("team/other", content.clone());
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: MIB / 2, gate: gate.clone() });
    let first = Raw::get(mirror.address(), &path(&digest), &[]).await;
    let second = Raw::get(mirror.address(), &format!("/v2/team/other/blobs/{digest}"), &[]).await;
    gate.open();
    for client in [first, second] {
        assert_eq!(client.rest().await.bytes(), content);
    }
    assert_eq!(registry.count(|_| true), 1);
}
