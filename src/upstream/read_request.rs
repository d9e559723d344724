//! A request that reads from an upstream, whichever of its URLs gets it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::{
    auth::scope::Scope, client::outbound_request::RequestMode, head::accept_headers, peer_use::PeerUse,
    principal::ClientCredential, transfer_log::TransferLog,
};
use crate::{
    cluster::Key,
    oci::{Accept, Digest, Operation, Reference, Repository},
    request_trace::RequestTrace,
};

/// Whether a body is the requested list. Runs off the threads that serve.
pub type IsList = Arc<dyn Fn(&Bytes) -> bool + Send + Sync>;

#[derive(Clone)]
pub(super) struct ReadRequest {
    pub operation: Operation,
    /// GET or HEAD.
    pub method: Method,
    /// What follows `/v2/`.
    pub path_and_query: String,
    pub scope: Scope,
    pub headers: HeaderMap,
    pub mode: RequestMode,
    /// The client that it is sent for; `None`: forebay itself.
    pub client: Option<Arc<ClientCredential>>,
    /// The Content-Type of the response does not matter: the content tells its type.
    pub any_type: bool,
    /// For a manifest by tag: there is no digest, so the content has to be a manifest.
    pub is_tag: bool,
    /// For a manifest by digest.
    pub digest: Option<Digest>,
    /// What its owner in a cluster is found by; `None`: the registry alone is asked.
    pub key: Option<Key>,
    /// Whether it may be sent to peers.
    pub peers: PeerUse,
    /// The download that it is part of.
    pub transfer_log: Option<Arc<TransferLog>>,
    /// For a list: the check of its content.
    pub is_list: Option<IsList>,
    /// The client's request that it is sent for.
    pub trace: RequestTrace,
}

impl ReadRequest {
    fn new(operation: Operation, method: Method, path_and_query: String, scope: Scope) -> Self {
        Self {
            operation,
            method,
            path_and_query,
            scope,
            headers: HeaderMap::new(),
            mode: RequestMode::Normal,
            client: None,
            any_type: false,
            is_tag: false,
            digest: None,
            key: None,
            peers: PeerUse::default(),
            transfer_log: None,
            is_list: None,
            trace: RequestTrace::default(),
        }
    }

    pub(super) fn manifest(method: Method, repository: &Repository, reference: &Reference, accept: &Accept) -> Self {
        let path = format!("{repository}/manifests/{reference}");
        Self {
            any_type: method == Method::GET,
            is_tag: matches!(reference, Reference::Tag(_)),
            headers: accept_headers(accept),
            key: Some(Key::Repository(repository.clone())),
            digest: match reference {
                Reference::Digest(digest) => Some(digest.clone()),
                Reference::Tag(_) => None,
            },
            ..Self::new(Operation::Manifest, method, path, Scope::Pull(repository.clone()))
        }
    }

    pub(super) fn blob(method: Method, repository: &Repository, digest: &Digest, headers: HeaderMap) -> Self {
        let path = format!("{repository}/blobs/{digest}");
        let key = Some(Key::Blob(digest.clone()));
        Self { headers, key, ..Self::new(Operation::Blob, method, path, Scope::Pull(repository.clone())) }
    }

    /// A list of tags or referrers of a repository; `None`: the catalogue.
    pub(super) fn list(
        operation: Operation,
        repository: Option<&Repository>,
        path_and_query: &str,
        accept: &Accept,
        is_list: IsList,
    ) -> Self {
        let scope = repository.cloned().map_or(Scope::Catalog, Scope::Pull);
        let request = Self::new(operation, Method::GET, path_and_query.to_owned(), scope);
        Self { headers: accept_headers(accept), is_list: Some(is_list), ..request }
    }

    /// `GET /v2/`, as by a login.
    pub(super) fn base(client: Option<&Arc<ClientCredential>>) -> Self {
        let request = Self::new(Operation::Base, Method::GET, String::new(), Scope::Login);
        Self { client: client.cloned(), ..request }
    }

    /// Whether it is sent beside another request for the same content: its failure says nothing about the upstream.
    pub(super) fn is_best_effort(&self) -> bool {
        self.mode == RequestMode::Dedicated
    }
}
