//! Who the client is: by htpasswd, by its certificate, or by credentials that its upstream judges.
//!
//! What must hold: a client's credentials go only to the upstream that they are meant for: the one whose `/v2/`
//! challenged the client. The path of a request may name any upstream.

use http::{HeaderValue, header};

use super::{exchange::Exchange, service::Service};
use crate::{
    auth::{self, Identity, LoginFailure},
    error::{Error, ErrorKind},
    upstream::Upstream,
};

/// The longest part of a client's name that is logged, in characters.
const MAX_NAME: usize = 64;

impl Service {
    /// Says who the client is. Passes this client's credentials to an upstream that decides by its clients'
    /// credentials.
    pub(super) async fn authenticate(
        &self,
        exchange: &Exchange<'_>,
        upstream: Option<&mut Upstream>,
    ) -> Result<Identity, Error> {
        let upstream = upstream.filter(|upstream| !exchange.by_peer || upstream.uses_client_credentials());
        // Its own clients were admitted by the peer.
        if exchange.by_peer && (upstream.is_none() || !exchange.head.headers.contains_key(header::AUTHORIZATION)) {
            return Ok(Identity::Anonymous);
        }
        let certificate = exchange.connection.client_certificate;
        let Some(authorization) = exchange.head.headers.get(header::AUTHORIZATION) else {
            return Ok(self.auth.access.load().check_without(certificate)?);
        };
        let upstream = upstream.filter(|upstream| upstream.uses_client_credentials());
        // Credentials that neither an upstream nor the htpasswd file judges are ignored, also without TLS.
        let is_judged = upstream.is_some() || self.auth.access.load().has_users();
        if is_judged && !self.accepts_passwords(exchange) {
            self.note_failed_login(exchange, Some(LoginFailure::ClearHttp));
            return Err(ErrorKind::ClearLogin.into());
        }
        if let Some(upstream) = upstream {
            return self.client_credentials(exchange, upstream, authorization);
        }
        let access = self.auth.access.load_full();
        let (attempts, peer) = (&self.auth.attempts, exchange.peer());
        let checked =
            Box::pin(async move { access.check(attempts, peer, Some(authorization), certificate).await }).await;
        Ok(checked.inspect_err(|refusal| self.note_failed_login(exchange, LoginFailure::of(*refusal)))?)
    }

    /// Counts and logs credentials that were refused.
    pub(super) fn note_failed_login(&self, exchange: &Exchange<'_>, failure: Option<LoginFailure>) {
        if let Some(failure) = failure {
            self.refusals.login_failed(exchange.connection.peer, exchange.record.upstream.as_deref(), failure);
        }
    }

    /// Passes the client's credentials to an upstream that decides by them.
    fn client_credentials(
        &self,
        exchange: &Exchange<'_>,
        upstream: &mut Upstream,
        authorization: &HeaderValue,
    ) -> Result<Identity, Error> {
        if !self.is_login_for(exchange, upstream) {
            self.note_failed_login(exchange, Some(LoginFailure::Elsewhere));
            return Err(ErrorKind::LoginElsewhere.into());
        }
        let Some((username, password)) = auth::basic(authorization) else {
            self.note_failed_login(exchange, Some(LoginFailure::Malformed));
            return Err(ErrorKind::Unauthenticated.into());
        };
        let name: String = username.chars().take(MAX_NAME).collect();
        *upstream = upstream.with_client_credential(Some(self.auth.principals.credential(username, password)));
        Ok(Identity::Client(name.into()))
    }

    /// Whether a password that the client sends to this host can be for this upstream: it cannot if a login at this
    /// host is for another upstream, or for forebay.
    fn is_login_for(&self, exchange: &Exchange<'_>, upstream: &Upstream) -> bool {
        let table = self.table.load();
        let has_users = self.auth.access.load().has_users();
        let Some(login) = table.routes.login(exchange.target()) else { return !has_users };
        if login.name() == upstream.name() {
            return true;
        }
        let takes_logins =
            login.uses_client_credentials() || (login.allows_push() && self.push_policy(login).requires_user());
        !takes_logins && !has_users
    }

    /// Whether the client may send a password over this connection.
    pub(super) fn accepts_passwords(&self, exchange: &Exchange<'_>) -> bool {
        self.auth.access.load().takes_passwords(exchange.connection.tls, exchange.peer())
    }
}
