//! Upstreams that are broken, each in one way.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use super::port::free_port;
use crate::{
    fake_registry::{Auth, FakeRegistry, Fault, When},
    test_ca::{TestCa, serving},
};

/// What is broken, and by which name documents know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breakage {
    Refused,
    UnknownName,
    Silent,
    SlowHead,
    Reset,
    Expired,
    SelfSigned,
    WrongName,
    ClearHttp,
    Status500,
    Status503,
    Page,
    RateLimit,
    Credentials,
    WrongDigest,
}

impl Breakage {
    pub const ALL: [Self; 15] = [
        Self::Refused,
        Self::UnknownName,
        Self::Silent,
        Self::SlowHead,
        Self::Reset,
        Self::Expired,
        Self::SelfSigned,
        Self::WrongName,
        Self::ClearHttp,
        Self::Status500,
        Self::Status503,
        Self::Page,
        Self::RateLimit,
        Self::Credentials,
        Self::WrongDigest,
    ];

    /// A label of a host's name, and the name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::UnknownName => "unknown-name",
            Self::Silent => "silent",
            Self::SlowHead => "slow-head",
            Self::Reset => "reset",
            Self::Expired => "expired",
            Self::SelfSigned => "self-signed",
            Self::WrongName => "wrong-name",
            Self::ClearHttp => "clear-http",
            Self::Status500 => "status-500",
            Self::Status503 => "status-503",
            Self::Page => "page",
            Self::RateLimit => "rate-limit",
            Self::Credentials => "credentials",
            Self::WrongDigest => "wrong-digest",
        }
    }
}

/// A broken upstream, which runs as long as this value.
pub struct Broken {
    pub breakage: Breakage,
    url: String,
    /// Its own CA, which forebay is told to trust.
    ca: Option<TestCa>,
    _registry: Option<FakeRegistry>,
    _task: Option<AbortOnDropHandle<()>>,
}

impl Broken {
    /// Starts it, with the image `team/app:1` as far as it serves any.
    pub async fn start(breakage: Breakage) -> Self {
        let closed = format!("http://127.0.0.1:{}", free_port());
        let nothing = Self { breakage, url: closed, ca: None, _registry: None, _task: None };
        let ca = TestCa::new();
        match breakage {
            Breakage::Refused => nothing,
            // A label that is too long: no resolver is asked.
            Breakage::UnknownName => Self { url: format!("http://{}.test", "n".repeat(70)), ..nothing },
            Breakage::Silent => nothing.raw(|mut stream| async move {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }),
            Breakage::SlowHead => nothing.raw(drip),
            Breakage::Expired => {
                let change = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
                let (certificate, key) = ca.issue_with(&["127.0.0.1"], change);
                nothing.tls(serving(&certificate, &key), Some(ca)).await
            }
            Breakage::SelfSigned => {
                let key = KeyPair::generate().unwrap();
                let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key);
                nothing.tls(serving(&certificate.unwrap(), &key), None).await
            }
            Breakage::WrongName => nothing.tls(ca.server(&["other.test"]), Some(ca)).await,
            Breakage::ClearHttp => {
                let registry = FakeRegistry::start().await;
                let url = registry.url().to_string().replace("http://", "https://");
                Self { url, _registry: Some(registry), ..nothing }
            }
            Breakage::Reset => nothing.faulty(Fault::Truncate { at: 20 }).await,
            Breakage::Status500 => nothing.faulty(Fault::status(500)).await,
            Breakage::Status503 => {
                let headers = vec![("retry-after", "7".to_owned())];
                nothing.faulty(Fault::Answer { status: 503, headers, body: "overloaded".to_owned() }).await
            }
            Breakage::Page => nothing.faulty(Fault::html()).await,
            Breakage::RateLimit => nothing.faulty(Fault::too_many("1")).await,
            Breakage::WrongDigest => nothing.faulty(Fault::Corrupt { at: 40 }).await,
            Breakage::Credentials => {
                let registry = with_image().await;
                registry.require(Auth::Basic { username: "robot".to_owned(), password: "right".to_owned() });
                Self { url: registry.url().to_string(), _registry: Some(registry), ..nothing }
            }
        }
    }

    /// Its part of a configuration file, as an upstream of this name; `password` is a file with a wrong one.
    pub fn configuration(&self, name: &str, password: &str) -> String {
        let mut text = format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{}\"]\n", self.url);
        if let Some(ca) = &self.ca {
            text.push_str(&format!("ca = {:?}\n", ca.path()));
        }
        // These never answer, and no client has to wait for the default.
        if matches!(self.breakage, Breakage::Silent | Breakage::SlowHead) {
            text.push_str("response_timeout = \"5s\"\n");
        }
        if self.breakage == Breakage::Credentials {
            text.push_str(&format!("username = \"robot\"\npassword_file = \"{password}\"\n"));
        }
        text
    }

    async fn faulty(self, fault: Fault) -> Self {
        let registry = with_image().await;
        registry.fault(When::any(), fault);
        Self { url: registry.url().to_string(), _registry: Some(registry), ..self }
    }

    async fn tls(self, config: Arc<rustls::ServerConfig>, ca: Option<TestCa>) -> Self {
        let registry = FakeRegistry::start_tls(config).await;
        Self { url: registry.url().to_string(), ca, _registry: Some(registry), ..self }
    }

    /// Serves each connection so.
    fn raw<F: Future<Output = ()> + Send + 'static>(self, serve: fn(TcpStream) -> F) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { url, _task: Some(AbortOnDropHandle::new(task)), ..self }
    }
}

async fn with_image() -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    registry
}

/// A head that does not end: a byte a second, once there is a request.
async fn drip(mut stream: TcpStream) {
    if stream.read(&mut [0; 1024]).await.is_err() {
        return;
    }
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Filler: ".iter().chain([b'x'; 600].iter());
    for byte in head {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
