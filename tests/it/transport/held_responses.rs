//! What answers hold in memory until it is sent has a bound, whatever their clients do.

use std::time::Duration;

use tokio::net::TcpStream;

use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, When},
    mirror::Mirror,
    raw::Raw,
    until::{bounded, until},
};

/// A list of so many bytes, whatever its query.
fn long_list(registry: &FakeRegistry, len: usize) {
    let list = format!(r#"{{"name":"team/app","tags":["1"]{}}}"#, " ".repeat(len));
    let headers = vec![("content-type", "application/json".to_owned())];
    registry.fault(When::path_of("/tags/list"), Fault::Answer { status: 200, headers, body: list });
}

/// A connection of HTTP/2 that takes so many bytes of each answer, and more only when it says so.
async fn with_window(mirror: &Mirror, window: u32) -> h2::client::SendRequest<bytes::Bytes> {
    let tcp = TcpStream::connect(mirror.address()).await.unwrap();
    let (requests, connection) = h2::client::Builder::new().initial_window_size(window).handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    requests
}

async fn ask(
    requests: &h2::client::SendRequest<bytes::Bytes>,
    mirror: &Mirror,
    n: usize,
) -> http::Response<h2::RecvStream> {
    let request = http::Request::get(format!("{}/v2/team/app/tags/list?n={n}", mirror.url())).body(()).unwrap();
    let (answer, _) = requests.clone().ready().await.unwrap().send_request(request, true).unwrap();
    bounded(answer).await.unwrap()
}

#[tokio::test]
async fn what_http2_windows_of_nothing_hold_is_bounded() {
    for window in [0, 1] {
        let registry = FakeRegistry::start().await;
        long_list(&registry, 15 << 20);
        let mirror = Mirror::of(&registry).await;
        let mut held = Vec::new();
        for connection in 0..4 {
            let requests = with_window(&mirror, window).await;
            for n in 1..=3 {
                let answer = ask(&requests, &mirror, 3 * connection + n).await;
                assert_eq!(answer.status(), 200, "{window}: {connection} {n}");
                held.push(answer);
            }
        }
        let refused = mirror.get("/v2/team/app/tags/list?n=13").await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{window}");
        drop(held);
        until("there is room again", async || mirror.get("/v2/team/app/tags/list?n=13").await.status == 200).await;
    }
}

#[tokio::test]
async fn an_http2_window_of_a_byte_holds_nothing_for_long() {
    let registry = FakeRegistry::start().await;
    long_list(&registry, 100_000);
    let mirror =
        Mirror::build(&registry).config(|config| config.server.timeouts.stall = Duration::from_secs(1)).start().await;
    for (window, cut) in [(0, 1.0), (1, 2.0)] {
        let mut body = ask(&with_window(&mirror, window).await, &mirror, 1).await.into_body();
        let takes = async {
            while let Some(byte) = body.data().await {
                let Ok(byte) = byte else { return true };
                body.flow_control().release_capacity(byte.len()).unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            false
        };
        assert!(bounded(takes).await, "{window}: the stream is reset");
        assert_eq!(mirror.metric("forebay_stalls_total", &[("what", "read")]).await, cut);
    }
}

#[tokio::test]
async fn long_answers_that_clients_do_not_take_are_bounded() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[]);
    long_list(&registry, 15 << 20);
    let mirror = Mirror::of(&registry).await;
    let ask = async |n: usize| {
        let client = Raw::get(mirror.address(), &format!("/v2/team/app/tags/list?n={n}"), &[]).await;
        (client.status, client)
    };
    // Three quarters of 256 MiB are one address's: 12 lists of 15 MiB.
    let mut held = Vec::new();
    for n in 1..=12 {
        let (status, client) = ask(n).await;
        assert_eq!(status, 200, "{n}");
        held.push(client);
    }
    // An equal one is in memory already.
    let (status, client) = ask(1).await;
    assert_eq!(status, 200);
    held.push(client);
    let refused = mirror.get("/v2/team/app/tags/list?n=13").await;
    assert_eq!(
        (refused.status, &*refused.error_code(), refused.header("retry-after")),
        (503, "UNAVAILABLE", Some("1"))
    );
    // What is small is answered, and so is a HEAD.
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.body, image.manifest_bytes);
    assert_eq!(mirror.head("/v2/team/app/tags/list?n=13").await.status, 200);
    drop(held);
    until("there is room again", async || mirror.get("/v2/team/app/tags/list?n=13").await.status == 200).await;
}
