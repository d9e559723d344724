//! Connections that are kept, and prove dead when the next request is sent on them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use forebay::{
    oci::{Algorithm, Digest, Operation},
    upstream::{Config, CredentialSource, Error, ErrorKind, WriteAction, WriteRequest, WriteTarget},
};
use http::{HeaderMap, Method, Response};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::upstream::{MANIFEST, Subject, WHOLE, accept, any_list, config_of, name, read, reference_of};
use forebay_test_support::test_ca::TestCa;

/// What every path has.
const CONTENT: &[u8] = br#"{"schemaVersion":2}"#;

/// How a connection ends once a request has come on it that it does not answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Death {
    Fin,
    Reset,
    /// HTTP/1: 408 comes first.
    Timeout,
    /// HTTP/2: the registry leaves without having looked at the request.
    GoAway,
    /// HTTP/2: the request is refused, and the connection stays.
    Refused,
}

/// A registry that answers so many requests of each connection; the next one is read, and the connection ends.
struct Brief {
    url: Url,
    /// The number of the connection and the method of each request.
    seen: Arc<Mutex<Vec<(usize, String)>>>,
    running: JoinHandle<()>,
}

impl Brief {
    async fn start(answered: usize, death: Death, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{}", tcp.local_addr().unwrap())).unwrap();
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let running = tokio::spawn(accept_all(tcp, answered, death, tls, seen.clone()));
        Self { url, seen, running }
    }

    fn seen(&self) -> Vec<(usize, String)> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Brief {
    fn drop(&mut self) {
        self.running.abort();
    }
}

type Seen = Arc<Mutex<Vec<(usize, String)>>>;

async fn accept_all(
    tcp: TcpListener,
    answered: usize,
    death: Death,
    tls: Option<Arc<rustls::ServerConfig>>,
    seen: Seen,
) {
    for number in 0.. {
        let (stream, _) = tcp.accept().await.unwrap();
        let (tls, seen) = (tls.clone(), seen.clone());
        tokio::spawn(async move {
            if death == Death::Reset {
                // Closing with this resets.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            match tls {
                None => talk(stream, number, answered, death, &seen).await,
                Some(tls) => {
                    let stream = TlsAcceptor::from(tls).accept(stream).await.unwrap();
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        talk_http2(stream, number, answered, death, &seen).await;
                    } else {
                        talk(stream, number, answered, death, &seen).await;
                    }
                }
            }
        });
    }
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    number: usize,
    answered: usize,
    death: Death,
    seen: &Seen,
) {
    for count in 0.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let line = head.lines().next().unwrap();
        let method = line.split(' ').next().unwrap().to_owned();
        let len =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut content = vec![0; len.unwrap_or(0)];
        stream.read_exact(&mut content).await.unwrap();
        seen.lock().unwrap().push((number, method.clone()));
        if count == answered {
            if death == Death::Timeout {
                let answer = "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            return;
        }
        let body = body_of(line);
        let mut answer =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {MANIFEST}\r\ncontent-length: {}\r\n\r\n", body.len());
        if method != "HEAD" {
            answer += body;
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

async fn talk_http2(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    number: usize,
    answered: usize,
    death: Death,
    seen: &Seen,
) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (leave, left) = oneshot::channel();
    tokio::spawn(pump(stream, far, left));
    let mut connection = h2::server::handshake(near).await.unwrap();
    for count in 0_u32.. {
        let Some(Ok((request, mut respond))) = connection.accept().await else { return };
        seen.lock().unwrap().push((number, request.method().to_string()));
        if count as usize == answered {
            match death {
                Death::Refused => {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                    continue;
                }
                Death::GoAway => leave.send(u32::from(respond.stream_id()).saturating_sub(2)).unwrap(),
                // Together with the requests on it.
                _ => {}
            }
            return;
        }
        let is_head = request.method() == Method::HEAD;
        let answer = Response::builder().header("content-type", MANIFEST).header("content-length", CONTENT.len());
        let mut body = respond.send_response(answer.body(()).unwrap(), is_head).unwrap();
        if !is_head {
            body.send_data(Bytes::from_static(CONTENT), true).unwrap();
        }
    }
}

/// Carries bytes between client and server. A server cannot say that it has not looked at the last request: this says so in its
/// place, once it is told which one was the last that the server has looked at.
async fn pump(client: impl AsyncRead + AsyncWrite, server: DuplexStream, left: oneshot::Receiver<u32>) {
    let ((mut requests, mut client), (mut answers, mut server)) = (tokio::io::split(client), tokio::io::split(server));
    tokio::select! {
        biased;
        Ok(last) = left => {
            // GOAWAY without an error.
            let frame = [&[0, 0, 8, 7, 0, 0, 0, 0, 0][..], &last.to_be_bytes(), &[0; 4]].concat();
            client.write_all(&frame).await.unwrap();
            client.flush().await.unwrap();
            let _ = requests.read_to_end(&mut Vec::new()).await;
        }
        _ = tokio::io::copy(&mut answers, &mut client) => {}
        _ = tokio::io::copy(&mut requests, &mut server) => {}
    }
}

fn body_of(line: &str) -> &'static str {
    if line.contains("/token") { r#"{"token":"t","expires_in":1}"# } else { std::str::from_utf8(CONTENT).unwrap() }
}

/// Requests to an upstream that change nothing.
pub(super) const QUESTIONS: [&str; 6] = ["manifest", "manifest head", "blob", "blob head", "list", "base"];

pub(super) async fn ask(subject: &Subject, what: &str) -> Result<(), Error> {
    let (repository, tag) = (name("team/app"), reference_of("1"));
    let upstream = &subject.upstream;
    match what {
        "manifest" => upstream.get_manifest(&repository, &tag, &accept(&[MANIFEST])).await.map(drop),
        "manifest head" => upstream.head_manifest(&repository, &tag, &accept(&[MANIFEST])).await.map(drop),
        "blob" => read(upstream.open_blob(&repository, &digest(), WHOLE).await?).await.map(drop),
        "blob head" => upstream.head_blob(&repository, &digest()).await.map(drop),
        "list" => upstream
            .forward(
                Operation::Tags,
                Some(&repository),
                "team/app/tags/list",
                &accept(&["application/json"]),
                any_list(),
            )
            .await
            .map(drop),
        _ => upstream.ping().await,
    }
}

pub fn digest() -> Digest {
    Digest::of(Algorithm::Sha256, CONTENT)
}

fn numbers(seen: &[(usize, String)]) -> Vec<usize> {
    seen.iter().map(|(number, _)| *number).collect()
}

#[tokio::test]
async fn a_request_on_a_dead_kept_connection_comes_once_more() {
    let ca = TestCa::new();
    let http2 = ca.server(&["127.0.0.1"]);
    let mut http1 = (*http2).clone();
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (clear, http1, http2) = (None, Some(Arc::new(http1)), Some(http2));
    for (death, tls) in [
        (Death::Fin, &clear),
        (Death::Fin, &http1),
        (Death::Fin, &http2),
        (Death::Reset, &clear),
        (Death::Reset, &http1),
        (Death::Reset, &http2),
        (Death::Timeout, &clear),
        (Death::GoAway, &http2),
        (Death::Refused, &http2),
    ] {
        for what in QUESTIONS {
            let shown = format!("{what} {death:?} {:?}", tls.as_ref().map(|tls| tls.alpn_protocols.len()));
            let registry = Brief::start(1, death, tls.clone()).await;
            let subject = Subject::new(&Config { ca: Some(ca.path()), ..config_of([registry.url.clone()]) });
            for _ in 0..2 {
                let asked = ask(&subject, what).await;
                assert!(asked.is_ok(), "{shown}: {asked:?} {:?}", registry.seen());
            }
            assert_eq!(numbers(&registry.seen()), [0, 0, 1], "{shown}");
            // The death of a connection is no answer of the upstream.
            assert_eq!(failed(&subject), 0, "{shown}");
        }
    }
}

/// What it has not looked at may come again, also on a new connection: but once.
#[tokio::test]
async fn a_request_that_is_never_looked_at_comes_twice() {
    let ca = TestCa::new();
    for death in [Death::GoAway, Death::Refused] {
        for what in QUESTIONS {
            let registry = Brief::start(0, death, Some(ca.server(&["127.0.0.1"]))).await;
            let subject = Subject::new(&Config { ca: Some(ca.path()), ..config_of([registry.url.clone()]) });
            let asked = ask(&subject, what).await;
            assert_eq!(asked.unwrap_err().kind, ErrorKind::Unavailable, "{what} {death:?}");
            assert_eq!(numbers(&registry.seen()), [0, 1], "{what} {death:?}");
        }
    }
}

/// How many requests the metrics have as failed.
fn failed(subject: &Subject) -> usize {
    let text = subject.metrics.encode().unwrap();
    text.lines()
        .filter(|line| line.starts_with("forebay_upstream_requests_total") && line.contains("\"error\""))
        .count()
}

#[tokio::test]
async fn a_new_connection_that_dies_is_the_upstreams_failure() {
    for death in [Death::Fin, Death::Reset] {
        for what in QUESTIONS {
            let registry = Brief::start(0, death, None).await;
            let subject = Subject::new(&config_of([registry.url.clone()]));
            let asked = ask(&subject, what).await;
            assert_eq!(asked.unwrap_err().kind, ErrorKind::Unavailable, "{what} {death:?}");
            assert_eq!(numbers(&registry.seen()), [0], "{what} {death:?}");
            assert_eq!(failed(&subject), 1, "{what} {death:?}");
        }
    }
}

#[tokio::test]
async fn a_dead_connection_says_nothing_about_its_url() {
    let (first, second) = (Brief::start(1, Death::Fin, None).await, Brief::start(9, Death::Fin, None).await);
    let subject = Subject::new(&config_of([first.url.clone(), second.url.clone()]));
    for _ in 0..4 {
        assert!(ask(&subject, "manifest").await.is_ok());
    }
    assert!(second.seen().is_empty());
    // What a second try leads to is not kept: each other request finds a connection that was.
    assert_eq!(numbers(&first.seen()), [0, 0, 1, 2, 2, 3]);
}

#[tokio::test]
async fn a_token_on_a_dead_connection_comes_once_more() {
    for method in ["GET", "POST"] {
        a_token_comes_once_more(method).await;
    }
}

async fn a_token_comes_once_more(method: &str) {
    let realm = Brief::start(1, Death::Fin, None).await;
    let registry = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}", registry.local_addr().unwrap())).unwrap();
    let challenge = format!("Bearer realm=\"{}token\",service=\"s\"", realm.url);
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = registry.accept().await.unwrap();
            tokio::spawn(challenging(stream, challenge.clone()));
        }
    });
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("config.json");
    let auth = r#"{"auths":{"fake.example":{"auth":"bWU6","identitytoken":"long"}}}"#;
    std::fs::write(&path, auth).unwrap();
    let credential = match method {
        "GET" => CredentialSource::Anonymous,
        _ => CredentialSource::DockerConfig(path),
    };
    let subject = Subject::new(&Config { credential, ..config_of([url]) });
    for repository in ["team/app", "team/other"] {
        let got = subject.manifest(repository, "1").await;
        assert!(got.is_ok(), "{got:?} {:?}", realm.seen());
    }
    let token = |number| (number, method.to_owned());
    assert_eq!(realm.seen(), [token(0), token(0), token(1)]);
    serving.abort();
}

/// Answers one request: 401 to what shows nothing.
async fn challenging(mut stream: TcpStream, challenge: String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let answer = if head.contains("authorization: bearer") {
        let content = std::str::from_utf8(CONTENT).unwrap();
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{content}", content.len())
    } else {
        format!("HTTP/1.1 401 No\r\nconnection: close\r\nwww-authenticate: {challenge}\r\ncontent-length: 0\r\n\r\n")
    };
    stream.write_all(answer.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_change_on_a_dead_connection_is_not_made_twice() {
    let ca = TestCa::new();
    for (death, tls) in [
        (Death::Fin, None),
        (Death::Timeout, None),
        (Death::Fin, Some(ca.server(&["127.0.0.1"]))),
        (Death::GoAway, Some(ca.server(&["127.0.0.1"]))),
        (Death::Refused, Some(ca.server(&["127.0.0.1"]))),
    ] {
        for (method, place, need) in [
            (Method::POST, "team/app/blobs/uploads/", WriteAction::Push { from: None }),
            (Method::DELETE, "team/app/manifests/1", WriteAction::Delete),
        ] {
            let registry = Brief::start(1, death, tls.clone()).await;
            let config = config_of([registry.url.clone()]);
            let subject = Subject::new(&Config { push: true, ca: Some(ca.path()), ..config });
            ask(&subject, "manifest").await.unwrap();
            let repository = name("team/app");
            let write = WriteRequest {
                method: method.clone(),
                repository: &repository,
                target: WriteTarget::Path(place.to_owned()),
                action: need,
                headers: HeaderMap::new(),
            };
            match subject.upstream.write(write, None).await {
                Ok(written) => assert_eq!((death, written.status.as_u16()), (Death::Timeout, 408), "{method}"),
                Err(error) => assert_eq!(error.kind, ErrorKind::Unavailable, "{death:?} {method}"),
            }
            let seen = [(0, "GET".to_owned()), (0, method.to_string())];
            assert_eq!(registry.seen(), seen, "{death:?} {method}");
        }
    }
}
