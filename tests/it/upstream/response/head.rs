//! Answers as odd as HTTP allows, written out byte for byte; and a host that does not exist.

use std::{sync::Arc, time::Duration};

use http::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::upstream::{MANIFEST, client::connection_reuse::digest};
use forebay_test_support::{fake_registry::FakeRegistry, mirror::Mirror};

/// What the manifest and the blob are.
const CONTENT: &str = r#"{"schemaVersion":2}"#;
const LIST: &str = r#"{"name":"team/app","tags":["1"]}"#;

/// A registry that answers each request with what `write` makes of its body, a head included.
struct Written {
    url: String,
    running: JoinHandle<()>,
}

impl Written {
    async fn start(write: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", tcp.local_addr().unwrap());
        let write = Arc::new(write);
        let running = tokio::spawn(async move {
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                let write = write.clone();
                tokio::spawn(async move { talk(stream, &*write).await });
            }
        });
        Self { url, running }
    }

    /// A mirror of it that asks about a tag each time.
    async fn mirror(&self) -> Mirror {
        let text = format!("[[upstream]]\nname = \"fake.example\"\nurls = [{:?}]\ndefault = true\n", self.url);
        Mirror::parse(&text).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn talk(mut stream: TcpStream, write: &(dyn Fn(&str) -> String + Send + Sync)) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let line = String::from_utf8(head).unwrap();
        let line = line.lines().next().unwrap();
        let mut answer = write(if line.contains("/tags/list") { LIST } else { CONTENT });
        if line.starts_with("HEAD ") {
            answer.truncate(answer.rfind("\r\n\r\n").unwrap() + 4);
        }
        if stream.write_all(answer.as_bytes()).await.is_err() || answer.contains("HTTP/1.0") {
            return;
        }
    }
}

/// What clients get by way of it: a manifest by GET and by HEAD, a blob, a list.
async fn statuses(mirror: &Mirror) -> [u16; 4] {
    let manifest = mirror.get("/v2/team/app/manifests/1").await;
    let head = mirror.head("/v2/team/app/manifests/1").await;
    let blob = mirror.get(&format!("/v2/team/app/blobs/{}", digest())).await;
    let list = mirror.get("/v2/team/app/tags/list").await;
    for (answer, body) in [(&manifest, CONTENT), (&head, ""), (&blob, CONTENT), (&list, LIST)] {
        assert!(answer.status != 200 || answer.body == body, "{answer:?}");
    }
    [manifest.status, head.status, blob.status, list.status]
}

fn answer(version: &str, lengths: &str, body: &str) -> String {
    format!("{version} 200 OK\r\ncontent-type: {MANIFEST}\r\n{lengths}\r\n\r\n{body}")
}

fn length(body: &str) -> String {
    format!("content-length: {}", body.len())
}

#[tokio::test]
async fn answers_before_the_answer_are_passed_over() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\ncontent-length: 3\r\n\r\n";
    for before in [
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
        "HTTP/1.1 102 Processing\r\n\r\n".to_owned(),
        hints.to_owned(),
        format!("HTTP/1.1 100 Continue\r\n\r\n{hints}{hints}"),
    ] {
        let shown = before.clone();
        let registry = Written::start(move |body| before.clone() + &answer("HTTP/1.1", &length(body), body)).await;
        let mirror = registry.mirror().await;
        for _ in 0..2 {
            assert_eq!(statuses(&mirror).await, [200; 4], "{shown:?}");
        }
    }
}

#[tokio::test]
async fn an_upstream_that_speaks_http_1_0_is_read() {
    let registry = Written::start(|body| answer("HTTP/1.0", &length(body), body)).await;
    assert_eq!(statuses(&registry.mirror().await).await, [200; 4]);
}

/// RFC 9112 section 6.3: equal ones may be read as one; others leave it open where the answer ends.
#[tokio::test]
async fn a_length_may_be_told_twice_and_not_two_lengths() {
    for twice in ["\r\ncontent-length: ", ", "] {
        let equal = move |body: &str| answer("HTTP/1.1", &format!("{}{twice}{}", length(body), body.len()), body);
        assert_eq!(statuses(&Written::start(equal).await.mirror().await).await, [200; 4], "{twice:?}");
        let other = move |body: &str| answer("HTTP/1.1", &format!("{}{twice}{}", length(body), body.len() - 3), body);
        assert_eq!(statuses(&Written::start(other).await.mirror().await).await, [502; 4], "{twice:?}");
    }
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_an_outage() {
    // No resolver looks a label of 64 octets up.
    let nowhere = format!("http://{}.example", "a".repeat(64));
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let of = |urls: &[&str]| format!("[[upstream]]\nname = \"fake.example\"\nurls = {urls:?}\ndefault = true\n");
    let (manifest, layer) = ("/v2/team/app/manifests/1", format!("/v2/team/app/blobs/{}", image.layers[0]));
    let mut mirror = Mirror::parse(&of(&[&nowhere, registry.url().as_str()])).start().await;
    // The next URL is asked.
    assert_eq!(mirror.get(manifest).await.body, image.manifest_bytes);
    // It alone: what is cached goes on, and the rest says why it does not.
    mirror
        .restart_with(|config| {
            config.upstreams[0].urls.truncate(1);
            config.cache.tag_ttl = Duration::ZERO;
        })
        .await;
    for method in [Method::GET, Method::HEAD] {
        let stale = mirror.request(method, manifest, &[]).await;
        assert_eq!((stale.status, stale.header("cache-status")), (200, Some("forebay; hit; detail=stale")));
    }
    for path in ["/v2/team/app/manifests/2", &layer, "/v2/team/app/tags/list"] {
        let refused = mirror.get(path).await;
        assert_eq!((refused.status, &*refused.error_code()), (502, "UNAVAILABLE"), "{path}: {}", refused.text());
    }
    assert_eq!(mirror.metric("forebay_upstream_up", &[]).await, 0.0);
}
