//! What goes wrong, and with which requests.

use std::{sync::Arc, time::Duration};

use forebay::oci::Digest;
use http::Method;
use tokio::sync::watch;

use super::record::{Record, Server};

/// What registries say that they are.
pub(super) const API_VERSION: &str = "docker-distribution-api-version";

/// What goes wrong. Offsets count the bytes of the body that is sent, which a Range may have cut.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer, whatever was asked.
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// The connection is closed without an answer.
    Disconnect,
    /// No head before the gate opens.
    HoldHead(Gate),
    DelayHead(Duration),
    /// What was asked for is done, and no head comes before the gate opens.
    HoldAnswer(Gate),
    /// The body stops at this byte until the gate opens.
    HoldBody {
        at: usize,
        gate: Gate,
    },
    /// Of a request's content no more than this is read until the gate opens, give or take a piece.
    HoldContent {
        at: usize,
        gate: Gate,
    },
    /// The body comes in pieces of so many bytes, with a pause after each.
    Throttle {
        piece: usize,
        pause: Duration,
    },
    /// The connection breaks after so many bytes, of a body with a Content-Length or, together with
    /// `NoContentLength`, of a chunked one.
    Truncate {
        at: usize,
    },
    /// The same, over HTTP/2 by a reset of the stream without an error. It drops what is still queued, the head too: put a
    /// `HoldBody` in front of it.
    EndEarly {
        at: usize,
    },
    /// The head lies about the length. A longer body is cut off, a shorter one breaks the connection.
    ContentLength(u64),
    /// The body is chunked.
    NoContentLength,
    /// This byte is another one.
    Corrupt {
        at: usize,
    },
    /// 200 and everything, whatever Range says.
    IgnoreRange,
    /// 416, whatever Range says.
    RefuseRange,
    /// 206 of a part that begins so many bytes later than asked.
    ShiftRange(usize),
    /// 404 for a manifest whose type no Accept names, as distribution does with types of OCI.
    RefuseUnnamedType,
    /// A header of the answer is replaced, or removed if there is no value.
    Header(&'static str, Option<String>),
    /// The status of the answer is replaced.
    Code(u16),
    Redirect {
        status: u16,
        to: To,
    },
}

impl Fault {
    /// The registry says this itself.
    pub fn status(status: u16) -> Self {
        let headers = vec![(API_VERSION, "registry/2.0".to_owned())];
        Self::Answer { status, headers: if status < 400 { vec![] } else { headers }, body: String::new() }
    }

    /// What stands in front of the registry says this.
    pub fn page(status: u16) -> Self {
        let headers = vec![("content-type", "text/html".to_owned())];
        Self::Answer { status, headers, body: format!("<html><center><h1>{status}</h1></center><hr>nginx</html>") }
    }

    /// An ingress that knows no such backend.
    pub fn no_backend() -> Self {
        let headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
        Self::Answer { status: 404, headers, body: "default backend - 404".to_owned() }
    }

    /// 429, and when to come back.
    pub fn too_many(retry_after: &str) -> Self {
        Self::Answer { status: 429, headers: vec![("retry-after", retry_after.to_owned())], body: String::new() }
    }

    /// A page for people, with status 200.
    pub fn html() -> Self {
        let headers = vec![("content-type", "text/html; charset=utf-8".to_owned())];
        Self::Answer { status: 200, headers, body: "<html>please log in</html>".to_owned() }
    }

    /// 401 with this WWW-Authenticate.
    pub fn challenge(value: &str) -> Self {
        Self::Answer { status: 401, headers: vec![("www-authenticate", value.to_owned())], body: String::new() }
    }
}

/// Where a redirect leads.
#[derive(Clone, Debug)]
pub enum To {
    /// The blob host, by a signed URL.
    Cdn,
    /// Another path of the registry itself, by a relative Location; credentials are wanted there too.
    Here,
    /// This Location.
    Location(String),
}

/// Which requests are meant.
#[derive(Clone, Debug)]
pub struct When {
    server: Server,
    method: Option<Method>,
    /// Contained in the path.
    path: String,
    /// Whether it is the whole of it.
    whole: bool,
    /// Whether a request must have a Range.
    range: bool,
    /// Whether it must have an Authorization.
    authorized: bool,
}

impl When {
    /// Every request to the registry itself whose path contains this.
    pub fn path_of(path: impl Into<String>) -> Self {
        Self::path(path)
    }

    fn path(path: impl Into<String>) -> Self {
        Self { server: Server::Api, method: None, path: path.into(), whole: false, range: false, authorized: false }
    }

    /// Every request to the registry itself.
    pub fn any() -> Self {
        Self::path("")
    }

    /// `GET /v2/`.
    pub fn base() -> Self {
        Self { whole: true, ..Self::path("/v2/") }
    }

    pub fn manifests() -> Self {
        Self::path("/manifests/")
    }

    pub fn referrers() -> Self {
        Self::path("/referrers/")
    }

    pub fn blobs() -> Self {
        Self::path("/blobs/")
    }

    pub fn uploads() -> Self {
        Self::path("/blobs/uploads/")
    }

    pub fn blob(digest: &Digest) -> Self {
        Self::path(format!("/blobs/{digest}"))
    }

    /// Every request to the token realm.
    pub fn tokens() -> Self {
        Self::path("").at(Server::Realm)
    }

    /// The same, asked of another part of the registry.
    pub fn at(self, server: Server) -> Self {
        Self { server, ..self }
    }

    pub fn method(self, method: Method) -> Self {
        Self { method: Some(method), ..self }
    }

    /// Only requests with a Range.
    pub fn ranged(self) -> Self {
        Self { range: true, ..self }
    }

    /// Only requests with an Authorization.
    pub fn authorized(self) -> Self {
        Self { authorized: true, ..self }
    }

    pub fn matches(&self, record: &Record) -> bool {
        self.server == record.server
            && self.method.as_ref().is_none_or(|method| *method == record.method)
            && record.path.contains(&self.path)
            && (!self.whole || record.path == self.path)
            && (!self.range || record.headers.contains_key("range"))
            && (!self.authorized || record.headers.contains_key("authorization"))
    }
}

pub(super) struct Rule {
    pub when: When,
    pub fault: Fault,
    /// How many requests it still applies to.
    pub times: usize,
}

/// Holds each request that reaches it until it is opened; then it stays open.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Ends>);

#[derive(Debug, Default)]
struct Ends {
    open: watch::Sender<bool>,
    held: watch::Sender<usize>,
}

impl Gate {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    pub fn open(&self) {
        self.0.open.send_replace(true);
    }

    /// Waits until a request has reached the gate; a minute at most.
    pub async fn reached(&self) {
        self.reached_by(1).await;
    }

    /// Waits until so many have come to the gate; a minute at most.
    pub async fn reached_by(&self, number: usize) {
        let mut held = self.0.held.subscribe();
        let wait = held.wait_for(|held| *held >= number);
        assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "too few came to the gate");
    }

    /// Comes to the gate, and waits until it is open.
    pub async fn pass(&self) {
        self.0.held.send_modify(|held| *held += 1);
        // The sender lives as long as the gate, so this ends by the gate's opening alone.
        let _ = self.0.open.subscribe().wait_for(|open| *open).await;
    }
}
