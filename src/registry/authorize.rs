//! What a client may have of an upstream that decides by its clients' own credentials.
//!
//! What must hold: forebay serves no content of such an upstream before the upstream has granted it to this client.

use http::{Response, header};

use super::{body::Body, exchange::Exchange, response, service::Service};
use crate::{
    auth::{AttemptFrom, Grant, Identity, LoginFailure, Resource},
    cache::{Outcome, Source},
    error::{Error, ErrorKind},
    oci::{ContentRange, Digest, Operation as Label, Reference, Repository},
    route::Operation,
    upstream::{Upstream, Verdict},
};

/// Why forebay refuses a blob if the upstream told this client another size.
const OTHER_SIZE: &str = "the upstream announced another size than the blob's to this client";

impl Service {
    /// Responds with the content that the upstream grants to this client.
    pub(super) async fn authorize_and_dispatch(
        &self,
        exchange: &mut Exchange<'_>,
        upstream: Upstream,
        operation: Operation,
    ) -> Result<Response<Body>, Error> {
        let attempt = self.begin_attempt(exchange, &upstream).await?;
        let is_write = matches!(operation, Operation::Write { .. });
        let repository = operation.repository().cloned();
        let result = self.dispatch_granted(exchange, &upstream, operation).await;
        self.end_attempt(exchange, &upstream, attempt);
        match &result {
            Ok(_) => exchange.note_client(),
            // A client that may not push may read all the same.
            Err(Error { kind: ErrorKind::Refused | ErrorKind::Denied, .. }) if !is_write => {
                if let Some(repository) = &repository {
                    self.caches.grants.note_refusal(&upstream, repository);
                }
            }
            Err(_) => {}
        }
        result.map_err(challenge)
    }

    /// Lets the upstream judge the client's credentials, if the request itself does not reach the upstream.
    pub(super) async fn log_in(&self, exchange: &Exchange<'_>, upstream: &Upstream) -> Result<(), Error> {
        let attempt = self.begin_attempt(exchange, upstream).await?;
        let result = self.check_login(exchange, upstream).await;
        self.end_attempt(exchange, upstream, attempt);
        result.map_err(challenge)
    }

    /// Takes a place for a password that the upstream has not accepted before.
    async fn begin_attempt(&self, exchange: &Exchange<'_>, upstream: &Upstream) -> Result<Option<AttemptFrom>, Error> {
        let Identity::Client(user) = &exchange.identity else { return Ok(None) };
        let attempt = self.auth.attempts.begin_at(upstream, exchange.peer(), user).await;
        let attempt = attempt.inspect_err(|refusal| self.note_failed_login(exchange, LoginFailure::of(*refusal)))?;
        Ok(Some(attempt))
    }

    /// Ends the attempt by what the upstream said of the credentials.
    fn end_attempt(&self, exchange: &Exchange<'_>, upstream: &Upstream, attempt: Option<AttemptFrom>) {
        let Some(attempt) = attempt else { return };
        if upstream.verdict() == Verdict::Refused {
            self.note_failed_login(exchange, Some(LoginFailure::Upstream));
        }
        attempt.end();
    }

    /// For a login, and if clients must log in: refuses a client whose credentials the upstream does not accept.
    async fn check_login(&self, exchange: &Exchange<'_>, upstream: &Upstream) -> Result<(), Error> {
        let operation = exchange.record.operation;
        let is_client = matches!(exchange.identity, Identity::Client(_));
        if is_client && (operation == Label::Base || !self.auth.access.load().is_open()) {
            let login = self.caches.grants.log_in(upstream, exchange.peer()).await;
            login.map_err(|error| Error::of_upstream(operation, error))?;
        }
        Ok(())
    }

    async fn dispatch_granted(
        &self,
        exchange: &mut Exchange<'_>,
        upstream: &Upstream,
        operation: Operation,
    ) -> Result<Response<Body>, Error> {
        self.check_login(exchange, upstream).await?;
        let Some((repository, resource)) = self.resource(exchange, upstream, &operation).await else {
            return self.dispatch(exchange, upstream.clone(), operation).await;
        };
        exchange.grant = self.grant(exchange, upstream, &repository, &resource).await?;
        let told = exchange.grant.tag_digest.as_ref();
        exchange.previous = resource.cached_digest().filter(|&cached| told.is_some_and(|told| told != cached)).cloned();
        let granted = match (&resource, exchange.grant.unproven) {
            (_, Some(_)) => upstream.for_proof(),
            // Where only the content proves the grant, it has to come from the upstream.
            (Resource::Blob { digest, .. }, None) if exchange.grant.announced.is_none() => upstream.with_grant(digest),
            _ => upstream.clone(),
        };
        let result = self.dispatch(exchange, granted, operation).await;
        if let Some(len) = exchange.grant.announced {
            return match size_in(&result) {
                Some(size) if size != Some(len) => {
                    Err(Error::new(ErrorKind::UpstreamUnavailable { retry_after: None }, OTHER_SIZE))
                }
                _ => result,
            };
        }
        // A stale manifest is not the upstream's response.
        let unproven = exchange.grant.unproven.filter(|_| exchange.record.outcome != Outcome::Stale);
        if let (Some(asked_at), Some(digest)) = (unproven, digest_in(&result)) {
            self.caches.grants.note_manifest_sent(upstream, &repository, &digest, asked_at);
        }
        result
    }

    /// What the client needs a grant for. `None` for a list or a push: forebay asks the upstream each time, or keeps
    /// the response for this client alone.
    async fn resource(
        &self,
        exchange: &Exchange<'_>,
        upstream: &Upstream,
        operation: &Operation,
    ) -> Option<(Repository, Resource)> {
        match operation {
            Operation::Manifest { repository, reference } => {
                let accept = exchange.accept();
                let cached = match reference {
                    Reference::Tag(tag) => {
                        self.caches.manifests.cached_digest(upstream, repository, tag, &accept).await
                    }
                    Reference::Digest(_) => None,
                };
                Some((repository.clone(), Resource::Manifest { reference: reference.clone(), accept, cached }))
            }
            Operation::Blob { repository, digest } => {
                let (upstream, repository, digest) = (upstream.clone(), repository.clone(), digest.clone());
                let source = Source { upstream, repository, digest };
                let cached_len = self.caches.blobs.cached_len(&source).await;
                Some((source.repository, Resource::Blob { digest: source.digest, cached_len }))
            }
            Operation::List(_) | Operation::Write { .. } => None,
        }
    }

    async fn grant(
        &self,
        exchange: &Exchange<'_>,
        upstream: &Upstream,
        repository: &Repository,
        resource: &Resource,
    ) -> Result<Grant, Error> {
        let grant = self.caches.grants.authorize(upstream, repository, resource, exchange.peer()).await;
        grant.map_err(|error| {
            // Some clients send credentials only when challenged, and under that name there may be an earlier grant.
            let can_log_in = !matches!(exchange.identity, Identity::Client(_)) && self.accepts_passwords(exchange);
            match error.kind.is_outage() && can_log_in {
                true => Error::new(ErrorKind::Unauthenticated, error),
                false => Error::of_upstream(exchange.record.operation, error),
            }
        })
    }
}

/// The size of the blob in a response about a blob; the inner `None`: the response does not tell the size.
fn size_in(result: &Result<Response<Body>, Error>) -> Option<Option<u64>> {
    let headers = match result {
        Ok(response) => match response.extensions().get() {
            Some(response::SizeOfWhole(total)) => return Some(Some(*total)),
            None => response.headers(),
        },
        Err(Error { kind: ErrorKind::RangeNotSatisfiable { len }, .. }) => return Some(Some(*len)),
        Err(_) => return None,
    };
    Some(match headers.get(header::CONTENT_RANGE) {
        Some(range) => ContentRange::parse(range).ok().and_then(|range| range.total),
        None => headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok()),
    })
}

/// The digest of the manifest in a response.
fn digest_in(result: &Result<Response<Body>, Error>) -> Option<Digest> {
    result.as_ref().ok()?.headers().get(response::CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

/// A client whose credentials the upstream refuses may have others: it is challenged.
fn challenge(error: Error) -> Error {
    if matches!(error.kind, ErrorKind::Refused) { error.told_as(ErrorKind::Unauthenticated) } else { error }
}
