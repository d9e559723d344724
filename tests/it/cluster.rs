//! Several mirrors of one registry, which are peers of one another.

pub mod faults;

use std::time::Duration;

use bytes::Bytes;
use forebay::oci::{Algorithm, Digest};
use forebay_test_support::{
    blob::{content, path},
    cluster::Cluster,
    control,
    fake_registry::{FakeRegistry, Fault, Gate, Server, When},
    manifest::manifest,
    mirror::{Answer, Mirror, UPSTREAM},
    until::{bounded, until},
};
use futures_util::{StreamExt as _, future::join_all};
use http::Method;

const HIT: Option<&str> = Some("forebay; hit");

/// The GETs of this blob that the registry got.
fn gets(registry: &FakeRegistry, digest: &Digest) -> usize {
    registry.count(|request| request.is_blob_get(digest))
}

/// The requests for manifests that the registry got.
fn manifests(registry: &FakeRegistry) -> usize {
    registry.count(|request| request.path.contains("/manifests/"))
}

fn right(answer: &Answer, expected: &Bytes) -> bool {
    answer.status == 200 && answer.body == *expected
}

#[tokio::test]
async fn the_registry_sends_a_blob_once_to_a_cluster() {
    let registry = FakeRegistry::start().await;
    let cluster = Cluster::of(&registry, 3).await;
    for number in 0..6_u64 {
        let expected = content(300_000, number);
        let digest = registry.add_blob("team/app", expected.clone());
        let path = path(&digest);
        let pulls = (0..24).map(|client| cluster.node(client % 3).get(&path));
        for answer in bounded(join_all(pulls)).await {
            assert!(right(&answer, &expected), "{answer:?}");
        }
        assert_eq!(gets(&registry, &digest), 1, "{number}");
        for node in cluster.nodes() {
            let again = node.get(&path).await;
            assert!(right(&again, &expected) && again.header("cache-status") == HIT, "{again:?}");
        }
    }
    let received = cluster.metric("forebay_upstream_received_bytes_total", &[]).await;
    let between = cluster.metric("forebay_peer_received_bytes_total", &[]).await;
    assert_eq!((received, between), (6.0 * 300_000.0, 12.0 * 300_000.0));
    assert_eq!(cluster.metric("forebay_peer_requests_total", &[("result", "answered")]).await, 12.0);
}

#[tokio::test]
async fn a_client_reads_through_two_nodes_what_the_owner_has() {
    let registry = FakeRegistry::start().await;
    let cluster = Cluster::of(&registry, 3).await;
    let expected = content(2_000_000, 1);
    let digest = registry.add_blob("team/app", expected.clone());
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: 1_000_000, gate: gate.clone() });
    let read_front = async |node: &Mirror| {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.get(format!("{}{}", node.url(), path(&digest))).send().await.unwrap();
        let mut body = response.bytes_stream();
        let mut read = Vec::new();
        while read.len() < 900_000 {
            read.extend_from_slice(&body.next().await.unwrap().unwrap());
        }
        (read, body)
    };
    let fronts = bounded(join_all(cluster.nodes().iter().map(read_front))).await;
    assert_eq!(registry.open_blobs(), 1, "the owner is not done");
    gate.open();
    for (mut read, mut body) in fronts {
        while let Some(piece) = body.next().await {
            read.extend_from_slice(&piece.unwrap());
        }
        assert!(read == expected);
    }
    assert_eq!(gets(&registry, &digest), 1);
}

#[tokio::test]
async fn a_tag_is_asked_once_for_all_nodes() {
    let registry = FakeRegistry::start().await;
    let cluster = Cluster::of(&registry, 5).await;
    for tag in 0..20 {
        let layer = format!("layer {tag}");
        registry.add_image("team/app", &tag.to_string(), &[layer.as_bytes()]);
    }
    let pulls = (0..1000).map(|pull| {
        let node = cluster.node(pull % 5);
        async move { node.get(&manifest(pull / 5 % 20)).await }
    });
    let answers = bounded(join_all(pulls)).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{:?}", answers.iter().find(|one| one.status != 200));
    assert!(manifests(&registry) <= 20, "{}", manifests(&registry));
}

#[tokio::test]
async fn a_tag_ages_once_in_a_cluster_and_moves_everywhere() {
    let registry = FakeRegistry::start().await;
    let views = vec![vec![0, 1, 2]; 3];
    let build = Cluster::build(&registry, &views);
    let mut cluster = build.config(|config| config.cache.tag_ttl = Duration::from_secs(3600)).start().await;
    let first = registry.add_image("team/app", "1", &[b"first"]);
    for node in cluster.nodes() {
        assert_eq!(node.get(&manifest(1)).await.header("docker-content-digest"), Some(&*first.manifest.to_string()));
    }
    assert_eq!(manifests(&registry), 1);
    let second = registry.add_image("team/app", "1", &[b"second"]);
    for index in 0..3 {
        // Nothing is fresh any more, nor at the owner.
        let listen = vec![cluster.node(index).address()];
        cluster
            .node_mut(index)
            .restart_with(|config| {
                config.cache.tag_ttl = Duration::ZERO;
                config.server.listen = listen;
            })
            .await;
    }
    for node in cluster.nodes() {
        assert_eq!(node.get(&manifest(1)).await.header("docker-content-digest"), Some(&*second.manifest.to_string()));
    }
}

#[tokio::test]
async fn what_a_peer_confirmed_ages_on() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let cluster = Cluster::of(&registry, 3).await;
    let age = async |node: usize| {
        let answer = cluster.node(node).get(&manifest(1)).await;
        answer.header("age").map_or(0, |age| age.parse::<u64>().unwrap())
    };
    until("the record of the first node is old", async || age(0).await >= 2).await;
    // Whichever node owns the repository, these nodes have asked it, or the registry, no earlier than the first one.
    for node in [1, 2] {
        assert!(age(node).await >= 2, "{node}");
    }
    assert_eq!(manifests(&registry), 1);
}

#[tokio::test]
async fn a_missing_image_is_asked_once_for_all_nodes() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let cluster = Cluster::of(&registry, 3).await;
    for node in cluster.nodes() {
        let answer = node.get(&manifest(2)).await;
        assert_eq!((answer.status, answer.error_code().as_str()), (404, "MANIFEST_UNKNOWN"));
    }
    assert_eq!(registry.count(|request| request.method == Method::GET && request.path.ends_with("/manifests/2")), 1);
}

/// Each node takes the next one for the owner of everything, so that downloads wait in a circle, were it not for the hop
/// rule.
#[tokio::test]
async fn nodes_with_different_views_do_not_wait_for_each_other() {
    for views in [vec![vec![1], vec![0]], vec![vec![1], vec![2], vec![0]]] {
        serve_blobs_over(&views).await;
    }
}

async fn serve_blobs_over(views: &[Vec<usize>]) {
    let registry = FakeRegistry::start().await;
    let cluster = Cluster::build(&registry, views).start().await;
    let blobs: Vec<_> = (0..150_u64)
        .map(|number| {
            let expected = content(100_000, number);
            (registry.add_blob("team/app", expected.clone()), expected)
        })
        .collect();
    let pulls = blobs.iter().flat_map(|(digest, expected)| {
        cluster.nodes().iter().map(move |node| async move {
            let answer = node.get(&path(digest)).await;
            assert!(right(&answer, expected), "{answer:?}");
        })
    });
    bounded(join_all(pulls)).await;
    for (digest, _) in &blobs {
        assert!(gets(&registry, digest) <= views.len(), "{digest}: {}", gets(&registry, digest));
    }
    // Nothing ran into a limit in time.
    assert_eq!(cluster.metric("forebay_upstream_errors_total", &[]).await, 0.0);
    // The views are in effect: what one node alone is asked for comes through the next one.
    let expected = content(100_000, 150);
    let alone = registry.add_blob("team/app", expected.clone());
    let before = cluster.node(0).metric("forebay_peer_requests_total", &[("result", "answered")]).await;
    assert!(right(&cluster.node(0).get(&path(&alone)).await, &expected));
    assert_eq!(cluster.node(0).metric("forebay_peer_requests_total", &[("result", "answered")]).await, before + 1.0);
}

#[tokio::test]
async fn three_nodes_in_a_ring_of_views_serve_tags_and_blobs() {
    let registry = FakeRegistry::start().await;
    let cluster = Cluster::build(&registry, &[vec![1], vec![2], vec![0]]).start().await;
    for tag in 0..10 {
        registry.add_image("team/app", &tag.to_string(), &[format!("layer {tag}").as_bytes()]);
    }
    let pulls = (0..10).flat_map(|tag| {
        cluster.nodes().iter().map(move |node| async move {
            let path = manifest(tag);
            node.get(&path).await
        })
    });
    for answer in bounded(join_all(pulls)).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(manifests(&registry) <= 30, "{}", manifests(&registry));
}

#[tokio::test]
async fn a_dead_owner_costs_no_client_an_error() {
    let registry = FakeRegistry::start().await;
    let mut cluster = Cluster::of(&registry, 3).await;
    cluster.node_mut(2).drain().await;
    for number in 0..20_u64 {
        let expected = content(50_000, number);
        let digest = registry.add_blob("team/app", expected.clone());
        for node in &cluster.nodes()[..2] {
            let answer = node.get(&path(&digest)).await;
            assert!(right(&answer, &expected), "{number}: {answer:?}");
        }
        assert_eq!(gets(&registry, &digest), 1, "{number}");
    }
    let mut dead = 0.0;
    for node in &cluster.nodes()[..2] {
        dead += node.metric("forebay_peer_requests_total", &[("result", "dead")]).await;
    }
    // Each node finds out once, and again after the ten seconds that a slow machine may take.
    assert!(dead >= 1.0, "{dead}");
}

#[tokio::test]
async fn a_claim_to_be_a_peer_is_nothing_without_a_proof() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", content(1000, 1));
    let views = vec![vec![0, 1]; 2];
    let cluster = Cluster::build(&registry, &views)
        .config(|config| config.access.anonymous = forebay::auth::Anonymous::None)
        .start()
        .await;
    let node = cluster.node(0);
    let target = node.address();
    for claim in [
        String::new(),
        "x".to_owned(),
        format!("t=1764515000, n={}, to={target}, m={}", "00".repeat(16), "00".repeat(32)),
    ] {
        let answer = node.get_with(&format!("{}?ns={UPSTREAM}", path(&digest)), &[("forebay-peer", &claim)]).await;
        assert_eq!((answer.status, answer.header("forebay-peer")), (401, None), "{claim}: {answer:?}");
    }
    assert_eq!(gets(&registry, &digest), 0);
}

#[tokio::test]
async fn peers_with_another_key_are_left_alone() {
    let registry = FakeRegistry::start().await;
    let expected = content(50_000, 1);
    let digest = registry.add_blob("team/app", expected.clone());
    let mut cluster = Cluster::of(&registry, 2).await;
    let (address, key) = (cluster.node(1).address(), cluster.node(1).config().cluster.clone().unwrap().key_file);
    std::fs::write(key, "another key of more than thirty-two bytes").unwrap();
    cluster.node_mut(1).restart_with(|config| config.server.listen = vec![address]).await;
    for node in cluster.nodes() {
        assert!(right(&node.get(&path(&digest)).await, &expected));
    }
    assert_eq!(gets(&registry, &digest), 2, "each asks the registry");
    assert_eq!(cluster.metric("forebay_peer_requests_total", &[("result", "refused")]).await, 1.0);
    assert_eq!(cluster.metric("forebay_upstream_errors_total", &[]).await, 0.0);
}

#[tokio::test]
async fn an_upload_may_go_on_at_another_node() {
    let registry = FakeRegistry::start().await;
    let upstream =
        format!("[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\npush = true\n", registry.url());
    let cluster = Cluster::build_with(&upstream, &vec![vec![0, 1, 2]; 3]).start().await;
    // A reload takes no other key, neither for proofs nor for uploads.
    let config = cluster.node(0).config();
    std::fs::write(&config.cluster.as_ref().unwrap().key_file, "another key of more than thirty-two bytes").unwrap();
    cluster.node(0).app().reload(config.clone()).unwrap();
    let content = content(100_000, 3);
    let digest = Digest::of(Algorithm::Sha256, &content);
    let send = async |node: usize, method: Method, path: &str, body: Bytes| {
        let url = format!("{}{path}", cluster.node(node).url());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.request(method, url).body(body).send().await.unwrap();
        let location = response.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
        // Where the node says that the upload goes on, at any node.
        let path = location.map(|url| url.split_once("/v2/").map(|(_, path)| format!("/v2/{path}")).unwrap());
        (response.status().as_u16(), path)
    };
    let (status, path) = send(0, Method::POST, "/v2/team/app/blobs/uploads/", Bytes::new()).await;
    assert_eq!(status, 202);
    let (status, path) = send(1, Method::PATCH, &path.unwrap(), content.clone()).await;
    assert_eq!(status, 202);
    let path = path.unwrap();
    let separator = if path.contains('?') { '&' } else { '?' };
    let (status, _) = send(2, Method::PUT, &format!("{path}{separator}digest={digest}"), Bytes::new()).await;
    assert_eq!(status, 201);
    for node in cluster.nodes() {
        assert!(right(&node.get(&self::path(&digest)).await, &content));
    }
}

#[tokio::test]
async fn an_operator_sees_who_is_there_and_why_not() {
    let registry = FakeRegistry::start().await;
    let mut cluster = Cluster::of(&registry, 3).await;
    let (address, key) = (cluster.node(1).address(), cluster.node(1).config().cluster.clone().unwrap().key_file);
    std::fs::write(key, "another key of more than thirty-two bytes").unwrap();
    cluster.node_mut(1).restart_with(|config| config.server.listen = vec![address]).await;
    let gone = cluster.node(2).url();
    cluster.node_mut(2).drain().await;
    let told = control::get(cluster.node(0), "cluster?check=true").await;
    assert_eq!(told["is_member"], true, "{told}");
    let state = |url: &str| {
        let member = told["members"].as_array().unwrap().iter().find(|member| member["url"] == url).unwrap();
        (member["state"].as_str().unwrap(), member["why"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(state(&cluster.node(0).url()), ("ok", String::new()));
    let (other_key, unreachable) = (state(&cluster.node(1).url()), state(&gone));
    assert!(other_key.0 == "dead" && other_key.1.contains("cluster.key_file"), "{other_key:?}");
    assert!(unreachable.0 == "dead" && unreachable.1.starts_with("it cannot be reached"), "{unreachable:?}");
    let shares: Vec<f64> =
        told["members"].as_array().unwrap().iter().map(|member| member["share"].as_f64().unwrap()).collect();
    assert_eq!(shares.iter().filter(|share| **share == 1.0).count(), 1, "the dead ones own nothing: {shares:?}");
    let page = reqwest::Client::builder().no_proxy().build().unwrap();
    let page = page.get(format!("http://{}/", cluster.node(0).app().admin_addr())).send().await.unwrap();
    assert!(page.text().await.unwrap().contains("2 of 3 members do not answer."));
}
