//! A member that hangs and is not gone: the kernel takes connections and bytes for it, and nobody answers.
//!
//! The time for a PING is the default. On a loaded machine a member may miss it that is well; its peer says so in its log,
//! and then more may be fetched.

use std::{cmp::Reverse, sync::atomic::AtomicU64};

use forebay_test_support::{
    real::download::{Download, download_counting},
    until::{bounded, until},
};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::*;

const SMALL: usize = 10_000;

/// The places of the members in the order in which they are asked for this blob (docs/decisions/0035-peers.md).
fn order(nodes: &[Forebay], blob: &Blob) -> [usize; NODES] {
    let key = Sha256::new().chain_update("blob\0").chain_update(&blob.digest).finalize();
    let mut order: [usize; NODES] = std::array::from_fn(|index| index);
    order.sort_by_key(|index| Reverse(Sha256::new().chain_update(key).chain_update(nodes[*index].url("")).finalize()));
    order
}

/// The small blobs, which the registry gets, that are asked of these members in this order.
fn small_blobs<'a>(
    nodes: &'a [Forebay],
    registry: &'a Registry,
    wanted: [usize; NODES],
) -> impl Iterator<Item = Blob> + 'a {
    let blobs = (10_000..).map(|seed| Blob::random(seed, SMALL)).filter(move |blob| order(nodes, blob) == wanted);
    blobs.inspect(|blob| registry.store("library/small", blob))
}

/// How often it has taken a member for dead that was not down before.
fn deaths(node: &Forebay, of: &Forebay) -> usize {
    let (log, member) = (node.log(), of.url(""));
    log.lines().filter(|line| line.contains("a peer is left out of the cluster") && line.contains(&member)).count()
}

async fn from_peers(node: &Forebay) -> f64 {
    node.metric("forebay_peer_received_bytes_total", &[]).await
}

/// A client, and how many bytes it has.
fn pull(node: &Forebay, blob: &Blob) -> (JoinHandle<Download>, Arc<AtomicU64>) {
    let (url, received) = (node.blob_url("library/big", blob), Arc::new(AtomicU64::new(0)));
    let counter = received.clone();
    (tokio::spawn(async move { download_counting(&url, counter).await }), received)
}

async fn assert_pulled(node: &Forebay, blob: &Blob) {
    let pulled = bounded(download(&node.blob_url("library/small", blob))).await;
    assert!(pulled.is_whole(&blob.digest), "{pulled:?}\n{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_hangs_costs_no_client_and_comes_back() {
    let _turn = Turn::of_the_big_blobs().await;
    let registry = Registry::open().await;
    let gate = Gate::before(registry.port).await;
    let big = Blob::random(92, SIZE);
    registry.store("library/big", &big);
    let nodes = cluster_that_says(&gate.url(), "").await;
    let order = order(&nodes, &big);
    let [owner, next, last] = order.map(|index| &nodes[index]);

    // In the middle: all clients have bytes, and the registry sends no more.
    gate.hold_each_after(SIZE as u64 / 2);
    let (of_owner, received) = pull(owner, &big);
    until("the owner's client has bytes", async || received.load(Ordering::Relaxed) > 0).await;
    let mut pulls = Vec::new();
    for node in [next, last] {
        let (pull, received) = pull(node, &big);
        until("another's client has bytes", async || received.load(Ordering::Relaxed) > 0).await;
        pulls.push(pull);
    }
    let mistakes = || deaths(next, last) + deaths(last, next) + deaths(owner, next) + deaths(owner, last);
    let early = deaths(next, owner) + deaths(last, owner);
    owner.freeze();
    gate.open();
    for pull in pulls {
        let pulled = bounded(pull).await.expect("a client does not panic");
        assert!(pulled.is_whole(&big.digest), "{pulled:?}");
    }
    assert!(!of_owner.is_finished());
    for node in [next, last] {
        assert!(deaths(node, owner) > 0, "it has left the owner:\n{}", node.log());
    }
    let received = from_registry(next).await + from_registry(last).await;
    // The rest comes once for both, unless one took another for dead that was well.
    let most = if early + mistakes() == 0 { 1.05 } else { 2.05 };
    assert!(received <= most * SIZE as f64, "{received} bytes from the registry for what the owner had not passed on");
    assert!(from_registry(next).await > 0.0, "the next in the order asks the registry");

    // While it hangs, whether it is known to be dead or asked once more: the next in the order is asked for its blobs.
    for blob in small_blobs(&nodes, &registry, order).take(8) {
        let (before, mistaken) = (from_registry(next).await, mistakes());
        for node in [last, next] {
            assert_pulled(node, &blob).await;
        }
        assert!(from_registry(next).await - before >= SMALL as f64, "the next in the order has asked the registry");
        until("the registry has logged a GET", async || registry.gets_of(&blob) > 0).await;
        let gets = registry.gets_of(&blob);
        assert!(gets == 1 || mistakes() > mistaken && gets <= 3, "{gets} GETs of {}", blob.digest);
    }

    // What it had begun ends well, and it is an owner again.
    owner.thaw();
    let pulled = bounded(of_owner).await.expect("a client does not panic");
    assert!(pulled.is_whole(&big.digest), "{pulled:?}");
    let mut blobs = small_blobs(&nodes, &registry, order).skip(8);
    until("the owner is asked again", async || {
        let (blob, before) = (blobs.next().expect("there is always one more"), from_peers(next).await);
        assert_pulled(next, &blob).await;
        from_peers(next).await - before == SMALL as f64
    })
    .await;
    assert!(next.log().contains("a peer answers again"), "{}", next.log());
    until("all members answer", async || {
        let told = next.operate(&["status", "--cluster", "--json"]).await.stdout;
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap_or_default();
        told["members"].as_array().is_some_and(|members| members.iter().all(|member| member["state"] == "ok"))
    })
    .await;
    for node in &nodes {
        node.assert_stored_blobs_are_right();
    }
}
