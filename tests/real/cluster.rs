//! Three forebays that are peers, before one real registry: what leaves the registry, and what the end of one costs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;

use forebay_test_support::real::{
    download::download, forebay::Forebay, gate::Gate, image::Blob, port::free_port, registry::Registry, turn::Turn,
};

mod frozen;

const SIZE: usize = 64_000_000;
const NODES: usize = 3;
const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Forebays that are peers of one another, and mirrors of the registry at this URL. However busy the machine, none counts
/// as dead that is not.
async fn cluster(url: &str) -> Vec<Forebay> {
    cluster_that_says(url, "timeout = \"1m\"").await
}

/// The same, with this setting of `[cluster]`.
async fn cluster_that_says(url: &str, setting: &str) -> Vec<Forebay> {
    let ports: Vec<u16> = (0..NODES).map(|_| free_port()).collect();
    let peers: Vec<String> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let mut nodes = Vec::new();
    for (port, own) in ports.iter().zip(&peers) {
        let upstream =
            format!("[[upstream]]\nname = \"docker.io\"\ndefault = true\nconnections = 1\nurls = [\"{url}\"]");
        let cluster =
            format!("[cluster]\npeers = {peers:?}\nadvertise = \"{own}\"\nkey_file = \"cluster.key\"\n{setting}");
        nodes.push(Forebay::start_at(*port, &format!("{upstream}\n{cluster}\n"), &[("cluster.key", KEY)]).await);
    }
    nodes
}

async fn from_registry(node: &Forebay) -> f64 {
    node.metric("forebay_upstream_received_bytes_total", &["upstream=\"docker.io\""]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_clients_of_three_nodes_cost_the_registry_one_get() {
    let _turn = Turn::of_the_big_blobs().await;
    let registry = Registry::open().await;
    let blob = Blob::random(90, SIZE);
    registry.store("library/big", &blob);
    let nodes = cluster(&registry.url()).await;
    let urls: Vec<String> = nodes.iter().map(|node| node.blob_url("library/big", &blob)).collect();
    let downloads = (0..40).map(|client| {
        let url = urls[client % NODES].clone();
        tokio::spawn(async move { download(&url).await })
    });
    for download in join_all(downloads).await {
        let download = download.expect("a client does not panic");
        assert!(download.is_whole(&blob.digest), "{download:?}");
    }
    registry.assert_one_get_of(&blob).await;
    let mut received = 0.0;
    for node in &nodes {
        received += from_registry(node).await;
        node.assert_stored_blobs_are_right();
    }
    let size = SIZE as f64;
    assert!((size..1.05 * size).contains(&received), "{received} bytes from the registry for a blob of {size}");
    let told = nodes[0].told(&["status", "--cluster"]).await;
    assert_eq!((told["is_member"].as_bool(), told["members"].as_array().map(Vec::len)), (Some(true), Some(NODES)));
    assert!(told["members"].as_array().unwrap().iter().all(|member| member["state"] == "ok"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_killed_in_the_middle_costs_no_client() {
    let _turn = Turn::of_the_big_blobs().await;
    let registry = Registry::open().await;
    let gate = Gate::before(registry.port).await;
    let blob = Blob::random(91, SIZE);
    registry.store("library/big", &blob);
    let mut nodes = cluster(&gate.url()).await;
    gate.hold_after(SIZE as u64 / 2);
    let urls: Vec<String> = nodes.iter().map(|node| node.blob_url("library/big", &blob)).collect();
    let pull = |url: &String| {
        let url = url.clone();
        tokio::spawn(async move { download(&url).await })
    };
    let pulls: Vec<_> = urls.iter().map(pull).collect();
    gate.until_holding().await;
    let mut owner = None;
    for (index, node) in nodes.iter().enumerate() {
        if from_registry(node).await > 0.0 {
            assert_eq!(owner.replace(index), None, "one node reads from the registry");
        }
    }
    let owner = owner.expect("a node reads from the registry");
    nodes[owner].kill();
    gate.open();
    for (index, pull) in pulls.into_iter().enumerate() {
        let download = pull.await.expect("a client does not panic");
        assert!(index == owner || download.is_whole(&blob.digest), "{index}: {download:?}");
    }
    // The next in order takes over, from where it is.
    let others = (0..NODES).filter(|index| *index != owner);
    let mut received = 0.0;
    for index in others {
        received += from_registry(&nodes[index]).await;
    }
    // One of them goes on at the registry, and the other one reads from it: half of the blob, and what the owner had and had
    // not passed on, 0.6 to 0.7 of it in all. If both went on there, it would be the whole at least.
    assert!(received <= 0.85 * SIZE as f64, "{received} bytes from the registry for what the owner had not passed on");
    nodes[owner].revive().await;
    let again = download(&nodes[owner].blob_url("library/big", &blob)).await;
    assert!(again.is_whole(&blob.digest), "{again:?}");
}

/// As a load balancer does, a client goes to the next node if one accepts no connection, or ends it before a response: the
/// kernel resets what waits to be accepted when a listener closes. All else is a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_pull() {
    let registry = Registry::open().await;
    let blobs: Vec<Blob> = (0..40).map(|seed| Blob::random(200 + seed, 2_000_000)).collect();
    for blob in &blobs {
        registry.store("library/many", blob);
    }
    let mut nodes = cluster(&registry.url()).await;
    let hosts: Arc<Vec<String>> = Arc::new(nodes.iter().map(|node| node.url("")).collect());
    let (over, pulled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4_usize)
        .map(|client| {
            let (hosts, over, pulled) = (hosts.clone(), over.clone(), pulled.clone());
            let blobs: Vec<(String, String)> = blobs
                .iter()
                .map(|blob| (format!("/v2/library/many/blobs/{}", blob.digest), blob.digest.clone()))
                .collect();
            tokio::spawn(async move {
                let mut turn = client;
                while !over.load(Ordering::SeqCst) {
                    let (path, digest) = &blobs[turn % blobs.len()];
                    pull(&hosts, turn, path, digest).await;
                    pulled.fetch_add(1, Ordering::SeqCst);
                    turn += 1;
                }
            })
        })
        .collect();
    for node in &mut nodes {
        let before = pulled.load(Ordering::SeqCst);
        assert!(node.terminate().await.success());
        node.revive().await;
        forebay_test_support::until::until("pulls go on", async || pulled.load(Ordering::SeqCst) > before + 8).await;
    }
    over.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("each pull is right");
    }
}

async fn pull(hosts: &[String], turn: usize, path: &str, digest: &str) {
    for attempt in 0..hosts.len() * 20 {
        let url = format!("{}{path}", hosts[(turn + attempt) % hosts.len()]);
        match reqwest::Client::builder().no_proxy().build().unwrap().get(&url).send().await {
            Ok(response) => {
                let status = response.status();
                let body = response.bytes().await.expect("a body that began is whole");
                assert!(status == 200 && Blob::new(body).digest == digest, "{url}: {status}");
                return;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    panic!("no node answers");
}
