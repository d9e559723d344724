//! While there is no room, the slowest readers go first, and no others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use forebay_test_support::{
    blob::{add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::{Builder, Mirror},
    raw::Raw,
    test_server::Certificates,
    until::{bounded, until},
};

const MIB: usize = 1024 * 1024;
/// Instead of ten seconds.
const WINDOW: Duration = Duration::from_secs(1);
const SCARCE: &[(&str, &str)] = &[("what", "scarce")];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The kernel sends, where it can.
    Clear,
    Tls,
    Http2,
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A client that has the head of an answer, and takes no more than it is told to.
enum Client {
    Http1(Box<dyn Socket>),
    Http2(h2::RecvStream),
}

impl Client {
    async fn get(way: Way, mirror: &Mirror, certificates: &Certificates, path: &str) -> Self {
        bounded(async {
            let tcp = TcpStream::connect(mirror.address()).await.unwrap();
            let mut socket: Box<dyn Socket> = match way {
                Way::Clear => Box::new(tcp),
                Way::Tls => {
                    let name = ServerName::try_from("localhost").unwrap();
                    let config = certificates.client_config(&[b"http/1.1"]);
                    Box::new(TlsConnector::from(config).connect(name, tcp).await.unwrap())
                }
                Way::Http2 => {
                    let (requests, connection) = h2::client::handshake(tcp).await.unwrap();
                    tokio::spawn(connection);
                    let request = http::Request::get(format!("{}{path}", mirror.url())).body(()).unwrap();
                    let (answer, _) = requests.ready().await.unwrap().send_request(request, true).unwrap();
                    let answer = answer.await.unwrap();
                    assert_eq!(answer.status(), 200);
                    return Self::Http2(answer.into_body());
                }
            };
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", mirror.address());
            socket.write_all(request.as_bytes()).await.unwrap();
            socket.flush().await.unwrap();
            let mut status = [0; 12];
            socket.read_exact(&mut status).await.unwrap();
            assert_eq!(&status, b"HTTP/1.1 200");
            Self::Http1(socket)
        })
        .await
    }

    /// Takes the rest; whether it ended with an error.
    async fn breaks(self) -> bool {
        bounded(async {
            match self {
                Self::Http1(mut socket) => socket.read_to_end(&mut Vec::new()).await.is_err(),
                Self::Http2(mut body) => loop {
                    match body.data().await {
                        Some(Ok(bytes)) => body.flow_control().release_capacity(bytes.len()).unwrap(),
                        Some(Err(_)) => return true,
                        None => return false,
                    }
                },
            }
        })
        .await
    }
}

fn build(registry: &FakeRegistry, certificates: &Certificates) -> Builder {
    Mirror::build(registry).config(|config| {
        config.cache.reader_window = WINDOW;
        config.server.tls = Some(certificates.config.clone());
    })
}

async fn slow_readers_make_room_for_a_blob(way: Way) {
    let (registry, certificates) = (FakeRegistry::start().await, Certificates::new());
    let mirror = Arc::new(build(&registry, &certificates).max_size(64 * MIB as u64).start().await);
    let mut stuck = Vec::new();
    for seed in 0..5 {
        let (digest, _) = add(&registry, 12 * MIB, seed);
        stuck.push(Client::get(way, &mirror, &certificates, &path(&digest)).await);
    }
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 5.0).await;
    // One that waits for the upstream, and one that is quick.
    let gate = Gate::new();
    let (waiting, _) = add(&registry, MIB, 5);
    registry.fault(When::path_of(waiting.as_str()), Fault::HoldBody { at: MIB / 2, gate: gate.clone() });
    let waiting = Client::get(way, &mirror, &certificates, &path(&waiting)).await;
    let waiting = tokio::spawn(waiting.breaks());
    let (quick, content) = add(&registry, MIB, 6);
    let done = Arc::new(AtomicBool::new(false));
    let quick = tokio::spawn({
        let (mirror, done) = (mirror.clone(), done.clone());
        async move {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(mirror.get(&path(&quick)).await.body, content);
            }
        }
    });
    // More than all but one of them hold.
    let (wanted, content) = add(&registry, 55 * MIB, 7);
    until("the blob is cached", async || {
        assert_eq!(mirror.get(&path(&wanted)).await.body, content);
        mirror.head(&path(&wanted)).await.header("cache-status") == Some("forebay; hit")
    })
    .await;
    for (number, stuck) in stuck.into_iter().enumerate() {
        assert!(stuck.breaks().await, "{number}");
    }
    assert_eq!(mirror.metric("forebay_stalls_total", SCARCE).await, 5.0);
    done.store(true, Ordering::Relaxed);
    quick.await.unwrap();
    gate.open();
    assert!(!waiting.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_over_clear_http_make_room() {
    slow_readers_make_room_for_a_blob(Way::Clear).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_over_tls_make_room() {
    slow_readers_make_room_for_a_blob(Way::Tls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_over_http2_make_room() {
    slow_readers_make_room_for_a_blob(Way::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_not_ended_where_no_room_comes_of_it() {
    let (registry, certificates) = (FakeRegistry::start().await, Certificates::new());
    let mirror = build(&registry, &certificates).max_size(16 * MIB as u64).start().await;
    let (pinned, content) = add(&registry, 12 * MIB, 1);
    let mut stuck = Raw::get(mirror.address(), &path(&pinned), &[]).await;
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
    stuck.read(100).await;
    // Nothing can be awaited here: it becomes slow, and what must not happen is not to happen.
    tokio::time::sleep(2 * WINDOW).await;
    let (larger, other) = add(&registry, 17 * MIB, 2);
    assert_eq!(mirror.get(&path(&larger)).await.body, other);
    let (fits, other) = add(&registry, MIB, 3);
    assert_eq!(mirror.get(&path(&fits)).await.body, other);
    assert_eq!(mirror.metric("forebay_stalls_total", SCARCE).await, 0.0);
    assert_eq!(stuck.rest().await.bytes(), content);
}

/// Lists of 15 MiB, of which three quarters of the budget of 256 MiB, one address's share, hold twelve.
async fn long_lists() -> (FakeRegistry, Mirror) {
    let (registry, certificates) = (FakeRegistry::start().await, Certificates::new());
    let list = format!(r#"{{"name":"team/app","tags":["1"]{}}}"#, " ".repeat(15 * MIB));
    let headers = vec![("content-type", "application/json".to_owned())];
    registry.fault(When::path_of("/tags/list"), Fault::Answer { status: 200, headers, body: list });
    let mirror = build(&registry, &certificates).start().await;
    (registry, mirror)
}

fn list(n: usize) -> String {
    format!("/v2/team/app/tags/list?n={n}")
}

/// Until one more list has room; how many readers were ended for it.
async fn one_more_list(mirror: &Mirror) -> f64 {
    until("there is room", async || mirror.get(&list(13)).await.status == 200).await;
    mirror.metric("forebay_stalls_total", SCARCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_lists_make_room_for_others() {
    let certificates = Certificates::new();
    for way in [Way::Clear, Way::Http2] {
        let (_registry, mirror) = long_lists().await;
        let mut stuck = Vec::new();
        for n in 1..=12 {
            stuck.push(Client::get(way, &mirror, &certificates, &list(n)).await);
        }
        // One makes the room; a second one goes where that one takes long to end.
        let stalls = one_more_list(&mirror).await;
        assert!((1.0..=2.0).contains(&stalls), "{way:?}: {stalls}");
        let mut broken = 0.0;
        for client in stuck {
            broken += f64::from(u8::from(client.breaks().await));
        }
        assert_eq!(broken, stalls, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beside_one_that_is_ended_go_on() {
    let (_registry, mirror) = long_lists().await;
    let tcp = TcpStream::connect(mirror.address()).await.unwrap();
    let (requests, connection) =
        h2::client::Builder::new().initial_connection_window_size(1 << 30).handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut stuck = Vec::new();
    for n in 1..=12 {
        stuck.push(Client::Http2(list_over_http2(&requests, &mirror, n).await));
    }
    let stalls = one_more_list(&mirror).await;
    assert!((1.0..=2.0).contains(&stalls), "{stalls}");
    let mut broken = 0.0;
    for client in stuck {
        broken += f64::from(u8::from(client.breaks().await));
    }
    assert_eq!(broken, stalls);
}

async fn list_over_http2(requests: &h2::client::SendRequest<Bytes>, mirror: &Mirror, n: usize) -> h2::RecvStream {
    let request = http::Request::get(format!("{}{}", mirror.url(), list(n))).body(()).unwrap();
    let (answer, _) = requests.clone().ready().await.unwrap().send_request(request, true).unwrap();
    let answer = bounded(answer).await.unwrap();
    assert_eq!(answer.status(), 200, "{n}");
    answer.into_body()
}

/// With windows for everything, and each reads its socket up to the head of its answer: a reset says nothing to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_http2_that_read_nothing_make_room() {
    let (_registry, mirror) = long_lists().await;
    let mut stuck = Vec::new();
    for n in 1..=12 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        let tcp = socket.connect(mirror.address()).await.unwrap();
        let mut windows = h2::client::Builder::new();
        windows.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
        let (requests, mut connection) = windows.handshake(tcp).await.unwrap();
        let body = tokio::select! {
            body = list_over_http2(&requests, &mirror, n) => body,
            ended = &mut connection => panic!("{ended:?}"),
        };
        stuck.push((body, requests, connection));
    }
    let stalls = one_more_list(&mirror).await;
    assert!((1.0..=2.0).contains(&stalls), "{stalls}");
    let mut ended = 0.0;
    for (body, _, connection) in stuck {
        tokio::spawn(connection);
        ended += f64::from(u8::from(Client::Http2(body).breaks().await));
    }
    assert_eq!(ended, stalls);
}
