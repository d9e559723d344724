//! Pushes, mounts and deletes: forebay passes them on if the upstream takes them and this client may make them.

use http::{Method, Response};
use hyper::body::Body as _;

use super::{body::Body, exchange::Exchange, response, service::Service};
use crate::{
    cache::Outcome,
    error::{Error, ErrorKind},
    metrics::Label as _,
    oci::Repository,
    push::{self, Push},
    route::Write,
    upstream::{UploadBody, Upstream},
};

impl Service {
    pub(super) async fn push(
        &self,
        exchange: &mut Exchange<'_>,
        upstream: &Upstream,
        repository: &Repository,
        write: &Write,
    ) -> Result<Response<Body>, Error> {
        let seal = self.table.load().seal.clone().filter(|_| upstream.allows_push());
        let seal = seal.ok_or(ErrorKind::Unsupported)?;
        self.push_policy(upstream).permit(&exchange.identity)?;
        let has_content = matches!(exchange.head.method, Method::POST | Method::PUT | Method::PATCH);
        // Reading a body tells the client to send it (`100 Continue`).
        let body = exchange.body.take_if(|body| has_content && !body.is_end_stream());
        let has_body = body.is_some();
        let namespace = exchange.namespace.as_deref();
        let client = exchange.peer();
        let push = Push { write, head: exchange.head, upstream, repository, namespace, client };
        let forwarding = push::forward(push, body.map(UploadBody::new), &seal, &self.caches);
        let written = match has_body {
            // While a body passes, forebay waits for the client as much as for the upstream.
            true => forwarding.await?,
            false => upstream.trace().wait(forwarding).await?,
        };
        if let Some(cause) = written.outage().and_then(|error| error.failure_cause()) {
            exchange.record.upstream_cause = Some(cause.as_str());
            exchange.record.outcome = Outcome::Error;
        }
        Ok(response::written(written))
    }

    /// The settings that decide who may push to an upstream.
    pub(super) fn push_policy(&self, upstream: &Upstream) -> push::Policy {
        let access = self.auth.access.load();
        push::Policy {
            has_credentials: upstream.has_credentials(),
            has_users: access.has_users(),
            // The users of an upstream that decides by its clients' credentials are its own.
            push_users: access.push_users().filter(|_| !upstream.uses_client_credentials()),
        }
    }
}
