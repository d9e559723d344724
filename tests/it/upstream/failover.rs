//! A list of URLs: who is asked next, and when not.

use std::time::Duration;

use forebay::upstream::{BlobRange, Config, ErrorKind};
use tokio::{io::AsyncReadExt, net::TcpListener};
use url::Url;

use super::{Subject, WHOLE, accept, config_of, kind, name, read, reference_of};
use forebay_test_support::fake_registry::{Auth, Bearer, FakeRegistry, Fault, Record, Server, To, When};

const TEN: &[u8] = b"0123456789";

/// Two registries with the same content.
async fn two() -> (FakeRegistry, FakeRegistry, Config) {
    let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    for registry in [&first, &second] {
        registry.add_image("team/app", "1", &[TEN]);
    }
    let config = config_of([first.url(), second.url()]);
    (first, second, config)
}

fn layer(registry: &FakeRegistry) -> forebay::oci::Digest {
    registry.add_blob("team/app", TEN)
}

#[tokio::test]
async fn the_first_url_is_used_while_it_answers() {
    let (first, second, config) = two().await;
    let subject = Subject::new(&config);
    for _ in 0..3 {
        assert!(subject.manifest("team/app", "1").await.is_ok());
    }
    assert_eq!((first.requests().len(), second.requests().len()), (3, 0));
}

#[tokio::test]
async fn every_outage_leads_to_the_second() {
    for fault in [
        Fault::status(500),
        Fault::status(503),
        Fault::too_many("60"),
        Fault::Disconnect,
        Fault::html(),
        Fault::no_backend(),
        Fault::page(400),
        Fault::page(401),
        Fault::page(403),
        Fault::page(405),
        Fault::Truncate { at: 3 },
        Fault::Redirect { status: 302, to: To::Here },
    ] {
        let (first, second, config) = two().await;
        first.fault(When::any(), fault.clone());
        let subject = Subject::new(&config);
        assert!(subject.manifest("team/app", "1").await.is_ok(), "{fault:?}");
        assert_eq!(second.requests().len(), 1);
        assert_eq!(subject.metric(r#"forebay_upstream_up{upstream="fake.example"}"#), 1);
    }
}

#[tokio::test]
async fn an_answer_that_disappoints_is_an_answer() {
    for (status, expected) in [
        (404, ErrorKind::NotFound),
        (403, ErrorKind::Denied),
        (401, ErrorKind::Unauthorized),
        (405, ErrorKind::Unsupported),
        (400, ErrorKind::Rejected { status: 400 }),
        (414, ErrorKind::Rejected { status: 414 }),
    ] {
        let (first, second, config) = two().await;
        first.fault(When::any(), Fault::status(status));
        let subject = Subject::new(&config);
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(expected));
        assert!(second.requests().is_empty(), "{status}");
        assert_eq!(subject.metric(r#"forebay_upstream_up{upstream="fake.example"}"#), 1);
    }
}

#[tokio::test]
async fn a_mirror_loop_leads_to_the_second_url() {
    let (first, second, config) = two().await;
    first.fault_times(1, When::any(), Fault::status(508));
    let subject = Subject::new(&config);
    for _ in 0..2 {
        assert!(subject.manifest("team/app", "1").await.is_ok());
    }
    assert_eq!((first.requests().len(), second.requests().len()), (2, 1));
    first.fault(When::any(), Fault::status(508));
    second.fault(When::any(), Fault::status(508));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Loop));
}

#[tokio::test]
async fn the_way_of_a_request_is_told() {
    let (first, _, config) = two().await;
    let digest = layer(&first);
    first.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Here });
    first.require(Auth::Bearer(Bearer::default()));
    let mut subject = Subject::new(&config);
    let came_by = |via: String| Some(http::HeaderValue::try_from(via).unwrap());
    let ours = subject.upstream.clone();
    subject.upstream = ours.with_via(came_by("1.1 other-mirror".into()));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    let _ = subject.upstream.open_blob(&name("team/app"), &digest, WHOLE).await;
    let told = |request: &Record| {
        request.headers.get_all("via").iter().map(|via| via.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let requests = first.requests();
    assert!(requests.iter().any(|request| request.path.starts_with("/moved/")));
    for request in requests.iter().filter(|request| request.server == Server::Api) {
        assert_eq!(told(request), ["1.1 other-mirror, 1.1 forebay-test"], "{}", request.path);
    }
    first.forget_requests();
    // A way without an end is not gone.
    subject.upstream = ours.with_via(came_by(vec!["1.1 x"; 40].join(", ")));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Loop));
    assert!(first.requests().is_empty());
    subject.upstream = ours.with_via(None);
    assert!(subject.manifest("team/app", "1").await.is_ok());
    assert_eq!(told(&first.requests()[0]), ["1.1 forebay-test"]);
}

#[tokio::test]
async fn what_failed_is_put_last_and_still_tried() {
    let (first, second, config) = two().await;
    first.take_down(Server::Api).await;
    let subject = Subject::new(&config);
    assert!(subject.manifest("team/app", "1").await.is_ok());
    first.bring_up(Server::Api).await;
    // It is back, but cools down.
    assert!(subject.manifest("team/app", "1").await.is_ok());
    assert_eq!((first.requests().len(), second.requests().len()), (0, 2));
    // The second fails now: the first is asked in spite of its past.
    second.take_down(Server::Api).await;
    assert!(subject.manifest("team/app", "1").await.is_ok());
    assert_eq!(first.requests().len(), 1);
}

#[tokio::test]
async fn with_all_of_them_down_it_is_an_outage_and_each_was_tried() {
    let (first, second, config) = two().await;
    first.fault(When::any(), Fault::status(502));
    second.fault(When::any(), Fault::too_many("5"));
    let subject = Subject::new(&config);
    for _ in 0..2 {
        let error = subject.manifest("team/app", "1").await.unwrap_err();
        assert_eq!((error.kind, error.retry_after.unwrap().as_secs()), (ErrorKind::TooManyRequests, 5));
    }
    assert_eq!((first.requests().len(), second.requests().len()), (2, 2));
}

#[tokio::test]
async fn a_dead_blob_host_counts_as_much_as_a_dead_registry() {
    let (first, second, config) = two().await;
    let digest = layer(&first);
    first.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Cdn });
    first.take_down(Server::Cdn).await;
    let subject = Subject::new(&config);
    // The registry itself is well and answers manifests.
    assert!(subject.manifest("team/app", "1").await.is_ok());
    assert_eq!(subject.blob("team/app", &digest, WHOLE).await.unwrap(), TEN);
    assert_eq!(subject.upstream.head_blob(&name("team/app"), &digest).await.unwrap().len, Some(10));
    assert!(second.requests().len() >= 2);
}

#[tokio::test]
async fn a_body_that_breaks_puts_its_host_last() {
    let (first, second, config) = two().await;
    let digest = layer(&first);
    first.fault(When::blobs(), Fault::Truncate { at: 4 });
    let subject = Subject::new(&config);
    let mut stream = subject.upstream.open_blob(&name("team/app"), &digest, WHOLE).await.unwrap();
    let mut got = Vec::new();
    while let Ok(Some(piece)) = stream.next().await {
        got.extend_from_slice(&piece);
    }
    // A resumed transfer is led to the other one.
    let rest = BlobRange { first: got.len() as u64, last: None };
    let rest = subject.upstream.open_blob(&name("team/app"), &digest, rest).await.unwrap();
    assert_eq!([got, read(rest).await.unwrap()].concat(), TEN);
    assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
}

#[tokio::test]
async fn each_of_them_has_its_own_tokens() {
    let (first, second, config) = two().await;
    first.require(Auth::Bearer(Bearer::default()));
    second.require(Auth::Bearer(Bearer { service: Some("another".into()), ..Bearer::default() }));
    let subject = Subject::new(&config);
    assert!(subject.manifest("team/app", "1").await.is_ok());
    first.take_down(Server::Api).await;
    assert!(subject.manifest("team/app", "1").await.is_ok());
    let head = subject.upstream.head_manifest(&name("team/app"), &reference_of("1"), &accept(&[])).await;
    assert!(head.is_ok());
    let seen: Vec<_> = second.requests().iter().map(|request| request.server).collect();
    assert_eq!(seen, [Server::Api, Server::Realm, Server::Api, Server::Api]);
    // The first one's token was never shown to the second.
    assert!(!super::has_credentials(&second.requests()[0]));
}

#[tokio::test]
async fn a_realm_that_is_down_leads_to_the_second() {
    let (first, second, config) = two().await;
    first.require(Auth::Bearer(Bearer { refuse_get: Some(503), ..Bearer::default() }));
    assert!(Subject::new(&config).manifest("team/app", "1").await.is_ok());
    assert_eq!(second.requests().len(), 1);
}

/// Asks, and lets the time that a connection may take to come up pass once the first URL has been sent the first
/// bytes of a TLS handshake, which it never answers.
async fn asked_past_a_silent_peer(silent: TcpListener, config: Config) -> Result<Vec<u8>, ErrorKind> {
    let asking = tokio::spawn(async move {
        let answer = Subject::new(&config).manifest("team/app", "1").await;
        answer.map_err(|error| error.kind)
    });
    let (mut stream, _) = silent.accept().await.unwrap();
    stream.read_u8().await.unwrap();
    // Less than what the head of an answer may take: it is the connection that is given up.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    // In real time the other limits are far away: only the one under test can have ended it so soon.
    tokio::time::timeout(Duration::from_secs(5), asking).await.expect("the connection is given up").unwrap()
}

#[tokio::test]
async fn a_peer_that_never_speaks_tls_is_given_up() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[TEN]);
    for (second, expected) in [(None, Err(ErrorKind::Timeout)), (Some(registry.url()), Ok(image.manifest_bytes))] {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let first = Url::parse(&format!("https://{}", silent.local_addr().unwrap())).unwrap();
        let config = config_of([first].into_iter().chain(second));
        let expected = expected.map(|bytes| bytes.to_vec());
        assert_eq!(asked_past_a_silent_peer(silent, config).await, expected);
    }
}
