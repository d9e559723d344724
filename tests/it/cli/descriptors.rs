//! The real program with few descriptors: clients are told, operators are answered.

use std::net::SocketAddr;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use forebay_test_support::{
    blob,
    fake_registry::FakeRegistry,
    program::Program,
    until::{bounded, until},
};

fn directory(text: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("forebay.toml"), text).unwrap();
    directory
}

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    bounded(socket.connect(to)).await.unwrap()
}

/// Asks on a connection that goes on, and gives what came first; nothing, if it ended.
async fn ask(stream: &mut TcpStream, path: &str) -> String {
    request(stream, "GET", path).await
}

async fn request(stream: &mut TcpStream, method: &str, path: &str) -> String {
    let _ = stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
    let mut answer = vec![0; 4096];
    let read = bounded(stream.read(&mut answer)).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

/// From now on it gets no descriptor above those that its two listeners keep in reserve, which are open on nothing. Gives
/// what its limit was.
async fn limit_to_what_it_has(program: &Program) -> Rlimit {
    let reserve = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", program.pid().as_raw_nonzero())).unwrap();
        let kept = open.map(|entry| entry.unwrap()).filter_map(|entry| {
            let is_kept = std::fs::read_link(entry.path()).is_ok_and(|target| target == *"/dev/null");
            is_kept.then(|| entry.file_name().to_str().unwrap().parse::<u64>().unwrap())
        });
        kept.collect::<Vec<_>>()
    };
    until("there is a reserve", async || reserve().len() > 2 * 8).await;
    let highest = reserve().into_iter().max().unwrap();
    // The hard limit is that of this process, and is not to be raised again without rights.
    let limit = Rlimit { current: Some(highest + 1), ..getrlimit(Resource::Nofile) };
    prlimit(Some(program.pid()), Resource::Nofile, limit).unwrap()
}

/// Connects until there is no descriptor for another client, and gives what that one is told.
async fn take_all(program: &Program) -> (Vec<TcpStream>, String) {
    let mut served = Vec::new();
    loop {
        let mut client = connect("127.0.0.1", program.registry).await;
        let answer = ask(&mut client, "/v2/").await;
        if !answer.starts_with("HTTP/1.1 200") && !answer.is_empty() {
            return (served, answer);
        }
        served.push(client);
        assert!(served.len() < 1000, "there are descriptors");
    }
}

async fn is_healthy(program: &Program) -> bool {
    ask(&mut connect("127.0.0.1", program.admin).await, "/healthz").await.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn max_connections_is_what_the_descriptors_allow() {
    let program = Program::serve_within(directory("[server]\nmax_connections = 1000\n"), "warn", 64).await;
    let log = program.log();
    assert!(log.contains("which is lowered") && log.contains("ulimit -Hn"), "{log}");
    // More than all its descriptors.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(connect("127.0.0.1", program.registry).await);
    }
    for _ in 0..3 {
        until("operators are answered", async || is_healthy(&program).await).await;
        let answer = ask(&mut connect("127.0.0.2", program.registry).await, "/v2/").await;
        assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 503"), "{answer:?}");
    }
    // None of them kept the others from being accepted.
    assert!(!program.log().contains("cannot accept connections"), "{}", program.log());
    drop(silent);
    until("there is room again", async || {
        ask(&mut connect("127.0.0.1", program.registry).await, "/v2/").await.starts_with("HTTP/1.1 200")
    })
    .await;
}

#[tokio::test]
async fn the_limit_of_open_files_is_no_warning_by_default() {
    let program = Program::serve_within(directory(""), "info", 64).await;
    let log = program.log();
    let line = log.lines().find(|line| line.contains("the limit of open files decides")).expect(&log);
    assert!(line.contains("\"level\":\"INFO\"") && !log.contains("WARN"), "{log}");
}

#[tokio::test]
async fn streams_passing_through_leave_descriptors_to_others() {
    let registry = FakeRegistry::start().await;
    let (digest, content) = blob::add(&registry, 2 << 20, 1);
    let text = format!(
        "[cache]\nmax_size = \"1 MiB\"\nmin_free = 0\n[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\n",
        registry.url()
    );
    let program = Program::serve_within(directory(&text), "info", 128).await;
    let path = blob::path(&digest);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let (requests, connection) = h2::client::handshake(connect("127.0.0.1", program.registry).await).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..100 {
            let request = http::Request::get(format!("http://localhost{path}")).body(()).unwrap();
            let mut requests = requests.clone().ready().await.unwrap();
            streams.push(requests.send_request(request, true).unwrap().0);
        }
    }
    let mut answers = Vec::new();
    for stream in streams {
        answers.push(bounded(stream).await.unwrap());
    }
    // Three quarters of a quarter of its descriptors are one address's.
    let taken = answers.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!(taken, 24, "{}", program.log());
    assert!(answers.iter().all(|answer| answer.status() == 200 || answer.headers()["retry-after"] == "1"));
    let other = reqwest::Client::builder().no_proxy().local_address(std::net::IpAddr::from([127, 0, 0, 2]));
    let other = bounded(other.build().unwrap().get(format!("http://{}{path}", program.registry)).send()).await.unwrap();
    assert_eq!((other.status().as_u16(), bounded(other.bytes()).await.unwrap()), (200, content));
    let log = program.log();
    assert!(!log.contains("no descriptor left") && !log.contains("cannot accept connections"), "{log}");
}

#[tokio::test]
async fn without_descriptors_clients_get_503_and_admin_answers() {
    let program = Program::serve(directory(""), "info").await;
    let before = limit_to_what_it_has(&program).await;
    let (served, refusal) = take_all(&program).await;
    assert!(refusal.starts_with("HTTP/1.1 503") && refusal.contains("retry-after"), "{refusal}");
    assert!(refusal.contains("UNAVAILABLE"), "{refusal}");
    until("operators are answered", async || is_healthy(&program).await).await;
    drop(served);
    // With descriptors it goes on as before.
    prlimit(Some(program.pid()), Resource::Nofile, before).unwrap();
    until("it serves", async || {
        ask(&mut connect("127.0.0.1", program.registry).await, "/v2/").await.starts_with("HTTP/1.1 200")
    })
    .await;
}

#[tokio::test]
async fn a_lack_of_descriptors_is_no_fault_of_an_upstream() {
    let (registry, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
    // The file of a blob that was served stays open, so each is requested once at most.
    let layers: Vec<_> = (0..20).map(|number| format!("layer {number}")).collect();
    let digests = layers.iter().map(|layer| registry.add_blob("team/app", layer.clone()));
    let blobs: Vec<_> = digests.map(|digest| format!("/v2/team/app/blobs/{digest}")).collect();
    other.add_image("team/app", "1", &[]);
    let upstream = |name: &str, registry: &FakeRegistry| {
        format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{}\"]\n", registry.url())
    };
    let text = upstream("fake.example", &registry) + "default = true\n" + &upstream("other.example", &other);
    let program = Program::serve(directory(&text), "info").await;
    let manifest = "/v2/team/app/manifests/1?ns=other.example".to_owned();
    for (blob, layer) in blobs.iter().zip(&layers) {
        assert_eq!(program.get(blob).await, (200, layer.clone()));
    }
    until("they are cached", async || {
        program.metrics().await.contains(r#"forebay_fills_total{result="complete",upstream="fake.example"} 20"#)
    })
    .await;
    let mut client = connect("127.0.0.1", program.registry).await;
    assert!(ask(&mut client, "/v2/").await.starts_with("HTTP/1.1 200"));
    let before = limit_to_what_it_has(&program).await;
    let (mut served, _) = take_all(&program).await;
    let mut not_opened = blobs.iter();
    for is_blob in [true, false] {
        until("the client is told", async || {
            let path = if is_blob { not_opened.next().expect("descriptors come to an end") } else { &manifest };
            let answer = request(&mut client, "HEAD", path).await;
            let is_told = answer.starts_with("HTTP/1.1 503");
            assert!(is_told || answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
            if !is_told {
                // Something came to its end meanwhile, and gave its descriptor back.
                served.extend(take_all(&program).await.0);
            }
            is_told
        })
        .await;
    }
    let mut metrics = String::new();
    until("operators are answered", async || {
        let mut operator = connect("127.0.0.1", program.admin).await;
        metrics = ask_all(&mut operator, "/metrics").await;
        metrics.contains("forebay_build_info")
    })
    .await;
    assert!(!metrics.contains(r#"forebay_upstream_up{upstream="other.example"} 0"#), "{metrics}");
    assert!(!metrics.contains(r#"status="error""#), "{metrics}");
    drop(served);
    prlimit(Some(program.pid()), Resource::Nofile, before).unwrap();
    for path in [&blobs[0], &manifest] {
        until("it serves", async || request(&mut client, "HEAD", path).await.starts_with("HTTP/1.1 200")).await;
    }
    assert_eq!(registry.count(|request| request.path.contains("/blobs/")), 20, "they were hits all the time");
}

/// Asks on a connection that ends with the answer.
async fn ask_all(stream: &mut TcpStream, path: &str) -> String {
    let _ = stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await;
    let mut answer = Vec::new();
    let _ = bounded(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}
