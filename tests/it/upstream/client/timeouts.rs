//! The three timeouts of an upstream, each against a server that is silent at that step.

use std::time::Duration;

use forebay::{
    oci::{Algorithm, Digest},
    upstream::{Config, Error, ErrorKind, UpstreamTimeouts},
};
use tokio::{io::AsyncReadExt as _, net::TcpListener, time::Instant};

use crate::upstream::{Subject, WHOLE, config, config_of, name};
use forebay_test_support::{
    blob,
    fake_registry::{FakeRegistry, Fault, Gate, When},
    until::bounded,
};

/// The timeout under test; no default has this length.
const SHORT: Duration = Duration::from_secs(7);
const LONG: UpstreamTimeouts = UpstreamTimeouts {
    connect: Duration::from_secs(3600),
    response: Duration::from_secs(3600),
    idle: Duration::from_secs(3600),
};

/// The errors of a request for a manifest and of one for a blob, which have clients of their own.
async fn both(config: &Config, digest: &Digest) -> [Error; 2] {
    let subject = Subject::new(config);
    let manifest = subject.manifest("team/app", "1").await.unwrap_err();
    let blob = subject.upstream.open_blob(&name("team/app"), digest, WHOLE).await.unwrap_err();
    [manifest, blob]
}

/// Accepts connections and reads what comes, without a word.
async fn silent_server() -> std::net::SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move { while stream.read_u8().await.is_ok() {} });
        }
    });
    address
}

/// The clock stands until every task waits, and then goes on to the next timeout.
#[tokio::test(start_paused = true)]
async fn a_server_silent_in_the_handshake_ends_connect_timeout() {
    let url = format!("https://{}", silent_server().await).parse().unwrap();
    let timeouts = UpstreamTimeouts { connect: SHORT, ..LONG };
    let begun = Instant::now();
    for error in both(&Config { timeouts, ..config_of([url]) }, &Digest::of(Algorithm::Sha256, b"layer")).await {
        assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
    }
    let (waited, default) = (begun.elapsed(), UpstreamTimeouts::default().connect);
    assert!(waited >= 2 * SHORT && waited < 2 * default, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_sends_no_head_ends_response_timeout() {
    let url = format!("http://{}", silent_server().await).parse().unwrap();
    let timeouts = UpstreamTimeouts { response: SHORT, ..LONG };
    for error in both(&Config { timeouts, ..config_of([url]) }, &Digest::of(Algorithm::Sha256, b"layer")).await {
        assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
        assert!(error.to_string().contains("no response within 7 s"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_pauses_in_a_body_ends_idle_timeout() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    let (digest, _) = blob::add(&registry, 1000, 1);
    let timeouts = UpstreamTimeouts { idle: SHORT, ..LONG };
    let subject = Subject::new(&Config { timeouts, ..config(&registry) });
    for is_blob in [false, true] {
        let gate = Gate::new();
        registry.fault_times(1, When::any(), Fault::HoldBody { at: 5, gate: gate.clone() });
        let reading = async {
            match is_blob {
                false => subject.manifest("team/app", "1").await,
                true => subject.blob("team/app", &digest, WHOLE).await,
            }
        };
        let held = async {
            gate.reached().await;
            tokio::time::pause();
        };
        let (read, ()) = bounded(async { tokio::join!(reading, held) }).await;
        tokio::time::resume();
        let error = read.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
        assert!(error.to_string().contains("no response within 7 s"), "{error}");
    }
}
