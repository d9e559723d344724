//! What is asked for, where, and in whose name.

use http::{HeaderMap, HeaderValue, header};

use crate::{
    oci::{Accept, Digest, MediaTypeKind, Operation, Repository},
    upstream::{Principal, Registry, Upstream},
};

/// A list that registries have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// The tags of a repository.
    Tags(Repository),
    /// The repositories.
    Catalog,
    /// The manifests whose subject this digest is.
    Referrers { repository: Repository, digest: Digest },
}

/// A list of an upstream.
#[derive(Clone)]
pub struct ListRequest {
    pub upstream: Upstream,
    pub list: List,
    /// Which part of it, as the upstream is asked: without what is between the client and us. May be empty.
    query: String,
}

/// What equal questions, and none but them, have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListKey {
    /// By its URLs too: what one registry said is no answer of another under its name.
    pub registry: Registry,
    pub list: List,
    pub query: String,
    /// As whom, where that makes a difference: what one asker is told is no answer for another.
    pub asker: Option<Principal>,
}

/// What an upstream is asked; equal ones are asked once.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ListQuery {
    pub key: ListKey,
    /// It is asked for requests that must not wait for what others ask.
    pub circle: bool,
    /// How many changes had been made through us when it was asked: what was asked before a change is no answer after.
    pub writes: u64,
}

impl ListRequest {
    pub fn new(upstream: Upstream, list: List, query: String) -> Self {
        Self { upstream, list, query }
    }

    /// The values of a parameter of the query that say something.
    pub(super) fn parameter(&self, name: &str) -> Vec<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        let named = pairs.filter(|(key, value)| key == name && !value.is_empty());
        named.map(|(_, value)| value.into_owned()).collect()
    }

    pub(super) fn key(&self) -> ListKey {
        let (registry, list) = (self.upstream.registry().clone(), self.list.clone());
        ListKey { registry, list, query: self.query.clone(), asker: self.upstream.principal() }
    }

    /// What follows `/v2/`.
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
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::Tags(_) => Operation::Tags,
            Self::Catalog => Operation::Catalog,
            Self::Referrers { .. } => Operation::Referrers,
        }
    }

    /// `None` for the catalogue, which is of all of them.
    pub fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Tags(repository) | Self::Referrers { repository, .. } => Some(repository),
            Self::Catalog => None,
        }
    }

    /// Whether it is believed for a while. A list of tags is asked for to learn what is new.
    pub(super) fn is_trusted(&self) -> bool {
        matches!(self, Self::Referrers { .. })
    }

    /// The one form that each list has, whatever its client says: all who ask get the same answer.
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
