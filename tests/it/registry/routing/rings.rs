//! Mirrors that ask one another: a request that came by a mirror never waits for what may wait for it.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use tokio::task::JoinSet;

use crate::registry::routing::loops::{App, bound, mirror_of};
use forebay_test_support::{
    blob::{add, content, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    raw::Raw,
    until::bounded,
    wire::exchange,
};

/// Shorter than the 30 s after which a mirror gives up another one that does not answer.
const DEADLINE: Duration = Duration::from_secs(25);

/// Sends a GET that came by these forebays; its status, the hint when to come back, and the body if it came whole.
async fn forged(address: SocketAddr, path: String, via: String) -> (u16, Option<String>, Option<Vec<u8>>) {
    let client = Raw::get(address, &path, &[("via", &via)]).await;
    let (status, retry_after) = (client.status, client.header("retry-after").map(str::to_owned));
    let end = client.rest().await;
    (status, retry_after, end.is_whole().then(|| end.bytes().to_vec()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_that_came_by_mirrors_are_two_transfers_at_most() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 300_000, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldHead(gate.clone()));
    let mut clients = JoinSet::new();
    for number in 0..50 {
        clients.spawn(forged(mirror.address(), path(&digest), format!("1.1 forebay-{number:08x}")));
    }
    // Whether the upstream is a mirror is not known yet: it has answered nothing.
    for _ in 0..48 {
        let (status, retry_after, _) = bounded(clients.join_next()).await.unwrap().unwrap();
        assert_eq!((status, retry_after.as_deref()), (503, Some("1")));
    }
    gate.open();
    while let Some(client) = bounded(clients.join_next()).await {
        let (status, _, body) = client.unwrap();
        assert!(status == 200 && body.unwrap() == content);
    }
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 2);
    // The place beside the next fill is free again.
    assert_eq!(mirror.get(&path(&digest)).await.header("cache-status"), Some("forebay; hit"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_registry_sends_is_joined_by_mirrors_too() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 300_000, 1);
    assert_eq!(mirror.get("/v2/team/app/manifests/none").await.status, 404);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldHead(gate.clone()));
    let mut clients = JoinSet::new();
    for number in 0..20 {
        clients.spawn(forged(mirror.address(), path(&digest), format!("1.1 forebay-{number:08x}")));
    }
    gate.reached().await;
    gate.open();
    while let Some(client) = bounded(clients.join_next()).await {
        let (status, _, body) = client.unwrap();
        assert!(status == 200 && body.unwrap() == content);
    }
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_in_a_row_join_what_comes_by_another_mirror() {
    let registry = FakeRegistry::start().await;
    let top = Mirror::of(&registry).await;
    let middle = Mirror::parse(&mirror_of(top.address())).start().await;
    // As before every pull: from now on the one knows that the other's upstream is a registry.
    assert_eq!(middle.get("/v2/team/app/manifests/none").await.status, 404);
    let (digest, content) = add(&registry, 600_000, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: 100_000, gate: gate.clone() });
    let leaf = async |number: usize| {
        let via = format!("1.1 forebay-{number}");
        Raw::get(middle.address(), &path(&digest), &[("via", &via)]).await
    };
    let mut leaves = join_all((0..10).map(leaf)).await;
    for leaf in &mut leaves {
        assert_eq!(leaf.status, 200);
        let via = leaf.header("via").unwrap();
        assert_eq!(via.split(", ").count(), 2, "who still waits for whom is told: {via}");
    }
    gate.open();
    for leaf in leaves {
        assert!(leaf.rest().await.bytes() == content);
    }
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
    let blobs = [("operation", "blob"), ("outcome", "miss")];
    assert!(top.metric("forebay_requests_total", &blobs).await <= 2.0);
    let hit = middle.get(&path(&digest)).await;
    assert_eq!(hit.header("via").unwrap().split(", ").count(), 1, "no mirror is waited for any more");
}

/// So many mirrors with these settings, each of which asks the next one first, and then the registry.
async fn ring(registry: &FakeRegistry, size: usize, settings: &str) -> (Vec<App>, Vec<SocketAddr>) {
    let (sockets, addresses): (Vec<_>, Vec<_>) = (0..size).map(|_| bound()).unzip();
    let mut apps = Vec::new();
    for (place, socket) in sockets.into_iter().enumerate() {
        let next = addresses[(place + 1) % size];
        let text = format!(
            "{settings}[[upstream]]\nname = \"next.example\"\nurls = [\"http://{next}\", \"{}\"]\ndefault = true\n",
            registry.url()
        );
        apps.push(App::start(&text, vec![socket]).await);
    }
    (apps, addresses)
}

/// Asks every mirror for each of these at the same moment; all have to answer so, and before one gives another one up.
async fn all_at_once(addresses: &[SocketAddr], line: &str, headers: &[(&str, &str)], status: u16, body: &[u8]) {
    let asked = join_all(addresses.iter().map(|address| exchange(*address, line, headers)));
    let answers = tokio::time::timeout(DEADLINE, asked).await.unwrap_or_else(|_| panic!("{line} waits for itself"));
    for answer in answers {
        assert_eq!(answer.status, status, "{line}: {}", String::from_utf8_lossy(&answer.body));
        assert!(answer.body == body, "{line}");
    }
}

async fn cold_blobs_of_a_ring(size: usize) {
    let registry = FakeRegistry::start().await;
    let (apps, addresses) = ring(&registry, size, "").await;
    for seed in 0..12 {
        let (digest, content) = add(&registry, 200_000, seed);
        all_at_once(&addresses, &format!("GET {}", path(&digest)), &[], 200, &content).await;
        let transfers = registry.count(|request| request.is_blob_get(&digest));
        assert!(transfers <= size, "{transfers} transfers");
    }
    for app in apps {
        app.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mirrors_that_name_each_other_first_do_not_wait() {
    cold_blobs_of_a_ring(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_mirrors_in_a_ring_do_not_wait() {
    cold_blobs_of_a_ring(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_in_a_ring_do_not_wait_without_room_either() {
    let registry = FakeRegistry::start().await;
    let (apps, addresses) = ring(&registry, 2, "[cache]\nmax_size = \"1 MiB\"\n").await;
    for seed in 0..6 {
        let (digest, content) = add(&registry, 1_500_000, seed);
        // Several clients of each mirror, at the same moment.
        let clients = addresses.repeat(3);
        all_at_once(&clients, &format!("GET {}", path(&digest)), &[], 200, &content).await;
    }
    for app in apps {
        app.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_question_goes_round_in_a_ring() {
    let registry = FakeRegistry::start().await;
    registry.offer_referrers(true);
    for size in [2, 3] {
        let (apps, addresses) = ring(&registry, size, "").await;
        for number in 0..4 {
            let repository = format!("team/app-{size}-{number}");
            let layer = content(100_000, number);
            let image = registry.add_image(&repository, "1", &[&layer]);
            let part = [("range", "bytes=50000-59999")];
            let list = format!(r#"{{"name":"{repository}","tags":["1"]}}"#);
            let at = |rest: &str| format!("/v2/{repository}/{rest}");
            let ask = async |line: &str, headers: &[(&str, &str)], status, body: &[u8]| {
                all_at_once(&addresses, line, headers, status, body).await;
            };
            let layer_at = at(&format!("blobs/{}", image.layers[0]));
            ask(&format!("HEAD {layer_at}"), &[], 200, b"").await;
            ask(&format!("GET {layer_at}"), &part, 206, &layer[50_000..60_000]).await;
            ask(&format!("HEAD {}", at("manifests/1")), &[], 200, b"").await;
            ask(&format!("GET {}", at("manifests/1")), &[], 200, &image.manifest_bytes).await;
            let listed = join_all(addresses.iter().map(|address| {
                let line = format!("GET {}", at("tags/list"));
                async move { exchange(*address, &line, &[]).await }
            }));
            for answer in tokio::time::timeout(DEADLINE, listed).await.unwrap() {
                assert_eq!(answer.status, 200);
                assert_eq!(answer.text().replace(' ', ""), list);
            }
            let by_digest = at(&format!("manifests/{}", image.manifest));
            ask(&format!("GET {by_digest}"), &[], 200, &image.manifest_bytes).await;
            let unknown = at("manifests/none");
            let missing = join_all(addresses.iter().map(|address| {
                let line = format!("GET {unknown}");
                async move { exchange(*address, &line, &[]).await.status }
            }));
            assert!(tokio::time::timeout(DEADLINE, missing).await.unwrap().iter().all(|status| *status == 404));
        }
        for app in apps {
            app.drain().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_circle_of_another_request_is_none_of_a_clients_own() {
    let registry = FakeRegistry::start().await;
    let ((first, address), (second, other)) = (bound(), bound());
    // The one knows the way out of the ring, the other does not.
    let first = App::start(&mirror_of(other), vec![first]).await;
    let text = format!(
        "[[upstream]]\nname = \"next.example\"\nurls = [\"http://{address}\", \"{}\"]\ndefault = true\n",
        registry.url()
    );
    let second = App::start(&text, vec![second]).await;
    for seed in 0..12 {
        let (digest, content) = add(&registry, 200_000, seed);
        all_at_once(&[other, address, address], &format!("GET {}", path(&digest)), &[], 200, &content).await;
        let image = registry.add_image(&format!("team/app-{seed}"), "1", &[b"layer"]);
        let line = format!("GET /v2/team/app-{seed}/manifests/1");
        all_at_once(&[other, address, address], &line, &[], 200, &image.manifest_bytes).await;
    }
    first.drain().await;
    second.drain().await;
}
