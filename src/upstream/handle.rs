//! The handle of one upstream, and what a request changes about it.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use http::{HeaderValue, header};

use super::{
    Access, Config,
    auth::CredentialProvider,
    client::{ca_file::CaFlaws, outbound_request::RequestMode},
    context::Context,
    error::Error,
    health::Health,
    identity::Registry,
    mirrors::Mirrors,
    peer_use::PeerUse,
    principal::{ClientCredential, Principal, Verdict},
    rates::UpstreamRates,
    read_request::ReadRequest,
    setup_error::SetupError,
    state::UpstreamState,
    transfer_log::TransferLog,
    via::Via,
};
use crate::{
    cluster::Key,
    oci::{Digest, Repository},
    request_id::RequestId,
    request_trace::RequestTrace,
    store::Store,
};

/// One configured registry. A cheap handle.
#[derive(Clone)]
pub struct Upstream {
    pub(super) state: Arc<UpstreamState>,
    pub(super) via: Via,
    /// The forebays that the client's request passed.
    pub(super) via_mirrors: Option<Mirrors>,
    pub(super) mode: RequestMode,
    pub(super) client: Option<Arc<ClientCredential>>,
    /// The request that this handle is for.
    pub(super) trace: RequestTrace,
    /// Whether its requests may be sent to peers.
    pub(super) peers: PeerUse,
    /// Whether a response proves what a client may have.
    pub(super) is_proof: bool,
    /// The blob that the upstream has just granted to the client.
    pub(super) granted: Option<Digest>,
    /// The download that it is for.
    pub(super) transfer_log: Option<Arc<TransferLog>>,
}

impl Upstream {
    /// Sets the upstream up. Sends no request.
    ///
    /// # Errors
    /// The private CA cannot be read, or the configuration has no URL.
    pub fn new(config: &Config, context: Context) -> Result<Self, SetupError> {
        let state = Arc::new(UpstreamState::new(config, &context)?);
        let (via_mirrors, client, trace, peers) = (None, None, RequestTrace::default(), PeerUse::default());
        let (via, mode, is_proof, granted, transfer_log) = (Via::Ours, RequestMode::Normal, false, None, None);
        Ok(Self { state, via, via_mirrors, mode, client, trace, peers, is_proof, granted, transfer_log })
    }

    /// Checks the file of an upstream's credentials, if any. Blocks on it.
    ///
    /// # Errors
    /// The credentials cannot be used.
    pub(crate) fn check_credentials(config: &Config) -> Result<(), SetupError> {
        CredentialProvider::new(config)?.check()
    }

    /// What is wrong with the certificates of its `ca`.
    pub fn ca_flaws(&self) -> &CaFlaws {
        self.state.sender.ca_flaws()
    }

    /// Its name in the configuration, and in the labels of metrics.
    pub fn name(&self) -> &Arc<str> {
        self.state.name()
    }

    /// For a client's request with this `Via`, whose lines are to be joined by commas. The upstream gets all of it, so
    /// that it can find a loop over several mirrors. More than 32 proxies or 4 KiB count as a loop.
    pub fn with_via(&self, via: Option<HeaderValue>) -> Self {
        let via_mirrors = Mirrors::in_values(via.iter());
        Self { via: Via::behind(via.as_ref(), self.state.via()), via_mirrors, ..self.clone() }
    }

    /// For a client's request with this id.
    #[cfg(test)]
    pub(crate) fn for_request(self, request: RequestId) -> Self {
        Self { trace: RequestTrace::of(request), ..self }
    }

    /// The client's request that it is used for.
    pub(crate) fn request(&self) -> Option<RequestId> {
        self.trace.id()
    }

    /// The forebays that the client's request passed.
    pub(crate) fn via_mirrors(&self) -> Option<&Mirrors> {
        self.via_mirrors.as_ref()
    }

    /// Whether it may be a forebay, whose response may wait for one of ours.
    pub(crate) fn may_be_mirror(&self) -> bool {
        self.state.may_be_mirror()
    }

    /// Whether the request must not wait for a response to others: it passed a forebay, and that response may pass a
    /// forebay that waits for just this request. Nor must others wait for its response, which may be that there is a
    /// loop.
    pub(crate) fn may_be_loop(&self) -> bool {
        self.via == Via::TooLong || (self.via_mirrors.is_some() && self.may_be_mirror())
    }

    /// Over connections that each have one request at a time.
    pub(crate) fn with_dedicated_connections(&self) -> Self {
        Self { mode: RequestMode::Dedicated, ..self.clone() }
    }

    /// For a request of a peer, which is the last forebay in its `Via`. That peer is asked for nothing here, so no
    /// response to it can wait for one of its own.
    pub(crate) fn for_peer(&self) -> Self {
        let via_mirrors = self.via_mirrors.as_ref().and_then(Mirrors::without_last);
        Self { peers: PeerUse::Never, via_mirrors, ..self.clone() }
    }

    /// Its response proves what a client may have: neither a peer nor the object store may give it.
    pub(crate) fn for_proof(&self) -> Self {
        Self { peers: PeerUse::Never, is_proof: true, ..self.clone() }
    }

    /// Whether [`Upstream::for_proof`] made it.
    pub(crate) fn is_for_proof(&self) -> bool {
        self.is_proof
    }

    /// Of the registry, or of the object store.
    pub(crate) fn without_peers(&self) -> Self {
        Self { peers: PeerUse::Never, ..self.clone() }
    }

    /// For this time the manifests of a repository are requested of the registry alone: peers may not know yet what it says.
    pub(crate) fn ask_no_peers_for(&self, repository: &Repository, time: Duration) {
        self.state.repositories_of_registry.add(repository, time);
    }

    /// For work that may have to [leave](Self::leave_peers) its peers.
    pub(crate) fn with_revocable_peers(&self) -> Self {
        Self { peers: self.peers.revocable(), ..self.clone() }
    }

    /// A request of a peer waits for this work: it goes on at the registry. Without effect on handles that are not
    /// revocable.
    pub(crate) fn leave_peers(&self) {
        self.peers.leave();
    }

    /// Whether a request for this may be sent to a peer.
    pub(crate) fn asks_peers(&self, key: &Key) -> bool {
        !self.state.peers_ahead(key, &self.peers).is_empty()
    }

    /// Whether requests may go to no peer.
    pub(crate) fn is_without_peers(&self) -> bool {
        matches!(self.peers, PeerUse::Never)
    }

    /// As part of a push: requests are sent even if the host has failed too often.
    pub(crate) fn for_push(&self) -> Self {
        Self { mode: RequestMode::Push, peers: PeerUse::Never, ..self.clone() }
    }

    /// With the client's own credential, and no other.
    pub(crate) fn with_client_credential(&self, credential: Option<Arc<ClientCredential>>) -> Self {
        Self { client: credential, ..self.clone() }
    }

    /// What is done by this handle is for this request.
    pub(crate) fn set_trace(&mut self, trace: RequestTrace) {
        self.trace = trace;
    }

    /// The request that this handle is for.
    pub(crate) fn trace(&self) -> &RequestTrace {
        &self.trace
    }

    /// For work that the request does not need: what it spends counts nowhere.
    pub(crate) fn uncounted(&self) -> Self {
        Self { trace: self.trace.uncounted(), ..self.clone() }
    }

    /// Whether clients use their own credentials.
    pub fn uses_client_credentials(&self) -> bool {
        self.state.uses_client_credentials()
    }

    /// The object store, if its content is there, for manifests and tags.
    pub(crate) fn object_store(&self) -> Option<&Store> {
        self.state.store.as_ref().map(|(store, _)| store)
    }

    /// Which registry it is.
    pub fn registry(&self) -> &Registry {
        &self.state.registry
    }

    /// Whose credentials it gets.
    pub(crate) fn access(&self) -> Access {
        self.state.access()
    }

    /// The client that requests are sent for, if clients use their own credentials.
    pub(crate) fn principal(&self) -> Option<Principal> {
        self.uses_client_credentials()
            .then(|| self.client.as_ref().map_or(Principal::ANONYMOUS, |client| client.principal))
    }

    /// What the upstream said about the credential of the client's request.
    pub(crate) fn verdict(&self) -> Verdict {
        self.client.as_ref().map_or(Verdict::Unknown, |client| client.verdict.verdict())
    }

    /// Notes that the upstream accepted that credential with an earlier request.
    pub(crate) fn note_accepted_before(&self) {
        if let Some(client) = &self.client {
            client.verdict.note_accepted_before();
        }
    }

    /// Calls `then` with the verdict on that credential, once no request uses it any more.
    pub(crate) fn on_verdict(&self, then: impl FnOnce(Verdict) + Send + 'static) {
        match &self.client {
            Some(client) => client.on_verdict(then),
            None => then(Verdict::Unknown),
        }
    }

    /// Over how many connections one blob may be downloaded.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections()
    }

    /// How many bytes of blobs it has sent, for all clients.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.state.received().load(Ordering::Relaxed)
    }

    /// The rates of what it sends, and of what forebay sends of it.
    pub(crate) fn rates(&self) -> &Arc<UpstreamRates> {
        self.state.rates()
    }

    /// Whether forebay forwards pushes, mounts and deletes to it.
    pub(crate) fn allows_push(&self) -> bool {
        self.state.allows_push()
    }

    /// Whether clients may be sent to the object store for its blobs.
    pub(crate) fn redirects(&self) -> bool {
        self.state.redirects()
    }

    /// Whether less than a tenth is left of the rate limit that it announced for this client, or for forebay.
    pub(crate) fn is_near_rate_limit(&self) -> bool {
        self.state.is_near_rate_limit(self.client.as_ref().map(|client| client.principal))
    }

    /// How it is, as far as requests have shown.
    pub(crate) fn health(&self) -> Health {
        self.state.health.health()
    }

    /// Since when an operator has paused it.
    pub(crate) fn paused_since(&self) -> Option<SystemTime> {
        self.state.pause.since()
    }

    /// Sends it no more requests, of whatever kind, until [`Upstream::resume`]. Transfers that run go on.
    pub(crate) fn pause(&self) {
        if self.state.pause.begin(SystemTime::now()) {
            self.state.metrics().upstream_paused(self.name(), true);
            tracing::info!(
                upstream = %self.name(),
                "an operator has paused the upstream: it gets no requests, and what is cached is served"
            );
        }
    }

    /// Ends a pause; whether there was one.
    pub(crate) fn resume(&self) -> bool {
        let Some(since) = self.state.pause.end() else { return false };
        self.state.metrics().upstream_paused(self.name(), false);
        let seconds = since.elapsed().unwrap_or_default().as_secs();
        tracing::info!(upstream = %self.name(), seconds, "an operator has resumed the upstream");
        true
    }

    /// Whether forebay has credentials of its own for it.
    pub(crate) fn has_credentials(&self) -> bool {
        self.state.has_credentials()
    }

    /// # Errors
    /// The request is in a loop.
    pub(super) fn prepare(&self, mut request: ReadRequest) -> Result<ReadRequest, Error> {
        request.mode = self.mode;
        request.client.clone_from(&self.client);
        request.trace.clone_from(&self.trace);
        request.peers.clone_from(&self.peers);
        request.transfer_log.clone_from(&self.transfer_log);
        if let Some(via) = self.via.header()? {
            request.headers.insert(header::VIA, via.clone());
        }
        Ok(request)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(self.name()).finish()
    }
}
