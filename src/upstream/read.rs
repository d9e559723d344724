//! Reads from one endpoint: the request, its challenge, and what the responses say about credentials.

use http::StatusCode;

use super::{
    auth::{self, Authorization, Known},
    client::{body::discard, follow_redirects::FinalResponse},
    endpoint::Endpoint,
    error::{Error, ErrorKind},
    head,
    read_request::ReadRequest,
    state::UpstreamState,
    with_authorization::FirstResponse,
};

impl UpstreamState {
    /// The response is a 200 or a 206.
    pub(super) async fn read(&self, endpoint: &Endpoint, request: &ReadRequest) -> Result<FinalResponse, Error> {
        if let Some(peer) = endpoint.peer() {
            return self.read_of_peer(endpoint, peer, request).await;
        }
        if let Some(object) = endpoint.store() {
            return self.read_of_store(endpoint, object, request).await;
        }
        let cause = self.cause(&request.scope, request.client.as_deref());
        let first = |authorization| self.first_read(endpoint, request, authorization);
        let second = |authorization| self.second_read(endpoint, request, authorization);
        match self.in_time(endpoint, self.with_authorization(endpoint, cause, first, second)).await {
            Err(error) => Err(self.error_for_clients(error, &request.scope)),
            answered => answered,
        }
    }

    pub(super) async fn first_read(
        &self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        authorization: Option<Authorization>,
    ) -> Result<FirstResponse<FinalResponse>, Error> {
        match authorization {
            Some(password) if password.is_own_password() => {
                self.first_read_with_password(endpoint, request, password).await
            }
            // A password that may be a guess is sent only after a refusal without it: then the response is about the
            // password.
            Some(guess) if guess.may_be_guess() => {
                let response = self.send(endpoint, request, None).await?;
                // Some registries answer so to a request without credentials.
                if matches!(response.response.status(), StatusCode::FORBIDDEN | StatusCode::NOT_FOUND)
                    && !response.is_other_origin
                {
                    discard(response.response).await;
                    return Ok(FirstResponse::Retry(guess));
                }
                self.done_or_challenge(endpoint, request, None, response).await
            }
            Some(authorization) => self.first_read_with_token(endpoint, request, authorization).await,
            None => {
                let response = self.send(endpoint, request, None).await?;
                self.done_or_challenge(endpoint, request, None, response).await
            }
        }
    }

    /// With forebay's own password.
    async fn first_read_with_password(
        &self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        sent: Authorization,
    ) -> Result<FirstResponse<FinalResponse>, Error> {
        let response = self.send(endpoint, request, Some(&sent)).await?;
        if !response.is_challenge() || !auth::is_answerable(response.response.headers()) {
            let result = Box::pin(self.check_password(endpoint, request, &sent, response)).await;
            // The next request may send the password.
            drop(sent);
            if result.as_ref().err().is_none_or(|error| error.kind != ErrorKind::OurCredentials) {
                return result.map(FirstResponse::Done);
            }
            // The password may have changed since it was read.
            let cause = self.cause(&request.scope, request.client.as_deref());
            return match self.known_authorization(endpoint, cause).await {
                Known::Authorization(newer) => Ok(FirstResponse::Retry(newer)),
                Known::Nothing | Known::Failed(..) => result.map(FirstResponse::Done),
            };
        }
        // A registry that now accepts tokens alone says nothing about the password.
        if auth::wants_password(response.response.headers())
            && !Box::pin(self.refuses_password(endpoint, &sent, StatusCode::UNAUTHORIZED)).await?
        {
            return self.check(endpoint, response, request, None).await.map(FirstResponse::Done);
        }
        drop(sent);
        self.done_or_challenge(endpoint, request, None, response).await
    }

    /// With a token, or with a client's password that the upstream has accepted before.
    async fn first_read_with_token(
        &self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        sent: Authorization,
    ) -> Result<FirstResponse<FinalResponse>, Error> {
        let mut response = self.send(endpoint, request, Some(&sent)).await?;
        // Some registries answer 403 to an expired token.
        let cause = self.cause(&request.scope, request.client.as_deref());
        if request.client.is_none()
            && response.response.status() == StatusCode::FORBIDDEN
            && !response.is_other_origin
            && self.authenticator.renew(&sent).await
            && let Known::Authorization(renewed) = self.known_authorization(endpoint, cause).await
        {
            discard(response.response).await;
            return Ok(FirstResponse::Retry(renewed));
        }
        let mut sent = Some(sent);
        // A token with too small a scope stays good for what it covers.
        if response.is_challenge()
            && auth::widened(&request.scope, response.response.headers()).is_none()
            && let Some(refused) = &sent
        {
            self.authenticator.note_refused(refused).await;
            if auth::names_other_scheme(endpoint.scheme().as_ref(), response.response.headers()) {
                // Some registries answer an expired token with a challenge of another scheme: Harbor with Basic,
                // nvcr.io with a realm that knows no anonymous client. The challenge to a request without a token
                // counts.
                if refused.is_token() {
                    discard(response.response).await;
                    response = self.send(endpoint, request, None).await?;
                    sent = None;
                }
            } else if refused.is_clients_password() {
                return self.check(endpoint, response, request, Some(refused)).await.map(FirstResponse::Done);
            }
        }
        self.done_or_challenge(endpoint, request, sent.as_ref(), response).await
    }

    async fn done_or_challenge(
        &self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        sent: Option<&Authorization>,
        response: FinalResponse,
    ) -> Result<FirstResponse<FinalResponse>, Error> {
        if !response.is_challenge() || !auth::is_answerable(response.response.headers()) {
            return self.check(endpoint, response, request, sent).await.map(FirstResponse::Done);
        }
        let headers = response.response.headers().clone();
        discard(response.response).await;
        let scope = auth::widened(&request.scope, &headers);
        Ok(FirstResponse::Challenge { headers, scope })
    }

    /// Sends a request that was refused without this header.
    pub(super) async fn second_read(
        &self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        authorization: Authorization,
    ) -> Result<FinalResponse, Error> {
        let response = self.send(endpoint, request, Some(&authorization)).await?;
        if authorization.is_own_password() {
            return Box::pin(self.check_password(endpoint, request, &authorization, response)).await;
        }
        if response.is_challenge() {
            self.authenticator.note_refused(&authorization).await;
        }
        let is_other_origin = response.is_other_origin;
        let result = self.check(endpoint, response, request, Some(&authorization)).await;
        let error = match &result {
            // An HTML page says nothing about a password, even if its content may prove to be a manifest.
            Ok(followed) => head::is_html(followed.response.headers()).then_some(ErrorKind::Protocol),
            Err(error) => Some(error.kind),
        };
        // Another origin has not seen the password.
        if error.is_none() || !is_other_origin {
            let is_refused = matches!(error, Some(ErrorKind::Unauthorized | ErrorKind::Denied));
            if is_refused && authorization.is_token() && authorization.may_be_guess() {
                // A client with the right password may request content of others: the base tells, as at a login.
                let _ = Box::pin(self.login(endpoint, request.client.as_ref())).await;
            }
            authorization.judge(error);
        }
        result
    }
}
