//! What an answer's head says beside its content: the digest outweighs it.

use std::{io::Write as _, sync::Arc};

use flate2::{Compression, write::GzEncoder};
use forebay::{
    oci::{Algorithm, Digest, Operation, Reference},
    upstream::{Config, Error, ErrorKind},
};
use futures_util::future::join_all;
use http::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::upstream::{MANIFEST, Subject, WHOLE, accept, any_list, config_of, name, read};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, When},
    mirror::Mirror,
    test_ca::TestCa,
};

const TEN: &[u8] = b"0123456789";
const DOCUMENT: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn digest_of(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

fn patterned(len: u32) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

#[tokio::test]
async fn what_has_its_digest_is_served_whatever_its_head_says() {
    let registry = FakeRegistry::start().await;
    let long = patterned(3_000_000);
    let image = registry.add_image("team/app", "1", &[TEN, b"", &long, &gzip(TEN)]);
    let mirror = Mirror::of(&registry).await;
    for (number, (header, value)) in [
        ("content-encoding", "aws-chunked"),
        ("content-encoding", "utf-8"),
        ("content-encoding", "x-gzip"),
        ("content-encoding", "gzip"),
        ("content-encoding", "br"),
        ("content-type", "text/html"),
    ]
    .into_iter()
    .enumerate()
    {
        registry.heal();
        registry.fault(When::any(), Fault::Header(header, Some(value.to_owned())));
        let subject = Subject::of(&registry);
        for (layer, content) in image.layers.iter().zip([TEN, b"", &long, &gzip(TEN)]) {
            assert!(subject.blob("team/app", layer, WHOLE).await.unwrap() == content, "{header}: {value}");
        }
        for reference in ["1", image.manifest.as_str()] {
            assert_eq!(subject.manifest("team/app", reference).await.unwrap(), image.manifest_bytes, "{value}");
        }
        // And through all of it, where a HEAD says what a GET gives.
        let content = patterned(1_000_000 + u32::try_from(number).unwrap());
        let blob = registry.add_blob("team/app", content.clone());
        let path = format!("/v2/team/app/blobs/{blob}");
        let head = mirror.head(&path).await;
        let told = ["content-length", "content-type"].map(|name| head.header(name));
        assert_eq!(
            (head.status, told),
            (200, [Some(&*content.len().to_string()), Some("application/octet-stream")]),
            "{value}"
        );
        let answer = mirror.get(&path).await;
        assert!(answer.status == 200 && answer.body == content, "{header}: {value}");
        assert_eq!(answer.header("content-encoding"), None);
    }
}

#[tokio::test]
async fn a_gzipped_blob_is_decoded_if_its_digest_differs() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for kind in ["gzip", "x-gzip"] {
        for length_told in [true, false] {
            let content = patterned(200_000 + u32::from(length_told) + u32::try_from(kind.len()).unwrap());
            let digest = digest_of(&content);
            registry.put_blob("team/app", &digest, gzip(&content));
            registry.heal();
            registry.fault(When::blobs(), Fault::Header("content-encoding", Some(kind.to_owned())));
            if !length_told {
                registry.fault(When::blobs(), Fault::NoContentLength);
            }
            let path = format!("/v2/team/app/blobs/{digest}");
            for _ in 0..2 {
                let answer = mirror.get(&path).await;
                assert!(answer.status == 200 && answer.body == content, "{kind} {length_told}");
            }
            let part = mirror.get_with(&path, &[("range", "bytes=5-9")]).await;
            assert_eq!((part.status, &part.body[..]), (206, &content[5..10]));
            assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
        }
    }
    // What is neither is no content, whichever coding it claims.
    for coding in ["gzip", "br"] {
        let digest = digest_of(coding.as_bytes());
        registry.put_blob("team/app", &digest, gzip(TEN));
        registry.heal();
        registry.fault(When::blobs(), Fault::Header("content-encoding", Some(coding.to_owned())));
        assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{digest}")).await.status, 502, "{coding}");
    }
}

/// Stored, as what is random can be packed no better.
fn stored(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// More than is held in memory.
const LARGE: u32 = 17 * 1024 * 1024;

fn gzipped() -> Fault {
    Fault::Header("content-encoding", Some("gzip".to_owned()))
}

#[tokio::test]
async fn a_large_blob_that_comes_gzipped_is_decoded() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    registry.fault(When::blobs(), gzipped());
    let (content, zeroes) = (patterned(LARGE), vec![0; LARGE as usize]);
    let layer = stored(&patterned(LARGE + 1));
    for (content, raw, broken) in [
        // What is short in its encoding is judged before any of it is given.
        (&zeroes, gzip(&zeroes), false),
        (&content, stored(&content), false),
        (&layer, stored(&layer), true),
    ] {
        let digest = digest_of(content);
        let path = format!("/v2/team/app/blobs/{digest}");
        registry.put_blob("team/app", &digest, raw);
        if broken {
            registry.fault_times(1, When::blobs().method(Method::GET), Fault::Truncate { at: 10_000_000 });
        }
        for _ in 0..2 {
            let answer = mirror.get(&path).await;
            assert!(answer.status == 200 && answer.body == *content, "{digest}");
            assert_eq!(answer.header("content-encoding"), None);
        }
        let part = mirror.get_with(&path, &[("range", "bytes=16777210-16777219")]).await;
        assert_eq!((part.status, &part.body[..]), (206, &content[16_777_210..16_777_220]));
        if !broken {
            assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
        }
    }
}

/// Whether all of it came.
async fn is_whole(mirror: &Mirror, digest: &Digest, content: &[u8]) -> bool {
    let answer = mirror.try_get(&format!("/v2/team/app/blobs/{digest}")).await;
    answer.is_ok_and(|answer| answer.status == 200 && answer.body == content)
}

#[tokio::test]
async fn a_large_blob_is_what_its_digest_says_at_the_second_try() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    registry.fault(When::blobs(), gzipped());
    let mut tar = patterned(LARGE);
    tar[257..262].copy_from_slice(b"ustar");
    let (layer, artifact) = (stored(&tar), stored(&patterned(LARGE)));
    for (content, raw, tries) in [(&layer, &layer, 1), (&tar, &layer, 2), (&artifact, &artifact, 2)] {
        let digest = digest_of(content);
        registry.put_blob("team/app", &digest, raw.clone());
        for number in 1..=tries {
            assert_eq!(is_whole(&mirror, &digest, content).await, number == tries, "{digest}");
        }
    }
}

/// Answers every request so, each on a connection of its own.
struct Canned {
    url: Url,
    serving: JoinHandle<()>,
}

impl Canned {
    async fn start(answer: Vec<u8>, tls: Option<Arc<rustls::ServerConfig>>, goodbye: bool) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{}", tcp.local_addr().unwrap())).unwrap();
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                match &tls {
                    None => {
                        read_head(&mut stream).await;
                        say(&mut stream, &answer, goodbye).await;
                    }
                    Some(tls) => {
                        let mut stream = TlsAcceptor::from(tls.clone()).accept(stream).await.unwrap();
                        read_head(&mut stream).await;
                        say(&mut stream, &answer, goodbye).await;
                    }
                }
            }
        });
        Self { url, serving }
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), answer: &[u8], goodbye: bool) {
    stream.write_all(answer).await.unwrap();
    stream.flush().await.unwrap();
    if goodbye {
        let _ = stream.shutdown().await;
    }
}

fn answer(headers: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{headers}\r\n").as_bytes(), body].concat()
}

#[tokio::test]
async fn a_gzipped_manifest_is_decoded_if_its_digest_differs() {
    let digest = digest_of(DOCUMENT);
    let named = format!("content-type: {MANIFEST}\r\ndocker-content-digest: {digest}\r\ncontent-encoding: gzip\r\n");
    let unnamed = format!("content-type: {MANIFEST}\r\ncontent-encoding: gzip\r\n");
    for headers in [&named, &unnamed] {
        let registry = Canned::start(answer(headers, &gzip(DOCUMENT)), None, true).await;
        let subject = Subject::new(&config_of([registry.url.clone()]));
        for reference in ["1", digest.as_str()] {
            assert_eq!(subject.manifest("team/app", reference).await.unwrap(), DOCUMENT, "{headers} {reference}");
        }
        let list =
            subject.upstream.forward(Operation::Tags, Some(&name("a")), "a/tags/list", &accept(&[]), any_list()).await;
        assert_eq!(list.unwrap().body, DOCUMENT);
    }
    // A head that says so tells no length.
    let registry = Canned::start(answer(&format!("{named}content-length: 60\r\n"), b""), None, true).await;
    let subject = Subject::new(&config_of([registry.url.clone()]));
    let reference: Reference = "1".parse().unwrap();
    let head = subject.upstream.head_manifest(&name("a"), &reference, &accept(&[])).await.unwrap();
    assert_eq!((head.len, head.digest), (None, Some(digest)));
}

#[tokio::test]
async fn a_body_ends_with_its_connection_where_its_digest_is_known() {
    let ca = TestCa::new();
    let mut tls = (*ca.server(&["127.0.0.1"])).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = Arc::new(tls);
    let digest = digest_of(DOCUMENT);
    let chunked = [format!("{:x}\r\n", DOCUMENT.len()).as_bytes(), DOCUMENT, b"\r\n"].concat();
    let named = format!("docker-content-digest: {digest}\r\n");
    for (headers, body, goodbye, expected) in [
        // Blob, manifest by digest, by tag, list: without a goodbye the digest has to be known.
        ("", DOCUMENT, false, [true, true, false, false]),
        (&*named, DOCUMENT, false, [true, true, true, false]),
        ("", DOCUMENT, true, [true; 4]),
        // Their framing says that these are cut.
        ("transfer-encoding: chunked\r\n", &chunked[..], false, [false; 4]),
        ("content-length: 99\r\n", DOCUMENT, false, [false; 4]),
    ] {
        let registry = Canned::start(answer(headers, body), Some(tls.clone()), goodbye).await;
        let subject = Subject::new(&Config { ca: Some(ca.path()), ..config_of([registry.url.clone()]) });
        let repository = name("team/app");
        let any = accept(&[]);
        let list = subject.upstream.forward(Operation::Tags, Some(&repository), "team/app/tags/list", &any, any_list());
        let found: [Result<Vec<u8>, Error>; 4] = [
            match subject.upstream.open_blob(&repository, &digest, WHOLE).await {
                Ok(blob) => read(blob).await,
                Err(error) => Err(error),
            },
            subject.manifest("team/app", digest.as_str()).await,
            subject.manifest("team/app", "1").await,
            list.await.map(|list| list.body.to_vec()),
        ];
        for (found, expected) in found.into_iter().zip(expected) {
            match found {
                Ok(content) => assert!(expected && content == DOCUMENT, "{headers} {goodbye}"),
                Err(error) => assert!(!expected && error.kind == ErrorKind::Unavailable, "{headers} {error}"),
            }
        }
        if expected[0] {
            let upstream =
                format!("name = \"a.example\"\nurls = [\"{}\"]\nca = {:?}\ndefault = true\n", registry.url, ca.path());
            let mirror = Mirror::parse(&format!("[[upstream]]\n{upstream}")).start().await;
            let answer = mirror.get(&format!("/v2/team/app/blobs/{digest}")).await;
            assert_eq!((answer.status, &answer.body[..]), (200, DOCUMENT));
        }
    }
}

/// What its upstream calls by no manifest's type, and what says no type itself.
#[tokio::test]
async fn a_manifest_of_any_type_is_fetched_once() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (number, media_type) in ["application/json", "application/octet-stream", "text/plain"].iter().enumerate() {
        let content = format!(r#"{{"schemaVersion":2,"number":{number}}}"#);
        let digest = registry.add_manifest("team/app", media_type, content.clone());
        let path = format!("/v2/team/app/manifests/{digest}");
        let get = async || mirror.get_with(&path, &[("accept", MANIFEST)]).await;
        for _ in 0..3 {
            let answer = get().await;
            assert_eq!((answer.status, answer.text()), (200, &*content), "{media_type}");
        }
        assert_eq!(registry.count(|request| request.path == path), 1, "{media_type}");
        registry.fault(When::any(), Fault::status(503));
        assert_eq!(get().await.status, 200, "{media_type}");
        registry.heal();
    }
}

/// Layers of an image whose registry calls them pages, or gzip, come all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_blobs_are_judged_at_a_time() {
    for (header, value) in [("content-type", "text/html"), ("content-encoding", "gzip")] {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        registry.fault(When::blobs(), Fault::Header(header, Some(value.to_owned())));
        registry.fault(When::blobs(), Fault::NoContentLength);
        let blobs: Vec<(Digest, Vec<u8>)> = (0..80)
            .map(|number| {
                let content = patterned(100_000 + number);
                (registry.add_blob("team/app", content.clone()), content)
            })
            .collect();
        let pulled = join_all(blobs.iter().map(async |(digest, content)| {
            let answer = mirror.get(&format!("/v2/team/app/blobs/{digest}")).await;
            answer.status == 200 && answer.body == *content
        }));
        assert_eq!(pulled.await, [true; 80], "{header}: {value}");
    }
}

#[tokio::test]
async fn lists_and_logins_may_have_a_label_for_a_coding() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let plain = Mirror::of(&registry).await.get("/v2/team/app/tags/list").await;
    for value in ["utf-8", "aws-chunked", "gzip"] {
        registry.heal();
        registry.fault(When::any(), Fault::Header("content-encoding", Some(value.to_owned())));
        let mirror = Mirror::of(&registry).await;
        for path in ["/v2/team/app/tags/list", "/v2/_catalog"] {
            assert_eq!(mirror.get(path).await.status, 200, "{value} {path}");
        }
        assert_eq!(mirror.get("/v2/team/app/tags/list").await.body, plain.body, "{value}");
    }
}
