//! A listener on port 0 with a handler that does what a test asks for, certificates made at run time, and clients.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use forebay::{
    metrics::Metrics,
    transport::{BoxError, Config, Connection, Handle, Listener, Refusal, ReloadableTls, Timeouts, TlsConfig},
};
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::until::{PATIENCE, soon};

/// A chunk of a big body.
pub const CHUNK: usize = 64 * 1024;

/// Bodies that ended, one way or the other, and a gate that holds others back.
#[derive(Clone)]
pub struct Stage(Arc<Inner>);

struct Inner {
    gate: Semaphore,
    /// Requests that have reached the handler, bodies that are over.
    begun: Mutex<usize>,
    over: Mutex<usize>,
}

impl Stage {
    /// Lets `n` of those who wait at the gate go on.
    pub fn open(&self, n: usize) {
        self.0.gate.add_permits(n);
    }

    pub fn begun(&self) -> usize {
        *self.0.begun.lock().unwrap()
    }

    pub fn over(&self) -> usize {
        *self.0.over.lock().unwrap()
    }

    async fn pass(&self) {
        self.0.gate.acquire().await.unwrap().forget();
    }
}

/// Counts when it goes.
struct Over(Stage);

impl Drop for Over {
    fn drop(&mut self) {
        *self.0.0.over.lock().unwrap() += 1;
    }
}

impl Handle for Stage {
    type Body = UnsyncBoxBody<Bytes, BoxError>;

    /// `/hello`, `/connection`; `/big?N` is N bytes; `/late` answers and `/gate` goes on when the gate opens;
    /// `/fail` breaks after its first chunk.
    async fn handle(&self, request: Request<Incoming>, connection: Arc<Connection>) -> Response<Self::Body> {
        let over = Over(self.clone());
        *self.0.begun.lock().unwrap() += 1;
        let chunk = || Ok(Frame::data(Bytes::from(vec![b'x'; CHUNK])));
        let body = match request.uri().path() {
            "/hello" => whole("hello\n", over),
            "/late" => {
                self.pass().await;
                whole("late\n", over)
            }
            "/connection" => {
                let Connection {
                    tls,
                    sni,
                    client_certificate,
                    peer,
                    peer_text: _,
                    local,
                    loopback,
                    send_queue,
                    recipient: _,
                } = &*connection;
                let http1 = request.version() < http::Version::HTTP_2;
                // Under TLS it depends on the kernel.
                assert!(send_queue.is_some() == http1 || (*tls && send_queue.is_none()));
                assert_ne!(peer, local);
                assert!(loopback);
                whole(&format!("{tls} {} {client_certificate}", sni.as_deref().unwrap_or("-")), over)
            }
            "/big" => {
                let n: usize = request.uri().query().unwrap().parse().unwrap();
                let chunks = stream::iter(0..n / CHUNK).map(move |_| {
                    let _keep = &over;
                    chunk()
                });
                BodyExt::boxed_unsync(StreamBody::new(chunks))
            }
            "/gate" => {
                let stage = self.clone();
                let rest = stream::once(async move {
                    stage.pass().await;
                    drop(over);
                    chunk()
                });
                BodyExt::boxed_unsync(StreamBody::new(stream::once(async move { chunk() }).chain(rest)))
            }
            "/fail" => {
                let rest = stream::once(async move {
                    drop(over);
                    // The client has the first chunk by then, so that the failure is all that tells it.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err("the upstream broke".into())
                });
                BodyExt::boxed_unsync(StreamBody::new(stream::once(async move { chunk() }).chain(rest)))
            }
            other => panic!("no test asks for {other}"),
        };
        Response::new(body)
    }

    fn refuse(&self, refusal: Refusal) -> Response<Bytes> {
        forebay::registry::refused_connection::refusal(refusal)
    }
}

fn whole(text: &str, over: Over) -> UnsyncBoxBody<Bytes, BoxError> {
    drop(over);
    Full::new(Bytes::from(text.to_owned())).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A listener under test.
pub struct TestServer {
    pub address: SocketAddr,
    pub metrics: Metrics,
    pub stage: Stage,
    pub shutdown: CancellationToken,
    running: JoinHandle<()>,
}

/// What a test wants otherwise.
pub struct Setup {
    pub config: Config,
    pub timeouts: Timeouts,
    pub tls: Option<ReloadableTls>,
}

impl Setup {
    pub fn clear() -> Setup {
        Setup {
            config: Config {
                listen: vec!["127.0.0.1:0".parse().unwrap()],
                max_connections: 1000,
                drain_timeout: PATIENCE,
                ..Config::default()
            },
            timeouts: Timeouts::default(),
            tls: None,
        }
    }

    pub fn tls(certificates: &Certificates) -> Setup {
        let tls = ReloadableTls::load(&certificates.config).unwrap();
        Setup { tls: Some(tls), ..Setup::clear() }
    }

    pub fn timeouts(mut self, change: impl FnOnce(&mut Timeouts)) -> Setup {
        change(&mut self.timeouts);
        self
    }

    pub fn start(self) -> TestServer {
        self.start_with(Vec::new())
    }

    pub fn start_with(self, inherited: Vec<std::net::TcpListener>) -> TestServer {
        let metrics = Metrics::new().unwrap();
        let listener = Listener::bind(&self.config, inherited, self.tls, metrics.clone()).unwrap();
        let address = listener.local_addrs()[0];
        let shutdown = CancellationToken::new();
        let inner = Inner { gate: Semaphore::new(0), begun: Mutex::default(), over: Mutex::default() };
        let stage = Stage(Arc::new(inner));
        let running = listener.with_timeouts(self.timeouts).run(Arc::new(stage.clone()), shutdown.clone());
        TestServer { address, metrics, stage, shutdown, running: tokio::spawn(running) }
    }
}

impl TestServer {
    pub fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The certificates are for `localhost`.
    pub fn https(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The same, as another client of this machine.
    pub async fn connect_from(&self, address: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Begins the drain and waits for its end.
    pub async fn end(self) {
        self.shutdown.cancel();
        soon("the end of the server", self.running).await.unwrap();
    }

    pub fn counted(&self, line: &str) -> bool {
        self.metrics.encode().unwrap().lines().any(|counted| counted == line)
    }
}

/// A CA, and files with what it issued for `localhost`.
pub struct Certificates {
    pub config: TlsConfig,
    ca: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Certificates {
    pub fn new() -> Certificates {
        let directory = tempfile::tempdir().unwrap();
        let config = TlsConfig {
            certificate: directory.path().join("tls.crt"),
            key: directory.path().join("tls.key"),
            client_ca: None,
        };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "the CA of a test");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let certificates = Certificates { config, ca, directory };
        certificates.renew();
        certificates
    }

    /// Writes a new certificate and its key, as one does: one file after the other.
    pub fn renew(&self) {
        let (certificate, key) = self.issue(ExtendedKeyUsagePurpose::ServerAuth);
        std::fs::write(&self.config.certificate, certificate).unwrap();
        std::fs::write(&self.config.key, key).unwrap();
    }

    /// Clients may show certificates of this CA from now on.
    pub fn with_client_ca(mut self, ca: &Certificates) -> Certificates {
        let path = self.path("clients.crt");
        std::fs::write(&path, ca.ca.pem()).unwrap();
        self.config.client_ca = Some(path);
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a new certificate that is valid in these years alone, and its key.
    pub fn renew_for(&self, from: i32, to: i32) {
        let (certificate, key) = self.issue_with(ExtendedKeyUsagePurpose::ServerAuth, |params| {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(to, 1, 1);
        });
        std::fs::write(&self.config.certificate, certificate).unwrap();
        std::fs::write(&self.config.key, key).unwrap();
    }

    /// A certificate and its key, in PEM.
    pub fn issue(&self, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        self.issue_with(usage, |_| {})
    }

    fn issue_with(
        &self,
        usage: ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.ca).unwrap().pem(), key.serialize_pem())
    }

    pub fn client(&self) -> reqwest::ClientBuilder {
        let ca = reqwest::Certificate::from_pem(self.ca.pem().as_bytes()).unwrap();
        reqwest::Client::builder().tls_certs_only([ca]).no_proxy()
    }

    /// What a client needs that offers `alpn`.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// A TLS connection that offers `alpn`.
    pub async fn connect(&self, server: &TestServer, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.client_config(alpn)).connect(name, server.connect().await).await
    }
}

/// The certificate that a server shows.
pub fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// HTTP/2 over clear text.
pub fn h2_client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap()
}

/// Sends a request by hand.
pub async fn send(stream: &mut (impl tokio::io::AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

/// Everything until the server closes; the error when it does not close cleanly.
pub async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut all = Vec::new();
    soon("the end of the connection", stream.read_to_end(&mut all)).await?;
    Ok(String::from_utf8_lossy(&all).into_owned())
}

/// What comes, until it contains `end`.
pub async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut buffer = [0; 1024];
        let n = soon("the answer", stream.read(&mut buffer)).await.unwrap();
        assert_ne!(n, 0, "the connection ended after {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    text
}
