//! All downloads in flight. The table decides atomically which request starts a download, and counts its subscribers.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use parking_lot::{Mutex, MutexGuard};

use futures_util::future::{FutureExt as _, join_all};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Complete, Download, DownloadEvent, DownloadReader, DownloadResult, Need, Progress, abandoned,
    chunks::ReaderId,
    separate_fetch::{SeparateFetch, SeparateFetches},
    wrong_parts::WrongParts,
};
use crate::{
    cache::{
        Config, ContentKey, DiskStore, Source, UploadQueue,
        storage::{Short, lru_index::IndexKey},
    },
    followers::Followers,
    line_limit::{LINE_INTERVAL, LineLimit},
    metrics::Metrics,
    oci::ByteRange,
};

/// How many downloads continue without readers, because the next client is likely to come soon. Above this number, the
/// download that lost its last reader most recently is cancelled; a later download resumes its bytes.
const MAX_UNREAD: usize = 16;

/// The maximum number of extra connections of all downloads together.
const MAX_EXTRA_CONNECTIONS: usize = 48;

/// How many upstreams and kinds of failures get a line in the log within a minute.
const MAX_LINES: usize = 128;

/// A cheap handle on the downloads in flight.
#[derive(Clone)]
pub(crate) struct Downloads(Arc<DownloadsInner>);

struct DownloadsInner {
    /// At most one download per blob and registry.
    entries: Mutex<DownloadEntries>,
    beside: SeparateFetches,
    pub store: DiskStore,
    pub metrics: Metrics,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Permits for extra connections, in addition to the first of each download.
    extra_connections: Arc<Semaphore>,
    wrong_parts: WrongParts,
    /// When a range of a large blob brings all of it.
    complete: Complete,
    /// Which failures get a line in the log, by upstream and kind.
    lines: LineLimit<(Arc<str>, DownloadResult)>,
    followers: Followers<DownloadEvent>,
    /// Where what is complete is noted for its upload; empty: there is no object store.
    uploads: OnceLock<UploadQueue>,
}

type DownloadEntries = HashMap<ContentKey, Vec<Arc<Download>>>;

/// The table's answer to a request.
pub(super) enum Entry {
    /// The request joined a running download.
    Joined(Subscription),
    /// There was no download: one was added.
    Added(Subscription),
    /// A download that was cancelled and has not ended yet.
    Leaving(Arc<Download>),
}

/// A client or a prefetch takes part in a download as long as its subscription lives.
pub(crate) struct Subscription {
    downloads: Downloads,
    download: Arc<Download>,
    /// Its number in the map of chunks; `None` if it needs no bytes.
    reader: Option<ReaderId>,
    /// The subscriber is a prefetch.
    ahead: bool,
}

impl Downloads {
    /// From now on the store frees the space of downloads without clients through this table.
    pub(crate) fn new(
        config: &Config,
        store: DiskStore,
        metrics: Metrics,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let complete = config.complete;
        let downloads = Self(Arc::new(DownloadsInner {
            entries: Mutex::default(),
            beside: SeparateFetches::default(),
            store,
            metrics,
            tasks,
            shutdown,
            extra_connections: Arc::new(Semaphore::new(MAX_EXTRA_CONNECTIONS)),
            wrong_parts: WrongParts::default(),
            complete,
            lines: LineLimit::new(LINE_INTERVAL, MAX_LINES),
            followers: Followers::default(),
            uploads: OnceLock::new(),
        }));
        let shared = Arc::downgrade(&downloads.0);
        downloads.store().on_shortage(move |short| {
            let downloads = shared.upgrade().map(Downloads);
            async move {
                match downloads {
                    Some(downloads) => downloads.free_space(short).await,
                    None => false,
                }
            }
            .boxed()
        });
        downloads
    }

    pub(super) fn uploads(&self) -> &OnceLock<UploadQueue> {
        &self.0.uploads
    }

    pub(super) fn store(&self) -> &DiskStore {
        &self.0.store
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Which failures get a line in the log.
    pub(super) fn lines(&self) -> &LineLimit<(Arc<str>, DownloadResult)> {
        &self.0.lines
    }

    pub(super) fn wrong_parts(&self) -> &WrongParts {
        &self.0.wrong_parts
    }

    /// When a range of a large blob brings all of it.
    pub(super) fn complete(&self) -> Complete {
        self.0.complete
    }

    pub(super) fn extra_connections(&self) -> &Arc<Semaphore> {
        &self.0.extra_connections
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Cancelled when the process ends.
    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    pub(super) fn followers(&self) -> &Followers<DownloadEvent> {
        &self.0.followers
    }

    /// All downloads in flight, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Download>> {
        self.entries().values().flatten().cloned().collect()
    }

    /// Whether there is a download of this blob from this registry that can be joined.
    pub(crate) fn has(&self, source: &Source) -> bool {
        let entries = self.entries();
        own(&entries, source).is_some_and(|download| download.can_be_joined())
    }

    /// The download of this blob from this registry, if there is one that can be joined.
    pub(crate) fn find(&self, source: &Source) -> Option<Subscription> {
        let entries = self.entries();
        let download = own(&entries, source).filter(|download| download.can_be_joined())?;
        download.serves(&source.upstream);
        Some(self.enter(download, None, false))
    }

    /// A download of this blob from another registry, where there is none from this one.
    pub(crate) fn find_other(&self, source: &Source) -> Option<Subscription> {
        let entries = self.entries();
        if own(&entries, source).is_some() {
            return None;
        }
        let download = entries.get(&source.id())?.iter().find(|download| download.can_be_joined())?;
        download.serves(&source.upstream);
        Some(self.enter(download, None, false))
    }

    /// The place of the one request that may fetch this blob concurrently with its registry's download, because the
    /// request must not wait for that download; `None` if the place is taken.
    pub(crate) fn beside(&self, source: &Source) -> Option<SeparateFetch> {
        self.0.beside.begin(source)
    }

    /// Waits for the commit of this blob if it is verified and not committed yet: a removal before the commit would
    /// have no effect.
    pub(crate) async fn committed(&self, id: &ContentKey) {
        let complete = |downloads: &Vec<Arc<Download>>| -> Vec<Arc<Download>> {
            downloads.iter().filter(|download| download.is_complete()).cloned().collect()
        };
        let downloads = self.entries().get(id).map(complete).unwrap_or_default();
        for download in downloads {
            download.when(|state| state.ended.then_some(())).await;
        }
    }

    /// Joins the download of this blob from this registry, or adds one for which no task works yet.
    pub(super) fn enter_or_add(&self, source: &Source, need: Need, wanted: bool) -> Entry {
        let need = match need {
            Need::Range(_) if self.0.complete == Complete::Always => Need::Whole,
            need => need,
        };
        let mut entries = self.entries();
        match own(&entries, source) {
            Some(download) if download.can_be_joined() => {
                if let Some(request) = source.upstream.request().filter(|_| wanted) {
                    download.requests.lock().add(request);
                }
                download.serves(&source.upstream);
                Entry::Joined(self.enter(download, Some(need), !wanted))
            }
            Some(download) => Entry::Leaving(download.clone()),
            None => {
                let cancel = self.0.shutdown.child_token();
                let of_blob = entries.entry(source.id()).or_default();
                let beside = !of_blob.is_empty();
                let download = Arc::new(Download::new(source.clone(), beside, wanted, cancel));
                let subscription = self.enter(&download, Some(need), !wanted);
                of_blob.push(download);
                Entry::Added(subscription)
            }
        }
    }

    /// Joins a download that has ended.
    pub(super) fn enter_ended(&self, download: &Arc<Download>, wanted: bool) -> Subscription {
        let _entries = self.entries();
        self.enter(download, None, !wanted)
    }

    /// Adds this download to the table; `None` if the table has a download of the same blob from the same registry.
    pub(super) fn enter_new(&self, download: Arc<Download>) -> Option<Subscription> {
        let mut entries = self.entries();
        if own(&entries, &download.source).is_some() {
            return None;
        }
        let subscription = self.enter(&download, None, false);
        entries.entry(download.source.id()).or_default().push(download);
        Some(subscription)
    }

    /// Ends a download: later requests find the blob on disk, or start a new download.
    pub(super) fn end(&self, download: &Arc<Download>, progress: Progress) {
        let mut entries = self.entries();
        let id = download.source.id();
        if let Some(of_blob) = entries.get_mut(&id) {
            of_blob.retain(|entry| !Arc::ptr_eq(entry, download));
            if of_blob.is_empty() {
                entries.remove(&id);
            }
        }
        drop(entries);
        download.update(|state| {
            state.ended = true;
            if !state.is_over() {
                state.progress = progress;
            }
        });
    }

    /// Call it under the lock.
    fn enter(&self, download: &Arc<Download>, need: Option<Need>, ahead: bool) -> Subscription {
        let reader = need.map(|need| download.update(|state| state.chunks.join(need.range())));
        download.prefetch_subscribers.fetch_add(usize::from(ahead), Ordering::SeqCst);
        download.subscribers.send_modify(|subscribers| *subscribers += 1);
        Subscription { downloads: self.clone(), download: download.clone(), reader, ahead }
    }

    fn leave(&self, download: &Arc<Download>, ahead: bool) {
        let entries = self.entries();
        download.prefetch_subscribers.fetch_sub(usize::from(ahead), Ordering::SeqCst);
        download.subscribers.send_modify(|subscribers| *subscribers = subscribers.saturating_sub(1));
        if !has(&entries, download) || download.subscribers() > 0 || download.is_complete() {
            return;
        }
        let unread = entries
            .values()
            .flatten()
            .filter(|download| download.subscribers() == 0 && !download.cancel.is_cancelled())
            .count();
        if unread > MAX_UNREAD {
            tracing::info!(digest = %download.source.digest, orphans = unread, "a download without readers is cancelled");
            download.cancel.cancel();
        }
    }

    /// Cancels a download if the subscriber that leaves it is the only one.
    fn give_up(&self, download: &Arc<Download>) {
        let entries = self.entries();
        if has(&entries, download) && download.subscribers() == 1 && !download.is_complete() {
            download.cancel.cancel();
        }
    }

    /// Cancels a download if it has no clients. Returns whether it has none.
    pub(super) fn give_up_without_clients(&self, download: &Arc<Download>) -> bool {
        let _entries = self.entries();
        let has_none = !download.has_clients() && !download.is_complete();
        if has_none {
            download.cancel.cancel();
        }
        has_none
    }

    /// Cancels enough downloads without clients to free the space that is short. Waits until these, and those cancelled
    /// a moment ago, have ended. Returns whether there were any.
    async fn free_space(&self, short: Short) -> bool {
        let leaving = {
            let entries = self.entries();
            let leaving = |download: &Arc<Download>| Some((download.clone(), download.leaving()?));
            let mut leaving: Vec<_> = entries.values().flatten().filter_map(leaving).collect();
            let missing =
                leaving.iter().fold(short.missing, |missing, (_, reserved)| missing.saturating_sub(*reserved));
            let idle = entries.values().flatten().filter_map(Download::idle).collect();
            for download in abandoned::to_give_up(idle, Short { missing, ..short }) {
                tracing::info!(digest = %download.source.digest, "a download without clients is cancelled: a client needs its space");
                download.cancel.cancel();
                leaving.extend(download.leaving().map(|reserved| (download, reserved)));
            }
            leaving
        };
        let gone = leaving.iter().map(|(download, _)| download.when(|state| state.ended.then_some(())));
        let _ = timeout(abandoned::ENDED_TIMEOUT, join_all(gone)).await;
        !leaving.is_empty()
    }

    fn entries(&self) -> MutexGuard<'_, DownloadEntries> {
        self.0.entries.lock()
    }
}

/// The download of a blob from its registry.
fn own<'a>(entries: &'a DownloadEntries, source: &Source) -> Option<&'a Arc<Download>> {
    entries.get(&source.id())?.iter().find(|download| download.source.origin() == source.origin())
}

fn has(entries: &DownloadEntries, download: &Arc<Download>) -> bool {
    entries.get(&download.source.id()).is_some_and(|of_blob| of_blob.iter().any(|entry| Arc::ptr_eq(entry, download)))
}

impl Subscription {
    pub(crate) fn download(&self) -> &Arc<Download> {
        &self.download
    }

    pub(super) fn downloads(&self) -> &Downloads {
        &self.downloads
    }

    /// Its number in the map of chunks. A subscriber that needed no bytes until now gets one.
    pub(super) fn reader(&mut self, first: u64, end: Option<u64>) -> ReaderId {
        let mut state = self.download.state();
        let id = *self.reader.get_or_insert_with(|| {
            let range = end.and_then(|end| Some(ByteRange::Bounded { first, last: end.checked_sub(1)? }));
            state.chunks.join(range)
        });
        state.chunks.reads_at(id, first, end);
        id
    }

    /// Records that a client requested the blob.
    pub(crate) fn want(&self) {
        // The commit checks the same two flags in the opposite order, so at least one side sees the other.
        if !self.download.wanted.swap(true, Ordering::SeqCst) && self.download.is_complete() {
            self.downloads.0.store.used(IndexKey::Blob(self.download.source.id()));
        }
    }

    /// Leaves the download to its other subscribers; if there are none, the download is cancelled.
    pub(crate) fn give_up(self) {
        self.downloads.give_up(&self.download);
    }

    /// Reads from `first` up to `end` (exclusive), or to the end. Call it after [`Download::head`] has returned.
    pub(crate) fn read(self, source: Source, first: u64, end: Option<u64>) -> DownloadReader {
        DownloadReader::new(self, source, first, end)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(reader) = self.reader {
            self.download.update(|state| state.chunks.leave(reader));
        }
        self.downloads.leave(&self.download, self.ahead);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::Path, time::Duration};

    use super::{super::state::TempContent, *};
    use crate::{
        oci::{Algorithm, Digest},
        request_id::RequestId,
        upstream::{self, Context, Upstream},
    };

    const PART: u64 = 100_000;

    fn downloads(directory: &Path) -> Downloads {
        let config = Config::at(directory);
        let metrics = Metrics::new().unwrap();
        let store = DiskStore::open(&config, metrics.clone()).unwrap();
        Downloads::new(&config, store, metrics, TaskTracker::new(), CancellationToken::new())
    }

    /// A download without clients that has reserved space and no task.
    fn idle(downloads: &Downloads, number: u8, file: &File) -> Arc<Download> {
        let config = upstream::Config::at("registry.example", &["https://registry.example"]);
        let source = Source {
            upstream: Upstream::new(&config, Context::of_test()).unwrap(),
            repository: "team/app".parse().unwrap(),
            digest: Digest::of(Algorithm::Sha256, &[number]),
        };
        let cancel = downloads.shutdown().child_token();
        let download = Arc::new(Download::new(source, false, true, cancel));
        download.update(|state| {
            state.file = Some(TempContent::whole(Arc::new(file.try_clone().unwrap())));
            state.chunks.set_total(PART);
            state.chunks.want_all();
        });
        drop(downloads.enter_new(download.clone()));
        download
    }

    #[tokio::test]
    async fn a_download_knows_the_requests_that_it_is_for() {
        let directory = tempfile::tempdir().unwrap();
        let downloads = downloads(directory.path());
        let (config, mut subscriptions) = (upstream::Config::at("a.example", &["https://a.example"]), Vec::new());
        let upstream = Upstream::new(&config, Context::of_test()).unwrap();
        for (number, wanted) in [(1, true), (2, true), (3, false)] {
            let source = Source {
                upstream: upstream.clone().for_request(RequestId { instance: 10, number }),
                repository: "team/app".parse().unwrap(),
                digest: Digest::of(Algorithm::Sha256, b""),
            };
            match downloads.enter_or_add(&source, Need::Whole, wanted) {
                Entry::Added(subscription) | Entry::Joined(subscription) => subscriptions.push(subscription),
                Entry::Leaving(_) => panic!("it leaves"),
            }
        }
        // A prefetch is for no client.
        assert_eq!(subscriptions[0].download.requests.lock().to_string(), "0000000a-1 0000000a-2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fill_that_does_not_end_is_waited_for_once() {
        let directory = tempfile::tempdir().unwrap();
        let downloads = downloads(directory.path());
        let file = tempfile::tempfile().unwrap();
        let [first, second] = [1, 2].map(|number| idle(&downloads, number, &file));
        let given_up = || [&first, &second].map(|download| download.cancel.is_cancelled());
        let short = Short { missing: PART, kept: 0 };
        // Cancelling the first download frees enough for both callers; the download does not end.
        let both = tokio::join!(downloads.free_space(short), downloads.free_space(short));
        assert_eq!((both, given_up().iter().filter(|given_up| **given_up).count()), ((true, true), 1));
        assert!(downloads.free_space(short).await);
        assert_eq!(given_up(), [true; 2]);
        let begun = tokio::time::Instant::now();
        assert!(!downloads.free_space(short).await);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
