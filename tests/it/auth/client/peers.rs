//! Several forebays that are peers: each client gets from any of them what the upstream gives it, and no more.

use super::*;
use forebay_test_support::cluster::Cluster;

fn upstream(world: &World) -> String {
    format!(
        "[[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n",
        world.registry.url()
    )
}

/// How often the registry sent the layer that is ann's to a request with her credentials.
fn layer_gets(world: &World) -> usize {
    let layer = &world.of_ann.layers[0];
    world.registry.count(|request| request.is_blob_get(layer) && request.header("range").is_none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_yes_at_one_node_lets_nobody_else_in_at_another() {
    let world = World::new().await;
    let cluster = Cluster::build_tls(&upstream(&world), 3).start().await;
    for node in cluster.nodes() {
        for path in World::pull("team/a", &world.of_ann) {
            for refused in [get_as(node, BOB, &path).await, node.get(&path).await] {
                assert_eq!((refused.status, &*refused.error_code()), (401, "UNAUTHORIZED"), "{path}");
            }
            assert_eq!(get_as(node, ANN, &path).await.status, 200, "{path}");
            // Now it is cached here, and what ann may is known.
            for refused in [get_as(node, BOB, &path).await, node.get(&path).await] {
                assert_eq!((refused.status, &*refused.error_code()), (401, "UNAUTHORIZED"), "{path}");
            }
        }
        assert_eq!(get_as(node, ANN, &layer("team/a", &world.of_ann)).await.body, Bytes::from_static(SECRET));
    }
    assert!(cluster.metric("forebay_peer_requests_total", &[("result", "answered")]).await > 0.0);
    assert_eq!(layer_gets(&world), 1, "the owner fetches a blob once for all nodes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_private_goes_to_a_peer_in_the_clear() {
    let world = World::new().await;
    let cluster = Cluster::build_with(&upstream(&world), &vec![vec![0, 1]; 2]).start().await;
    for node in cluster.nodes() {
        for path in World::pull("team/a", &world.of_ann) {
            assert_eq!(get_as(node, ANN, &path).await.status, 200, "{path}");
        }
    }
    assert_eq!(layer_gets(&world), 2, "each node asks the registry");
    assert_eq!(cluster.metric("forebay_peer_requests_total", &[]).await, 0.0);
}
