//! What the benches share: the real App in front of a registry that has one blob and one manifest.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use forebay::{
    app::{App, Inherited},
    config::{Config, Overrides},
    oci::{Algorithm, Digest},
};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpListener, net::TcpStream, runtime::Runtime};

pub const MANIFEST: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The mirror, its upstream, and the runtime of both.
pub struct Bench {
    pub runtime: Runtime,
    pub mirror: SocketAddr,
    directory: tempfile::TempDir,
    app: Option<App>,
}

impl Bench {
    /// A mirror in front of a registry with these blobs, in the repository `team/app`.
    pub fn new(blobs: Vec<Bytes>) -> Self {
        let runtime = Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (app, mirror) = runtime.block_on(async {
            let upstream = upstream(blobs).await;
            let text = format!(
                "state_directory = \"state\"\n[server]\nlisten = [\"127.0.0.1:0\"]\n\
                 [admin]\nlisten = \"127.0.0.1:0\"\nsocket = \"control.sock\"\n[cache]\ndirectory = \"{}\"\ntag_ttl = \"1h\"\nmin_free = \"0 B\"\n\
                 [[upstream]]\nname = \"bench\"\ndefault = true\nurls = [\"http://{upstream}\"]\n",
                directory.path().join("cache").display(),
            );
            let file = directory.path().join("forebay.toml");
            std::fs::write(&file, text).unwrap();
            let config = Config::load(Some(&file), Overrides::default()).unwrap();
            let app = App::start(config, Inherited::default()).await.unwrap();
            let mirror = app.local_addrs()[0];
            (app, mirror)
        });
        Self { runtime, mirror, directory, app: Some(app) }
    }

    /// Forgets a cached blob, so that the next request for it is a miss; whether it was there.
    pub fn forget(&self, digest: &Digest) -> bool {
        let path = self.directory.path().join("cache/blobs/sha256").join(&digest.hex()[..2]).join(digest.hex());
        std::fs::remove_file(path).is_ok()
    }

    /// A connection that stays open, as a client's does for the requests of a pull.
    pub fn connect(&self) -> Client<'_> {
        let stream = self.runtime.block_on(TcpStream::connect(self.mirror)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { bench: self, stream, buffer: Vec::with_capacity(64 << 10) }
    }

    /// One request on a connection of its own; how many bytes of body came.
    pub fn get(&self, path: &str) -> u64 {
        self.runtime.block_on(async {
            let mut stream = TcpStream::connect(self.mirror).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut buffer = vec![0; 1 << 20];
            let (mut head, mut body) = (Vec::new(), None::<u64>);
            loop {
                let read = stream.read(&mut buffer).await.unwrap();
                if read == 0 {
                    break;
                }
                match &mut body {
                    Some(body) => *body += read as u64,
                    None => {
                        head.extend_from_slice(&buffer[..read]);
                        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head[..end]));
                            body = Some((head.len() - end - 4) as u64);
                        }
                    }
                }
            }
            body.unwrap()
        })
    }
}

/// A client on one connection.
pub struct Client<'a> {
    bench: &'a Bench,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client<'_> {
    /// Sends a request, and waits until it has `len` bytes of head and body, or more.
    pub fn exchange(&mut self, request: &[u8], len: usize) -> usize {
        self.send(request, len);
        assert!(self.buffer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&self.buffer));
        self.buffer.len()
    }

    /// Sends a request for what the upstream does not have.
    pub fn miss(&mut self, request: &[u8]) {
        self.send(request, 1);
        assert!(self.buffer.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&self.buffer));
        assert!(self.buffer.ends_with(b"}"), "a small answer comes as one");
    }

    fn send(&mut self, request: &[u8], len: usize) {
        let Self { bench, stream, buffer } = self;
        bench.runtime.block_on(async {
            stream.write_all(request).await.unwrap();
            buffer.clear();
            while buffer.len() < len {
                assert!(stream.read_buf(buffer).await.unwrap() > 0, "the mirror closed the connection");
            }
        });
    }

    /// Sends a request; how many bytes its answer has, to be expected of the same request again.
    pub fn measure(&mut self, request: &[u8]) -> usize {
        let head = self.exchange(request, 1);
        let end = self.buffer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let text = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let len = end + length.parse::<usize>().unwrap();
        assert_eq!(head, len, "a small answer comes as one");
        len
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(app) = self.app.take() {
            self.runtime.block_on(app.drain());
        }
    }
}

/// Bytes that do not compress, and their digest.
pub fn blob(len: usize, seed: u64) -> (Bytes, Digest) {
    let mut state = seed | 1;
    let content: Vec<u8> = (0..len.div_ceil(8))
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(len)
        .collect();
    let digest = Digest::of(Algorithm::Sha256, &content);
    (content.into(), digest)
}

async fn upstream(blobs: Vec<Bytes>) -> SocketAddr {
    let blobs: Arc<Vec<(Digest, Bytes)>> =
        Arc::new(blobs.into_iter().map(|blob| (Digest::of(Algorithm::Sha256, &blob), blob)).collect());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let blobs = blobs.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(request.uri().path(), &blobs);
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn answer(path: &str, blobs: &[(Digest, Bytes)]) -> Response<Full<Bytes>> {
    if path.contains("/manifests/") && !path.contains("/missing") {
        return Response::builder()
            .header("content-type", INDEX)
            .body(Full::new(Bytes::from_static(MANIFEST)))
            .unwrap();
    }
    match blobs.iter().find(|(digest, _)| path.ends_with(digest.as_str())) {
        Some((_, blob)) => Response::new(Full::new(blob.clone())),
        None => Response::builder().status(StatusCode::NOT_FOUND).body(Full::default()).unwrap(),
    }
}
