//! The upstreams' last responses for lists, in memory.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::HeaderMap;

use super::query::{ListKey, ListQuery};
use crate::{
    bounded_cache,
    cache::{
        ReloadableConfig,
        freshness::{self, Freshness},
        write_counter::WriteCounters,
    },
    oci::Repository,
    upstream::{Access, VALUE_WEIGHT},
};

/// The memory of all responses, in bytes.
const MAX_MEMORY: u64 = 16 * 1024 * 1024;
/// The longest body that is cached, in bytes. Registries send lists in pages that are much shorter.
const MAX_BODY: usize = 1024 * 1024;
/// The memory of a response beside its body, headers and query string, in bytes.
const WEIGHT: usize = 512;

/// An upstream's response for a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListAnswer {
    List {
        headers: HeaderMap,
        body: Bytes,
    },
    /// It has no referrers endpoint. It may have a referrers tag.
    NoEndpoint,
    /// It has no referrers tag either.
    NoReferrers,
}

pub(super) struct ListStore {
    answers: moka::sync::Cache<ListKey, Arc<CachedAnswer>>,
    writes: WriteCounters,
    config: ReloadableConfig,
}

struct CachedAnswer {
    answer: ListAnswer,
    received: SystemTime,
    /// When forebay sent the request.
    sent: Instant,
}

impl ListStore {
    pub(super) fn new(config: ReloadableConfig) -> Self {
        let weigh = |key: &ListKey, cached: &Arc<CachedAnswer>| weight(key, &cached.answer);
        let answers = bounded_cache::lru(MAX_MEMORY, weigh);
        Self { answers, writes: WriteCounters::default(), config }
    }

    /// The last response, and its freshness; `None` if it is too old to serve. `last_refusal`: when forebay sent the
    /// request that the upstream refused; a response to an earlier request is forgotten.
    pub(super) fn get(
        &self,
        key: &ListKey,
        access: Access,
        last_refusal: Option<Instant>,
    ) -> (Option<ListAnswer>, Freshness) {
        let Some(cached) = self.answers.get(key) else { return (None, Freshness::Missing) };
        if last_refusal.is_some_and(|refusal| cached.sent <= refusal) {
            self.forget(key);
            return (None, Freshness::Missing);
        }
        let (ttl, stale) = self.limits(key, &cached.answer, access);
        match freshness::judge(cached.received, SystemTime::now(), ttl, stale) {
            Freshness::Missing => (None, Freshness::Missing),
            freshness => (Some(cached.answer.clone()), freshness),
        }
    }

    /// How long a response is fresh, and how long it is stale after that.
    fn limits(&self, key: &ListKey, answer: &ListAnswer, access: Access) -> (Duration, Duration) {
        let config = self.config.load();
        let ttl = match answer {
            ListAnswer::List { .. } if key.list.is_cacheable() => config.tag_ttl,
            ListAnswer::List { .. } => Duration::ZERO,
            // These are 404s, which may also mean that the repository does not exist yet.
            ListAnswer::NoEndpoint | ListAnswer::NoReferrers => config.negative_ttl,
        };
        match access {
            Access::Shared => (ttl, config.stale_if_error),
            Access::Client { ttl: max_ttl, grace } => {
                let ttl = ttl.min(max_ttl);
                (ttl, config.stale_if_error.min(grace.saturating_sub(ttl)))
            }
        }
    }

    /// Caches a response, unless a change was made since its request. One that is too long removes the last response.
    pub(super) fn note(&self, query: &ListQuery, sent: Instant, answer: &ListAnswer) {
        if query.writes != self.writes(&query.key) {
            return;
        }
        let answer = match answer {
            ListAnswer::List { body, .. } if body.len() > MAX_BODY => return self.forget(&query.key),
            answer => answer.clone(),
        };
        let cached = CachedAnswer { answer, received: SystemTime::now(), sent };
        self.answers.insert(query.key.clone(), Arc::new(cached));
        if query.writes != self.writes(&query.key) {
            self.forget(&query.key);
        }
    }

    pub(super) fn forget(&self, key: &ListKey) {
        self.answers.invalidate(key);
    }

    /// How many changes forebay made where the list could show them.
    pub(super) fn writes(&self, key: &ListKey) -> u64 {
        self.writes.of(key.registry.name(), key.list.repository())
    }

    /// A repository was changed: forgets all lists that may show it, of all clients.
    pub(super) fn forget_repository(&self, upstream: &Arc<str>, repository: &Repository) {
        // First, so that no response to an earlier request is cached after it.
        self.writes.note(upstream, repository);
        for (key, _) in &self.answers {
            if key.registry.name() == upstream && key.list.repository().is_none_or(|of| of == repository) {
                self.forget(&key);
            }
        }
    }
}

fn weight(key: &ListKey, answer: &ListAnswer) -> usize {
    let answer = match answer {
        ListAnswer::List { headers, body } => {
            body.len() + headers.values().map(|value| VALUE_WEIGHT + value.len()).sum::<usize>()
        }
        ListAnswer::NoEndpoint | ListAnswer::NoReferrers => 0,
    };
    WEIGHT + key.query.len() + answer
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http::{HeaderValue, header};

    use super::*;
    use crate::{
        cache::{Config, list::List},
        upstream::{Principal, Registry},
    };

    fn store(tag_ttl: Duration) -> ListStore {
        let stale_if_error = Duration::from_secs(60);
        ListStore::new(ReloadableConfig::new(Config { tag_ttl, stale_if_error, ..Config::at(Path::new("")) }))
    }

    fn registry(name: &str, urls: &[&str]) -> Registry {
        Registry::new(&name.into(), &urls.iter().map(|url| url.parse().unwrap()).collect::<Vec<_>>())
    }

    fn tags(repository: &str, query: &str) -> ListKey {
        let list = List::Tags(repository.parse().unwrap());
        ListKey { registry: registry("docker.io", &[]), list, query: query.to_owned(), principal: None }
    }

    fn referrers(repository: &str) -> ListKey {
        let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        ListKey { list: List::Referrers { repository: repository.parse().unwrap(), digest }, ..tags(repository, "") }
    }

    fn list(len: usize) -> ListAnswer {
        let link = HeaderValue::from_static("</v2/a>; rel=\"next\"");
        ListAnswer::List { headers: HeaderMap::from_iter([(header::LINK, link)]), body: vec![b'x'; len].into() }
    }

    fn note(store: &ListStore, key: &ListKey, answer: &ListAnswer) {
        let query = ListQuery { key: key.clone(), may_cycle: false, writes: store.writes(key) };
        store.note(&query, Instant::now(), answer);
    }

    #[test]
    fn only_referrers_are_fresh() {
        for (ttl, key, answer, freshness) in [
            (60, tags("a", ""), list(1), Freshness::Stale),
            (60, referrers("a"), list(1), Freshness::Fresh),
            (0, referrers("a"), list(1), Freshness::Stale),
            // `negative_ttl` is 0.
            (60, referrers("a"), ListAnswer::NoEndpoint, Freshness::Stale),
            (60, referrers("a"), ListAnswer::NoReferrers, Freshness::Stale),
        ] {
            let store = store(Duration::from_secs(ttl));
            assert_eq!(store.get(&key, Access::Shared, None), (None, Freshness::Missing));
            note(&store, &key, &answer);
            assert_eq!(store.get(&key, Access::Shared, None), (Some(answer), freshness), "{key:?} {ttl}");
        }
    }

    #[test]
    fn a_list_of_a_client_is_no_fresher_than_its_grant() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        for (ttl, grace, freshness) in [
            (hour, hour, Freshness::Fresh),
            (Duration::ZERO, hour, Freshness::Stale),
            (Duration::ZERO, Duration::ZERO, Freshness::Missing),
            (second, Duration::ZERO, Freshness::Fresh),
        ] {
            let store = store(hour);
            note(&store, &referrers("a"), &list(1));
            let (_, found) = store.get(&referrers("a"), Access::Client { ttl, grace }, None);
            assert_eq!(found, freshness, "{ttl:?} {grace:?}");
        }
    }

    #[test]
    fn a_response_is_for_the_same_query_of_the_same_client() {
        let store = store(Duration::ZERO);
        let key = tags("a", "n=1");
        note(&store, &key, &list(1));
        assert!(store.get(&key, Access::Shared, None).0.is_some());
        for other in [
            tags("a", ""),
            tags("b", "n=1"),
            ListKey { registry: registry("ghcr.io", &[]), ..key.clone() },
            ListKey { registry: registry("docker.io", &["https://mirror.example"]), ..key.clone() },
            ListKey { list: List::Catalog, ..key.clone() },
            ListKey { principal: Some(Principal::ANONYMOUS), ..key.clone() },
        ] {
            assert_eq!(store.get(&other, Access::Shared, None).0, None, "{other:?}");
        }
    }

    #[test]
    fn a_refusal_forgets_responses_to_earlier_requests() {
        let store = store(Duration::from_secs(60));
        let (key, access) = (tags("a", ""), Access::Shared);
        let before = Instant::now();
        note(&store, &key, &list(1));
        assert_eq!(store.get(&key, access, Some(before - Duration::from_secs(1))).0, Some(list(1)));
        assert_eq!(store.get(&key, access, Some(Instant::now())).0, None);
        assert_eq!(store.get(&key, access, None).0, None, "it was forgotten");
    }

    #[test]
    fn a_change_forgets_the_lists_that_show_it() {
        let store = store(Duration::from_secs(60));
        let catalog = ListKey { list: List::Catalog, ..tags("a", "") };
        let of_client = ListKey { principal: Some(Principal::ANONYMOUS), ..tags("a", "") };
        let gone = [tags("a", ""), tags("a", "n=1"), referrers("a"), catalog, of_client];
        let elsewhere = ListKey { registry: registry("ghcr.io", &[]), ..tags("a", "") };
        let left = [tags("a/b", ""), referrers("b"), elsewhere];
        gone.iter().chain(&left).for_each(|key| note(&store, key, &list(1)));
        store.forget_repository(&"docker.io".into(), &"a".parse().unwrap());
        assert!(gone.iter().all(|key| store.get(key, Access::Shared, None).0.is_none()));
        assert!(left.iter().all(|key| store.get(key, Access::Shared, None).0.is_some()));
        // A response to a later request is cached.
        gone.iter().for_each(|key| note(&store, key, &list(2)));
        assert!(gone.iter().all(|key| store.get(key, Access::Shared, None).0 == Some(list(2))));
    }

    #[test]
    fn a_response_from_before_a_change_is_not_cached() {
        let store = store(Duration::ZERO);
        let early = ListQuery { key: tags("a", ""), may_cycle: false, writes: store.writes(&tags("a", "")) };
        store.forget_repository(&"docker.io".into(), &"a".parse().unwrap());
        store.note(&early, Instant::now(), &list(1));
        assert_eq!(store.get(&early.key, Access::Shared, None).0, None);
        note(&store, &early.key, &list(2));
        store.note(&early, Instant::now(), &list(1));
        assert_eq!(store.get(&early.key, Access::Shared, None).0, Some(list(2)), "it replaces no later one");
    }

    #[test]
    fn memory_is_bounded() {
        let store = store(Duration::ZERO);
        let key = tags("a", "");
        note(&store, &key, &list(MAX_BODY));
        assert_eq!(store.get(&key, Access::Shared, None).0, Some(list(MAX_BODY)));
        note(&store, &key, &list(MAX_BODY + 1));
        assert_eq!(store.get(&key, Access::Shared, None).0, None, "the cached response is outdated");
        for number in 0..40 {
            note(&store, &tags("a", &number.to_string()), &list(MAX_BODY));
            store.answers.run_pending_tasks();
            assert!(store.answers.weighted_size() <= MAX_MEMORY);
        }
        assert!(store.get(&tags("a", "39"), Access::Shared, None).0.is_some(), "the newest is cached");
        assert!(weight(&tags("a", &"x".repeat(5000)), &ListAnswer::NoEndpoint) > 5000, "the query string counts");
    }
}
