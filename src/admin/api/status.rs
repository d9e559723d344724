//! `GET /api/v1/status`: is it healthy, and what needs a person?

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{
    access::Sight,
    upstreams::{self, State, time},
    warm,
};
use crate::{
    admin::{Readiness, State as Ready},
    cache::{
        DiskStore, Inventory, ObjectKind, Pins, UploadQueue, inventory::IncompletePins, pins::PinnedBytes,
        storage::StoreStatus,
    },
    cluster::{Cluster, Health},
    history::{History, Sums, Unconfigured, Window},
    metrics::{Label as _, Metrics},
    store::{self, Store},
    transport::ReloadableTls,
    upstream::Upstream,
    warm::{JobReport, WarmJobs},
};

/// A certificate that ends within this needs a person: it should have been renewed by then.
const CERTIFICATE_NOTICE: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// How many upstreams that are not configured are told: those that most requests named.
pub(in crate::admin) const MAX_UNCONFIGURED: usize = 20;

/// What the status is made of. A cheap handle.
#[derive(Clone)]
pub(crate) struct StatusSources {
    pub started: SystemTime,
    pub readiness: Readiness,
    pub store: DiskStore,
    pub tls: Option<ReloadableTls>,
    pub metrics: Metrics,
    pub history: History,
    pub inventory: Inventory,
    pub pins: Pins,
    pub warm_jobs: WarmJobs,
    pub cluster: Option<Cluster>,
    /// The object store, and what waits for its upload to it.
    pub objects: Option<(Store, UploadQueue)>,
}

/// What may need a person.
struct Findings<'a> {
    now: SystemTime,
    /// What was read again last and cannot be used.
    failed_reloads: Vec<&'static str>,
    certificate_until: Option<SystemTime>,
    store: &'a StoreStatus,
    pinned: PinnedBytes,
    incomplete: IncompletePins,
    upstreams: Vec<UpstreamFinding>,
    cluster: Health,
    /// `None`: there is no object store.
    objects: Option<store::Health>,
}

/// How an upstream is.
struct UpstreamFinding {
    name: Arc<str>,
    state: State,
    /// Since when it has been down or paused.
    since: Option<SystemTime>,
    /// Where forebay's own credentials are.
    credentials: Option<String>,
}

impl StatusSources {
    pub(super) fn document(&self, upstreams: &[Upstream], sight: Sight) -> Value {
        let store = self.store.status();
        let findings = self.findings(upstreams, &store);
        let unconfigured = self.history.unconfigured(sight.of_clients);
        let jobs = self.warm_jobs.reports();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "state": self.readiness.state().as_str(),
            "ready": self.readiness.state() == Ready::Ready,
            "started": time(self.started),
            "config_reloaded": !findings.failed_reloads.contains(&"config"),
            "certificate_until": findings.certificate_until.map(time),
            "cache": cache(&store, findings.pinned),
            "store": self.object_store(),
            "sums": {
                "hour": sums(self.history.sums(Window::Hour)),
                "day": sums(self.history.sums(Window::Day)),
                "since_start": sums(self.history.sums(Window::SinceStart)),
            },
            "upstreams": upstreams.iter().map(upstreams::entry).collect::<Vec<_>>(),
            "unconfigured": unconfigured.iter().take(MAX_UNCONFIGURED).map(requested).collect::<Vec<_>>(),
            "warm": warm::jobs_data(&jobs),
            "attention": all_attention(&findings, &jobs),
        })
    }

    /// How the object store is; `None`: there is none.
    pub(super) fn object_store(&self) -> Option<Value> {
        self.objects.as_ref().map(|(store, queue)| object_store(store, queue))
    }

    /// What a person should look at, in sentences: the most urgent first.
    pub(in crate::admin) fn attention(&self, upstreams: &[Upstream], store: &StoreStatus) -> Vec<String> {
        all_attention(&self.findings(upstreams, store), &self.warm_jobs.reports())
    }

    fn findings<'a>(&self, upstreams: &[Upstream], store: &'a StoreStatus) -> Findings<'a> {
        let expiry = self.tls.as_ref().and_then(ReloadableTls::expiry);
        Findings {
            now: SystemTime::now(),
            failed_reloads: self.metrics.failed_reloads(),
            certificate_until: expiry.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at))),
            store,
            pinned: self.pins.bytes(),
            incomplete: self.inventory.incomplete_pins(),
            upstreams: upstreams.iter().map(upstream_finding).collect(),
            cluster: self.cluster.as_ref().map(Cluster::health).unwrap_or_default(),
            objects: self.objects.as_ref().map(|(objects, _)| objects.health()),
        }
    }
}

fn all_attention(findings: &Findings<'_>, jobs: &[JobReport]) -> Vec<String> {
    let mut sentences = attention(findings);
    sentences.extend(warm::attention(jobs));
    sentences
}

fn upstream_finding(upstream: &Upstream) -> UpstreamFinding {
    let since = upstream.paused_since().or(upstreams::health(upstream).down_since);
    let (name, credentials) = (upstream.name().clone(), upstream.credential_place());
    UpstreamFinding { name, state: State::of(upstream), since, credentials }
}

fn requested(unconfigured: &Unconfigured) -> Value {
    let Unconfigured { name, requests, last, peer } = unconfigured;
    json!({ "name": name, "requests": requests, "last_request": time(*last), "peer": &**peer })
}

fn object_store(store: &Store, queue: &UploadQueue) -> Value {
    let store::Health { word, failure } = store.health();
    json!({
        "url": store.location().to_string(),
        "state": word,
        "waiting": queue.len(),
        "last_failure": failure.map(|(at, problem)| json!({ "at": time(at), "problem": problem })),
    })
}

fn cache(store: &StoreStatus, pinned: PinnedBytes) -> Value {
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
        "pinned_bytes": pinned.kept,
        "pinned_and_not_kept_bytes": pinned.not_kept,
        "scanned": is_scanned,
        "oldest_use": oldest_use.map(time),
        "kinds": objects,
    })
}

fn sums(sums: Sums) -> Value {
    let Sums { pulls, hits, sent, cached, received, errors } = sums;
    json!({
        "pulls": pulls,
        "hits": hits,
        "sent_bytes": sent,
        "cached_bytes": cached,
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
    for UpstreamFinding { name, state, since, credentials } in &findings.upstreams {
        match state {
            State::CredentialsRefused => {
                let place = credentials.as_deref().unwrap_or("the configuration");
                sentences.push(format!(
                    "{name} refuses forebay's own credentials: what is cached is still served; renew them in {place}, no \
                     restart is needed, and `forebay upstream test {name}` tells whether the new ones are good"
                ));
            }
            State::Down => {
                let since = since.map(|at| format!(" since {}", time(at))).unwrap_or_default();
                sentences.push(format!(
                    "{name} answered no request{since}: what is cached is still served; `forebay upstream test {name}` asks \
                     it now"
                ));
            }
            State::Paused => {
                let since = since.map(|at| format!(" since {}", time(at))).unwrap_or_default();
                sentences.push(format!(
                    "{name} is paused{since}: what is cached is still served; `forebay upstream resume {name}` ends that"
                ));
            }
            State::Ok | State::Unknown => {}
        }
    }
    sentences.extend(findings.failed_reloads.iter().map(|what| {
        match *what {
            "config" => {
                "the last reload of the configuration failed, and the one before it is in effect: `forebay config \
                     check` tells why"
                    .to_owned()
            }
            file => format!(
                "the changed file of {file} cannot be used, and the one before it is in effect: the log tells why"
            ),
        }
    }));
    sentences.extend(about_disk(findings.store));
    if findings.pinned.not_kept > 0 {
        let why = "pinned images take more than 80 % of cache.max_size, and some may be evicted: `forebay cache pin` \
                   lists the pins";
        sentences.push(why.to_owned());
    }
    sentences.extend(about_incomplete(&findings.incomplete));
    sentences.extend(about_cluster(&findings.cluster));
    sentences.extend(findings.objects.as_ref().and_then(about_objects));
    sentences
}

fn about_incomplete(incomplete: &IncompletePins) -> Option<String> {
    let IncompletePins { images, first } = incomplete;
    let name = first.as_ref()?;
    let what = match images {
        1 => format!("1 pinned image is not complete: {name}"),
        images => format!("{images} pinned images are not complete, such as {name}"),
    };
    Some(format!("{what}; `forebay warm {name}` fetches what is missing"))
}

fn about_cluster(cluster: &Health) -> Vec<String> {
    let Health { members, is_member: _, dead, is_lookup_failing } = cluster;
    let mut sentences = Vec::new();
    if *is_lookup_failing {
        sentences.push("DNS does not tell the members of the cluster: the log tells why".to_owned());
    }
    if let Some(first) = dead.first() {
        let what = match dead.len() {
            1 => format!("the member {first} of the cluster does not answer"),
            several => format!("{several} of {members} members of the cluster do not answer, such as {first}"),
        };
        sentences.push(format!("{what}; `forebay status --cluster` asks again and tells why"));
    }
    sentences
}

fn about_objects(store: &store::Health) -> Option<String> {
    let what = match store.word {
        "read-only" => "uploads to the object store fail",
        "write-only" => "reads of the object store fail",
        "down" => "the object store fails",
        _ => return None,
    };
    let why = store.failure.as_ref().map(|(_, problem)| format!(" ({problem})")).unwrap_or_default();
    Some(format!("{what}{why}: pulls go on without it, and uploads wait"))
}

fn about_disk(store: &StoreStatus) -> Option<String> {
    let Some(free) = store.free_bytes else {
        return Some("the file system of the cache does not answer: the log tells why".to_owned());
    };
    // Just below the limit forebay makes room as it writes; far below it, other files take the room, and soon nothing more
    // is cached.
    (free < store.min_free / 2).then(|| {
        "the file system of the cache has less free than half of cache.min_free: other files take the room".to_owned()
    })
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
        let (low, full) = [5, 4].map(|free| StoreStatus { free_bytes: Some(free), ..good.clone() }).into();
        let unknown = StoreStatus { free_bytes: None, ..good.clone() };
        let with_pins = |failed: &[&'static str], certificate_until, store, states: &[State], not_kept| {
            let finding = |state: &State| UpstreamFinding {
                name: "quay.io".into(),
                state: *state,
                since: Some(now),
                credentials: Some("/etc/quay.pw".to_owned()),
            };
            let upstreams = states.iter().map(finding).collect();
            let pinned = PinnedBytes { kept: 1, not_kept, most: 1 };
            let (failed_reloads, incomplete) = (failed.to_vec(), IncompletePins::default());
            let cluster = Health::default();
            attention(&Findings {
                now,
                failed_reloads,
                certificate_until,
                store,
                pinned,
                incomplete,
                upstreams,
                cluster,
                objects: None,
            })
        };
        let findings =
            |failed: &[&'static str], until, store, states: &[State]| with_pins(failed, until, store, states, 0);
        assert_eq!(findings(&[], Some(now + 15 * day), &good, &[State::Ok, State::Unknown]), [""; 0]);
        assert_eq!(findings(&[], None, &low, &[]), [""; 0]);
        let refused = findings(&[], None, &good, &[State::CredentialsRefused]);
        assert!(refused[0].contains("; renew them in /etc/quay.pw, no restart"), "{refused:?}");
        for (found, expected) in [
            (findings(&[], Some(now - day), &good, &[]), "the certificate has expired on 2027-01-14"),
            (findings(&[], Some(now + 13 * day), &good, &[]), "the certificate expires on 2027-01-28"),
            (findings(&[], None, &good, &[State::Down]), "quay.io answered no request since 2027-01-15T08:00:00Z"),
            (findings(&[], None, &good, &[State::Paused]), "quay.io is paused since 2027-01-15T08:00:00Z"),
            (findings(&[], None, &good, &[State::CredentialsRefused]), "quay.io refuses forebay's own credentials"),
            (findings(&["config"], None, &good, &[]), "the last reload of the configuration failed"),
            (findings(&["tls"], None, &good, &[]), "the changed file of tls cannot be used"),
            (findings(&[], None, &full, &[]), "the file system of the cache has less free than half of cache.min_free"),
            (findings(&[], None, &unknown, &[]), "the file system of the cache does not answer"),
            (with_pins(&[], None, &good, &[], 1), "pinned images take more than 80 % of cache.max_size"),
        ] {
            assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
        }
    }

    #[test]
    fn an_object_store_that_fails_is_told() {
        let about = |word, problem: Option<&str>| {
            about_objects(&store::Health { word, failure: problem.map(|text| (SystemTime::now(), text.to_owned())) })
        };
        assert_eq!(about("ok", Some("it was slow once")), None);
        assert_eq!(about("unknown", None), None);
        assert_eq!(
            about("read-only", Some("403 Denied")).as_deref(),
            Some("uploads to the object store fail (403 Denied): pulls go on without it, and uploads wait")
        );
        assert!(about("down", None).unwrap().starts_with("the object store fails: "));
        assert!(about("write-only", None).unwrap().starts_with("reads of "));
    }

    #[test]
    fn members_that_do_not_answer_are_named() {
        let about = |dead: &[&str], is_lookup_failing| {
            let dead = dead.iter().map(|name| (*name).into()).collect();
            about_cluster(&Health { members: 3, is_member: true, dead, is_lookup_failing })
        };
        assert_eq!(about(&[], false), [""; 0]);
        let more = "; `forebay status --cluster` asks again and tells why";
        assert_eq!(
            about(&["http://a:1"], false),
            [format!("the member http://a:1 of the cluster does not answer{more}")]
        );
        let both = "2 of 3 members of the cluster do not answer, such as http://a:1";
        assert_eq!(about(&["http://a:1", "http://b:1"], false), [format!("{both}{more}")]);
        assert!(about(&["http://a:1"], true)[0].starts_with("DNS does not tell the members"));
    }

    #[test]
    fn pinned_images_that_lack_something_are_named() {
        let about =
            |images, first: Option<&str>| about_incomplete(&IncompletePins { images, first: first.map(str::to_owned) });
        assert_eq!(about(0, None), None);
        let one = "1 pinned image is not complete: a/b:1; `forebay warm a/b:1` fetches what is missing";
        assert_eq!(about(1, Some("a/b:1")).as_deref(), Some(one));
        let some = "2 pinned images are not complete, such as a/b:1; `forebay warm a/b:1` fetches what is missing";
        assert_eq!(about(2, Some("a/b:1")).as_deref(), Some(some));
    }
}
