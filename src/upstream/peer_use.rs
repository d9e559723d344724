//! Whether a request may be sent to peers.
//!
//! What must hold: a request that serves a peer is sent to no peer, and neither is any part of a download after
//! [`PeerUse::leave`]. See docs/decisions/0035-peers.md.

#[cfg(test)]
mod schedules;

use tokio_util::sync::CancellationToken;

/// Whether requests may be sent to peers.
#[derive(Clone, Debug, Default)]
pub(crate) enum PeerUse {
    #[default]
    Allowed,
    /// As long as this is not cancelled: a request of a peer waits for the response.
    Until(CancellationToken),
    /// The registry alone is asked: for a peer, for what proves what a client may have, by a refresh, and without room.
    Never,
}

impl PeerUse {
    pub(super) fn is_allowed(&self) -> bool {
        match self {
            Self::Allowed => true,
            Self::Until(left) => !left.is_cancelled(),
            Self::Never => false,
        }
    }

    /// For work that may have to leave its peers while it runs.
    pub(super) fn revocable(&self) -> Self {
        match self {
            Self::Allowed => Self::Until(CancellationToken::new()),
            Self::Until(left) if !left.is_cancelled() => Self::Until(CancellationToken::new()),
            Self::Until(_) | Self::Never => Self::Never,
        }
    }

    /// Sends no more requests to peers, and drops their responses.
    pub(super) fn leave(&self) {
        if let Self::Until(left) = self {
            left.cancel();
        }
    }

    /// Ends once the peers are left.
    pub(super) async fn left(&self) {
        match self {
            Self::Until(left) => left.cancelled().await,
            Self::Allowed | Self::Never => std::future::pending().await,
        }
    }
}
