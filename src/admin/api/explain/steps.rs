//! The steps of an explanation as JSON (pure).
//!
//! What must hold: no step has a password, a token, or the query of a URL. A user name is part of it: only the socket and the
//! token may ask.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::{
    requests::RequestEntry,
    upstreams::{seconds, time},
};
use crate::{
    cache::{CachedImage, Place, freshness::Freshness},
    error_chain::ErrorChain,
    history::FinishedRequest,
    metrics::Label as _,
    oci::Reference,
    route::ImageRoute,
    rule::{Rules, Subject, TagRules},
    store,
    upstream::{Error, ExplainedAuthorization, ExplainedHead, ExplainedStep, Upstream},
};

/// How many names of rules are told.
const MAX_RULES: usize = 100;

/// What the rules say about an image.
pub(super) struct RulesStep {
    pub data: Value,
    /// The rule that denies the pull.
    pub denied_by: Option<String>,
    /// The rule that may make the tag mean another digest than the upstream says.
    pub held_by: Option<String>,
}

/// `store`: the object store, where there is one.
pub(super) fn route(route: &ImageRoute<Upstream>, store: Option<&store::Config>) -> Value {
    let ImageRoute { upstream, repository, reference, by } = route;
    let (access, credentials) = match (upstream.uses_client_credentials(), upstream.has_credentials()) {
        (true, _) => ("client", "client"),
        (false, true) => ("shared", "own"),
        (false, false) => ("shared", "none"),
    };
    json!({
        "step": "route",
        "upstream": &**upstream.name(),
        "repository": repository.as_str(),
        "reference": reference.to_string(),
        "by": by.as_str(),
        "access": access,
        "credentials": credentials,
        "user": upstream.account(),
        "credentials_from": upstream.credential_place(),
        "paused_since": upstream.paused_since().map(time),
        "redirects": store.filter(|store| upstream.redirects() && !store.redirect_clients.is_empty()).map(redirects),
        "problem": null,
    })
}

/// Which clients get blobs over 1 MiB from the object store, and where.
fn redirects(store: &store::Config) -> Value {
    let clients: Vec<String> = store.redirect_clients.iter().map(ToString::to_string).collect();
    json!({ "clients": clients, "endpoint": store.clients_endpoint() })
}

/// The name leads nowhere.
pub(super) fn no_route(problem: &str) -> Value {
    json!({ "step": "route", "problem": problem })
}

/// The rules about an image.
pub(super) fn rules(rules: &Rules, route: &ImageRoute<Upstream>) -> RulesStep {
    let ImageRoute { upstream, repository, reference, .. } = route;
    let name = upstream.name();
    let subject = Subject::reference(name, repository, reference);
    let matching: Vec<String> =
        rules.matching(name, &subject).take(MAX_RULES).map(|rule| rule.name.to_string()).collect();
    let denied_by = rules.denial(name, || Some(subject)).map(|rule| rule.to_string());
    let TagRules { tag_ttl, stale_if_error, is_immutable, hold } = match reference {
        Reference::Tag(tag) => rules.tag(name, repository, tag),
        Reference::Digest(_) => TagRules::default(),
    };
    let held_by = hold.as_ref().map(|hold| hold.rule.to_string());
    let data = json!({
        "step": "rules",
        "matching": matching,
        "denied_by": denied_by,
        "tag_ttl_seconds": tag_ttl.map(|ttl| ttl.as_secs()),
        "stale_if_error_seconds": stale_if_error.map(|ttl| ttl.as_secs()),
        "immutable": is_immutable,
        "held_by": held_by,
        "minimum_age_seconds": hold.as_ref().map(|hold| hold.minimum_age.as_secs()),
    });
    RulesStep { data, denied_by, held_by }
}

pub(super) fn of_upstream(step: &ExplainedStep) -> Value {
    match step {
        ExplainedStep::Connection { url, probe, error } => json!({
            "step": "connection",
            "url": url,
            "by_proxy": probe.by_proxy,
            "dns_seconds": probe.lookup.map(seconds),
            "connect_seconds": probe.connect.map(seconds),
            "tls_seconds": probe.handshake.map(seconds),
            "certificate": probe.certificate.as_ref().map(|certificate| {
                json!({ "issuer": certificate.issuer, "until": certificate.not_after })
            }),
            "cause": error.as_ref().and_then(cause),
            "problem": error.as_ref().map(problem),
        }),
        ExplainedStep::Authorization(ExplainedAuthorization { took, token, error }) => json!({
            "step": "token",
            "seconds": seconds(*took),
            "kind": match (token, error) {
                (_, Some(_)) => Value::Null,
                (Some(_), None) => "token".into(),
                (None, None) => "password".into(),
            },
            "realm": token.as_ref().map(|token| &token.realm),
            "scope": token.as_ref().map(|token| &token.scope),
            "anonymous": token.as_ref().map(|token| token.is_anonymous),
            "cached": token.as_ref().map(|token| token.is_cached),
            "cause": error.as_ref().and_then(cause),
            "problem": error.as_ref().map(problem),
        }),
        ExplainedStep::Head { took, result } => {
            let (head, error) = (result.as_ref().ok(), result.as_ref().err());
            json!({
                "step": "head",
                "seconds": seconds(*took),
                "status": head.map_or_else(|| error.and_then(status), |head| Some(head.status)),
                "digest": head.and_then(|head| head.digest.as_ref()).map(ToString::to_string),
                "media_type": head.and_then(ExplainedHead::type_text),
                "cause": error.and_then(cause),
                "problem": error.map(problem),
            })
        }
    }
}

pub(super) fn cache(cached: &CachedImage) -> Value {
    let CachedImage { digest, tag, manifest, images, is_complete, blobs, bytes } = cached;
    let confirmed = tag.map(|(confirmed, freshness)| {
        let state = match freshness {
            Freshness::Fresh => "fresh",
            Freshness::Stale => "stale",
            Freshness::Missing => "too_old",
        };
        (time(confirmed), state)
    });
    json!({
        "step": "cache",
        "digest": digest.as_ref().map(ToString::to_string),
        "confirmed": confirmed.as_ref().map(|(at, _)| at),
        "tag": confirmed.as_ref().map(|(_, state)| state),
        "manifest": manifest.map(|place| match place {
            Place::Memory => "memory",
            Place::Disk => "disk",
        }),
        "images": { "cached": images.cached, "all": images.all },
        "blobs": { "cached": blobs.cached, "all": blobs.all },
        "bytes": { "cached": bytes.cached, "all": bytes.all },
        "complete": is_complete,
    })
}

/// The latest requests of clients, the newest first.
pub(super) fn requests(requests: &[Arc<FinishedRequest>]) -> Value {
    let entries: Vec<RequestEntry<'_>> = requests.iter().map(|request| RequestEntry::of(request)).collect();
    json!({ "step": "requests", "requests": entries })
}

fn cause(error: &Error) -> Option<&'static str> {
    error.failure_cause().map(|cause| cause.as_str())
}

fn problem(error: &Error) -> String {
    ErrorChain(error).to_string()
}

fn status(error: &Error) -> Option<u16> {
    error.refusal().map(|refusal| refusal.status).or_else(|| error.kind.upstream_status())
}
