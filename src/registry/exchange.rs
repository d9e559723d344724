//! One request on its way through the pipeline, with what each step learned about it.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use http::{Method, Response, request::Parts};

use super::{access_log::AccessRecord, body::Body, pace::Pace, pulls::Step, response};
use crate::{
    auth::{Grant, Identity},
    error::Cached,
    oci::{Accept, Digest, Reference, matches_if_none_match},
    route::{Operation, Target},
    transport::{Connection, request_body::RequestBody},
};

/// A request, its connection, and what the pipeline found out so far.
pub(super) struct Exchange<'a> {
    pub head: &'a Parts,
    pub connection: &'a Connection,
    /// Taken by a push. Nothing else reads it.
    pub body: Option<RequestBody>,
    /// The host that the request is for, once it was checked.
    pub host: Option<&'a str>,
    /// The value of `ns=`, to be echoed.
    pub namespace: Option<String>,
    /// Anonymous until the client is authenticated.
    pub identity: Identity,
    /// What the upstream allows this client, where it decides by the client's credentials.
    pub grant: Grant,
    /// The digest that is cached for the tag, where the upstream told this client another one.
    pub previous: Option<Digest>,
    /// The tag that the client requests, where a rule says which digest it means.
    pub held_tag: Option<Reference>,
    /// The request came through another forebay.
    pub by_mirror: bool,
    /// It is a request of a peer.
    pub by_peer: bool,
    /// What could have been served in an outage.
    pub cached: Cached,
    /// Present if a rate holds back what is sent from memory.
    pub pace: Option<Pace>,
    pub record: Box<AccessRecord>,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(
        head: &'a Parts,
        body: RequestBody,
        connection: &'a Connection,
        record: Box<AccessRecord>,
    ) -> Self {
        Self {
            head,
            connection,
            body: Some(body),
            host: None,
            namespace: None,
            identity: Identity::Anonymous,
            grant: Grant::default(),
            previous: None,
            held_tag: None,
            by_mirror: false,
            by_peer: false,
            cached: Cached::Nothing,
            pace: None,
            record,
        }
    }

    pub(super) fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }

    /// The client's address.
    pub(super) fn peer(&self) -> IpAddr {
        self.connection.peer.ip()
    }

    /// The manifest types that the client accepts.
    pub(super) fn accept(&self) -> Accept {
        Accept::from_headers(&self.head.headers)
    }

    /// The parts that decide how the request is routed.
    pub(super) fn target(&self) -> Target<'_> {
        Target {
            method: &self.head.method,
            uri: &self.head.uri,
            host: self.host,
            sni: self.connection.sni.as_deref(),
            tls: self.connection.tls,
            local_port: self.connection.local.port(),
        }
    }

    /// Notes to which pull the request belongs.
    pub(super) fn join_pull(&mut self, operation: &Operation) {
        let Some(repository) = operation.repository() else { return };
        let user = match &self.identity {
            Identity::User(name) | Identity::Client(name) => Some(&**name),
            Identity::Anonymous | Identity::Certificate => None,
        };
        self.record.join_pull(self.connection.peer.ip(), user, repository, Step::of(operation));
    }

    /// Logs the name of a user of forebay.
    pub(super) fn note_user(&mut self) {
        if let Identity::User(name) = &self.identity {
            self.record.user = Some(Arc::clone(name));
        }
    }

    /// Logs the name of a client after the upstream has responded to it.
    pub(super) fn note_client(&mut self) {
        if let Identity::Client(name) = &self.identity {
            self.record.user = Some(Arc::clone(name));
        }
    }

    /// Whether the client says by `If-None-Match` that it has this content. Where the size of the content has yet to
    /// prove that the client may have it, the condition is ignored: a 304 tells no size.
    pub(super) fn client_has(&self, digest: &Digest) -> bool {
        self.grant.announced.is_none() && matches_if_none_match(&self.head.headers, digest)
    }

    /// 304, when the client has this content. `confirmed`: when the upstream last confirmed that the tag means it.
    pub(super) fn not_modified(&self, digest: &Digest, confirmed: Option<SystemTime>) -> Option<Response<Body>> {
        self.client_has(digest).then(|| response::not_modified(digest, self.record.outcome, confirmed))
    }
}
