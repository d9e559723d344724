//! One request to one URL of an upstream, and the connections that it may use.

use http::{HeaderMap, Method, header};
use reqwest::Url;

use super::super::{auth::token::TokenKey, principal::Principal};
use crate::oci::Operation;

/// The `Range` of a GET in place of a HEAD.
pub(super) const FIRST_BYTE: &str = "bytes=0-0";

/// What a request is part of: this decides about connections and circuit breakers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::upstream) enum RequestMode {
    #[default]
    Normal,
    /// Beside another request for the same content, over a connection of its own.
    Dedicated,
    /// As part of a push: sent also to a host that has failed too often.
    Push,
}

/// A request that changes nothing at the upstream.
#[derive(Clone)]
pub(in crate::upstream) struct OutboundRequest<'a> {
    pub mode: RequestMode,
    /// The client that it is sent for; `None`: forebay itself.
    pub principal: Option<Principal>,
    /// The key of the token in its headers, if there is one.
    pub token: Option<&'a TokenKey>,
    pub operation: Operation,
    pub method: Method,
    pub url: Url,
    /// The first URL of the redirects that led to `url`, and how many there were.
    pub start: Url,
    pub redirects: usize,
    pub headers: HeaderMap,
    pub body: Option<String>,
}

impl OutboundRequest<'_> {
    /// In forebay's own name, without headers, body and redirects.
    pub(in crate::upstream) fn new(operation: Operation, method: Method, url: Url) -> Self {
        Self {
            mode: RequestMode::Normal,
            principal: None,
            token: None,
            operation,
            method,
            start: url.clone(),
            url,
            redirects: 0,
            headers: HeaderMap::new(),
            body: None,
        }
    }

    /// Whether the response is the body of a blob.
    pub(super) fn is_blob_body(&self) -> bool {
        self.operation == Operation::Blob && self.may_have_long_body()
    }

    /// A HEAD has no body, and the GET of one byte in its place a short one.
    pub(super) fn may_have_long_body(&self) -> bool {
        self.method == Method::GET && self.headers.get(header::RANGE).is_none_or(|range| range != FIRST_BYTE)
    }
}
