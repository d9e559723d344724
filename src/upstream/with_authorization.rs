//! Sends a request with an Authorization header, and answers the challenge to it.
//!
//! The first request has the header that the endpoint's last challenge led to, if any. A 401 is answered once, by a
//! second request; a second 401 is the upstream's final answer.

use http::HeaderMap;

use super::{
    auth::{Authorization, Cause, Known, Scheme, scope::Scope},
    endpoint::Endpoint,
    error::Error,
    state::UpstreamState,
};

/// The result of the first request.
pub(super) enum FirstResponse<T> {
    /// No other request is needed.
    Done(T),
    /// The request is to be sent again with this header.
    Retry(Authorization),
    /// A 401 with these headers; `scope`: what it requires, if that is more than the request's own scope.
    Challenge { headers: HeaderMap, scope: Option<Scope> },
}

/// A scheme that led to an error before the endpoint's challenge.
pub(super) type FailedScheme = (Scheme, Error);

impl UpstreamState {
    /// Sends a request by `first`, and again by `second` if that answers a challenge.
    pub(super) async fn with_authorization<T, F, S>(
        &self,
        endpoint: &Endpoint,
        cause: Cause<'_>,
        first: impl FnOnce(Option<Authorization>) -> F,
        second: impl FnOnce(Authorization) -> S,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<FirstResponse<T>, Error>>,
        S: Future<Output = Result<T, Error>>,
    {
        let (authorization, failed) = match self.known_authorization(endpoint, cause).await {
            Known::Nothing => (None, None),
            Known::Authorization(authorization) => (Some(authorization), None),
            Known::Failed(scheme, error) => (None, Some((scheme, error))),
        };
        let first = Box::pin(first(authorization)).await?;
        self.after_first(endpoint, cause, first, failed, second).await
    }

    /// Sends the second request, if the first one needs it.
    pub(super) async fn after_first<T, S>(
        &self,
        endpoint: &Endpoint,
        cause: Cause<'_>,
        first: FirstResponse<T>,
        failed: Option<FailedScheme>,
        second: impl FnOnce(Authorization) -> S,
    ) -> Result<T, Error>
    where
        S: Future<Output = Result<T, Error>>,
    {
        let authorization = match first {
            FirstResponse::Done(result) => return Ok(result),
            FirstResponse::Retry(authorization) => authorization,
            FirstResponse::Challenge { headers, scope } => {
                let cause = Cause { scope: scope.as_ref().unwrap_or(cause.scope), ..cause };
                let challenged = self.authenticator.challenged(&self.sender, endpoint, &headers, cause, failed);
                Box::pin(challenged).await?
            }
        };
        Box::pin(second(authorization)).await
    }

    /// The header that the endpoint's last challenge leads to.
    pub(super) async fn known_authorization(&self, endpoint: &Endpoint, cause: Cause<'_>) -> Known {
        Box::pin(self.authenticator.known(&self.sender, endpoint, cause)).await
    }
}
