//! A change without content, which may be sent again.

use http::{HeaderMap, StatusCode, header};
use reqwest::{Response, Url};

use super::{
    super::{
        auth::{self, Authorization, Cause, Known},
        client::{
            body::discard,
            follow_redirects::{Step, follow},
        },
        endpoint::Endpoint,
        error::{Error, ErrorKind},
        password_check::is_refusal,
        redacted_url::RedactedUrl,
        state::UpstreamState,
        with_authorization::FirstResponse,
    },
    WriteRequest,
};

/// A change at one endpoint.
pub(super) struct WriteAttempt<'a> {
    pub endpoint: &'a Endpoint,
    pub cause: Cause<'a>,
    pub request: WriteRequest<'a>,
    pub url: Url,
}

impl WriteAttempt<'_> {
    pub(super) fn headers(&self, authorization: Option<&Authorization>) -> HeaderMap {
        let mut headers = self.request.headers.clone();
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.value.clone());
        }
        headers
    }
}

impl UpstreamState {
    pub(super) async fn write_without_content(&self, mut attempt: WriteAttempt<'_>) -> Result<Response, Error> {
        attempt.request.set_empty_length();
        let attempt = &attempt;
        let first = |authorization| self.first_write(attempt, authorization);
        let second = |authorization| self.second_write(attempt, authorization);
        self.with_authorization(attempt.endpoint, attempt.cause, first, second).await
    }

    async fn first_write(
        &self,
        attempt: &WriteAttempt<'_>,
        mut authorization: Option<Authorization>,
    ) -> Result<FirstResponse<Response>, Error> {
        let response = self.send_write(attempt, authorization.as_ref()).await?;
        let is_challenge = response.status() == StatusCode::UNAUTHORIZED;
        let wants_token =
            is_challenge && auth::is_answerable(response.headers()) && !auth::wants_password(response.headers());
        if let Some(password) = authorization.take_if(|sent| sent.is_own_password())
            && !wants_token
        {
            return self.after_password(attempt, password, response).await;
        }
        let is_refused_mount = attempt.request.is_refused_mount(response.status());
        if !is_challenge {
            match &authorization {
                Some(_) if is_refused_mount => {}
                Some(authorization) => judge_refusal(authorization, response.status()),
                None if response.status().is_success() => attempt.endpoint.note_open(),
                None => {}
            }
            return Ok(FirstResponse::Done(response));
        }
        if let Some(authorization) = authorization
            && (authorization.is_token() || !is_refused_mount)
        {
            self.authenticator.note_refused(&authorization).await;
        }
        let headers = response.headers().clone();
        discard(response).await;
        Ok(FirstResponse::Challenge { headers, scope: None })
    }

    /// A refused password is read again: it may have changed.
    async fn after_password(
        &self,
        attempt: &WriteAttempt<'_>,
        sent: Authorization,
        response: Response,
    ) -> Result<FirstResponse<Response>, Error> {
        if !self.write_refuses_password(attempt, &sent, &response).await? {
            return Ok(FirstResponse::Done(response));
        }
        // The next request may send the password.
        drop(sent);
        discard(response).await;
        match self.known_authorization(attempt.endpoint, attempt.cause).await {
            Known::Authorization(newer) => Ok(FirstResponse::Retry(newer)),
            Known::Failed(_, error) => Err(error),
            Known::Nothing => Err(refused_password(&attempt.url)),
        }
    }

    async fn second_write(&self, attempt: &WriteAttempt<'_>, sent: Authorization) -> Result<Response, Error> {
        let response = self.send_write(attempt, Some(&sent)).await?;
        if attempt.request.is_refused_mount(response.status()) {
            return Ok(response);
        }
        if sent.is_own_password() {
            if !self.write_refuses_password(attempt, &sent, &response).await? {
                return Ok(response);
            }
            discard(response).await;
            return Err(refused_password(&attempt.url));
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            self.authenticator.note_refused(&sent).await;
            sent.judge(Some(ErrorKind::Unauthorized));
        }
        if response.status().is_success() {
            sent.judge(None);
        }
        judge_refusal(&sent, response.status());
        Ok(response)
    }

    /// Whether a response refuses forebay's own password. Notes what it says about the password.
    pub(super) async fn write_refuses_password(
        &self,
        attempt: &WriteAttempt<'_>,
        sent: &Authorization,
        response: &Response,
    ) -> Result<bool, Error> {
        let status = response.status();
        // A 401 without a challenge is a page of a proxy.
        let is_page = status == StatusCode::UNAUTHORIZED && !response.headers().contains_key(header::WWW_AUTHENTICATE);
        if attempt.request.is_refused_mount(status) || is_page {
            return Ok(false);
        }
        if is_refusal(status) {
            return Box::pin(self.refuses_password(attempt.endpoint, sent, status)).await;
        }
        if is_about_content(status) {
            self.authenticator.note_accepted(sent);
        }
        Ok(false)
    }

    /// Sends a request without content, and follows redirects with the same method.
    async fn send_write(
        &self,
        attempt: &WriteAttempt<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Response, Error> {
        let method = &attempt.request.method;
        let send = |Step { url, headers, .. }: Step| async move {
            self.sender.send_push(method.clone(), &url, headers, None).await
        };
        Ok(follow(method, &attempt.url, attempt.headers(authorization), send).await?.response)
    }
}

pub(super) fn refused_password(url: &Url) -> Error {
    Error::new(ErrorKind::OurCredentials, format!("{} refuses forebay's own password", RedactedUrl(url)))
}

/// Whether a response shows that the credential was accepted: it is a success, or about the content.
fn is_about_content(status: StatusCode) -> bool {
    status.is_success()
        || status.is_redirection()
        || (status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 407 | 408 | 421 | 429))
}

/// Notes what other refusals than a 401 say about a client's password.
pub(super) fn judge_refusal(authorization: &Authorization, status: StatusCode) {
    match status {
        StatusCode::FORBIDDEN => authorization.judge(Some(ErrorKind::Denied)),
        StatusCode::NOT_FOUND => authorization.judge(Some(ErrorKind::NotFound)),
        _ => {}
    }
}
