//! Reads in the background what the manifests on disk name, and keeps names and memory within their bounds.
//!
//! What must hold: one manifest is read at a time, from the blocking pool; each job there is short, so that a shutdown waits
//! for no more than one. What is damaged or missing is passed over: it is read when it comes again.

use std::{path::PathBuf, sync::atomic::Ordering, time::Duration};

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
/// For how long a name is kept whose record and manifest are not on disk: they may be on their way.
const MIN_AGE: u32 = 60;
/// How many bytes names and summaries may take in memory.
const MAX_MEMORY: usize = 96 << 20;
/// How many manifests are read for one name.
const MAX_MANIFESTS: usize = 10_000;
/// How many images are read in one job.
const BATCH: usize = 64;

impl Inventory {
    /// Reads what is on disk once the start-up scan is complete, and what comes after that, until the end; then writes the
    /// file.
    pub async fn run(self, end: CancellationToken) {
        tokio::select! {
            () = end.cancelled() => {}
            () = self.read_on(&end) => {}
        }
        let inventory = self.clone();
        blocking(move || inventory.save()).await;
    }

    async fn read_on(&self, end: &CancellationToken) {
        self.0.store.until_scanned().await;
        let inventory = self.clone();
        blocking(move || inventory.rebuild()).await;
        let mut due = Instant::now() + INTERVAL;
        loop {
            self.read_all(end).await;
            if timeout_at(due, self.0.work.notified()).await.is_err() {
                due = Instant::now() + INTERVAL;
                let inventory = self.clone();
                blocking(move || {
                    inventory.tidy();
                    inventory.save();
                })
                .await;
            }
        }
    }

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

    /// Reads all that is to be read by now.
    pub(super) async fn read_all(&self, end: &CancellationToken) {
        self.0.is_busy.store(true, Ordering::Release);
        loop {
            let landed = std::mem::take(&mut *self.0.landed.lock());
            if landed.are_lost {
                let inventory = self.clone();
                blocking(move || inventory.look_again()).await;
            }
            self.in_batches(landed.manifests, end, |inventory, manifest| inventory.read_landed(manifest)).await;
            if !self.0.names.has_unread() {
                break;
            }
            for shard in 0..SHARDS {
                let unread = self.0.names.take_unread(shard);
                self.in_batches(unread, end, |inventory, named| inventory.read_name(named)).await;
            }
        }
        let inventory = self.clone();
        blocking(move || inventory.keep_bounds()).await;
        self.0.is_busy.store(false, Ordering::Release);
        self.0.readings.send_replace(());
    }

    async fn in_batches<T: Send + 'static>(
        &self,
        mut all: Vec<T>,
        end: &CancellationToken,
        read: impl Fn(&Self, &T) + Copy + Send + 'static,
    ) {
        while !all.is_empty() && !end.is_cancelled() {
            let batch = all.split_off(all.len().saturating_sub(BATCH));
            let (inventory, end) = (self.clone(), end.clone());
            blocking(move || {
                batch.iter().take_while(|_| !end.is_cancelled()).for_each(|one| read(&inventory, one));
            })
            .await;
        }
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
    fn read_landed(&self, manifest: &ContentKey) {
        let key = manifest_key(manifest.visibility, &manifest.digest);
        let is_expected = self.0.summaries.read().is_expected(&key);
        if is_expected {
            self.read_manifest(key);
        }
    }

    pub(super) fn read_name(&self, Named { name, state }: &Named) {
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
            self.read_manifest(manifest);
        }
    }

    /// What the upstream said last about a tag, to clients of whatever class.
    fn newest_record(&self, tag: &TagKey) -> Option<TagRecord> {
        let records =
            self.0.store.records_of(tag).into_iter().filter_map(|key| {
                TagRecord::decode(&self.0.store.peek(&IndexKey::Tag(key), TagRecord::MAX_LEN).ok()??)
            });
        records.max_by_key(|record| record.confirmed)
    }

    /// Reads a manifest, and those that it names, as far as they are here and not read yet.
    fn read_manifest(&self, manifest: CompactKey) {
        // Before the disk is asked: a manifest that comes after that is noted, and is expected then.
        self.0.summaries.write().expect(manifest.clone());
        let mut left = vec![manifest];
        for _ in 0..MAX_MANIFESTS {
            let Some(next) = left.pop() else { break };
            let is_expected = self.0.summaries.read().is_expected(&next);
            if is_expected
                && let IndexKey::Manifest(id) = next.key()
                && let Ok(Some(file)) =
                    self.0.store.peek(&IndexKey::Manifest(id.clone()), VerifiedManifest::MAX_FILE_LEN)
                && let Some(document) = Document::in_file(&id.digest, &file)
            {
                self.0.summaries.write().insert(&id, document);
            }
            let children = self.0.summaries.read().unread_children(&next);
            left.extend(children.into_iter().filter(|child| self.0.store.bytes_on_disk(child).is_some()));
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

    pub(super) fn drop_garbage(&self) {
        if self.0.has_garbage.swap(false, Ordering::Relaxed) {
            let roots = self.0.names.list(|_, state| state.manifest.is_some());
            self.0.summaries.write().retain(roots.into_iter().filter_map(|named| named.state.manifest));
        }
    }

    /// Drops names until there are few enough.
    fn keep_bounds(&self) {
        while self.0.names.are_too_many() || (self.memory().1 > MAX_MEMORY && self.0.names.len() > 0) {
            self.0.names.trim();
            self.0.has_garbage.store(true, Ordering::Relaxed);
            self.drop_garbage();
        }
    }

    /// Writes the file, if anything changed.
    pub(super) fn save(&self) {
        let Some(directory) = self.0.state.lock().clone() else { return };
        if !self.0.names.take_change() {
            return;
        }
        let written = self.write(directory);
        let was_failing = self.0.is_failing.swap(written.is_err(), Ordering::Relaxed);
        match written {
            Err(error) => {
                self.0.names.note_change();
                if !was_failing {
                    tracing::warn!(%error, "how images are used cannot be written; forebay tries again every minute");
                }
            }
            Ok(()) if was_failing => tracing::info!("how images are used can be written again"),
            Ok(()) => {}
        }
    }

    fn write(&self, directory: PathBuf) -> std::io::Result<()> {
        file::write(&directory, &self.0.names.list(|_, state| state.pulls > 0 || state.last_use > 0))
    }
}
