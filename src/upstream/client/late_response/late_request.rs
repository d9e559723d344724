//! Which requests are equal, so that one may get the late response to another.

use aws_lc_rs::{hmac, rand::SystemRandom};
use http::{HeaderValue, Method, header};

use super::super::{
    super::{
        auth::token::{TokenKey, TokenSubject},
        principal::Principal,
    },
    outbound_request::{FIRST_BYTE, OutboundRequest, RequestMode},
};
use crate::oci::Operation;

/// Identifies equal requests: the principal, and a hash of the request, since its headers may have passwords.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RequestId(Option<Principal>, [u8; 32]);

/// The credential that a response depends on: that of a client; or forebay's own, which stands for many clients, as a
/// token for this realm and scope.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CredentialScope {
    Client(Principal),
    Own([u8; 32]),
}

impl CredentialScope {
    pub(super) fn of(principal: Option<Principal>) -> Option<Self> {
        principal.filter(|principal| *principal != Principal::ANONYMOUS).map(Self::Client)
    }
}

/// A request whose response may be kept.
#[derive(Clone, Copy)]
pub(in crate::upstream) struct LateRequest {
    pub(super) id: RequestId,
    pub(super) scope: CredentialScope,
    /// Whether it has an Authorization header, and whether that is a token: the next request may have another one.
    pub(super) has_credential: bool,
    pub(super) has_token: bool,
    /// How many changes and refusals there were when it began.
    pub(super) begun: u64,
}

/// The key of the hashes; `None` without a source of randomness.
pub(super) struct Identifier(Option<hmac::Key>);

impl Identifier {
    pub(super) fn new() -> Self {
        Self(hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok())
    }

    /// `None`: no response to this request is kept.
    pub(super) fn identify(&self, request: &OutboundRequest<'_>, begun: u64) -> Option<LateRequest> {
        let OutboundRequest { principal, token, method, url, start, redirects, headers, .. } = request;
        let key = self.0.as_ref()?;
        if !may_be_late(request) {
            return None;
        }
        let credential = headers.get(header::AUTHORIZATION);
        let own = RequestHasher::new(key).add_credential(*token, credential).finish();
        let mut hasher = RequestHasher::new(key).add(&own).add(method.as_str().as_bytes());
        // The target of a redirect is signed anew each time: the same host, after as many redirects from the same URL,
        // is equal.
        hasher = hasher.add(start.as_str().as_bytes()).add(&redirects.to_be_bytes());
        hasher = hasher.add(url.origin().ascii_serialization().as_bytes()).add(&[u8::from(credential.is_some())]);
        for (name, value) in headers.iter().filter(|(name, _)| *name != header::AUTHORIZATION) {
            hasher = hasher.add(name.as_str().as_bytes()).add(value.as_bytes());
        }
        let scope = CredentialScope::of(*principal).unwrap_or(CredentialScope::Own(own));
        let (has_credential, has_token) = (credential.is_some(), credential.is_some() && token.is_some());
        Some(LateRequest { id: RequestId(*principal, hasher.finish()), scope, has_credential, has_token, begun })
    }
}

/// A login gets a current answer, from the base or from a realm without a scope; so does a push, whose client may write
/// back what it reads. A token request by POST may have a refresh token that is good for one request.
fn may_be_late(request: &OutboundRequest<'_>) -> bool {
    let OutboundRequest { mode, operation, method, url, headers, body, .. } = request;
    let is_login = match operation {
        Operation::Base => true,
        Operation::Token => url.query_pairs().all(|(name, _)| name != "scope"),
        _ => false,
    };
    !is_login
        && *mode == RequestMode::Normal
        && body.is_none()
        && matches!(*method, Method::GET | Method::HEAD)
        && headers.get(header::RANGE).is_none_or(|range| range != FIRST_BYTE)
}

struct RequestHasher(hmac::Context);

impl RequestHasher {
    fn new(key: &hmac::Key) -> Self {
        Self(hmac::Context::with_key(key))
    }

    fn add(mut self, bytes: &[u8]) -> Self {
        // The length keeps adjacent fields apart.
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    /// All tokens of one key are equal.
    fn add_credential(self, token: Option<&TokenKey>, value: Option<&HeaderValue>) -> Self {
        let Some(TokenKey { subject, realm, service, scope }) = token else {
            return self.add(value.map_or(&[], HeaderValue::as_bytes));
        };
        let subject = match subject {
            TokenSubject::Anonymous => 0,
            TokenSubject::Configured => 1,
            // The principal is in the `RequestId`.
            TokenSubject::Client(_) => 2,
        };
        let service = service.as_deref().unwrap_or_default();
        let hasher = self.add(&[subject]).add(realm.as_str().as_bytes()).add(service.as_bytes());
        scope.parameters().iter().fold(hasher, |hasher, scope| hasher.add(scope.as_bytes()))
    }

    fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.sign().as_ref());
        hash
    }
}
