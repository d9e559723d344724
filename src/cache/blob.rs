//! Blobs and ranges of blobs: from disk, from a running download, or from a new request to the upstream.

mod error;
mod fill;
mod front;
mod keep;
pub(crate) mod parts;
pub(crate) mod read_error;
pub(crate) mod reader;

mod several_ranges;
pub(crate) mod uncached;
pub(crate) mod uncached_limit;
pub(crate) mod window;
mod window_reader;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio_util::task::TaskTracker;

pub(crate) use self::{error::BlobError, fill::FillError};
use self::{
    uncached::UncachedReader,
    uncached_limit::{Client, Place, UncachedLimit},
    window::Windows,
};
use super::{
    BlobReader, CYCLE_TIMEOUT, CacheContext, Captures, ContentKey, DiskStore, Images, Parts, Source, Visibility,
    Warnings,
    download::{Download, DownloadError, Downloads, Joined, Need, SeparateFetch},
    prefetch::Prefetch,
    storage::{StoredBlob, lru_index::IndexKey},
};
use crate::{
    cache::Outcome,
    file_slice::FileSlice,
    oci::{ByteRange, Digest, ResolvedRange},
    small_file::is_lack_of_descriptors,
    store::Presence,
    upstream::{self, ContentNotes, ErrorKind, Upstream},
};

/// A blob no larger than this is verified before its head is sent, so that the client gets a clear error instead of a
/// broken connection if the blob is wrong. In bytes.
const VERIFIED_FIRST: u64 = 64 * 1024;

/// How many downloads a client joins that fail for unrelated reasons before forebay fetches the blob for that client
/// alone.
const MAX_UNRELATED_FAILURES: usize = 3;

/// A blob ready to be sent.
pub(crate) struct OpenedBlob {
    pub reader: BlobReader,
    /// The size of the whole blob in bytes; `None` if the upstream does not send it.
    pub total: Option<u64>,
    /// The range that is sent; `None` for the whole blob.
    pub range: Option<ResolvedRange>,
    /// All ranges, if several are sent; `range` is the first of them.
    pub parts: Option<Parts>,
    pub outcome: Outcome,
    /// Whether the blob will be in the cache afterwards.
    pub stored: bool,
}

impl OpenedBlob {
    /// Whether the whole blob is sent.
    pub(crate) fn is_whole(&self) -> bool {
        self.range.is_none_or(|range| self.total.is_some_and(|total| range.is_whole(total)))
    }
}

/// The answer to a HEAD of a blob.
pub(crate) struct BlobSize {
    pub total: Option<u64>,
    pub outcome: Outcome,
}

/// Whether a reader of a blob without room shares a transfer.
enum Sharing {
    /// Through a window; the download, if any, has perhaps left a transfer that has just begun.
    Window(Option<Arc<Download>>),
    Alone,
}

/// A cheap handle on the blobs of the cache.
#[derive(Clone)]
pub(crate) struct BlobCache {
    store: DiskStore,
    downloads: Downloads,
    prefetch: Prefetch,
    uncached: UncachedLimit,
    windows: Windows,
    captures: Captures,
    remarks: Warnings,
}

impl BlobCache {
    /// Downloads run as tasks of `tasks` and end with `shutdown`.
    pub(crate) fn new(context: CacheContext, images: Images) -> Self {
        let CacheContext { config, store, metrics, tasks, end, trusted, .. } = context;
        let windows = Windows::new(tasks.clone(), end.clone());
        let downloads = Downloads::new(&config.load(), store.clone(), metrics, tasks, end);
        let uncached = UncachedLimit::new(config.load().max_through, trusted.clone(), store.readers().clone());
        let prefetch = Prefetch::new(&config, images, store.clone(), downloads.clone(), trusted.clone());
        let captures = Captures::new(&config, store.clone(), downloads.clone(), trusted);
        Self { store, downloads, prefetch, uncached, windows, captures, remarks: Warnings::default() }
    }

    /// The cache may hold so many bytes now.
    pub(crate) fn set_max_size(&self, max_size: u64) {
        self.prefetch.set_max_size(max_size);
    }

    /// From now on, clients that get blobs from the object store do not need them here.
    pub(crate) fn redirects_by(&self, presence: Presence) {
        self.prefetch.redirects_by(presence);
    }

    /// What the upstream sent with a blob in addition to its bytes.
    pub(crate) fn remark(&self, source: &Source) -> ContentNotes {
        self.remarks.of(&source.upstream, &source.repository, &source.digest)
    }

    /// Records what the upstream has now sent with the blob.
    pub(crate) fn note_remark(&self, source: &Source, remark: &ContentNotes) {
        self.remarks.note(&source.upstream, &source.repository, &source.digest, remark);
    }

    /// The tasks that end with the process.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        self.downloads.tasks()
    }

    /// The downloads in flight.
    pub(crate) fn downloads(&self) -> &Downloads {
        &self.downloads
    }

    /// The captures of uploads.
    pub(crate) fn captures(&self) -> &Captures {
        &self.captures
    }

    /// Opens a blob for a client, fetching it if it is not cached. Returns once the size is known, or once it is known
    /// that the upstream does not send the size.
    pub(crate) async fn open(
        &self,
        source: &Source,
        range: Option<ByteRange>,
        client: Client<'_>,
    ) -> Result<OpenedBlob, BlobError> {
        self.prefetch.taken(&source.id());
        // A peer, or what may be one, prefetches the layers itself.
        if range.is_none() && !source.upstream.is_without_peers() {
            self.prefetch.config_wanted(source, client.address);
        }
        if (self.store.has_blob(&source.id()) || !self.downloads.has(source))
            && let Some(blob) = self.stored(&source.id()).await?
        {
            return stored(blob, range);
        }
        // On the heap, so that the future of a hit has no room for a download.
        Box::pin(self.open_missing(source, range, client)).await
    }

    /// Opens a blob that is not stored.
    async fn open_missing(
        &self,
        source: &Source,
        range: Option<ByteRange>,
        client: Client<'_>,
    ) -> Result<OpenedBlob, BlobError> {
        if let Some(answer) = self.open_of_other(source, range, client).await {
            return answer;
        }
        // There was no room for it a moment ago.
        if range.is_none() && !self.downloads.has(source) && self.windows.serve(source) {
            return self.through(source, range, client, Sharing::Window(None)).await;
        }
        for _ in 0..MAX_UNRELATED_FAILURES {
            let joined = self.downloads.join(source, Need::of(range)).await;
            // The download may, through other forebay instances, be waiting for this request.
            if let Joined::Existing(subscription) = &joined
                && let Some(mirrors) = source.upstream.via_mirrors()
                && !subscription.download().admits(mirrors)
            {
                if let Some(place) = self.downloads.beside(source) {
                    drop(joined);
                    return self.beside(source, range, client, place).await;
                }
                // If the instances form a chain and not a circle, the response that shows this comes soon.
                if !subscription.download().admits_within(mirrors, CYCLE_TIMEOUT).await {
                    return Err(BlobError::WaitCycle);
                }
            }
            if let Some(answer) = self.join(source, range, client, joined).await {
                return answer;
            }
        }
        self.through(source, range, client, Sharing::Window(None)).await
    }

    /// Opens a blob that another registry sends, if it is complete and verified, or soon will be: before that, all that
    /// is known of the blob is what that registry says.
    async fn open_of_other(
        &self,
        source: &Source,
        range: Option<ByteRange>,
        client: Client<'_>,
    ) -> Option<Result<OpenedBlob, BlobError>> {
        let other = self.downloads.find_other(source)?;
        let is_here = other.download().is_complete();
        // A download through a mirror may be waiting for this very request.
        let may_wait = source.upstream.via_mirrors().is_none_or(|mirrors| other.download().admits(mirrors));
        let is_good = is_here || (may_wait && other.download().ends_soon().await);
        if !is_good {
            return None;
        }
        other.want();
        let opened = self.join(source, range, client, Joined::Existing(other)).await?;
        let outcome = if is_here { Outcome::Hit } else { Outcome::Joined };
        Some(opened.map(|opened| OpenedBlob { outcome, ..opened }))
    }

    /// Opens a blob from its download; `None` if the download failed in a way that says nothing about this blob's
    /// upstream.
    async fn join(
        &self,
        source: &Source,
        range: Option<ByteRange>,
        client: Client<'_>,
        joined: Joined,
    ) -> Option<Result<OpenedBlob, BlobError>> {
        let led = matches!(joined, Joined::Started(_));
        let subscription = joined.into_subscription();
        let download = subscription.download().clone();
        let is_other_source = !download.source().is_same(source);
        // A failed download of another repository says nothing about this blob, nor does a loop of the request that
        // started the download. A damaged file in the cache is already removed: the next download begins at the start.
        let says_nothing = |error: &DownloadError| match error {
            DownloadError::Upstream(error) => is_other_source || (!led && error.kind == ErrorKind::Loop),
            DownloadError::Mismatch => is_other_source,
            DownloadError::Damaged => true,
            DownloadError::Storage(_) | DownloadError::NoRoom | DownloadError::Abandoned => false,
        };
        let trace = source.upstream.trace();
        let mut total = match trace.wait(download.head()).await {
            Ok(total) => total,
            Err(DownloadError::NoRoom | DownloadError::Storage(_)) => {
                let left = (!is_other_source).then_some(download);
                return Some(self.through(source, range, client, Sharing::Window(left)).await);
            }
            Err(error) if says_nothing(&error) => return None,
            Err(error) => return Some(Err(error.into())),
        };
        // What the upstream sent to another client, for example about its token, does not concern this client.
        if let Some(remark) = download.remark().filter(|_| !is_other_source) {
            self.note_remark(source, &remark);
        }
        let outcome = outcome(led, &download);
        if total.is_some_and(|total| total <= VERIFIED_FIRST) {
            match trace.wait(download.end()).await {
                // The announced size may have been wrong; the verified one is right.
                Ok(()) => total = download.head().await.ok().flatten(),
                // A failing disk does no harm: the reader bypasses it.
                Err(DownloadError::Storage(_) | DownloadError::NoRoom) => {}
                Err(error) if says_nothing(&error) => return None,
                Err(error) => return Some(Err(error.into())),
            }
        }
        let range = match resolve(range, believable(total, source)) {
            Ok(range) => range,
            Err(error) => return Some(Err(error)),
        };
        let (first, end) = range.map_or((0, None), |range| (range.first, Some(range.last + 1)));
        let reader = BlobReader::Growing(Box::new(subscription.read(source.clone(), first, end)), self.windows.clone());
        Some(Ok(OpenedBlob { reader, total, range, parts: None, outcome, stored: true }))
    }

    /// Fetches a blob for the one request that must not wait for its download.
    async fn beside(
        &self,
        source: &Source,
        range: Option<ByteRange>,
        client: Client<'_>,
        place: SeparateFetch,
    ) -> Result<OpenedBlob, BlobError> {
        let mut opened = self.through(source, range, client, Sharing::Alone).await?;
        if let BlobReader::Through(reader) = &mut opened.reader {
            reader.keeping(place);
        }
        Ok(opened)
    }

    /// Removes a deleted blob. Its current readers continue.
    pub(crate) async fn forget(&self, upstream: &Upstream, digest: &Digest) {
        self.remove(Visibility::of(upstream).key(digest)).await;
    }

    /// Removes a blob. Its current readers continue.
    pub(crate) async fn remove(&self, id: ContentKey) {
        self.downloads.committed(&id).await;
        self.store.remove(IndexKey::Blob(id)).await;
    }

    /// The length of a cached blob; `None` if it is not cached.
    pub(crate) async fn cached_len(&self, source: &Source) -> Option<u64> {
        self.stored(&source.id()).await.ok().flatten().map(|blob| blob.len)
    }

    /// The size of a blob for a HEAD request: never fetches the blob.
    pub(crate) async fn size(&self, source: &Source) -> Result<BlobSize, BlobError> {
        if let Some(size) = self.size_in_flight(source).await {
            return Ok(size);
        }
        if let Some(blob) = self.stored(&source.id()).await? {
            return Ok(BlobSize { total: Some(blob.len), outcome: Outcome::Hit });
        }
        let asked = source.upstream.head_blob(&source.repository, &source.digest);
        match source.upstream.trace().wait(asked).await {
            Ok(head) => {
                self.note_remark(source, &head.notes);
                Ok(BlobSize { total: head.len, outcome: Outcome::Miss })
            }
            Err(error) if error.kind.is_outage() => {
                // A client may have requested bytes of the blob meanwhile.
                match self.size_in_flight(source).await {
                    Some(size) => Ok(size),
                    None => self.left_size(source).await.ok_or(BlobError::Upstream(error)),
                }
            }
            Err(error) => Err(BlobError::Upstream(error)),
        }
    }

    /// The size of a blob that is being downloaded. No bytes are requested for it.
    async fn size_in_flight(&self, source: &Source) -> Option<BlobSize> {
        let subscription = self.downloads.find(source)?;
        let download = subscription.download();
        if source.upstream.via_mirrors().is_some_and(|mirrors| !download.admits(mirrors)) {
            return None;
        }
        let total = source.upstream.trace().wait(download.head()).await.ok()?;
        let total = believable(total, source)?;
        Some(BlobSize { total: Some(total), outcome: Outcome::Joined })
    }

    /// The size of a blob that an earlier download left whole: a download verifies it without the upstream. If bytes are
    /// missing, none begins: it would request all of them.
    async fn left_size(&self, source: &Source) -> Option<BlobSize> {
        if !self.store.has_left_whole(&source.id(), &source.origin()).await {
            return None;
        }
        let joined = self.downloads.join(source, Need::Whole).await;
        let is_leader = matches!(joined, Joined::Started(_));
        let subscription = joined.into_subscription();
        let download = subscription.download();
        let can_wait = is_leader || source.upstream.via_mirrors().is_none_or(|mirrors| download.admits(mirrors));
        let total = if can_wait { download.head().await.ok()? } else { None };
        let outcome = if download.is_complete() { Outcome::Hit } else { Outcome::Joined };
        total.map(|total| BlobSize { total: Some(total), outcome })
    }

    /// If the disk cannot be read, forebay pulls without caching. Without a file descriptor it cannot pull either.
    async fn stored(&self, id: &ContentKey) -> Result<Option<StoredBlob>, BlobError> {
        match self.store.open_blob(id).await {
            Ok(blob) => Ok(blob),
            Err(error) if is_lack_of_descriptors(&error) => Err(BlobError::Exhausted),
            Err(error) => {
                self.store.disk_failed("cannot read a cached blob", &id.digest, &error);
                Ok(None)
            }
        }
    }

    async fn through(
        &self,
        source: &Source,
        range: Option<ByteRange>,
        client: Client<'_>,
        sharing: Sharing,
    ) -> Result<OpenedBlob, BlobError> {
        let place = Box::pin(self.uncached.begin(client)).await.map_err(BlobError::Crowded)?;
        source.upstream.trace().wait(self.through_at(place, source, range, sharing)).await
    }

    /// The same for a client that has a place among those whose blobs stream through.
    async fn through_at(
        &self,
        place: Place,
        source: &Source,
        range: Option<ByteRange>,
        sharing: Sharing,
    ) -> Result<OpenedBlob, BlobError> {
        let transfer = match &sharing {
            Sharing::Window(Some(download)) if range.is_some() => download.take_transfer(),
            Sharing::Window(_) | Sharing::Alone => None,
        };
        let total = match &transfer {
            Some(transfer) => transfer.total(),
            None if range.is_some() => {
                let head = source.upstream.head_blob_to_get(&source.repository, &source.digest).await;
                head.map_err(BlobError::Upstream)?.len
            }
            None => None,
        };
        // A small blob is verified before a range of it is resolved.
        let is_small = |total: Option<u64>| total.is_some_and(|total| total <= VERIFIED_FIRST);
        // A range that covers the whole blob is sent as the whole blob, because that can be verified.
        let part = match is_small(total) {
            true => None,
            false => resolve(range, believable(total, source))?
                .filter(|range| !total.is_some_and(|total| range.is_whole(total))),
        };
        if let Some(range) = part {
            let reader = UncachedReader::range(source, range.first, range.last).await.map_err(BlobError::Upstream)?;
            self.note_remark(source, reader.remark());
            let reader = BlobReader::Through(Box::new(reader.counted(place)));
            let range = Some(range);
            return Ok(OpenedBlob { reader, total, range, parts: None, outcome: Outcome::Miss, stored: false });
        }
        let (reader, total) = match sharing {
            Sharing::Window(download) => UncachedReader::shared(&self.windows, source, download, transfer).await?,
            Sharing::Alone => UncachedReader::alone(source).await.map_err(BlobError::Upstream)?,
        };
        self.note_remark(source, reader.remark());
        let reader = reader.counted(place);
        let (reader, range) = match total {
            Some(total) if is_small(Some(total)) => {
                let whole = read_whole(reader, total).await?;
                let range = resolve(range, Some(total))?;
                let sent = range.map_or_else(|| whole.clone(), |range| part_of(&whole, range));
                (BlobReader::Memory(Some(sent)), range)
            }
            // The HEAD before may have announced another length; then the range is ignored.
            _ => {
                let range = resolve(range, total).ok().flatten();
                let range = range.filter(|range| total.is_some_and(|total| range.is_whole(total)));
                (BlobReader::Through(Box::new(reader)), range)
            }
        };
        Ok(OpenedBlob { reader, total, range, parts: None, outcome: Outcome::Miss, stored: false })
    }
}

fn part_of(whole: &Bytes, range: ResolvedRange) -> Bytes {
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
    whole.slice(at(range.first)..at(range.first + range.len()))
}

/// A whole small blob, verified.
async fn read_whole(mut reader: UncachedReader, total: u64) -> Result<Bytes, BlobError> {
    let mut whole = BytesMut::new();
    while let Some(bytes) = reader.next().await? {
        whole.extend_from_slice(&bytes);
    }
    // The digest is right, but the size to be announced is not.
    if whole.len() as u64 != total {
        let error = upstream::Error::new(ErrorKind::Protocol, "the blob has another size than announced");
        return Err(BlobError::Upstream(error));
    }
    Ok(whole.freeze())
}

/// The length that an upstream announced, unless the digest contradicts it: only the empty blob has length 0.
fn believable(total: Option<u64>, source: &Source) -> Option<u64> {
    total.filter(|total| *total > 0 || Digest::of(source.digest.algorithm(), b"") == source.digest)
}

/// The range to send. If the size is unknown the range is ignored, as RFC 9110 section 14.2 allows.
fn resolve(range: Option<ByteRange>, total: Option<u64>) -> Result<Option<ResolvedRange>, BlobError> {
    match (range, total) {
        (Some(range), Some(total)) => range.resolve(total).map(Some).ok_or(BlobError::Range { len: total }),
        (None, _) | (_, None) => Ok(None),
    }
}

fn stored(blob: StoredBlob, range: Option<ByteRange>) -> Result<OpenedBlob, BlobError> {
    let range = resolve(range, Some(blob.len))?;
    let (offset, len) = range.map_or((0, blob.len), |range| (range.first, range.last - range.first + 1));
    let slice = FileSlice { file: Arc::clone(&blob.file), offset, len };
    Ok(OpenedBlob {
        reader: BlobReader::File { slice: Some(slice), pin: blob.pin },
        total: Some(blob.len),
        range,
        parts: None,
        outcome: Outcome::Hit,
        stored: true,
    })
}

/// The outcome of a request that started this download, or joined it.
fn outcome(started: bool, download: &Download) -> Outcome {
    match (started, download.is_complete()) {
        // A small blob may already be complete, and yet the download was started for this request.
        (true, _) if !download.was_cached() => Outcome::Miss,
        // A verified blob is still being synced, but all its bytes are in the file.
        (_, true) => Outcome::Hit,
        (_, false) => Outcome::Joined,
    }
}
