//! The records of tags: where the upstream said that a tag points, in memory over disk.
//!
//! What must hold: once a change that forebay made is answered, no record from before it is served, whether it is in
//! memory, on disk, or being read or written. So each record carries the number of changes to its repository when the
//! upstream was asked, and counts only while that number is current or the record was on disk before the next change.

mod memory;

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use self::memory::{MAX_CLASSES, MAX_RECORDS, MemoryRecord, RecordMemory};
use super::{
    background_writer::BackgroundWriter,
    query::ManifestQuery,
    request::ManifestRequest,
    stored::{ObjectTier, is_outdated},
};
use crate::{
    cache::{
        DiskStore, Inventory, ReloadableConfig, Visibility,
        first_seen::FirstSeen,
        freshness::{self, Freshness},
        revalidate::{OutageEntry, RecentOutages},
        storage::{
            Landing, blocking,
            lru_index::IndexKey,
            tag_record::{TagKey, TagRecord},
        },
        write_counter::WriteCounters,
    },
    oci::{Digest, Reference, Repository},
    rule::{CurrentRules, TagRules},
    upstream::{Principal, Registry},
};

/// How long a response for a tag is fresh at least, even if it came with an older date or a useless one: the upstream
/// is asked for a tag no more often.
const MIN_REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// By how much `tag_ttl` is multiplied while little is left of the upstream's rate limit.
const NEAR_RATE_LIMIT_FACTOR: u32 = 10;

pub(super) struct TagRecords {
    store: DiskStore,
    writer: BackgroundWriter,
    memory: RecordMemory,
    outages: RecentOutages<TagOutage>,
    writes: Arc<WriteCounters>,
    config: ReloadableConfig,
    rules: CurrentRules,
    first_seen: FirstSeen,
    inventory: Inventory,
    tier: Option<ObjectTier>,
}

/// A tag, its registry, and the client if the upstream authorizes each client.
pub(super) type TagOutage = (TagKey, Registry, Option<Principal>);

impl TagRecords {
    pub(super) fn new(
        config: &ReloadableConfig,
        writer: BackgroundWriter,
        (rules, first_seen): (CurrentRules, FirstSeen),
        (inventory, tier): (Inventory, Option<ObjectTier>),
    ) -> Self {
        // Starts the steady clock, which shows later that the system's clock was set.
        freshness::steady_now();
        Self {
            store: writer.store.clone(),
            writer,
            memory: RecordMemory::new(),
            outages: RecentOutages::new(MAX_RECORDS, {
                let config = config.clone();
                move || config.load().tag_ttl
            }),
            writes: Arc::default(),
            config: config.clone(),
            rules,
            first_seen,
            inventory,
            tier,
        }
    }

    /// The record of a tag, and its freshness; `None` if it is too old, or another registry under this name gave it.
    /// `is_near_rate_limit`: little is left of the upstream's rate limit.
    pub(super) async fn get(
        &self,
        key: &TagKey,
        registry: &Registry,
        is_near_rate_limit: bool,
    ) -> (Option<Arc<TagRecord>>, Freshness) {
        let Some(found) = self.find(key, registry).await else { return (None, Freshness::Missing) };
        match self.judge(&self.rules_of(key), &found, is_near_rate_limit) {
            Freshness::Missing => (None, Freshness::Missing),
            freshness => (Some(found.record), freshness),
        }
    }

    /// The record of a tag, if it is too old to be served even in an outage.
    pub(super) async fn too_old(&self, key: &TagKey, registry: &Registry) -> Option<Arc<TagRecord>> {
        let found = self.find(key, registry).await?;
        (self.judge(&self.rules_of(key), &found, false) == Freshness::Missing).then_some(found.record)
    }

    /// The record of a tag, if it is in memory and fresh.
    pub(super) fn fresh_in_memory(
        &self,
        key: &TagKey,
        registry: &Registry,
        is_near_rate_limit: bool,
        rules: &TagRules,
    ) -> Option<Arc<TagRecord>> {
        let found = self.in_memory(key).filter(|found| self.is_current(key, found))?;
        let is_fresh = found.record.is_of(registry, key.visibility)
            && self.judge(rules, &found, is_near_rate_limit) == Freshness::Fresh;
        is_fresh.then_some(found.record)
    }

    /// The records of a tag for clients of other `Accept` classes.
    pub(super) async fn other_classes(&self, key: &TagKey, registry: &Registry) -> Vec<(Arc<TagRecord>, Freshness)> {
        let (rules, mut found) = (self.rules_of(key), Vec::new());
        for other in self.store.tag_classes(key).await {
            if let Some(other) = self.find(&other, registry).await {
                let freshness = self.judge(&rules, &other, false);
                found.push((other.record, freshness));
            }
        }
        found
    }

    /// The record of a tag and its freshness, also if it is too old to be served. Counts as no use, and brings no record into
    /// memory.
    pub(super) async fn peek(&self, key: &TagKey, registry: &Registry) -> Option<(Arc<TagRecord>, Freshness)> {
        let found = match self.memory.get(key, || self.writes(&key.upstream, &key.repository)) {
            Some(found) => Some(found).filter(|found| self.is_current(key, found)),
            None => {
                let bytes = self.store.peek_off_thread(IndexKey::Tag(key.clone()), TagRecord::MAX_LEN).await?;
                let record = Arc::new(TagRecord::decode(&bytes)?);
                Some(MemoryRecord::new(key.class, record, 0, None))
            }
        };
        let found = found.filter(|found| found.record.is_of(registry, key.visibility))?;
        let freshness = self.judge(&self.rules_of(key), &found, false);
        Some((found.record, freshness))
    }

    /// The latest record of a tag for clients of other `Accept` classes, as [`TagRecords::peek`] reads it.
    pub(super) async fn peek_other_classes(
        &self,
        key: &TagKey,
        registry: &Registry,
    ) -> Option<(Arc<TagRecord>, Freshness)> {
        let mut latest: Option<(Arc<TagRecord>, Freshness)> = None;
        for other in self.store.tag_classes(key).await {
            if let Some(found) = self.peek(&other, registry).await
                && latest.as_ref().is_none_or(|(latest, _)| latest.confirmed < found.0.confirmed)
            {
                latest = Some(found);
            }
        }
        // This client would get it only while the upstream fails.
        latest.map(|(record, freshness)| (record, freshness.min(Freshness::Stale)))
    }

    /// Whether the upstream failed a moment ago for this tag and client.
    pub(super) fn outage(&self, request: &ManifestRequest, key: &TagKey) -> OutageEntry<'_, TagOutage> {
        let upstream = &request.upstream;
        self.outages.entry((key.clone(), upstream.registry().clone(), upstream.principal()))
    }

    /// How many changes forebay made to a repository. A request or a read that began before a change may be outdated.
    pub(super) fn writes(&self, upstream: &Arc<str>, repository: &Repository) -> u64 {
        self.writes.of(upstream, Some(repository))
    }

    /// A change was made that moved no tag.
    pub(super) fn note_write(&self, upstream: &Arc<str>, repository: &Repository) {
        self.writes.note(upstream, repository);
    }

    /// The response to this query shows a change that was not made through forebay. Counts it, unless a change was
    /// counted since the query was made; returns the count for the query.
    pub(super) fn note_write_elsewhere(&self, query: &ManifestQuery) -> u64 {
        let advanced = self.writes.advance(query.registry.name(), &query.repository, query.writes);
        advanced.unwrap_or(query.writes)
    }

    async fn find(&self, key: &TagKey, registry: &Registry) -> Option<MemoryRecord> {
        self.find_of_any_registry(key).await.filter(|found| found.record.is_of(registry, key.visibility))
    }

    async fn find_of_any_registry(&self, key: &TagKey) -> Option<MemoryRecord> {
        if let Some(found) = self.in_memory(key) {
            // An outdated record is not written, and the one on disk is being removed.
            return self.is_current(key, &found).then_some(found);
        }
        let writes = self.writes(&key.upstream, &key.repository);
        let record = Arc::new(self.on_disk(key).await?);
        self.accept_read(key, writes, record)
    }

    /// Takes a record that was read from disk; `writes`: the changes that had been made before. A record that the
    /// upstream gave meanwhile is newer, and counts.
    fn accept_read(&self, key: &TagKey, writes: u64, record: Arc<TagRecord>) -> Option<MemoryRecord> {
        let read = MemoryRecord::new(key.class, record, writes, None);
        let present = self.memory.get_or_insert(key, read.clone());
        if !Arc::ptr_eq(&present.is_settled, &read.is_settled) {
            return self.is_current(key, &present).then_some(present);
        }
        if self.writes(&key.upstream, &key.repository) != writes {
            // A change may have removed it while it was read. The next request reads again.
            self.memory.remove(key);
            return None;
        }
        read.settle();
        Some(read)
    }

    fn in_memory(&self, key: &TagKey) -> Option<MemoryRecord> {
        let found = self.memory.get(key, || self.writes(&key.upstream, &key.repository))?;
        self.store.note_use(&found.used, || IndexKey::Tag(key.clone()));
        Some(found)
    }

    fn is_current(&self, key: &TagKey, found: &MemoryRecord) -> bool {
        found.is_current(|| self.writes(&key.upstream, &key.repository))
    }

    async fn on_disk(&self, key: &TagKey) -> Option<TagRecord> {
        match self.store.read(IndexKey::Tag(key.clone()), TagRecord::MAX_LEN).await {
            Ok(bytes) => TagRecord::decode(&bytes?),
            Err(error) => {
                self.store.disk_failed("cannot read a tag's record", key, &error);
                None
            }
        }
    }

    fn judge(&self, rules: &TagRules, found: &MemoryRecord, is_near_rate_limit: bool) -> Freshness {
        if rules.is_immutable {
            return Freshness::Fresh;
        }
        let (tag_ttl, stale_if_error) = self.lifetimes(rules);
        let interval = MIN_REQUEST_INTERVAL.min(tag_ttl);
        let tag_ttl = if is_near_rate_limit { tag_ttl.saturating_mul(NEAR_RATE_LIMIT_FACTOR) } else { tag_ttl };
        let (now, steady) = (SystemTime::now(), freshness::steady_now());
        match freshness::judge_steadily(found.record.confirmed, now, steady, tag_ttl, stale_if_error) {
            Freshness::Fresh => Freshness::Fresh,
            _ if found.answered.is_some_and(|answered| answered.elapsed() < interval) => Freshness::Fresh,
            old => old,
        }
    }

    /// Whether what was confirmed at this time may be served for a tag without a record.
    pub(super) fn judge_time(&self, key: &TagKey, confirmed: SystemTime) -> Freshness {
        let (tag_ttl, stale_if_error) = self.lifetimes(&self.rules_of(key));
        freshness::judge_steadily(confirmed, SystemTime::now(), freshness::steady_now(), tag_ttl, stale_if_error)
    }

    /// How long the record of a tag is fresh.
    pub(super) fn ttl(&self, key: &TagKey) -> Duration {
        self.lifetimes(&self.rules_of(key)).0
    }

    /// `tag_ttl` and `stale_if_error`.
    fn lifetimes(&self, rules: &TagRules) -> (Duration, Duration) {
        let config = self.config.load();
        (rules.tag_ttl.unwrap_or(config.tag_ttl), rules.stale_if_error.unwrap_or(config.stale_if_error))
    }

    fn rules_of(&self, key: &TagKey) -> TagRules {
        self.rules.get().tag(&key.upstream, &key.repository, &key.tag)
    }

    /// Stores what the upstream answered for a tag. A query by digest leaves no record.
    pub(super) async fn put(
        &self,
        request: &ManifestRequest,
        query: &ManifestQuery,
        record: TagRecord,
    ) -> Arc<TagRecord> {
        let registry = request.upstream.registry();
        let record = Arc::new(TagRecord { urls: registry.url_hashes().clone(), ..record });
        if let Reference::Tag(tag) = &query.reference {
            let key = request.key(tag);
            self.outage(request, &key).clear();
            self.keep(&key, query.writes, record.clone()).await;
            self.offer(request, &key, query.writes, &record);
        }
        record
    }

    /// Has the record written into the object store, unless a peer does that, or a rule or an import says what the tag means.
    fn offer(&self, request: &ManifestRequest, key: &TagKey, writes: u64, record: &Arc<TagRecord>) {
        let Some(tier) = request.upstream.object_store().and(self.tier.as_ref()) else { return };
        let TagKey { upstream, repository, tag, .. } = key;
        let is_held = self.rules_of(key).hold.is_some() || self.first_seen.is_imported(upstream, repository, tag);
        if is_held || request.asks_peers() {
            return;
        }
        let (counters, upstream, repository) = (self.writes.clone(), upstream.clone(), repository.clone());
        tier.offer(key, record, move || counters.of(&upstream, Some(&repository)) == writes);
    }

    /// Takes over what the object store says of a tag, if it counts more than what is here: of two records the later one does.
    /// `writes`: the changes that had been made before. Returns whether.
    pub(super) async fn take_stored(&self, key: &TagKey, writes: u64, record: Arc<TagRecord>) -> bool {
        let is_outdated = is_outdated(record.confirmed, self.writes.changed(&key.upstream, &key.repository));
        if is_outdated || self.writes(&key.upstream, &key.repository) != writes {
            return false;
        }
        let here = self.find_of_any_registry(key).await;
        if here.is_some_and(|here| record.confirmed <= here.record.confirmed) {
            return false;
        }
        self.keep_answered(key, writes, record, None).await;
        true
    }

    /// Stores a record that came with an archive. Requests that are on their way change nothing of it.
    pub(super) async fn import(&self, key: &TagKey, registry: &Registry, record: TagRecord) {
        self.begin_change(&key.upstream, &key.repository).await;
        let record = Arc::new(TagRecord { urls: registry.url_hashes().clone(), ..record });
        self.keep(key, self.writes(&key.upstream, &key.repository), record).await;
    }

    /// Stores a record for which the upstream was asked at `writes` changes, and which it has just given.
    async fn keep(&self, key: &TagKey, writes: u64, record: Arc<TagRecord>) {
        self.keep_answered(key, writes, record, Some(Instant::now())).await;
    }

    async fn keep_answered(&self, key: &TagKey, writes: u64, record: Arc<TagRecord>, answered: Option<Instant>) {
        let is_outdated = || self.writes(&key.upstream, &key.repository) != writes;
        if is_outdated() {
            return;
        }
        match self.rules_of(key).hold {
            Some(hold) => self.first_seen.note(key, &record.digest, record.confirmed, &hold).await,
            // The rule says what a held tag means to clients.
            None => self.inventory.note_tag(key, &record.digest, record.confirmed),
        }
        let kept = MemoryRecord::new(key.class, record.clone(), writes, answered);
        self.memory.insert(key, kept.clone());
        let gate = self.gate(&key.upstream, &key.repository, writes);
        self.writer.write_when(IndexKey::Tag(key.clone()), record.encode(), gate).await;
        self.remove_surplus_classes(key).await;
        if is_outdated() {
            self.memory.remove(key);
        } else {
            kept.settle();
        }
    }

    /// Each `Accept` header that a client makes up is a class of its own, so their number is bounded.
    async fn remove_surplus_classes(&self, key: &TagKey) {
        let surplus = self.store.surplus_classes(key, MAX_CLASSES);
        if surplus.is_empty() {
            return;
        }
        let store = self.store.clone();
        let removed = async move {
            for other in surplus {
                store.remove(IndexKey::Tag(other)).await;
            }
            Ok(())
        };
        self.writer.run(IndexKey::Tag(key.clone()), removed).await;
    }

    /// Lets a file for which the upstream was asked at `writes` changes get its name, unless a change was made since.
    pub(super) fn gate(
        &self,
        upstream: &Arc<str>,
        repository: &Repository,
        writes: u64,
    ) -> impl FnOnce(Landing<'_>) -> io::Result<()> + Send + use<> {
        let (counters, upstream, repository) = (self.writes.clone(), upstream.clone(), repository.clone());
        move |land: Landing<'_>| counters.land(&upstream, &repository, writes, land).unwrap_or(Ok(()))
    }

    /// A tag was changed: nothing that the change outdates is left in memory, on disk, or on the way there.
    /// `is_in_store`: nor in the object store, where records of this upstream are.
    pub(super) async fn forget(&self, key: &TagKey, is_in_store: bool) {
        self.begin_change(&key.upstream, &key.repository).await;
        self.remove_records(key).await;
        if let Some(tier) = self.tier.as_ref().filter(|_| is_in_store) {
            tier.remove_tag(key).await;
        }
        self.end_change(&key.upstream, &key.repository, [key]);
    }

    /// A manifest was deleted: the same for the tags of the repository that point at it.
    pub(super) async fn forget_pointing_at(
        &self,
        visibility: Visibility,
        upstream: &Arc<str>,
        repository: &Repository,
        digest: &Digest,
    ) {
        self.begin_change(upstream, repository).await;
        self.memory.remove_pointing_at(visibility, upstream, repository, digest);
        let (inventory, place, named) =
            (self.inventory.clone(), (upstream.clone(), repository.clone()), digest.clone());
        // It looks at all names.
        blocking(move || inventory.forget_manifest(visibility, &place.0, &place.1, &named)).await;
        let mut removed = Vec::new();
        for key in self.store.tags_of(visibility, upstream, repository).await {
            if self.on_disk(&key).await.is_some_and(|record| record.digest == *digest) {
                self.store.remove(IndexKey::Tag(key.clone())).await;
                removed.push(key);
            }
        }
        self.end_change(upstream, repository, &removed);
    }

    /// Counts a change, and waits for files of earlier requests that are getting their names.
    pub(super) async fn begin_change(&self, upstream: &Arc<str>, repository: &Repository) {
        self.writes.note(upstream, repository);
        let (writes, upstream, repository) = (self.writes.clone(), upstream.clone(), repository.clone());
        blocking(move || writes.settle(&upstream, &repository)).await;
    }

    /// Outdates what was read from disk before it was removed.
    fn end_change<'a>(
        &self,
        upstream: &Arc<str>,
        repository: &Repository,
        removed: impl IntoIterator<Item = &'a TagKey>,
    ) {
        self.writes.note(upstream, repository);
        for key in removed {
            self.memory.remove(key);
        }
    }

    /// The upstream answered that there is no such tag: removes the records of all classes.
    pub(super) async fn remove(&self, key: &TagKey) {
        self.first_seen.note_absent(key).await;
        self.remove_records(key).await;
        if let Some(tier) = &self.tier {
            tier.remove_missing_tag(key);
        }
    }

    async fn remove_records(&self, key: &TagKey) {
        // Records for which the disk has no room are in memory alone.
        self.memory.remove(key);
        let mut keys = self.store.tag_classes(key).await;
        keys.push(key.clone());
        for key in keys {
            self.store.remove(IndexKey::Tag(key)).await;
        }
        // A record may have been read from disk before it was removed.
        self.memory.remove(key);
        self.inventory.forget_tag(key);
    }
}

#[cfg(test)]
mod tests;
