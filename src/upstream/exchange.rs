//! One request to one endpoint, and what its response means.

use std::time::Duration;

use http::{Method, header};

use super::{
    auth::Authorization,
    blob::range::BlobRange,
    client::{
        follow_redirects::{FinalResponse, send_and_follow},
        outbound_request::OutboundRequest,
    },
    endpoint::Endpoint,
    error::{Error, ErrorKind},
    read_request::ReadRequest,
    response::{self, RequestKind, rate_limit::RateLimit},
    state::UpstreamState,
};
use crate::oci::Operation;

/// How long the requests to one endpoint may take together at least: redirects, a token, the second request. Each step
/// has a limit of its own, but no client waits for the sum of a dozen of them.
const MIN_ENDPOINT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the GET for the reason of a refused HEAD may take.
const REASON_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer than for the registry forebay waits for a peer, which waits for the registry itself.
const PEER_MARGIN: Duration = Duration::from_secs(5);

impl UpstreamState {
    /// Bounds all requests to one endpoint, up to the head of the final response.
    pub(super) async fn in_time<T>(
        &self,
        endpoint: &Endpoint,
        requests: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let limit = self.endpoint_timeout();
        match tokio::time::timeout(limit, Box::pin(requests)).await {
            Ok(result) => result,
            Err(_) => Err(Error::timed_out("requesting", endpoint.base(), limit)),
        }
    }

    fn endpoint_timeout(&self) -> Duration {
        MIN_ENDPOINT_TIMEOUT.max(self.sender.timeouts.response.saturating_mul(2))
    }

    /// How long a peer may take: longer than it waits for all URLs of the registry.
    pub(super) fn peer_timeout(&self) -> Duration {
        let urls = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        self.endpoint_timeout().saturating_mul(urls).saturating_add(PEER_MARGIN)
    }

    /// Sends a request, and follows its redirects.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        authorization: Option<&Authorization>,
    ) -> Result<FinalResponse, Error> {
        let url = endpoint.url(&request.path_and_query)?;
        let mut headers = request.headers.clone();
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.value.clone());
        }
        let principal = request.client.as_ref().map(|client| client.principal);
        let outbound = OutboundRequest {
            mode: request.mode,
            principal,
            token: authorization.and_then(Authorization::token),
            headers,
            ..OutboundRequest::new(request.operation, request.method.clone(), url)
        };
        let followed = Box::pin(send_and_follow(&self.sender, outbound)).await?;
        endpoint.note_response(followed.origin);
        if !followed.is_other_origin
            && let Some(announced) = RateLimit::from_headers(followed.response.headers())
        {
            self.metrics().upstream_ratelimit(self.name(), announced.limit, announced.remaining);
            endpoint.low_quota.note(principal, announced);
            if principal.is_none() {
                self.health.note_rate_limit(announced);
            }
        }
        Ok(followed)
    }

    /// Passes on a 200 or 206; all else is an error. A HEAD that refuses a client gives no reason: a GET for the same
    /// client does, and counts as no pull, since it is refused, too.
    pub(super) async fn check(
        &self,
        endpoint: &Endpoint,
        followed: FinalResponse,
        request: &ReadRequest,
        sent: Option<&Authorization>,
    ) -> Result<FinalResponse, Error> {
        let kind = self.request_kind(request);
        let may_get_reason = kind.is_head && kind.by_client && !followed.is_other_origin;
        let error = match response::check(followed, kind).await {
            Err(error) if may_get_reason => error,
            checked => return checked,
        };
        match error.kind {
            ErrorKind::Denied => {}
            // To a client without credentials, the reason is that it has none.
            ErrorKind::Unauthorized if request.client.is_some() => {}
            _ => return Err(error),
        }
        let with_reason = tokio::time::timeout(REASON_TIMEOUT, Box::pin(self.refusal_of_get(endpoint, request, sent)));
        Err(with_reason.await.ok().flatten().filter(|get_error| get_error.kind == error.kind).unwrap_or(error))
    }

    /// The error of a GET in place of the HEAD; `None`: the GET succeeds. Its body is not read.
    async fn refusal_of_get(
        &self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        sent: Option<&Authorization>,
    ) -> Option<Error> {
        let mut request = ReadRequest { method: Method::GET, any_type: true, ..request.clone() };
        if request.operation == Operation::Blob {
            request.headers.extend(BlobRange::FIRST_BYTE.headers());
        }
        let followed = self.send(endpoint, &request, sent).await.ok().filter(|followed| !followed.is_other_origin)?;
        response::check(followed, self.request_kind(&request)).await.err()
    }

    pub(super) fn request_kind(&self, request: &ReadRequest) -> RequestKind {
        RequestKind {
            is_head: request.method == Method::HEAD,
            is_blob: request.operation == Operation::Blob,
            any_type: request.any_type,
            by_client: self.uses_client_credentials(),
        }
    }
}
