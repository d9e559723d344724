//! Requests for upstreams that decide by their clients' own credentials: whose name they are asked in, and that nothing
//! is answered from here before the upstream has said yes.
//!
//! What must hold: what a client shows goes to the upstream that it is meant for, which is that of the `/v2/` where it
//! was asked for it. A path may name any upstream.

use std::sync::Arc;

use http::{HeaderValue, Response, header};

use super::{
    access_log::AccessRecord,
    body::Body,
    response,
    service::{Asked, Handler},
};
use crate::{
    auth::{self, AttemptFrom, Grant, Identity, Resource},
    cache::{Outcome, Source},
    error::{Error, ErrorKind},
    oci::{Accept, ContentRange, Digest, Operation as Label, Reference},
    route::{Operation, Route},
    transport::request_body::RequestBody,
    upstream::Upstream,
};

/// How much of a client's name the log is told, in characters.
const MAX_NAME: usize = 64;

impl Handler {
    /// Passes on what the client shows of itself to an upstream that decides by it.
    pub(super) fn on_behalf_of_client(
        &self,
        asked: Asked<'_>,
        upstream: &mut Upstream,
        authorization: &HeaderValue,
    ) -> Result<Identity, Error> {
        if !self.is_meant_for(asked, upstream) {
            return Err(ErrorKind::LoginElsewhere.into());
        }
        let (username, password) = auth::basic(authorization).ok_or(ErrorKind::Unauthenticated)?;
        let name: String = username.chars().take(MAX_NAME).collect();
        *upstream = upstream.with_client_credential(Some(self.asker_key.credential(username, password)));
        Ok(Identity::Client(name.into()))
    }

    /// Whether a password that is shown here can be for this upstream: not where a login at this host is for another one,
    /// or for us.
    fn is_meant_for(&self, asked: Asked<'_>, upstream: &Upstream) -> bool {
        let table = self.table.load();
        let Some(login) = table.routes.login(asked.target()) else { return !self.access.load().has_users() };
        if login == upstream.name() {
            return true;
        }
        let is_taken_there = table.upstreams.get(login).is_some_and(|other| {
            other.uses_client_credentials() || (other.allows_push() && self.push_terms(other).need_user())
        });
        !is_taken_there && !self.access.load().has_users()
    }

    /// Serves what the upstream says this client may have.
    pub(super) async fn serve_by_client(
        &self,
        asked: Asked<'_>,
        body: RequestBody,
        route: Route,
        upstream: Upstream,
        identity: Identity,
        facts: &mut AccessRecord,
    ) -> Result<Response<Body>, Error> {
        let tried = self.begin_try(asked, &upstream, &identity).await?;
        // Who may not push may read all the same.
        let read = route.repository.clone().filter(|_| !matches!(route.operation, Operation::Write(_)));
        let served = self.admit_and_serve(asked, body, route, &upstream, &identity, facts).await;
        if let Some(tried) = tried {
            tried.end();
        }
        match (&served, identity) {
            (Ok(_), Identity::Client(name)) => facts.user = Some(Arc::clone(&name)),
            (Err(Error { kind: ErrorKind::Refused | ErrorKind::Denied, .. }), _) => {
                if let Some(repository) = &read {
                    self.proofs.note_refusal(&upstream, repository);
                }
            }
            _ => {}
        }
        served.map_err(who_else)
    }

    /// Takes a place for a password that its upstream has not taken before.
    async fn begin_try(
        &self,
        asked: Asked<'_>,
        upstream: &Upstream,
        identity: &Identity,
    ) -> Result<Option<AttemptFrom>, Error> {
        let Identity::Client(user) = identity else { return Ok(None) };
        Ok(Some(self.tries.begin_at(upstream, asked.connection.peer.ip(), user).await?))
    }

    /// The same as [`Handler::know_client`], where nothing else is asked for.
    pub(super) async fn try_client(
        &self,
        asked: Asked<'_>,
        upstream: &Upstream,
        identity: &Identity,
        facts: &mut AccessRecord,
    ) -> Result<(), Error> {
        let tried = self.begin_try(asked, upstream, identity).await?;
        let known = self.know_client(asked, upstream, identity, facts).await;
        if let Some(tried) = tried {
            tried.end();
        }
        known.map_err(who_else)
    }

    /// Where clients must log in, a name that the upstream does not know is none; nor does a client log in with it.
    async fn know_client(
        &self,
        asked: Asked<'_>,
        upstream: &Upstream,
        identity: &Identity,
        facts: &mut AccessRecord,
    ) -> Result<(), Error> {
        let operation = facts.operation;
        if matches!(identity, Identity::Client(_)) && (operation == Label::Base || !self.access.load().is_open()) {
            let peer = asked.connection.peer.ip();
            self.proofs.log_in(upstream, peer).await.map_err(|error| Error::of_upstream(operation, error))?;
        }
        Ok(())
    }

    async fn admit_and_serve(
        &self,
        asked: Asked<'_>,
        body: RequestBody,
        route: Route,
        upstream: &Upstream,
        identity: &Identity,
        facts: &mut AccessRecord,
    ) -> Result<Response<Body>, Error> {
        let label = route.operation.label();
        self.know_client(asked, upstream, identity, facts).await?;
        let subject = match &route.operation {
            Operation::Base if matches!(identity, Identity::Client(_)) => return Ok(response::base()),
            // Where a password would not be taken it is not asked for; to say 200 would let any login succeed.
            Operation::Base => return Err(ErrorKind::Unauthenticated.into()),
            Operation::Manifest(reference) => {
                let accept = Accept::from_headers(asked.headers);
                let known = match (reference, &route.repository) {
                    (Reference::Tag(tag), Some(of)) => self.manifests.cached_digest(upstream, of, tag, &accept).await,
                    _ => None,
                };
                Some(Resource::Manifest { reference: reference.clone(), accept, cached: known })
            }
            Operation::Blob(digest) => {
                let cached = match route.repository.clone() {
                    Some(repository) => {
                        let source = Source { upstream: upstream.clone(), repository, digest: digest.clone() };
                        self.blobs.cached_len(&source).await
                    }
                    None => None,
                };
                Some(Resource::Blob { digest: digest.clone(), cached_len: cached })
            }
            // The upstream is asked each time, or by what this very asker was told.
            Operation::Tags | Operation::Referrers(_) | Operation::Catalog | Operation::Write(_) => None,
        };
        let mut admission = Grant::default();
        if let (Some(subject), Some(repository)) = (&subject, &route.repository) {
            let peer = asked.connection.peer.ip();
            admission = self.proofs.authorize(upstream, repository, subject, peer).await.map_err(|error| {
                // Some clients say who they are only when they are asked, and by that name there may be a former yes.
                let could_say = !matches!(identity, Identity::Client(_)) && self.takes_passwords(asked);
                match error.kind.is_outage() && could_say {
                    true => Error::new(ErrorKind::Unauthenticated, error),
                    false => Error::of_upstream(label, error),
                }
            })?;
        }
        let told = admission.tag_digest.as_ref();
        let former =
            subject.as_ref().and_then(Resource::cached_digest).filter(|known| told.is_some_and(|told| told != *known));
        let asked = Asked { told, former, ..asked };
        let Some(len) = admission.announced else {
            let repository = route.repository.clone();
            let served = self.serve_shared(asked, body, route, Some(upstream.clone()), identity, facts).await;
            // What is stale is not the upstream's answer.
            let unproven = admission.unproven.filter(|_| facts.outcome != Outcome::Stale);
            if let (Some(at), Some(repository), Some(digest)) = (unproven, repository, digest_told(&served)) {
                self.proofs.note_manifest_sent(upstream, &repository, &digest, at);
            }
            return served;
        };
        // A 304 tells no size.
        let mut headers = asked.headers.clone();
        headers.remove(header::IF_NONE_MATCH);
        let asked = Asked { headers: &headers, ..asked };
        let served = self.serve_shared(asked, body, route, Some(upstream.clone()), identity, facts).await;
        if size_told(&served).is_some_and(|told| told != Some(len)) {
            let cause = "the upstream announced another size than the blob's to this client";
            return Err(Error::new(ErrorKind::UpstreamUnavailable { retry_after: None }, cause));
        }
        served
    }
}

/// The size of the blob that an answer tells, where it is about one.
fn size_told(served: &Result<Response<Body>, Error>) -> Option<Option<u64>> {
    let headers = match served {
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

/// The digest of the manifest that an answer is about.
fn digest_told(served: &Result<Response<Body>, Error>) -> Option<Digest> {
    served.as_ref().ok()?.headers().get(response::CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

/// It is for the client to say who else it could be.
fn who_else(error: Error) -> Error {
    if matches!(error.kind, ErrorKind::Refused) { error.told_as(ErrorKind::Unauthenticated) } else { error }
}
