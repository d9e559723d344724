//! Blobs that pass straight through, since there is no room to keep them, are bounded, and peers share the bound.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::net::TcpStream;

use forebay_test_support::{
    blob::{add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::{Builder, Mirror},
    until::{bounded, until},
};

const MIB: usize = 1024 * 1024;
/// Instead of ten seconds.
const WINDOW: Duration = Duration::from_secs(1);
const SCARCE: &[(&str, &str)] = &[("what", "scarce")];

/// With room for no blob of a MiB, and for eight that pass.
fn without_room(registry: &FakeRegistry) -> Builder {
    Mirror::build(registry).max_size(MIB as u64).config(|config| config.cache.max_through = 8)
}

/// A connection of HTTP/2 from 127.0.0.1, which takes the first 64 KiB of each answer and no more until it is told to.
async fn connect(mirror: &Mirror) -> h2::client::SendRequest<Bytes> {
    let tcp = TcpStream::connect(mirror.address()).await.unwrap();
    let (requests, connection) =
        h2::client::Builder::new().initial_connection_window_size(1 << 30).handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    requests
}

async fn ask(requests: &h2::client::SendRequest<Bytes>, mirror: &Mirror, path: &str) -> http::Response<h2::RecvStream> {
    let request = http::Request::get(format!("{}{path}", mirror.url())).body(()).unwrap();
    let (answer, _) = requests.clone().ready().await.unwrap().send_request(request, true).unwrap();
    bounded(answer).await.unwrap()
}

/// As many streams as the mirror lets pass, and the answer to the next one.
async fn take_all(
    requests: &h2::client::SendRequest<Bytes>,
    mirror: &Mirror,
    path: &str,
) -> (Vec<h2::RecvStream>, http::Response<h2::RecvStream>) {
    let mut taken = Vec::new();
    loop {
        let answer = ask(requests, mirror, path).await;
        match answer.status().as_u16() {
            200 => taken.push(answer.into_body()),
            _ => return (taken, answer),
        }
        assert!(taken.len() < 100, "there is a bound");
    }
}

/// Takes the rest; whether all of it came.
async fn rest(mut body: h2::RecvStream, content: &Bytes) -> bool {
    let mut taken = Vec::new();
    bounded(async {
        while let Some(bytes) = body.data().await {
            let Ok(bytes) = bytes else { return false };
            body.flow_control().release_capacity(bytes.len()).unwrap();
            taken.extend_from_slice(&bytes);
        }
        taken == *content
    })
    .await
}

/// GETs a path from another address.
async fn get_from(address: &str, mirror: &Mirror, path: &str) -> (u16, Bytes) {
    let client = reqwest::Client::builder().no_proxy().local_address(address.parse::<IpAddr>().unwrap());
    let answer = bounded(client.build().unwrap().get(format!("{}{path}", mirror.url())).send()).await.unwrap();
    (answer.status().as_u16(), bounded(answer.bytes()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_one_peer_leave_places_to_others() {
    let registry = FakeRegistry::start().await;
    let mirror = without_room(&registry).start().await;
    let (digest, content) = add(&registry, 2 * MIB, 1);
    let path = path(&digest);
    let requests = connect(&mirror).await;
    let (mut taken, refused) = take_all(&requests, &mirror, &path).await;
    assert_eq!((taken.len(), refused.status().as_u16()), (6, 503), "three quarters");
    assert_eq!(refused.headers()["retry-after"], "1");
    let mut body = refused.into_body();
    let error = body.data().await.unwrap().unwrap();
    assert!(std::str::from_utf8(&error).unwrap().contains("UNAVAILABLE"), "{error:?}");
    // So is a part of it, and a connection more brings nothing.
    let part = mirror.get_with(&path, &[("range", "bytes=5-1000000")]).await;
    assert_eq!((part.status, part.header("retry-after")), (503, Some("1")));
    assert_eq!(ask(&connect(&mirror).await, &mirror, &path).await.status(), 503);
    let asked = registry.count(|request| request.path.contains("/blobs/"));
    assert!(asked <= 6 + 2 * 3, "{asked}");
    // Another peer is served, and so is what is no blob.
    for _ in 0..3 {
        let (status, body) = get_from("127.0.0.2", &mirror, &path).await;
        assert_eq!((status, body == content), (200, true));
    }
    assert_eq!(mirror.head(&path).await.status, 200);
    // What is taken to its end, and what is given up, is a place again.
    assert!(rest(taken.pop().unwrap(), &content).await);
    until("the end gives a place back", async || {
        let answer = mirror.get(&path).await;
        (answer.status, answer.body == content) == (200, true)
    })
    .await;
    drop(taken);
    until("the aborted streams give theirs back", async || {
        let (taken, _) = take_all(&requests, &mirror, &path).await;
        taken.len() == 6
    })
    .await;
    assert_eq!(mirror.metric("forebay_stalls_total", SCARCE).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_network_has_all_places_and_no_more() {
    let registry = FakeRegistry::start().await;
    let trusted = vec!["127.0.0.1".parse().unwrap()];
    let mirror = without_room(&registry).config(|config| config.server.trusted_networks = trusted).start().await;
    let (digest, content) = add(&registry, 2 * MIB, 1);
    let path = path(&digest);
    let (mut taken, refused) = take_all(&connect(&mirror).await, &mirror, &path).await;
    assert_eq!((taken.len(), refused.status().as_u16()), (8, 503));
    assert_eq!(get_from("127.0.0.2", &mirror, &path).await.0, 503);
    taken.pop();
    until("another peer is served", async || get_from("127.0.0.2", &mirror, &path).await == (200, content.clone()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_streams_give_their_places_to_others() {
    let registry = FakeRegistry::start().await;
    let mirror = without_room(&registry).config(|config| config.cache.reader_window = WINDOW).start().await;
    let (digest, content) = add(&registry, 2 * MIB, 1);
    // One that waits for the upstream is not slow.
    let (waiting, waited_for) = add(&registry, 2 * MIB, 2);
    let gate = Gate::new();
    registry.fault(When::path_of(waiting.as_str()), Fault::HoldBody { at: MIB, gate: gate.clone() });
    let requests = connect(&mirror).await;
    let waiting = ask(&requests, &mirror, &path(&waiting)).await;
    assert_eq!(waiting.status(), 200);
    let waiting = tokio::spawn(async move { rest(waiting.into_body(), &waited_for).await });
    let mut stuck = Vec::new();
    for _ in 0..5 {
        let answer = ask(&requests, &mirror, &path(&digest)).await;
        assert_eq!(answer.status(), 200);
        stuck.push(answer.into_body());
    }
    // The peer has its share. One of its own goes, as soon as it is slow, and only as many as are needed.
    until("a slow one goes", async || mirror.get(&path(&digest)).await.status == 200).await;
    let ended = mirror.metric("forebay_stalls_total", SCARCE).await;
    assert!((1.0..=2.0).contains(&ended), "{ended}");
    gate.open();
    assert!(waiting.await.unwrap());
    let mut broken = 0.0;
    for body in stuck {
        broken += f64::from(u8::from(!rest(body, &content).await));
    }
    assert_eq!(broken, ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_with_three_layers_each_pass_through() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).max_size(MIB as u64).start().await;
    let layers: Vec<_> = (0..3).map(|seed| add(&registry, MIB + 1, seed)).collect();
    let client = async || {
        let requests = connect(&mirror).await;
        // None goes on before all have their three.
        join_all(layers.iter().map(async |(digest, _)| ask(&requests, &mirror, &path(digest)).await)).await
    };
    let answers = join_all((0..64).map(|_| client())).await;
    for answer in answers.iter().flatten() {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["cache-status"], "forebay; fwd=miss");
    }
    for answers in answers {
        for (answer, (_, content)) in answers.into_iter().zip(&layers) {
            assert!(rest(answer.into_body(), content).await);
        }
    }
}
