//! `GET /api/v1/status`: is it healthy, and what needs a person?

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::upstreams::{self, State, time};
use crate::{
    admin::{Readiness, State as Ready},
    cache::{DiskStore, ObjectKind, storage::StoreStatus},
    history::{History, Sums, Window},
    metrics::Label as _,
    transport::ReloadableTls,
    upstream::Upstream,
};

/// A certificate that ends within this needs a person: it should have been renewed by then.
const CERTIFICATE_NOTICE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What the status is made of. A cheap handle.
#[derive(Clone)]
pub(crate) struct StatusSources {
    pub started: SystemTime,
    pub readiness: Readiness,
    pub store: DiskStore,
    pub tls: Option<ReloadableTls>,
    pub reload: LastReload,
    pub history: History,
}

/// Whether the last reload succeeded; the start counts as one. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct LastReload(Arc<AtomicBool>);

impl Default for LastReload {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl LastReload {
    pub(crate) fn note(&self, ok: bool) {
        self.0.store(ok, Ordering::Relaxed);
    }

    fn succeeded(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What may need a person.
struct Findings<'a> {
    now: SystemTime,
    is_reloaded: bool,
    certificate_until: Option<SystemTime>,
    store: &'a StoreStatus,
    upstreams: Vec<(Arc<str>, State)>,
}

impl StatusSources {
    pub(super) fn document(&self, upstreams: &[Upstream]) -> Value {
        let store = self.store.status();
        let expiry = self.tls.as_ref().and_then(ReloadableTls::expiry);
        let certificate_until = expiry.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)));
        let findings = Findings {
            now: SystemTime::now(),
            is_reloaded: self.reload.succeeded(),
            certificate_until,
            store: &store,
            upstreams: upstreams.iter().map(|one| (one.name().clone(), State::of(&one.health()))).collect(),
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "state": self.readiness.state().as_str(),
            "ready": self.readiness.state() == Ready::Ready,
            "started": time(self.started),
            "config_reloaded": findings.is_reloaded,
            "certificate_until": certificate_until.map(time),
            "cache": cache(&store),
            "sums": {
                "hour": sums(self.history.sums(Window::Hour)),
                "day": sums(self.history.sums(Window::Day)),
                "since_start": sums(self.history.sums(Window::SinceStart)),
            },
            "upstreams": upstreams.iter().map(upstreams::entry).collect::<Vec<_>>(),
            "attention": attention(&findings),
        })
    }
}

fn cache(store: &StoreStatus) -> Value {
    let StoreStatus { usage, max_bytes, min_free: _, free_bytes, is_scanned, oldest_use } = store;
    let objects: serde_json::Map<String, Value> = ObjectKind::EVERY
        .into_iter()
        .zip(&usage.totals)
        .map(|(kind, totals)| (kind.as_str().to_owned(), json!({ "bytes": totals.bytes, "objects": totals.objects })))
        .collect();
    json!({
        "bytes": usage.total(),
        "max_bytes": max_bytes,
        "free_bytes": free_bytes,
        "in_flight_bytes": usage.in_flight,
        "scanned": is_scanned,
        "oldest_use": oldest_use.map(time),
        "kinds": objects,
    })
}

fn sums(sums: Sums) -> Value {
    let Sums { pulls, hits, sent, received, errors } = sums;
    json!({
        "pulls": pulls,
        "hits": hits,
        "sent_bytes": sent,
        "received_bytes": received,
        "saved_bytes": sums.saved(),
        "errors": errors,
    })
}

/// What a person should look at, in sentences: the most urgent first.
fn attention(findings: &Findings<'_>) -> Vec<String> {
    let mut sentences = Vec::new();
    let is_over = |until: SystemTime, notice: Duration| findings.now + notice > until;
    if let Some(until) = findings.certificate_until {
        if is_over(until, Duration::ZERO) {
            sentences.push(format!("the certificate has expired on {}: every client refuses it", time(until)));
        } else if is_over(until, CERTIFICATE_NOTICE) {
            sentences.push(format!("the certificate expires on {}", time(until)));
        }
    }
    for (name, state) in &findings.upstreams {
        match state {
            State::CredentialsRefused => {
                sentences.push(format!("{name} refuses forebay's own credentials: what is cached is still served"));
            }
            State::Down => sentences.push(format!("{name} does not answer: what is cached is still served")),
            State::Ok | State::Unknown => {}
        }
    }
    if !findings.is_reloaded {
        sentences.push("the last reload of the configuration failed: the one before it is in effect".to_owned());
    }
    // At the limit forebay evicts; below it, other files take the room, and soon nothing more is cached.
    if findings.store.free_bytes.is_some_and(|free| free < findings.store.min_free) {
        sentences.push("the file system of the cache has less free than cache.min_free".to_owned());
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::storage::Usage;

    #[test]
    fn what_needs_a_person_is_told_and_nothing_else() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let day = Duration::from_secs(24 * 60 * 60);
        let good = StoreStatus {
            usage: Usage::default(),
            max_bytes: 1,
            min_free: 10,
            free_bytes: Some(10),
            is_scanned: true,
            oldest_use: None,
        };
        let full = StoreStatus { free_bytes: Some(9), ..good.clone() };
        let unknown = StoreStatus { free_bytes: None, ..good.clone() };
        let findings = |is_reloaded, certificate_until, store, states: &[State]| {
            let upstreams = states.iter().map(|state| ("quay.io".into(), *state)).collect();
            attention(&Findings { now, is_reloaded, certificate_until, store, upstreams })
        };
        assert_eq!(findings(true, Some(now + 15 * day), &good, &[State::Ok, State::Unknown]), [""; 0]);
        assert_eq!(findings(true, None, &unknown, &[]), [""; 0]);
        for (found, expected) in [
            (findings(true, Some(now - day), &good, &[]), "the certificate has expired on 2027-01-14"),
            (findings(true, Some(now + 13 * day), &good, &[]), "the certificate expires on 2027-01-28"),
            (findings(true, None, &good, &[State::Down]), "quay.io does not answer"),
            (findings(true, None, &good, &[State::CredentialsRefused]), "quay.io refuses forebay's own credentials"),
            (findings(false, None, &good, &[]), "the last reload of the configuration failed"),
            (findings(true, None, &full, &[]), "the file system of the cache has less free than cache.min_free"),
        ] {
            assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
        }
    }
}
