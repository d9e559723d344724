//! Which requests a reader asks for (pure).

use std::time::Duration;

use super::{FinishedRequest, pull::Pull};
use crate::{peer::Network, request_id::RequestId, rule::Pattern};

/// What a request must be; by default anything that all readers may see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Also those of upstreams that authorize each client.
    pub of_clients: bool,
    /// Only those whose clients did not get what they asked for.
    pub errors: bool,
    /// Only those that took so long.
    pub slower: Option<Duration>,
    /// Only those about this.
    pub image: Option<Pattern>,
    /// Only those of clients in this network.
    pub client: Option<Network>,
    /// Only that with this id, or those of the pull with this id.
    pub id: Option<RequestId>,
}

impl Filter {
    /// Whether its reader may see the request.
    pub(super) fn shows(&self, request: &FinishedRequest) -> bool {
        self.of_clients || !request.is_of_client
    }

    /// Whether it is about some of the requests that its reader may see.
    pub(crate) fn is_selective(&self) -> bool {
        let Self { of_clients: _, errors, slower, image, client, id } = self;
        *errors || slower.is_some() || image.is_some() || client.is_some() || id.is_some()
    }

    pub(crate) fn admits(&self, request: &FinishedRequest) -> bool {
        self.shows(request)
            && (!self.errors || request.is_error())
            && self.slower.is_none_or(|slower| request.duration >= slower)
            && self.is_about(request)
    }

    /// The same for a pull as a whole, of which each part may be in another request.
    pub(super) fn admits_pull(&self, pull: &Pull) -> bool {
        (!self.errors || pull.failed().is_some())
            && self.slower.is_none_or(|slower| pull.duration() >= slower)
            && pull.requests().any(|request| self.is_about(request))
    }

    /// Whether it is what the reader named.
    fn is_about(&self, request: &FinishedRequest) -> bool {
        self.id.is_none_or(|id| request.id == id || request.pull_id() == Some(id))
            && self.client.is_none_or(|network| request.address().is_some_and(|address| network.contains(address)))
            && self.image.as_ref().is_none_or(|image| request.subject().is_some_and(|it| image.matches(&it)))
    }
}
