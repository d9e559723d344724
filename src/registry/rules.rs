//! The rules of the operator: which requests are denied, and what a held tag means.
//!
//! What must hold: `HEAD` and `GET` of a tag mean the same digest; with `access = "client"` a client gets no digest that
//! the upstream has not granted it, whatever a rule serves for the tag.

use std::sync::Arc;

use http::{Response, Uri};

use super::{body::Body, exchange::Exchange, service::Service};
use crate::{
    auth::Resource,
    cache::{
        List, ManifestError, ManifestRequest, Outcome,
        manifest::{HeldTag, ManifestHead, ServedManifest},
    },
    error::{Error, ErrorKind},
    oci::{Reference, Repository, Tag, query},
    push,
    route::{MountSource, Operation, Write},
    rule::{RuleName, RuleResult, Rules, Subject, TagRules},
    upstream::Upstream,
};

impl Service {
    /// Refuses a request that a rule denies. Of a request to mount what a rule denies only the upload is left: the client
    /// then sends the content.
    pub(super) fn check_rules(
        &self,
        exchange: &mut Exchange<'_>,
        upstream: &Upstream,
        operation: &mut Operation,
    ) -> Result<(), Error> {
        let (upstream, uri) = (upstream.name(), &exchange.head.uri);
        let rules = self.caches.manifests.rules();
        let denial = rules.denial(upstream, || subject(upstream, operation));
        if let Some(rule) = denial.or_else(|| denial_of_pushed_tags(&rules, upstream, operation, uri)) {
            self.note_rule(exchange, &rule, RuleResult::Denied);
            return Err(ErrorKind::DeniedByRule(rule).into());
        }
        if let Operation::Write { write: Write::Begin(source), .. } = operation
            && let MountSource::Here(from) = source
            && let Some(rule) = denial_of_mount(&rules, upstream, from, uri)
        {
            self.note_rule(exchange, &rule, RuleResult::Denied);
            *source = MountSource::Elsewhere;
        }
        Ok(())
    }

    /// The response for a tag that a rule holds; `None`: the tag means what the upstream says, like any other.
    pub(super) async fn held_manifest(
        &self,
        exchange: &mut Exchange<'_>,
        request: &ManifestRequest,
        tag: &Tag,
        rules: &TagRules,
    ) -> Option<Result<Response<Body>, Error>> {
        match self.caches.manifests.resolve_held(request, tag, rules).await {
            Ok(None) => None,
            Ok(Some(held)) => {
                exchange.held_tag = Some(Reference::Tag(tag.clone()));
                Some(self.manifest_of_held(exchange, request, held).await)
            }
            Err(error) => {
                if let ManifestError::TooYoung { rule, .. } = &error {
                    self.note_rule(exchange, rule, RuleResult::TooYoung);
                }
                Some(Err(error.into()))
            }
        }
    }

    /// The response for the digest that a tag means.
    async fn manifest_of_held(
        &self,
        exchange: &mut Exchange<'_>,
        request: &ManifestRequest,
        held: HeldTag,
    ) -> Result<Response<Body>, Error> {
        if let Some(rule) = &held.instead {
            self.note_rule(exchange, rule, RuleResult::Earlier);
        }
        self.may_have_held(exchange, request, &held).await?;
        let reference = Reference::Digest(held.digest.clone());
        let request = ManifestRequest { tag_digest: None, ..request.clone() };
        if let Some(deletion) = self.manifest_deletion(&request.upstream, &request.repository, &reference) {
            self.current_manifest(exchange, &request, &reference, Some(deletion)).await?;
        }
        let outcome = |of_digest| if of_digest == Outcome::Hit { held.outcome } else { of_digest };
        if exchange.is_head() {
            let head = self.caches.manifests.head(&request, &reference).await?;
            let head = ManifestHead { outcome: outcome(head.outcome), confirmed: held.confirmed, ..head };
            return self.manifest_head(exchange, &request, &reference, Some(head)).await;
        }
        let served = self.caches.manifests.get(&request, &reference).await?;
        let served = ServedManifest { outcome: outcome(served.outcome), confirmed: held.confirmed, ..served };
        self.manifest_content(exchange, &request, &reference, Some(served)).await
    }

    /// Has the upstream grant the client a digest that it did not name for the tag.
    async fn may_have_held(
        &self,
        exchange: &mut Exchange<'_>,
        request: &ManifestRequest,
        held: &HeldTag,
    ) -> Result<(), Error> {
        let ManifestRequest { upstream, repository, accept, tag_digest, .. } = request;
        if !upstream.uses_client_credentials() || tag_digest.as_ref() == Some(&held.digest) {
            return Ok(());
        }
        // What the client gets proves nothing about the tag.
        exchange.grant.unproven = None;
        let grants = &self.caches.grants;
        if held.outcome == Outcome::Stale && grants.holds_in_outage(upstream, repository, &held.digest) {
            return Ok(());
        }
        let reference = Reference::Digest(held.digest.clone());
        let resource = Resource::Manifest { reference, accept: accept.clone(), cached: None };
        let granted = grants.authorize(upstream, repository, &resource, exchange.peer()).await;
        granted.map(drop).map_err(|error| Error::of_upstream(exchange.record.operation, error))
    }

    fn note_rule(&self, exchange: &mut Exchange<'_>, rule: &Arc<RuleName>, result: RuleResult) {
        self.metrics.rule_held(&rule.pattern, result);
        exchange.record.rule = Some(rule.clone());
    }
}

/// The rule that denies a tag which a pushed manifest gets beside the reference in the path.
fn denial_of_pushed_tags(rules: &Rules, upstream: &str, operation: &Operation, uri: &Uri) -> Option<Arc<RuleName>> {
    let Operation::Write { repository, write: Write::PutManifest(_) } = operation else { return None };
    push::tags(uri).iter().find_map(|tag| rules.denial(upstream, || Some(Subject::tag(upstream, repository, tag))))
}

/// The rule that denies the blob which a client wants to mount from a repository.
fn denial_of_mount(rules: &Rules, upstream: &str, from: &Repository, uri: &Uri) -> Option<Arc<RuleName>> {
    let mut mounted =
        query::pairs_of(uri).filter(|(key, _)| key == "mount").filter_map(|(_, digest)| digest.parse().ok());
    mounted.find_map(|digest| rules.denial(upstream, || Some(Subject::digest(upstream, from, &digest))))
}

/// What a request is about; `None`: no repository.
fn subject(upstream: &str, operation: &Operation) -> Option<Subject> {
    let repository = operation.repository()?;
    Some(match operation {
        Operation::Manifest { reference, .. }
        | Operation::Write { write: Write::PutManifest(reference) | Write::DeleteManifest(reference), .. } => {
            Subject::reference(upstream, repository, reference)
        }
        Operation::Blob { digest, .. }
        | Operation::List(List::Referrers { digest, .. })
        | Operation::Write { write: Write::DeleteBlob(digest), .. } => Subject::digest(upstream, repository, digest),
        Operation::List(List::Tags(_) | List::Catalog)
        | Operation::Write { write: Write::Begin(_) | Write::Upload | Write::NotAllowed, .. } => {
            Subject::repository(upstream, repository)
        }
    })
}
