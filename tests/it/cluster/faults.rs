//! Members that know less, other things or wrong things: each client gets what it would get of its own node alone.

use super::*;
use forebay::upstream::CredentialSource;
use forebay_test_support::{fake_registry::Auth, manifest::OCI_MANIFEST, users};

/// Node 0 asks node 1 for everything, and node 1 asks the registry alone.
fn pair(upstreams: &str) -> forebay_test_support::cluster::ClusterBuilder {
    Cluster::build_with(upstreams, &[vec![1], vec![1]])
}

fn upstream(registry: &FakeRegistry, keys: &str) -> String {
    format!("[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\n{keys}\n", registry.url())
}

/// The requests of nodes to peers that ended so.
async fn of_peers(cluster: &Cluster, result: &str) -> f64 {
    cluster.metric("forebay_peer_requests_total", &[("result", result)]).await
}

#[tokio::test]
async fn a_push_is_seen_at_once_by_the_node_that_made_it() {
    let registry = FakeRegistry::start().await;
    let cluster = Cluster::build_with(&upstream(&registry, "push = true"), &vec![vec![0, 1, 2]; 3]).start().await;
    for (number, node) in cluster.nodes().iter().enumerate() {
        // All nodes know the tag as it was, and that another one is not there.
        registry.add_image("team/app", "moved", &[format!("before {number}").as_bytes()]);
        for node in cluster.nodes() {
            assert_eq!(node.get(&manifest("moved")).await.status, 200);
            assert_eq!(node.get(&manifest(format!("new-{number}"))).await.status, 404);
        }
        let pushed = registry.add_image("team/app", "source", &[format!("after {number}").as_bytes()]);
        let document = node.get(&manifest(&pushed.manifest)).await.body;
        for tag in ["moved".to_owned(), format!("new-{number}")] {
            let put =
                node.send(Method::PUT, &manifest(&tag), &[("content-type", OCI_MANIFEST)], document.clone()).await;
            assert_eq!(put.status, 201);
            let got = node.get(&manifest(&tag)).await;
            let digest = got.header("docker-content-digest").map(str::to_owned);
            assert_eq!((got.status, digest), (200, Some(pushed.manifest.to_string())), "{tag} at {number}");
        }
    }
}

#[tokio::test]
async fn what_the_owner_holds_back_others_need_not() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mut cluster = pair(&upstream(&registry, "")).start().await;
    let rule = Mirror::parse(&upstream(&registry, "[[rule]]\nmatch = \"*\"\nminimum_age = \"7d\"")).start().await;
    let (rules, listen) = (rule.config().rules.clone(), vec![cluster.node(1).address()]);
    cluster.node_mut(1).restart_with(|config| (config.rules, config.server.listen) = (rules, listen)).await;
    assert_eq!(cluster.node(1).get(&manifest(1)).await.status, 403, "its own clients wait");
    assert_eq!(cluster.node(0).get(&manifest(1)).await.status, 200);
    assert_eq!(of_peers(&cluster, "answered").await, 1.0);
}

#[tokio::test]
async fn a_peers_damaged_copy_fails_one_pull_at_most() {
    let registry = FakeRegistry::start().await;
    let cluster = pair(&upstream(&registry, "")).start().await;
    let expected = content(300_000, 5);
    let digest = registry.add_blob("team/app", expected.clone());
    assert!(right(&cluster.node(1).get(&path(&digest)).await, &expected));
    let file = cluster.node(1).cache_dir().join(format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex()));
    let mut damaged = until("the blob is in the cache", async || std::fs::read(&file).ok()).await;
    damaged[150_000] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    let first = cluster.node(0).try_get(&path(&digest)).await;
    let is_wrong = first.is_ok_and(|answer| answer.status == 200 && answer.body != expected);
    assert!(!is_wrong, "wrong bytes are never whole");
    assert!(right(&cluster.node(0).get(&path(&digest)).await, &expected));
    assert_eq!(of_peers(&cluster, "wrong").await, 1.0);
    assert_eq!(cluster.node(0).metric("forebay_digest_mismatches_total", &[]).await, 0.0, "it is no registry's fault");
}

#[tokio::test]
async fn a_client_cannot_throw_a_peer_out() {
    let registry = FakeRegistry::start().await;
    let cluster = pair(&upstream(&registry, "")).start().await;
    let expected = content(50_000, 6);
    let digests: Vec<Digest> = (0..2).map(|n| registry.add_blob("team/app", content(50_000, 6 + n))).collect();
    // As node 1 calls itself.
    let name = cluster.node(1).get("/v2/").await.header("via").unwrap().to_owned();
    let answer = cluster.node(0).get_with(&path(&digests[0]), &[("via", &name)]).await;
    assert!(right(&answer, &expected), "the registry is asked: {answer:?}");
    assert_eq!(cluster.node(0).get(&path(&digests[1])).await.status, 200);
    let results = (of_peers(&cluster, "refused").await, of_peers(&cluster, "dead").await);
    assert_eq!((results, of_peers(&cluster, "answered").await), ((0.0, 0.0), 1.0));
}

#[tokio::test]
async fn an_upstream_that_a_member_lacks_costs_no_other() {
    let (registry, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let both =
        upstream(&registry, "") + &format!("[[upstream]]\nname = \"second.example\"\nurls = [\"{}\"]\n", second.url());
    let mut cluster = pair(&both).start().await;
    let listen = vec![cluster.node(1).address()];
    cluster
        .node_mut(1)
        .restart_with(|config| {
            config.upstreams.truncate(1);
            config.server.listen = listen;
        })
        .await;
    let of_second = second.add_blob("team/app", content(1000, 1));
    let of_first = registry.add_blob("team/app", content(1000, 2));
    assert_eq!(cluster.node(0).get(&format!("{}?ns=second.example", path(&of_second))).await.status, 200);
    assert_eq!(cluster.node(0).get(&path(&of_first)).await.status, 200);
    assert_eq!((of_peers(&cluster, "dead").await, of_peers(&cluster, "refused").await), (0.0, 0.0));
    assert_eq!(of_peers(&cluster, "answered").await, 1.0, "the other upstream is asked of the peer");
}

#[tokio::test]
async fn a_peer_asks_for_clients_that_it_has_admitted() {
    let registry = FakeRegistry::start().await;
    let users = users::with_users();
    let cluster = pair(&users::configuration(&registry, &users, "none")).start().await;
    let expected = content(50_000, 9);
    let digest = registry.add_blob("team/app", expected.clone());
    let ann = users::basic("ann", "secret");
    assert_eq!(cluster.node(0).get(&path(&digest)).await.status, 401);
    let answer = cluster.node(0).get_with(&path(&digest), &[("authorization", &ann)]).await;
    assert!(right(&answer, &expected), "{answer:?}");
    assert_eq!(of_peers(&cluster, "answered").await, 1.0);
    // A request that is said to be a peer's, and is not, is a client's.
    let claim = [("forebay-peer", "t=1, n=00, to=x, m=00")];
    assert_eq!(cluster.node(1).get_with(&path(&digest), &claim).await.status, 401);
}

#[tokio::test]
async fn a_refresh_asks_the_registry() {
    let registry = FakeRegistry::start().await;
    let before = registry.add_image("team/app", "1", &[b"before"]);
    let cluster = pair(&upstream(&registry, "")).start().await;
    for node in cluster.nodes() {
        let got = node.get(&manifest(1)).await;
        assert_eq!(got.header("docker-content-digest"), Some(&*before.manifest.to_string()));
    }
    let after = registry.add_image("team/app", "1", &[b"after"]);
    let images = serde_json::json!({ "match": format!("{UPSTREAM}/team/app:1") });
    let (status, told) = control::ask(cluster.node(0), "POST", "images/refresh", Some(images)).await;
    assert_eq!(status, 200, "{told}");
    let got = cluster.node(0).get(&manifest(1)).await;
    assert_eq!(got.header("docker-content-digest"), Some(&*after.manifest.to_string()), "{told}");
}

#[tokio::test]
async fn a_members_stale_password_refuses_no_client_of_others() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    registry.require(Auth::Basic { username: "me".to_owned(), password: "new".to_owned() });
    let mut cluster = pair(&upstream(&registry, "")).start().await;
    for (index, password) in ["new", "old"].into_iter().enumerate() {
        let node = cluster.node_mut(index);
        let (listen, password_file) = (vec![node.address()], node.cache_dir().with_file_name("password"));
        std::fs::write(&password_file, password).unwrap();
        node.restart_with(|config| {
            config.server.listen = listen;
            config.upstreams[0].credential = CredentialSource::Password { username: "me".into(), password_file };
        })
        .await;
    }
    assert_eq!(cluster.node(1).get(&manifest(1)).await.status, 403);
    assert_eq!(cluster.node(0).get(&manifest(1)).await.status, 200);
    assert_eq!(of_peers(&cluster, "failed").await, 1.0);
}

#[tokio::test]
async fn what_the_owner_has_is_served_while_the_registry_is_down() {
    let registry = FakeRegistry::start().await;
    let expected = content(50_000, 1);
    let digest = registry.add_blob("team/app", expected.clone());
    let cluster = pair(&upstream(&registry, "")).start().await;
    assert!(right(&cluster.node(1).get(&path(&digest)).await, &expected));
    registry.take_down(Server::Api).await;
    assert!(right(&cluster.node(0).get(&path(&digest)).await, &expected));
    assert_eq!(of_peers(&cluster, "answered").await, 1.0);
}

#[tokio::test]
async fn a_registry_that_the_owner_cannot_reach_is_asked() {
    let registry = FakeRegistry::start().await;
    let expected = content(50_000, 1);
    let digest = registry.add_blob("team/app", expected.clone());
    let mut cluster = pair(&upstream(&registry, "")).start().await;
    let listen = vec![cluster.node(1).address()];
    let nowhere = format!("http://127.0.0.1:{}", forebay_test_support::real::port::free_port());
    cluster
        .node_mut(1)
        .restart_with(|config| {
            config.server.listen = listen;
            config.upstreams[0].urls = vec![nowhere.parse().unwrap()];
        })
        .await;
    assert!(right(&cluster.node(0).get(&path(&digest)).await, &expected));
    assert_eq!(of_peers(&cluster, "failed").await, 1.0);
}

#[tokio::test]
async fn the_limit_that_the_owner_met_is_the_clusters() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let cluster = pair(&upstream(&registry, "")).start().await;
    registry.fault(When::manifests(), Fault::too_many("60"));
    assert_eq!(cluster.node(0).get(&manifest(1)).await.status, 429);
    assert_eq!(of_peers(&cluster, "failed").await, 1.0, "the owner was asked");
    assert_eq!(manifests(&registry), 1, "node 0 does not ask the registry again");
}
