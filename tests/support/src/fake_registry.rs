//! A registry that does as it is told, and remembers what it was asked.
//!
//! It listens on ports of its own of 127.0.0.1: the registry itself ([`Server::Api`]), a blob host
//! that redirects lead to ([`Server::Cdn`]), and the token realm `/token`, which is a path of the
//! first and is recorded as [`Server::Realm`]. Everything can be changed while it runs:
//!
//! ```ignore
//! let registry = FakeRegistry::start().await;
//! let layer = registry.add_blob("team/app", b"layer");
//! let manifest = registry.add_manifest("team/app", "application/vnd.oci.image.manifest.v1+json", b"{}");
//! registry.tag("team/app", "1", &manifest);          // or add_image, which makes all of it
//!
//! registry.require(Auth::Bearer(Bearer::default())); // anonymous tokens; Basic; dialects: see `auth`
//! registry.fault(When::blob(&layer), Fault::Truncate { at: 3 });       // until `heal`
//! registry.fault_times(1, When::manifests(), Fault::status(503));      // only once
//! registry.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Cdn });
//! registry.fault(When::blobs().at(Server::Cdn), Fault::NoContentLength);
//!
//! let gate = Gate::new();                            // no test sleeps: it waits for what it means
//! registry.fault(When::blobs(), Fault::HoldBody { at: 3, gate: gate.clone() });
//! gate.reached().await;                              // a client has received three bytes
//! gate.open();
//!
//! registry.take_down(Server::Api).await;             // the port is closed, connections are cut
//! registry.bring_up(Server::Api).await;              // the same port again
//! registry.wait_for(|seen| seen.iter().any(|request| request.is_blob_get(&layer))).await;
//! assert_eq!(registry.count(|request| request.is_blob_get(&layer)), 1);
//!
//! registry.offer_referrers(true);                    // at first there is no such endpoint
//! ```
//!
//! Lists come in pages, by `n` and `last`.
//! Several faults may apply to one request; a fault that is an answer of its own wins over the rest.
//! The blob host refuses any Authorization, and a signature that it did not issue; `expire` makes
//! all issued signatures worthless. Blobs and manifests honour Range. Nothing outlives the value.

mod auth;
mod body;
pub(super) mod content;
mod fault;
mod listener;
mod lists;
mod record;
mod serve;
mod uploads;

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use forebay::oci::Digest;
use tokio::sync::watch;
use url::Url;

pub use self::{
    auth::{Auth, Bearer},
    content::Image,
    fault::{Fault, Gate, To, When},
    record::{Record, Server},
};
use self::{content::Content, fault::Rule, listener::Listener};
use super::uploads::Uploads;

/// A running registry; a cheap handle. It ends with its last handle.
#[derive(Clone)]
pub struct FakeRegistry {
    shared: Arc<Shared>,
    listeners: Arc<[Listener; 2]>,
}

/// What the listeners serve.
struct Shared {
    state: Mutex<State>,
    records: watch::Sender<Vec<Record>>,
    /// How many requests ended before all of their content had come.
    broken: watch::Sender<usize>,
    /// How many GETs of blobs have begun and not ended.
    open_blobs: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    content: Content,
    uploads: Uploads,
    rules: Vec<Rule>,
    auth: Auth,
    /// Tokens that were issued, each with its scopes, separated by spaces.
    tokens: Vec<(String, String)>,
    signatures: Vec<String>,
    issued: usize,
    /// Whether there is an endpoint for referrers.
    referrers: bool,
    /// Where the blob host is, as it stands in a Location.
    cdn: String,
    /// Where the registry is, as it stands in a realm.
    api: String,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl FakeRegistry {
    /// Over clear HTTP/1.1.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Over TLS, with HTTP/2 and HTTP/1.1; the blob host as well.
    pub async fn start_tls(tls: Arc<rustls::ServerConfig>) -> Self {
        Self::start_with(Some(tls)).await
    }

    async fn start_with(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            records: watch::Sender::default(),
            broken: watch::Sender::default(),
            open_blobs: watch::Sender::default(),
        });
        let api = Listener::start(Server::Api, shared.clone(), tls.clone()).await;
        let cdn = Listener::start(Server::Cdn, shared.clone(), tls).await;
        {
            let mut state = shared.state();
            state.api = api.url().to_string();
            state.cdn = cdn.url().to_string();
        }
        Self { shared, listeners: Arc::new([api, cdn]) }
    }

    /// As it stands in `urls` of an upstream.
    pub fn url(&self) -> Url {
        self.listeners[0].url()
    }

    /// Where the blob host is.
    pub fn cdn_url(&self) -> Url {
        self.listeners[1].url()
    }

    /// The token realm, under another name of this machine: `127.0.0.1` and `localhost` are different hosts.
    pub fn realm_at(&self, host: &str) -> String {
        let mut url = self.url();
        url.set_host(Some(host)).unwrap();
        url.set_path("/token");
        url.to_string()
    }

    pub fn add_blob(&self, repository: &str, content: impl Into<Bytes>) -> Digest {
        self.shared.state().content.add_blob(repository, content.into())
    }

    /// A blob under a digest of the caller's choice, which may be of another algorithm.
    pub fn put_blob(&self, repository: &str, digest: &Digest, content: impl Into<Bytes>) {
        self.shared.state().content.put_blob(repository, digest, content.into());
    }

    pub fn remove_blob(&self, repository: &str, digest: &Digest) {
        self.shared.state().content.remove_blob(repository, digest);
    }

    pub fn add_manifest(&self, repository: &str, media_type: &str, content: impl Into<Bytes>) -> Digest {
        self.shared.state().content.add_manifest(repository, media_type, content.into())
    }

    pub fn remove_manifest(&self, repository: &str, digest: &Digest) {
        self.shared.state().content.remove_manifest(repository, digest);
    }

    /// An OCI image of a configuration and these layers, with a tag.
    pub fn add_image(&self, repository: &str, tag: &str, layers: &[&[u8]]) -> Image {
        self.shared.state().content.add_image(repository, tag, layers)
    }

    /// What it has of a blob.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        self.shared.state().content.blob(repository, digest.as_str())
    }

    /// Waits until so many requests ended before all of their content had come.
    pub async fn wait_for_broken(&self, count: usize) {
        let mut broken = self.shared.broken.subscribe();
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), broken.wait_for(|now| *now >= count));
        assert!(waited.await.is_ok(), "no request broke off");
    }

    /// How many GETs of blobs have begun and not ended, as far as the registry knows: it learns a little late that a client
    /// has closed a connection.
    pub fn open_blobs(&self) -> usize {
        *self.shared.open_blobs.borrow()
    }

    /// Points a tag, new or old, at a manifest.
    pub fn tag(&self, repository: &str, tag: &str, manifest: &Digest) {
        self.shared.state().content.tag(repository, tag, manifest);
    }

    pub fn untag(&self, repository: &str, tag: &str) {
        self.shared.state().content.untag(repository, tag);
    }

    /// From now on there is an endpoint for referrers, or none any more; at first there is none.
    pub fn offer_referrers(&self, offered: bool) {
        self.shared.state().referrers = offered;
    }

    /// From now on requests that `when` describes meet `fault`, until [`FakeRegistry::heal`].
    pub fn fault(&self, when: When, fault: Fault) {
        self.fault_times(usize::MAX, when, fault);
    }

    /// The next `times` requests that `when` describes meet `fault`.
    pub fn fault_times(&self, times: usize, when: When, fault: Fault) {
        self.shared.state().rules.push(Rule { when, fault, times });
    }

    /// No more faults.
    pub fn heal(&self) {
        self.shared.state().rules.clear();
    }

    /// Requires these credentials from now on. Tokens that were issued stay good for what they were issued for.
    pub fn require(&self, auth: Auth) {
        self.shared.state().auth = auth;
    }

    /// Every token issued so far is worthless.
    pub fn revoke_tokens(&self) {
        self.shared.state().tokens.clear();
    }

    /// Every signed URL of the blob host issued so far is worthless.
    pub fn expire(&self) {
        self.shared.state().signatures.clear();
    }

    /// Closes the port and cuts every connection.
    pub async fn take_down(&self, server: Server) {
        self.listener(server).stop().await;
    }

    /// Listens again, on the same port.
    pub async fn bring_up(&self, server: Server) {
        self.listener(server).resume().await;
    }

    fn listener(&self, server: Server) -> &Listener {
        match server {
            Server::Api | Server::Realm => &self.listeners[0],
            Server::Cdn => &self.listeners[1],
        }
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Record> {
        self.shared.records.borrow().clone()
    }

    /// How many requests so far are so.
    pub fn count(&self, is: impl Fn(&Record) -> bool) -> usize {
        self.shared.records.borrow().iter().filter(|record| is(record)).count()
    }

    /// Forgets every request so far.
    pub fn forget_requests(&self) {
        self.shared.records.send_modify(Vec::clear);
    }

    /// Waits until the requests so far are as expected; a minute at most, since a test must end.
    pub async fn wait_for(&self, expected: impl Fn(&[Record]) -> bool) {
        let mut records = self.shared.records.subscribe();
        let wait = records.wait_for(|records| expected(records));
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), wait).await.is_ok();
        assert!(waited, "the requests expected did not come; these did: {:#?}", self.requests());
    }
}
