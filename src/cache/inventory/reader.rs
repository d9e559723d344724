//! Reads in the background what the manifests on disk name, and writes the file from time to time.
//!
//! What must hold: one manifest is read at a time, from the blocking pool; each job there is short, so that a shutdown
//! waits for no more than one. What is damaged or missing is passed over: it is read when it comes again. However much
//! there is to read, the file is written in time.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    Inventory,
    document::Document,
    file, manifest_key,
    name::ImageName,
    names::{NameState, Named, SHARDS, Unread},
    seconds,
};
use crate::cache::{
    ContentKey,
    manifest::VerifiedManifest,
    storage::{
        blocking,
        lru_index::{CompactKey, IndexKey},
        tag_record::{TagKey, TagRecord},
    },
};

/// How often the file is written, if anything changed, and names of what is gone are dropped.
const INTERVAL: Duration = Duration::from_secs(60);
/// How often a large file is written.
const INTERVAL_OF_LARGE: Duration = Duration::from_secs(600);
/// How many bytes a large file has.
const LARGE: usize = 1 << 20;
/// For how long a name is kept whose record and manifest are not on disk: they may be on their way.
const MIN_AGE: u32 = 60;
/// How many manifests are read for one name, and wait for that at a time.
const MAX_MANIFESTS: usize = 10_000;
/// How many images are read in one job.
const BATCH: usize = 64;

/// The one task that reads.
pub(super) struct Reader {
    inventory: Inventory,
    end: CancellationToken,
    /// When names of what is gone are dropped next, and when the file is written next.
    tidy_at: Instant,
    save_at: Instant,
}

impl Inventory {
    /// Reads what is on disk once the start-up scan is complete, and what comes after that, until the end; then writes
    /// the file.
    pub async fn run(self, end: CancellationToken) {
        // It is not dropped: a job that runs on would keep the cache directory locked.
        Reader::new(self.clone(), end).read_on().await;
        // A save may have failed.
        self.0.names.note_change();
        blocking(move || self.save()).await;
    }
}

impl Reader {
    pub(super) fn new(inventory: Inventory, end: CancellationToken) -> Self {
        let due = Instant::now() + INTERVAL;
        Self { inventory, end, tidy_at: due, save_at: due }
    }

    /// Returns at the end, once its last job is done.
    async fn read_on(&mut self) {
        let (inventory, end) = (self.inventory.clone(), self.end.clone());
        // Until then it is not known what is gone.
        loop {
            match end.run_until_cancelled(timeout_at(self.save_at, inventory.0.store.until_scanned())).await {
                Some(Ok(())) => break,
                Some(Err(_)) => self.save_if_due().await,
                None => return,
            }
        }
        self.job(Inventory::rebuild).await;
        while !end.is_cancelled() {
            self.read_all().await;
            self.keep_up().await;
            let due = self.tidy_at.min(self.save_at);
            // Which of the three it was is seen by the clock and the token.
            let _ = end.run_until_cancelled(timeout_at(due, inventory.0.work.notified())).await;
        }
    }

    /// Does what is due by now.
    pub(super) async fn keep_up(&mut self) {
        if Instant::now() >= self.tidy_at {
            self.tidy_at = Instant::now() + INTERVAL;
            self.job(Inventory::tidy).await;
        }
        self.save_if_due().await;
    }

    async fn save_if_due(&mut self) {
        if Instant::now() >= self.save_at {
            let written = self.job(Inventory::save).await;
            self.save_at = Instant::now() + interval(written);
        }
    }

    /// Reads all that is to be read by now.
    pub(super) async fn read_all(&mut self) {
        let inner = self.inventory.0.clone();
        inner.is_busy.store(true, Ordering::Release);
        loop {
            let landed = std::mem::take(&mut *inner.landed.lock());
            if landed.are_lost {
                self.job(Inventory::look_again).await;
            }
            self.in_batches(landed.manifests, |inventory, manifest, end| inventory.read_landed(manifest, end)).await;
            if !inner.names.has_unread() || self.end.is_cancelled() {
                break;
            }
            for shard in 0..SHARDS {
                let unread = inner.names.take_unread(shard);
                self.in_batches(unread, |inventory, named, end| inventory.read_name(named, end)).await;
            }
        }
        self.job(Inventory::keep_bounds).await;
        inner.is_busy.store(false, Ordering::Release);
        inner.readings.send_replace(());
    }

    async fn in_batches<T: Send + 'static>(
        &mut self,
        mut all: Vec<T>,
        read: impl Fn(&Inventory, &T, &CancellationToken) + Copy + Send + 'static,
    ) {
        while !all.is_empty() && !self.end.is_cancelled() {
            let batch = all.split_off(all.len().saturating_sub(BATCH));
            let end = self.end.clone();
            self.job(move |inventory| {
                batch.iter().take_while(|_| !end.is_cancelled()).for_each(|one| read(inventory, one, &end));
            })
            .await;
            self.keep_up().await;
        }
    }

    async fn job<T: Send + 'static>(&self, work: impl FnOnce(&Inventory) -> T + Send + 'static) -> T {
        let inventory = self.inventory.clone();
        blocking(move || work(&inventory)).await
    }
}

/// After how long a file of so many bytes is written again.
fn interval(written: usize) -> Duration {
    if written > LARGE { INTERVAL_OF_LARGE } else { INTERVAL }
}

impl Inventory {
    /// Takes the names of the tags that have records on disk.
    pub(crate) fn rebuild(&self) {
        for key in self.0.store.tags() {
            let used =
                || self.0.store.records_of(&key).into_iter().filter_map(|it| self.0.store.used_at(&IndexKey::Tag(it)));
            self.0.names.with_new(
                (&key).into(),
                || ImageName::from(&key),
                |state| {
                    if state.manifest.is_none() {
                        state.unread = Unread::Record;
                    }
                    if state.last_use == 0 {
                        state.last_use = used().max().unwrap_or_default().saturating_mul(60);
                    }
                },
            );
            if self.0.names.are_too_many() {
                self.0.names.trim();
            }
        }
        self.0.is_rebuilt.store(true, Ordering::Release);
    }

    /// Some manifests that came were not noted: looks for them.
    fn look_again(&self) {
        self.0.names.retain(|_, state| {
            if state.unread == Unread::Nothing && state.manifest.is_some() {
                state.unread = Unread::Manifest;
            }
            true
        });
    }

    /// Reads a manifest that came, if it belongs to a name.
    fn read_landed(&self, manifest: &ContentKey, end: &CancellationToken) {
        let key = manifest_key(manifest.visibility, &manifest.digest);
        let is_expected = self.0.summaries.read().is_expected(&key);
        if is_expected {
            self.read_manifest(key, end);
        }
    }

    pub(super) fn read_name(&self, Named { name, state }: &Named, end: &CancellationToken) {
        let mut manifest = state.manifest.clone();
        if state.unread == Unread::Record
            && let Some(record) = name.tag_key().and_then(|tag| self.newest_record(&tag))
        {
            let recorded = manifest_key(name.visibility, &record.digest);
            let confirmed = seconds(record.confirmed);
            // What the upstream said meanwhile is newer.
            manifest = self
                .0
                .names
                .with(name.borrow(), |state: &mut NameState| {
                    if state.manifest.is_none() {
                        (state.manifest, state.confirmed) = (Some(recorded), confirmed);
                    }
                    state.manifest.clone()
                })
                .flatten();
        }
        if let Some(manifest) = manifest {
            self.read_manifest(manifest, end);
        }
    }

    /// What the upstream said last about a tag, to clients of whatever class.
    fn newest_record(&self, tag: &TagKey) -> Option<TagRecord> {
        let records =
            self.0.store.records_of(tag).into_iter().filter_map(|key| {
                TagRecord::decode(&self.0.store.peek(&IndexKey::Tag(key), TagRecord::MAX_LEN).ok()??)
            });
        records.filter(|record| self.is_current(tag, record)).max_by_key(|record| record.confirmed)
    }

    /// Reads a manifest, and those that it names, as far as they are here and not read yet.
    fn read_manifest(&self, manifest: CompactKey, end: &CancellationToken) {
        // Before the disk is asked: a manifest that comes after that is noted, and is expected then.
        self.0.summaries.write().expect(manifest.clone());
        let mut left = vec![manifest];
        for _ in 0..MAX_MANIFESTS {
            let Some(next) = left.pop().filter(|_| !end.is_cancelled()) else { break };
            let is_expected = self.0.summaries.read().is_expected(&next);
            if is_expected
                && let IndexKey::Manifest(id) = next.key()
                && let Ok(Some(file)) =
                    self.0.store.peek(&IndexKey::Manifest(id.clone()), VerifiedManifest::MAX_FILE_LEN)
                && let Some(document) = Document::in_file(&id.digest, &file)
            {
                self.0.summaries.write().insert(&id, document);
                // What no name leads to any more is not expected any more, either.
                if self.is_over_memory() {
                    self.keep_bounds();
                }
            }
            let room = MAX_MANIFESTS.saturating_sub(left.len());
            let children = self.0.summaries.read().unread_children(&next);
            left.extend(children.into_iter().filter(|child| self.0.store.bytes_on_disk(child).is_some()).take(room));
        }
    }

    /// Drops the names of what is gone, and what belongs to no name.
    pub(super) fn tidy(&self) {
        let now = seconds(std::time::SystemTime::now());
        let is_gone = |name: &ImageName, state: &NameState| {
            let has_manifest = state.manifest.as_ref().is_some_and(|key| self.0.store.bytes_on_disk(key).is_some());
            !has_manifest
                && now.saturating_sub(state.last_use.max(state.confirmed)) > MIN_AGE
                && name.tag_key().is_none_or(|tag| self.0.store.records_of(&tag).is_empty())
        };
        self.0.names.retain(|name, state| {
            let is_gone = is_gone(name, state);
            if is_gone {
                self.0.has_garbage.store(true, Ordering::Relaxed);
            }
            !is_gone
        });
        self.drop_garbage();
    }

    /// Writes the file, if anything changed; returns how many bytes it has then.
    pub(super) fn save(&self) -> usize {
        // Of two saves at a time, the second waits.
        let state = self.0.state.lock();
        let Some(directory) = state.as_deref().filter(|_| self.0.names.take_change()) else { return 0 };
        let written = file::write(directory, &self.0.names.list(|_, state| state.pulls > 0 || state.last_use > 0));
        let was_failing = self.0.is_failing.swap(written.is_err(), Ordering::Relaxed);
        match &written {
            Err(error) => {
                self.0.names.note_change();
                if !was_failing {
                    tracing::warn!(%error, "how images are used cannot be written; forebay tries again every minute");
                }
            }
            Ok(_) if was_failing => tracing::info!("how images are used can be written again"),
            Ok(_) => {}
        }
        written.unwrap_or_default()
    }
}
