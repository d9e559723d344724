//! HTTP/2, frame by frame: hints before an answer, and connections that their server ends: after an answer, before one, in the
//! middle of one, by an error.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use forebay::oci::{Algorithm, Digest};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::upstream::{MANIFEST, client::connection_reuse::digest};
use forebay_test_support::{blob, fake_registry::Gate, mirror::Mirror, raw::Raw, test_ca::TestCa};

const MANIFEST_BYTES: &[u8] = br#"{"schemaVersion":2}"#;

// RFC 9113, sections 6 and 7.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What a connection does with its first request, and with the next one on it.
#[derive(Clone, Debug)]
enum Ends {
    /// Never: hints come before each answer.
    Hinting,
    /// Answers, and says that no more are taken.
    AfterAnswer,
    /// Answers the first one, and says of the second that it was not looked at.
    BeforeTheSecond,
    /// The same by an error, as where there were too many requests on a connection.
    InPlaceOfTheSecond,
    /// Says in the middle of a body that no more are taken, and sends the rest once the gate opens.
    InTheMiddle(Gate),
    /// Sends half of a body; when the gate opens, an error, and the end of the connection.
    ByAnError(Gate),
}

/// A registry of one manifest or blob, over HTTP/2.
struct Ending {
    ca: TestCa,
    url: String,
    connections: Arc<AtomicUsize>,
    running: JoinHandle<()>,
}

impl Ending {
    async fn start(ends: Ends, content: Vec<u8>) -> Self {
        let ca = TestCa::new();
        let mut tls = (*ca.server(&["127.0.0.1"])).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", tcp.local_addr().unwrap());
        let connections = Arc::<AtomicUsize>::default();
        let (count, content) = (connections.clone(), Arc::new(content));
        let running = tokio::spawn(async move {
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                let (acceptor, ends, content) = (acceptor.clone(), ends.clone(), content.clone());
                let number = count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    // A connection ends as the test has it, or when the mirror does.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = talk(stream, number, &ends, &content).await;
                    }
                });
            }
        });
        Self { ca, url, connections, running }
    }

    async fn mirror(&self) -> Mirror {
        let (url, ca) = (&self.url, self.ca.path());
        let text = format!("[[upstream]]\nname = \"fake.example\"\nurls = [{url:?}]\nca = {ca:?}\ndefault = true\n");
        Mirror::parse(&text).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    number: usize,
    ends: &Ends,
    content: &[u8],
) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 24]).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let half = content.len() / 2;
    for count in 0.. {
        let id = next_request(&mut stream).await?;
        match ends {
            Ends::Hinting => {
                stream.write_all(&[head(id, &HINTS), head(id, &HINTS), whole(id, content)].concat()).await?
            }
            Ends::AfterAnswer => stream.write_all(&[whole(id, content), goaway(id, NO_ERROR)].concat()).await?,
            Ends::BeforeTheSecond if count == 1 => stream.write_all(&goaway(1, NO_ERROR)).await?,
            Ends::InPlaceOfTheSecond if count == 1 => {
                stream.write_all(&goaway(1, ENHANCE_YOUR_CALM)).await?;
            }
            Ends::BeforeTheSecond | Ends::InPlaceOfTheSecond => stream.write_all(&whole(id, content)).await?,
            Ends::InTheMiddle(gate) => {
                stream.write_all(&found(id, content)).await?;
                stream.write_all(&data(id, &content[..half], false)).await?;
                stream.write_all(&goaway(id, NO_ERROR)).await?;
                gate.pass().await;
                stream.write_all(&data(id, &content[half..], true)).await?;
            }
            Ends::ByAnError(gate) if number == 0 => {
                stream.write_all(&found(id, content)).await?;
                stream.write_all(&data(id, &content[..half], false)).await?;
                gate.pass().await;
                stream.write_all(&goaway(id, ENHANCE_YOUR_CALM)).await?;
                return stream.shutdown().await;
            }
            Ends::ByAnError(_) => {
                let len = (content.len() - half).to_string();
                let range = format!("bytes {half}-{}/{}", content.len() - 1, content.len());
                let fields = [(":status", "206"), ("content-length", &*len), ("content-range", &*range)];
                stream.write_all(&head(id, &fields)).await?;
                stream.write_all(&data(id, &content[half..], true)).await?;
            }
        }
    }
    Ok(())
}

/// Reads up to the next request, and gives its stream.
async fn next_request(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<u32> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload).await?;
        match head[3] {
            HEADERS => return Ok(u32::from_be_bytes([head[5], head[6], head[7], head[8]])),
            // That of the other side; its acknowledgement has the flag.
            SETTINGS if head[4] == 0 => stream.write_all(&frame(SETTINGS, 1, 0, &[])).await?,
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn goaway(last: u32, error: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), error.to_be_bytes()].concat())
}

/// The head of an answer, each field a literal without a name of the table (RFC 7541 section 6.2.2).
fn head(id: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, END_HEADERS, id, &block)
}

const HINTS: [(&str, &str); 2] = [(":status", "103"), ("link", "</style.css>; rel=preload")];

fn data(id: u32, content: &[u8], is_end: bool) -> Vec<u8> {
    let pieces: Vec<&[u8]> = content.chunks(16 * 1024).collect();
    let flags = |at: usize| if is_end && at + 1 == pieces.len() { END_STREAM } else { 0 };
    pieces.iter().enumerate().flat_map(|(at, piece)| frame(DATA, flags(at), id, piece)).collect()
}

/// The head of all of it.
fn found(id: u32, content: &[u8]) -> Vec<u8> {
    let len = content.len().to_string();
    head(id, &[(":status", "200"), ("content-type", MANIFEST), ("content-length", &len)])
}

fn whole(id: u32, content: &[u8]) -> Vec<u8> {
    [found(id, content), data(id, content, true)].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_between_answers_are_replaced() {
    // A blob has a connection of its own, and what a second try leads to is not kept.
    for (ends, connections) in
        [(Ends::Hinting, 2), (Ends::AfterAnswer, 4), (Ends::BeforeTheSecond, 4), (Ends::InPlaceOfTheSecond, 4)]
    {
        let registry = Ending::start(ends.clone(), MANIFEST_BYTES.to_vec()).await;
        let mirror = registry.mirror().await;
        for path in ["/v2/team/app/manifests/1", "/v2/team/app/manifests/2", "/v2/team/app/manifests/3"] {
            let answer = mirror.get(path).await;
            assert_eq!((answer.status, &answer.body[..]), (200, MANIFEST_BYTES), "{ends:?} {path}");
        }
        let blob = mirror.get(&format!("/v2/team/app/blobs/{}", digest())).await;
        assert_eq!((blob.status, &blob.body[..]), (200, MANIFEST_BYTES), "{ends:?}");
        // Whether the HTTP client notices the end of a connection before or while it sends the next request is a race;
        // it may have begun to connect when it does.
        let more = usize::from(!matches!(ends, Ends::Hinting));
        let made = registry.connections();
        assert!((connections..=connections + more).contains(&made), "{ends:?}: {made} connections");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_outlives_the_end_of_its_connection() {
    let (gate, content) = (Gate::new(), blob::content(66_000, 1));
    let registry = Ending::start(Ends::InTheMiddle(gate.clone()), content.to_vec()).await;
    let mirror = registry.mirror().await;
    let path = format!("/v2/team/app/blobs/{}", Digest::of(Algorithm::Sha256, &content));
    let client = Raw::get(mirror.address(), &path, &[]).await;
    gate.reached().await;
    gate.open();
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    assert_eq!(registry.connections(), 1, "nothing was asked for once more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_whose_connection_ends_by_an_error_is_resumed() {
    let (gate, content) = (Gate::new(), blob::content(66_000, 1));
    let registry = Ending::start(Ends::ByAnError(gate.clone()), content.to_vec()).await;
    let mirror = registry.mirror().await;
    let path = format!("/v2/team/app/blobs/{}", Digest::of(Algorithm::Sha256, &content));
    let mut client = Raw::get(mirror.address(), &path, &[]).await;
    assert_eq!(client.read(33_000).await, &content[..33_000]);
    gate.open();
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    assert_eq!(registry.connections(), 2);
}
