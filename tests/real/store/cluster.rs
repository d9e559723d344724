//! A store of several machines loses one, and then all.

use forebay_test_support::real::port::free_port;

use super::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Forebays that are peers, before this registry, with the store at this port.
async fn peers(registry: &Registry, store: u16, count: usize) -> Vec<Forebay> {
    let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
    let peers: Vec<String> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let mut nodes = Vec::new();
    for (port, own) in ports.iter().zip(&peers) {
        let config = format!(
            "[[upstream]]\nname = \"docker.io\"\ndefault = true\nurls = [\"{}\"]\n\
             [cluster]\npeers = {peers:?}\nadvertise = {own:?}\nkey_file = \"cluster.key\"\n{}",
            registry.url(),
            SeaweedFs::section(store)
        );
        let [id, secret] = seaweedfs::keys();
        nodes.push(Forebay::start_at(*port, &config, &[id, secret, ("cluster.key", KEY)]).await);
    }
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_upload_a_blob_once_and_read_it_once() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let proxy = StoreProxy::before(store.port).await;
    let mut nodes = peers(&registry, proxy.port, 3).await;
    for node in &nodes {
        until("the probe is over", async || node.log().contains("honours conditions")).await;
    }
    let blobs = blobs(420, &[3_000_000; 6]);
    let before = proxy.writes();
    for blob in &blobs {
        registry.store("library/app", blob);
        for node in &nodes {
            assert_pulled(node, blob).await;
        }
        until_uploaded(&store, blob).await;
    }
    for node in &nodes {
        until_idle(node).await;
    }
    assert_eq!(proxy.writes() - before, blobs.len());
    for node in &mut nodes {
        wipe(node).await;
    }
    for blob in &blobs {
        for node in &nodes {
            assert_pulled(node, blob).await;
        }
        registry.assert_one_get_of(blob).await;
    }
    let mut read = 0.0;
    for node in &nodes {
        assert_eq!(from_registry(node).await, 0.0);
        read += node.metric("forebay_store_bytes_total", &["direction=\"in\""]).await;
    }
    let size: usize = blobs.iter().map(|blob| blob.bytes.len()).sum();
    assert!(read <= 1.05 * size as f64, "{read} bytes of the store for {size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_read_the_store_while_the_upstream_is_paused() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let blobs = blobs(440, &[300_000; 8]);
    let mut nodes = peers(&registry, store.port, 2).await;
    for blob in &blobs {
        registry.store("library/app", blob);
        assert_pulled(&nodes[0], blob).await;
        until_uploaded(&store, blob).await;
    }
    for node in &mut nodes {
        wipe(node).await;
    }
    for node in &nodes {
        node.operate(&["upstream", "pause", "docker.io"]).await.ok();
    }
    for blob in &blobs {
        for node in &nodes {
            assert_pulled(node, blob).await;
        }
        registry.assert_one_get_of(blob).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_go_on_while_servers_of_the_store_die() {
    let _turn = Turn::of_the_big_blobs().await;
    let (registry, mut store) = (Registry::open().await, SeaweedFs::cluster().await);
    let blobs = blobs(400, &[2_000_000; 8]);
    let mut node = node(&registry, store.port).await;
    for blob in &blobs {
        registry.store("library/app", blob);
        assert_pulled(&node, blob).await;
    }
    for blob in &blobs {
        until_uploaded(&store, blob).await;
    }
    // Each object is on two of three.
    store.kill("volume1");
    wipe(&mut node).await;
    for blob in &blobs {
        assert_pulled(&node, blob).await;
    }
    node.assert_stored_blobs_are_right();
    store.kill("");
    wipe(&mut node).await;
    for blob in &blobs {
        assert_pulled(&node, blob).await;
    }
    node.assert_stored_blobs_are_right();
    assert_eq!(node.metric("forebay_store_up", &["kind=\"read\""]).await, 0.0);
}
