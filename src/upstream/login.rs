//! `GET /v2/`: whether an upstream answers, and accepts the credentials.

use std::sync::Arc;

use super::{
    Upstream,
    auth::{Authorization, scope::Scope},
    client::{
        body::{discard, whole_body},
        follow_redirects::FinalResponse,
        outbound_request::RequestMode,
    },
    endpoint::Endpoint,
    error::{Error, ErrorKind},
    head,
    principal::ClientCredential,
    read_request::ReadRequest,
    response::{self, RequestKind},
    state::UpstreamState,
    with_authorization::FirstResponse,
};

/// The longest body of the base that is read, in bytes: it is `{}`.
const MAX_BASE: usize = 1024;

impl Upstream {
    /// Whether the upstream answers, and accepts the credentials: configured credentials that a challenge did not use
    /// are an error.
    pub async fn ping(&self) -> Result<(), Error> {
        let client = self.client.as_ref();
        let ping = |endpoint: Arc<Endpoint>| async move { self.state.ping(&endpoint, client).await };
        self.state.each_endpoint(&self.state.endpoints, self.mode == RequestMode::Dedicated, ping).await
    }
}

impl UpstreamState {
    async fn ping(&self, endpoint: &Endpoint, client: Option<&Arc<ClientCredential>>) -> Result<(), Error> {
        match self.in_time(endpoint, self.login(endpoint, client)).await {
            Err(error) => Err(self.error_for_clients(error, &Scope::Login)),
            answered => answered,
        }
    }

    /// The first request has no credentials, so that the second shows whether they are accepted.
    pub(super) async fn login(&self, endpoint: &Endpoint, client: Option<&Arc<ClientCredential>>) -> Result<(), Error> {
        let request = &ReadRequest::base(client);
        let cause = self.cause(&request.scope, request.client.as_deref());
        let response = self.send(endpoint, request, None).await?;
        if !response.is_challenge() {
            return self.check_base(response, client).await;
        }
        let headers = response.response.headers().clone();
        let first = FirstResponse::Challenge { headers, scope: None };
        let second = |authorization| self.login_with(endpoint, request, authorization, response);
        self.after_first(endpoint, cause, first, None, second).await
    }

    /// A token proves that the upstream would answer forebay: some realms issue one that is good for repositories, and
    /// not for the base. For a client the base decides, as for those who log in at the registry itself, since some
    /// realms issue a token for any password.
    async fn login_with(
        &self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        authorization: Authorization,
        challenge: FinalResponse,
    ) -> Result<(), Error> {
        let client = request.client.as_ref();
        if let Some(why) = self.authenticator.unused(&authorization, client.is_some()).await? {
            return Err(Error::new(ErrorKind::Unauthorized, format!("upstream {}: {why}", self.name())));
        }
        if authorization.is_token() && client.is_none() {
            return Ok(());
        }
        discard(challenge.response).await;
        let second = self.send(endpoint, request, Some(&authorization)).await?;
        if authorization.is_own_password() {
            return Box::pin(self.check_password(endpoint, request, &authorization, second)).await.map(drop);
        }
        if second.is_challenge() {
            self.authenticator.note_refused(&authorization).await;
        }
        let result = self.check_base(second, client).await;
        authorization.judge(result.as_ref().err().map(|error| error.kind));
        result
    }

    /// Whether a registry answered for the base. A proxy in front of it may answer 200 to a client that it refuses.
    async fn check_base(&self, followed: FinalResponse, client: Option<&Arc<ClientCredential>>) -> Result<(), Error> {
        let kind = RequestKind { by_client: client.is_some(), ..RequestKind::default() };
        let FinalResponse { response, url, is_other_origin, .. } = response::check(followed, kind).await?;
        if client.is_none() {
            return Ok(());
        }
        // Another host, such as that of a single sign-on, does not know the registry's accounts.
        if is_other_origin {
            let why = format!("upstream {}: the login was answered by another host", self.name());
            return Err(Error::new(ErrorKind::Protocol, why));
        }
        if head::is_of_registry(response.headers()) {
            return Ok(());
        }
        let body = whole_body(response, &url, MAX_BASE).await?;
        match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body) {
            Ok(map) if map.is_empty() => Ok(()),
            Ok(_) | Err(_) => {
                let why = format!("upstream {}: no registry answered for the login", self.name());
                Err(Error::new(ErrorKind::Protocol, why))
            }
        }
    }
}
