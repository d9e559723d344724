//! `GET /v2/`: whether this is a registry, and whether the client has to log in.

use http::Response;

use super::{body::Body, exchange::Exchange, response, service::Service};
use crate::{
    auth::Identity,
    error::{Error, ErrorKind},
    upstream::Upstream,
};

impl Service {
    /// Challenges the client if a push needs a user, or if the upstream decides by its clients' credentials. In other
    /// cases it does not: some clients would send credentials that are for another registry.
    pub(super) async fn base(
        &self,
        exchange: &mut Exchange<'_>,
        upstream: Option<Upstream>,
    ) -> Result<Response<Body>, Error> {
        match upstream {
            Some(upstream) if upstream.uses_client_credentials() => {
                self.log_in(exchange, &upstream).await?;
                // Without a password there is no login: a 200 would let any `docker login` succeed.
                if !matches!(exchange.identity, Identity::Client(_)) {
                    return Err(ErrorKind::Unauthenticated.into());
                }
                exchange.note_client();
            }
            Some(upstream)
                if upstream.allows_push()
                    && self.push_policy(&upstream).requires_user()
                    && exchange.identity == Identity::Anonymous
                    && self.auth.access.load().has_users() =>
            {
                return Err(ErrorKind::Unauthenticated.into());
            }
            Some(_) | None => {}
        }
        Ok(response::base())
    }
}
