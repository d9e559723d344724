//! Peers whose copies of blobs are wrong or cannot be read.
//!
//! What must hold: a registry is not blamed for what a peer sent; a blob that a peer sent wrong, or whose body broke there,
//! is requested of others for a while, so that one disk does not keep all nodes from a blob.

use std::{sync::Arc, time::Duration};

use crate::{cluster::Peer, oci::Digest};

/// How long a peer is not asked for a blob again.
const WRONG_TIME: Duration = Duration::from_secs(600);
/// How long it is known which peer sent a blob. A download of many hours forgets it, and blames the registry.
const SENT_TIME: Duration = Duration::from_secs(6 * 3600);
/// How many blobs each of both keeps: some 2 MB.
const MAX_BLOBS: u64 = 10_000;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct WrongPeers {
    wrong: moka::sync::Cache<(Digest, Arc<str>), ()>,
    sent: moka::sync::Cache<Digest, Arc<Peer>>,
}

impl Default for WrongPeers {
    fn default() -> Self {
        Self {
            wrong: moka::sync::Cache::builder().max_capacity(MAX_BLOBS).time_to_live(WRONG_TIME).build(),
            sent: moka::sync::Cache::builder().max_capacity(MAX_BLOBS).time_to_live(SENT_TIME).build(),
        }
    }
}

impl WrongPeers {
    /// The peer begins to send the blob.
    pub(super) fn note_sending(&self, digest: &Digest, peer: &Arc<Peer>) {
        self.sent.insert(digest.clone(), peer.clone());
    }

    /// The peer cannot send the blob.
    pub(super) fn note_wrong(&self, digest: &Digest, peer: &Peer) {
        self.wrong.insert((digest.clone(), peer.name().clone()), ());
    }

    /// The blob as it came is wrong: the peer that sent it last, if one did.
    pub(super) fn blame(&self, digest: &Digest) -> Option<Arc<Peer>> {
        let peer = self.sent.remove(digest)?;
        self.note_wrong(digest, &peer);
        Some(peer)
    }

    pub(super) fn has(&self, digest: &Digest, peer: &Peer) -> bool {
        self.wrong.contains_key(&(digest.clone(), peer.name().clone()))
    }
}
