//! The last answers, in memory.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::HeaderMap;
use moka::policy::EvictionPolicy;

use super::query::{ListKey, ListQuery};
use crate::{
    cache::{
        Config,
        freshness::{self, Freshness},
        write_counter::WriteCounters,
    },
    oci::Repository,
    upstream::{Access, VALUE_WEIGHT},
};

/// How much memory all answers may take, in bytes.
const MAX_MEMORY: u64 = 16 * 1024 * 1024;
/// The longest answer that is kept, in bytes: registries give lists in pages that are much shorter.
const MAX_KEPT: usize = 1024 * 1024;
/// What an answer weighs beside its body, its headers and what was asked, in bytes.
const WEIGHT: usize = 512;

/// What an upstream said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListAnswer {
    List {
        headers: HeaderMap,
        body: Bytes,
    },
    /// It has no endpoint for referrers; it may have a tag for them.
    NoEndpoint,
    /// Nor has it the tag.
    NoReferrers,
}

pub(super) struct ListStore {
    kept: moka::sync::Cache<ListKey, Arc<Kept>>,
    writes: WriteCounters,
    tag_ttl: Duration,
    negative_ttl: Duration,
    stale_if_error: Duration,
}

struct Kept {
    answer: ListAnswer,
    since: SystemTime,
    asked: Instant,
}

impl ListStore {
    pub(super) fn new(config: &Config) -> Self {
        let kept = moka::sync::Cache::builder()
            .max_capacity(MAX_MEMORY)
            .weigher(|key, kept: &Arc<Kept>| weight(key, &kept.answer))
            // The default policy refuses newcomers, and what was answered last is what counts.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let Config { tag_ttl, negative_ttl, stale_if_error, .. } = *config;
        Self { kept, writes: WriteCounters::default(), tag_ttl, negative_ttl, stale_if_error }
    }

    /// The last answer, and how far it can be believed. One too old for anything is not given; nor, where the
    /// upstream decides by client, one that is older than its last refusal to that client. `refused`: when forebay sent the
    /// request that the upstream refused; an answer to an earlier request is forgotten.
    pub(super) fn get(
        &self,
        key: &ListKey,
        access: Access,
        refused: Option<Instant>,
    ) -> (Option<ListAnswer>, Freshness) {
        let Some(kept) = self.kept.get(key) else { return (None, Freshness::Missing) };
        if refused.is_some_and(|refused| kept.asked <= refused) {
            self.forget(key);
            return (None, Freshness::Missing);
        }
        let ttl = match kept.answer {
            ListAnswer::List { .. } if key.list.is_trusted() => self.tag_ttl,
            ListAnswer::List { .. } => Duration::ZERO,
            // These are 404s, and not sure to say what they are taken for: the repository may be yet to be made.
            ListAnswer::NoEndpoint | ListAnswer::NoReferrers => self.negative_ttl,
        };
        let (ttl, stale) = match access {
            Access::Shared => (ttl, self.stale_if_error),
            Access::Client { ttl: most, grace } => {
                let ttl = ttl.min(most);
                (ttl, self.stale_if_error.min(grace.saturating_sub(ttl)))
            }
        };
        match freshness::judge(kept.since, SystemTime::now(), ttl, stale) {
            Freshness::Missing => (None, Freshness::Missing),
            freshness => (Some(kept.answer.clone()), freshness),
        }
    }

    /// Keeps an answer, unless something was changed since it was asked for. One that is too long leaves none.
    pub(super) fn note(&self, question: &ListQuery, asked: Instant, answer: &ListAnswer) {
        if question.writes != self.writes(&question.key) {
            return;
        }
        let answer = match answer {
            ListAnswer::List { body, .. } if body.len() > MAX_KEPT => return self.forget(&question.key),
            answer => answer.clone(),
        };
        self.kept.insert(question.key.clone(), Arc::new(Kept { answer, since: SystemTime::now(), asked }));
        if question.writes != self.writes(&question.key) {
            self.forget(&question.key);
        }
    }

    pub(super) fn forget(&self, key: &ListKey) {
        self.kept.invalidate(key);
    }

    /// How many changes were made through us where the list could show them.
    pub(super) fn writes(&self, key: &ListKey) -> u64 {
        self.writes.of(key.registry.name(), key.list.repository())
    }

    /// Something was changed in a repository: all lists in which that may show are forgotten, whoever asked for them.
    pub(super) fn forget_repository(&self, upstream: &Arc<str>, repository: &Repository) {
        // First, so that no answer to an earlier question comes in behind.
        self.writes.note(upstream, repository);
        for (key, _) in &self.kept {
            if key.registry.name() == upstream && key.list.repository().is_none_or(|of| of == repository) {
                self.forget(&key);
            }
        }
    }
}

fn weight(key: &ListKey, answer: &ListAnswer) -> u32 {
    let answer = match answer {
        ListAnswer::List { headers, body } => {
            body.len() + headers.values().map(|value| VALUE_WEIGHT + value.len()).sum::<usize>()
        }
        ListAnswer::NoEndpoint | ListAnswer::NoReferrers => 0,
    };
    u32::try_from(WEIGHT + key.query.len() + answer).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http::{HeaderValue, header};

    use super::*;
    use crate::{
        cache::list::List,
        upstream::{Principal, Registry},
    };

    fn answers(tag_ttl: Duration) -> ListStore {
        ListStore::new(&Config { tag_ttl, stale_if_error: Duration::from_secs(60), ..Config::at(Path::new("")) })
    }

    fn registry(name: &str, urls: &[&str]) -> Registry {
        Registry::new(&name.into(), &urls.iter().map(|url| url.parse().unwrap()).collect::<Vec<_>>())
    }

    fn tags(repository: &str, query: &str) -> ListKey {
        let list = List::Tags(repository.parse().unwrap());
        ListKey { registry: registry("docker.io", &[]), list, query: query.to_owned(), asker: None }
    }

    fn referrers(repository: &str) -> ListKey {
        let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        ListKey { list: List::Referrers { repository: repository.parse().unwrap(), digest }, ..tags(repository, "") }
    }

    fn list(len: usize) -> ListAnswer {
        let link = HeaderValue::from_static("</v2/a>; rel=\"next\"");
        ListAnswer::List { headers: HeaderMap::from_iter([(header::LINK, link)]), body: vec![b'x'; len].into() }
    }

    fn note(answers: &ListStore, key: &ListKey, answer: &ListAnswer) {
        let question = ListQuery { key: key.clone(), circle: false, writes: answers.writes(key) };
        answers.note(&question, Instant::now(), answer);
    }

    #[test]
    fn what_is_believed_and_what_is_merely_kept() {
        for (ttl, key, answer, freshness) in [
            (60, tags("a", ""), list(1), Freshness::Stale),
            (60, referrers("a"), list(1), Freshness::Fresh),
            (0, referrers("a"), list(1), Freshness::Stale),
            // `negative_ttl` is 0.
            (60, referrers("a"), ListAnswer::NoEndpoint, Freshness::Stale),
            (60, referrers("a"), ListAnswer::NoReferrers, Freshness::Stale),
        ] {
            let answers = answers(Duration::from_secs(ttl));
            assert_eq!(answers.get(&key, Access::Shared, None), (None, Freshness::Missing));
            note(&answers, &key, &answer);
            assert_eq!(answers.get(&key, Access::Shared, None), (Some(answer), freshness), "{key:?} {ttl}");
        }
    }

    #[test]
    fn what_an_asker_was_told_holds_no_longer_than_the_upstreams_word() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        for (ttl, grace, freshness) in [
            (hour, hour, Freshness::Fresh),
            (Duration::ZERO, hour, Freshness::Stale),
            (Duration::ZERO, Duration::ZERO, Freshness::Missing),
            (second, Duration::ZERO, Freshness::Fresh),
        ] {
            let answers = answers(hour);
            note(&answers, &referrers("a"), &list(1));
            let (_, found) = answers.get(&referrers("a"), Access::Client { ttl, grace }, None);
            assert_eq!(found, freshness, "{ttl:?} {grace:?}");
        }
    }

    #[test]
    fn an_answer_is_for_who_asked_the_same_in_the_same_name() {
        let answers = answers(Duration::ZERO);
        let key = tags("a", "n=1");
        note(&answers, &key, &list(1));
        assert!(answers.get(&key, Access::Shared, None).0.is_some());
        for other in [
            tags("a", ""),
            tags("b", "n=1"),
            ListKey { registry: registry("ghcr.io", &[]), ..key.clone() },
            ListKey { registry: registry("docker.io", &["https://mirror.example"]), ..key.clone() },
            ListKey { list: List::Catalog, ..key.clone() },
            ListKey { asker: Some(Principal::ANONYMOUS), ..key.clone() },
        ] {
            assert_eq!(answers.get(&other, Access::Shared, None).0, None, "{other:?}");
        }
    }

    #[test]
    fn a_refusal_forgets_what_was_asked_for_before_it() {
        let answers = answers(Duration::from_secs(60));
        let (key, access) = (tags("a", ""), Access::Shared);
        let before = Instant::now();
        note(&answers, &key, &list(1));
        assert_eq!(answers.get(&key, access, Some(before - Duration::from_secs(1))).0, Some(list(1)));
        assert_eq!(answers.get(&key, access, Some(Instant::now())).0, None);
        assert_eq!(answers.get(&key, access, None).0, None, "it was forgotten");
    }

    #[test]
    fn a_change_forgets_the_lists_that_show_it() {
        let answers = answers(Duration::from_secs(60));
        let catalog = ListKey { list: List::Catalog, ..tags("a", "") };
        let asked = ListKey { asker: Some(Principal::ANONYMOUS), ..tags("a", "") };
        let gone = [tags("a", ""), tags("a", "n=1"), referrers("a"), catalog, asked];
        let elsewhere = ListKey { registry: registry("ghcr.io", &[]), ..tags("a", "") };
        let left = [tags("a/b", ""), referrers("b"), elsewhere];
        gone.iter().chain(&left).for_each(|key| note(&answers, key, &list(1)));
        answers.forget_repository(&"docker.io".into(), &"a".parse().unwrap());
        assert!(gone.iter().all(|key| answers.get(key, Access::Shared, None).0.is_none()));
        assert!(left.iter().all(|key| answers.get(key, Access::Shared, None).0.is_some()));
        // And what is asked for after it is kept.
        gone.iter().for_each(|key| note(&answers, key, &list(2)));
        assert!(gone.iter().all(|key| answers.get(key, Access::Shared, None).0 == Some(list(2))));
    }

    #[test]
    fn an_answer_that_was_asked_for_before_a_change_is_not_kept() {
        let answers = answers(Duration::ZERO);
        let early = ListQuery { key: tags("a", ""), circle: false, writes: answers.writes(&tags("a", "")) };
        answers.forget_repository(&"docker.io".into(), &"a".parse().unwrap());
        answers.note(&early, Instant::now(), &list(1));
        assert_eq!(answers.get(&early.key, Access::Shared, None).0, None);
        note(&answers, &early.key, &list(2));
        answers.note(&early, Instant::now(), &list(1));
        assert_eq!(answers.get(&early.key, Access::Shared, None).0, Some(list(2)), "nor does it replace a later one");
    }

    #[test]
    fn memory_is_bounded() {
        let answers = answers(Duration::ZERO);
        let key = tags("a", "");
        note(&answers, &key, &list(MAX_KEPT));
        assert_eq!(answers.get(&key, Access::Shared, None).0, Some(list(MAX_KEPT)));
        note(&answers, &key, &list(MAX_KEPT + 1));
        assert_eq!(answers.get(&key, Access::Shared, None).0, None, "the last answer is another one");
        for number in 0..40 {
            note(&answers, &tags("a", &number.to_string()), &list(MAX_KEPT));
            answers.kept.run_pending_tasks();
            assert!(answers.kept.weighted_size() <= MAX_MEMORY);
        }
        assert!(answers.get(&tags("a", "39"), Access::Shared, None).0.is_some(), "the newest is kept");
        assert!(weight(&tags("a", &"x".repeat(5000)), &ListAnswer::NoEndpoint) > 5000, "what was asked counts as well");
    }
}
