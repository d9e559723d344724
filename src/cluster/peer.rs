//! Another member of the cluster, and how requests reach it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use reqwest::{Client, Url};

use super::{
    authority::Authority,
    labels::PeerPlace,
    liveness::Liveness,
    peer_clients::{Carried, Connections, NoClient, PeerClients},
};
use crate::error_chain::sources;

/// How many characters tell why a peer is dead.
const MAX_WHY: usize = 300;

/// Why a peer counts as dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// It does not accept connections, or its connection broke, or it does not answer a PING.
    Unreachable,
    /// It answers PINGs, and no request.
    Silent,
    /// It takes the proof of this forebay for none: another `key_file`, or another time.
    NoProof,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "it cannot be reached",
            Self::Silent => "it does not answer requests",
            Self::NoProof => {
                "it does not take this forebay for a member, and its log says why: its cluster.key_file, its clock or its cluster.advertise may be another"
            }
        })
    }
}

/// Another member of the cluster.
pub(crate) struct Peer {
    authority: Authority,
    name: Arc<str>,
    connections: Connections,
    liveness: Liveness,
    /// Why it died last.
    why: ArcSwapOption<String>,
    own_zone: Option<Arc<str>>,
    /// Where it is, as it says.
    zone: ArcSwapOption<Box<str>>,
    requests: AtomicUsize,
    received: AtomicU64,
}

impl Peer {
    /// # Errors
    /// Its name, or `server_name`, is not one of a host.
    pub(super) fn new(authority: Authority, clients: &PeerClients) -> Result<Self, NoClient> {
        let name: Arc<str> = authority.to_string().into();
        let connections = clients.connections(&authority)?;
        Ok(Self {
            authority,
            name,
            connections,
            liveness: Liveness::default(),
            why: ArcSwapOption::empty(),
            own_zone: clients.zone.clone(),
            zone: ArcSwapOption::empty(),
            requests: AtomicUsize::new(0),
            received: AtomicU64::new(0),
        })
    }

    /// Its URL, by which all members name it.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The URL that requests are sent to.
    pub(crate) fn base(&self) -> &Url {
        &self.connections.base
    }

    /// The client for one more request, and what is to be kept until its response is read.
    pub(crate) fn client(&self) -> (&Client, Carried) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.connections.next()
    }

    /// How many requests it got.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed) as u64
    }

    /// How many bytes of blobs it sent.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counts bytes of a blob that it sent.
    pub(crate) fn note_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.liveness.is_alive()
    }

    /// Notes that it is dead.
    pub(crate) fn died(&self, death: Death, why: &dyn fmt::Display) {
        let text: String = format!("{death}: {why}").chars().take(MAX_WHY).collect();
        self.why.store(Some(Arc::new(text)));
        if self.liveness.died() {
            tracing::warn!(member = %self.name, %why, "a peer is left out of the cluster for a while: {death}");
        }
    }

    /// Whether it did not answer when it was asked last.
    pub(super) fn is_down(&self) -> bool {
        self.liveness.is_down()
    }

    /// Why it did not answer, if it did not.
    pub(super) fn why(&self) -> Option<String> {
        if self.is_down() { self.why.load().as_deref().cloned() } else { None }
    }

    /// Where it is, by its last response.
    pub(super) fn zone(&self) -> Option<Arc<Box<str>>> {
        self.zone.load_full()
    }

    /// Where it is as against this forebay.
    pub(crate) fn place(&self) -> PeerPlace {
        PeerPlace::of(self.own_zone.as_deref(), self.zone.load().as_deref().map(|zone| &**zone))
    }

    /// Notes that one of its responses broke, and returns whether the connection did. Otherwise the peer itself may be
    /// well: it breaks a response whose content is wrong.
    pub(crate) fn broke(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        let of_connection = is_of_connection(error);
        if of_connection {
            // Not the error itself: its text has a path, which may be that of a private image.
            let cause = sources(error).last().map_or_else(|| "its connection broke".to_owned(), ToString::to_string);
            self.died(Death::Unreachable, &cause);
        }
        of_connection
    }

    /// Notes that it answered, and where it is.
    pub(crate) fn answered(&self, zone: Option<&str>) {
        if self.zone.load().as_deref().map(|zone| &**zone) != zone {
            self.zone.store(zone.map(|zone| Arc::new(zone.into())));
        }
        if self.liveness.answered() {
            tracing::info!(member = %self.name, "a peer answers again");
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peer").field(&self.name).finish()
    }
}

/// Whether an error is that of a connection, and not of one response on it.
fn is_of_connection(error: &(dyn std::error::Error + 'static)) -> bool {
    let of_stream = |error: &h2::Error| error.is_reset();
    let found = sources(error).filter_map(|source| source.downcast_ref::<h2::Error>()).next();
    let is_of_http2 = sources(error).any(|source| source.is::<hyper::Error>());
    is_of_http2 && found.is_none_or(|error| !of_stream(error))
}
