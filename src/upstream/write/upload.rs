//! A change with content, which cannot be sent twice.

use http::{Method, StatusCode};
use reqwest::Response;
use tokio::time::Instant;

use super::{
    super::{
        auth::{Authorization, Known},
        client::{body::discard, outbound_request::OutboundRequest, redirect},
        error::{Error, ErrorKind},
        redacted_url::RedactedUrl,
        state::UpstreamState,
        upload_body::UploadBody,
        with_authorization::FirstResponse,
    },
    attempt::{WriteAttempt, judge_refusal, refused_password},
};
use crate::oci::Operation;

impl UpstreamState {
    pub(super) async fn write_with_content(
        &self,
        attempt: WriteAttempt<'_>,
        content: UploadBody,
    ) -> Result<Response, Error> {
        let begun = Instant::now();
        let authorization = self.authorization_beforehand(&attempt).await?.map(Authorization::without_turn);
        let (method, headers) = (attempt.request.method.clone(), attempt.headers(authorization.as_ref()));
        let response = self.sender.send_push(method, &attempt.url, headers, Some(content)).await?;
        if redirect::is_redirect(response.status()) {
            // The content is gone, and cannot be sent again.
            let why = format!("{} redirects an upload after it got the content", RedactedUrl(&attempt.url));
            return Err(Error::new(ErrorKind::Protocol, why));
        }
        let Some(sent) = authorization else { return self.uploaded_without_credentials(&attempt, response).await };
        if sent.is_own_password() {
            return self.uploaded_with_password(&attempt, &sent, response).await;
        }
        judge_refusal(&sent, response.status());
        if response.status() == StatusCode::UNAUTHORIZED {
            self.authenticator.note_refused(&sent).await;
            // A token that was good before has probably expired; one that was fetched for this request is refused.
            if sent.was_obtained_before(begun) {
                discard(response).await;
                return Err(retry_upload(
                    &attempt,
                    "refuses a token that it accepted before, after it got the whole content",
                ));
            }
        }
        Ok(response)
    }

    async fn uploaded_without_credentials(
        &self,
        attempt: &WriteAttempt<'_>,
        response: Response,
    ) -> Result<Response, Error> {
        if response.status().is_success() {
            attempt.endpoint.note_open();
        }
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        attempt.endpoint.forget_open();
        let headers = response.headers().clone();
        discard(response).await;
        // The next request sends the answer to the challenge.
        let challenged = self.authenticator.challenged(&self.sender, attempt.endpoint, &headers, attempt.cause, None);
        Box::pin(challenged).await?;
        Err(retry_upload(attempt, "requires credentials only after it got the whole content"))
    }

    async fn uploaded_with_password(
        &self,
        attempt: &WriteAttempt<'_>,
        sent: &Authorization,
        response: Response,
    ) -> Result<Response, Error> {
        if !self.write_refuses_password(attempt, sent, &response).await? {
            return Ok(response);
        }
        discard(response).await;
        // The password is read again: with another one the client may retry.
        Err(match self.known_authorization(attempt.endpoint, attempt.cause).await {
            Known::Authorization(_) => {
                retry_upload(attempt, "refuses a password that has changed, after it got the whole content")
            }
            Known::Failed(_, error) => error,
            Known::Nothing => refused_password(&attempt.url),
        })
    }

    /// The header for a request that cannot be sent twice. If nothing is known yet, the base tells the challenge.
    async fn authorization_beforehand(&self, attempt: &WriteAttempt<'_>) -> Result<Option<Authorization>, Error> {
        let failed = match self.known_authorization(attempt.endpoint, attempt.cause).await {
            Known::Authorization(authorization) => return Ok(Some(authorization)),
            Known::Nothing if attempt.endpoint.is_open() => return Ok(None),
            Known::Nothing => None,
            Known::Failed(scheme, error) => Some((scheme, error)),
        };
        let base = attempt.endpoint.url("")?;
        let response = self.sender.send(OutboundRequest::new(Operation::Base, Method::GET, base)).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        discard(response).await;
        let first = match status {
            StatusCode::UNAUTHORIZED => FirstResponse::Challenge { headers, scope: None },
            _ => FirstResponse::Done(None),
        };
        let second = |authorization| std::future::ready(Ok(Some(authorization)));
        self.after_first(attempt.endpoint, attempt.cause, first, failed, second).await
    }
}

/// The content is gone, but the client may upload it again.
fn retry_upload(attempt: &WriteAttempt<'_>, why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{} {why}", RedactedUrl(&attempt.url))).retry_at_once()
}
