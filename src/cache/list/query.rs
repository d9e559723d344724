//! A request for a list: a client's, and the one to the upstream.

use http::{HeaderMap, HeaderValue, header};

use crate::{
    oci::{Accept, Digest, MediaTypeKind, Operation, Repository, query},
    upstream::{Principal, Registry, Upstream},
};

/// A list of a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// The tags of a repository.
    Tags(Repository),
    /// The repositories of a registry.
    Catalog,
    /// The manifests whose subject this digest is.
    Referrers { repository: Repository, digest: Digest },
}

/// A client's request for a list.
#[derive(Clone)]
pub(crate) struct ListRequest {
    pub upstream: Upstream,
    pub list: List,
    /// The query string for the upstream, without the parameters that are for forebay. May be empty.
    query: String,
}

/// The key of a list in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListKey {
    /// With its URLs: under the same name, other URLs may lead to another registry.
    pub registry: Registry,
    pub list: List,
    pub query: String,
    /// The client, if the upstream authorizes each client: its response is for this client alone.
    pub principal: Option<Principal>,
}

/// A request to an upstream. Equal ones are sent once.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ListQuery {
    pub key: ListKey,
    /// The client's request came through mirrors, which may wait for it.
    pub may_cycle: bool,
    /// How many changes forebay had made where the list could show them, when the request was made. A request from
    /// before a change must not be joined after it.
    pub writes: u64,
}

impl ListRequest {
    pub(crate) fn new(upstream: Upstream, list: List, query: String) -> Self {
        Self { upstream, list, query }
    }

    /// The values of a query parameter that are not empty.
    pub(super) fn parameter(&self, name: &str) -> Vec<String> {
        let named = query::pairs(&self.query).filter(|(key, value)| key == name && !value.is_empty());
        named.map(|(_, value)| value.into_owned()).collect()
    }

    pub(super) fn key(&self) -> ListKey {
        let (registry, list) = (self.upstream.registry().clone(), self.list.clone());
        ListKey { registry, list, query: self.query.clone(), principal: self.upstream.principal() }
    }

    /// The part after `/v2/`.
    pub(super) fn path_and_query(&self) -> String {
        let path = match &self.list {
            List::Tags(repository) => format!("{repository}/tags/list"),
            List::Catalog => "_catalog".to_owned(),
            List::Referrers { repository, digest } => format!("{repository}/referrers/{digest}"),
        };
        if self.query.is_empty() { path } else { format!("{path}?{}", self.query) }
    }
}

impl List {
    pub(crate) const fn operation(&self) -> Operation {
        match self {
            Self::Tags(_) => Operation::Tags,
            Self::Catalog => Operation::Catalog,
            Self::Referrers { .. } => Operation::Referrers,
        }
    }

    /// `None` for the catalog, which covers all repositories.
    pub fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Tags(repository) | Self::Referrers { repository, .. } => Some(repository),
            Self::Catalog => None,
        }
    }

    /// Whether it can be fresh. Clients request a list of tags to learn what is new.
    pub(super) fn is_cacheable(&self) -> bool {
        matches!(self, Self::Referrers { .. })
    }

    /// The one media type of each list, whatever the client accepts: all clients get the same response.
    pub(super) fn accept(&self) -> Accept {
        match self {
            Self::Tags(_) | Self::Catalog => Accept::default(),
            Self::Referrers { .. } => {
                let index = HeaderValue::from_static(MediaTypeKind::OciIndex.as_str());
                Accept::from_headers(&HeaderMap::from_iter([(header::ACCEPT, index)]))
            }
        }
    }
}
