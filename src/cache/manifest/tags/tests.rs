use std::time::UNIX_EPOCH;

use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    cache::Config,
    metrics::Metrics,
    oci::{Accept, Algorithm, MediaType},
};

struct Tags {
    directory: tempfile::TempDir,
    tasks: TaskTracker,
    records: TagRecords,
    key: TagKey,
}

/// Tags on a disk that has not been scanned yet: writes wait for the scan.
fn tags() -> Tags {
    let directory = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let config = Config {
        max_size: 100 << 20,
        tag_ttl: hour,
        stale_if_error: hour,
        negative_ttl: hour,
        ..Config::at(directory.path())
    };
    let store = DiskStore::open(&config, Metrics::new().unwrap()).unwrap();
    let tasks = TaskTracker::new();
    let records = TagRecords::new(
        &ReloadableConfig::new(config),
        BackgroundWriter { store: store.clone(), tasks: tasks.clone() },
        Default::default(),
        (Inventory::new(store), None),
    );
    let key = TagKey {
        visibility: Visibility::Shared,
        upstream: "hub".into(),
        repository: "team/app".parse().unwrap(),
        tag: "1".parse().unwrap(),
        class: Accept::default().class(),
    };
    Tags { directory, tasks, records, key }
}

impl Tags {
    fn writes(&self) -> u64 {
        self.records.writes(&self.key.upstream, &self.key.repository)
    }

    fn answered(&self) -> Instant {
        self.records.in_memory(&self.key).and_then(|found| found.answered).unwrap()
    }

    async fn digest(&self) -> Option<Digest> {
        self.records.get(&self.key, &registry(), false).await.0.map(|record| record.digest.clone())
    }

    /// Completes all writes, then reads from disk alone.
    async fn digest_on_disk(&self) -> Option<Digest> {
        self.records.store.scan().await;
        self.tasks.close();
        self.tasks.wait().await;
        self.records.memory.remove(&self.key);
        let left = std::fs::read_dir(self.directory.path().join("tmp")).unwrap();
        assert_eq!(left.count(), 0, "a record that was not written left its temporary file");
        self.digest().await
    }
}

fn registry() -> Registry {
    Registry::new(&"hub".into(), &["https://hub.example".parse().unwrap()])
}

fn pointing_at(content: &str) -> Arc<TagRecord> {
    let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
    Arc::new(TagRecord {
        digest,
        media_type: MediaType::OCI_INDEX,
        size: 1,
        confirmed: SystemTime::now(),
        urls: Arc::default(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_record_written_after_a_push_does_not_stay() {
    let tags = tags();
    tags.records.keep(&tags.key, tags.writes(), pointing_at("old")).await;
    assert_eq!(tags.digest().await, Some(pointing_at("old").digest.clone()), "the record is not on disk yet");
    tags.records.forget(&tags.key, false).await;
    assert_eq!(tags.digest().await, None);
    assert_eq!(tags.digest_on_disk().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_record_from_before_a_push_replaces_no_later_one() {
    let tags = tags();
    let before = tags.writes();
    tags.records.keep(&tags.key, before, pointing_at("old")).await;
    tags.records.forget(&tags.key, false).await;
    tags.records.keep(&tags.key, tags.writes(), pointing_at("new")).await;
    tags.records.keep(&tags.key, before, pointing_at("late")).await;
    assert_eq!(tags.digest().await, Some(pointing_at("new").digest.clone()));
    assert_eq!(tags.digest_on_disk().await, Some(pointing_at("new").digest.clone()));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_manifest_stops_records_being_written() {
    let tags = tags();
    tags.records.keep(&tags.key, tags.writes(), pointing_at("old")).await;
    let (upstream, repository) = (&tags.key.upstream, &tags.key.repository);
    tags.records.forget_pointing_at(Visibility::Shared, upstream, repository, &pointing_at("old").digest).await;
    assert_eq!(tags.digest().await, None);
    assert_eq!(tags.digest_on_disk().await, None);
}

#[tokio::test]
async fn a_record_read_while_a_push_removes_it_is_not_used() {
    let tags = tags();
    let (records, key) = (&tags.records, &tags.key);
    records.store.scan().await;
    records.keep(key, tags.writes(), pointing_at("old")).await;
    records.begin_change(&key.upstream, &key.repository).await;
    let (writes, read) = (tags.writes(), records.on_disk(key).await.unwrap());
    records.remove(key).await;
    records.end_change(&key.upstream, &key.repository, [key]);
    assert!(records.accept_read(key, writes, Arc::new(read)).is_none());
    assert_eq!(tags.digest().await, None);
}

#[tokio::test]
async fn a_record_read_from_disk_replaces_none_in_memory() {
    let tags = tags();
    let (records, key) = (&tags.records, &tags.key);
    records.store.scan().await;
    records.keep(key, tags.writes(), pointing_at("old")).await;
    let read = records.on_disk(key).await.unwrap();
    records.keep(key, tags.writes(), pointing_at("new")).await;
    let new = Some(pointing_at("new").digest.clone());
    assert_eq!(records.accept_read(key, tags.writes(), Arc::new(read)).map(|found| found.record.digest.clone()), new);
    assert_eq!(tags.digest().await, new);
}

#[tokio::test(start_paused = true)]
async fn a_response_of_any_age_is_fresh_for_a_second() {
    let tags = tags();
    let long_ago = TagRecord { confirmed: UNIX_EPOCH, ..(*pointing_at("old")).clone() };
    tags.records.keep(&tags.key, tags.writes(), Arc::new(long_ago)).await;
    let just_before = MIN_REQUEST_INTERVAL - Duration::from_millis(1);
    tokio::time::advance(just_before.saturating_sub(tags.answered().elapsed())).await;
    assert_eq!(tags.records.get(&tags.key, &registry(), false).await.1, Freshness::Fresh);
    assert!(tags.records.fresh_in_memory(&tags.key, &registry(), false, &TagRules::default()).is_some());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(tags.records.get(&tags.key, &registry(), false).await, (None, Freshness::Missing));
    assert!(tags.records.fresh_in_memory(&tags.key, &registry(), false, &TagRules::default()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_tag_is_fresh_ten_times_longer_near_the_limit() {
    use Freshness::{Fresh, Missing, Stale};
    let hour = Duration::from_secs(3600);
    for (hours, usual, near_limit) in
        [(0.5, Fresh, Fresh), (1.5, Stale, Fresh), (9.5, Missing, Fresh), (10.5, Missing, Stale)]
    {
        let tags = tags();
        let confirmed = SystemTime::now() - hour.mul_f64(hours);
        tags.records
            .keep(&tags.key, tags.writes(), Arc::new(TagRecord { confirmed, ..(*pointing_at("a")).clone() }))
            .await;
        tokio::time::advance(MIN_REQUEST_INTERVAL).await;
        let judged = async |is_near| tags.records.get(&tags.key, &registry(), is_near).await.1;
        assert_eq!((judged(false).await, judged(true).await), (usual, near_limit), "{hours} hours");
    }
}
