//! A blob on its way in: a file below `tmp/` that becomes a blob by being renamed, or nothing.
//!
//! It belongs to the registry that its bytes come from. Its name says what a restart may believe: `….part` was written from the front without gaps to its end, or to where its
//! attribute says, so a later fill can go on there; `….gaps` has holes and is swept.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;

use rustix::fs::OFlags;

use super::{
    DiskStore, IndexKey, NoSpace, Pin, Purpose, Reservation, blocking, object::unique_name, verified_at, write,
};
use crate::{
    cache::{ContentKey, Visibility},
    oci::Algorithm,
    upstream::Registry,
};

/// Less than this is not worth keeping after a broken fill, in bytes.
const WORTH_KEEPING: u64 = 64 * 1024;

/// The extended attribute that says how far a `….part` has no gaps; without it, all of it is so.
const FRONT: &str = "user.forebay.front";
/// The extended attribute that says from which registry the bytes of a `….part` come, by its fingerprint.
const REGISTRY: &str = "user.forebay.registry";
/// The extended attribute of a `….part` that a fill has gone on with in vain.
const FAILED: &str = "user.forebay.failed";

const PART: &str = "part";
const GAPS: &str = "gaps";
/// In front of the names of the other pool.
const CLIENTS: &str = "clients-";

/// A file below `tmp/`; removed on drop unless it was committed or kept.
pub struct TempBlob {
    store: DiskStore,
    id: ContentKey,
    file: Arc<File>,
    reservation: Option<Reservation>,
    name: Name,
    live: bool,
    /// How many bytes an earlier fill left of it.
    left: u64,
    /// Whether a fill has gone on with those in vain.
    failed: bool,
}

/// The name of a file below `tmp/`, which says whether it may have holes.
#[derive(Clone)]
pub struct Name(Arc<Mutex<Spelling>>);

struct Spelling {
    directory: PathBuf,
    id: ContentKey,
    gaps: bool,
    /// The name that it has while another fill of the content has the usual one: a restart sweeps it.
    unique: Option<String>,
}

impl Name {
    fn new(store: &DiskStore, id: &ContentKey, unique: Option<String>) -> Self {
        let directory = store.0.root.join("tmp");
        Self(Arc::new(Mutex::new(Spelling { directory, id: id.clone(), gaps: false, unique })))
    }

    /// Bytes from now on may be written out of order. Blocks.
    pub fn allow_gaps(&self) -> io::Result<()> {
        self.respell(true)
    }

    /// Nothing is missing in `file` any more, which is of this name. Blocks.
    pub fn close_gaps(&self, file: &File) -> io::Result<()> {
        let _ = rustix::fs::fremovexattr(file, FRONT);
        self.respell(false)
    }

    fn respell(&self, gaps: bool) -> io::Result<()> {
        let mut spelling = self.0.lock();
        if spelling.gaps != gaps && spelling.unique.is_none() {
            let old = spelling.path();
            let new = spelling.directory.join(name(&spelling.id, gaps));
            std::fs::rename(old, new)?;
            spelling.gaps = gaps;
        }
        Ok(())
    }

    fn is_unique(&self) -> bool {
        self.0.lock().unique.is_some()
    }

    fn path(&self) -> PathBuf {
        self.0.lock().path()
    }
}

impl Spelling {
    fn path(&self) -> PathBuf {
        match &self.unique {
            Some(unique) => self.directory.join(unique),
            None => self.directory.join(name(&self.id, self.gaps)),
        }
    }
}

/// The file name below `tmp/` of the fill of this content.
pub(super) fn name(id: &ContentKey, gaps: bool) -> String {
    let end = if gaps { GAPS } else { PART };
    let of_clients = if id.visibility == Visibility::PerClient { CLIENTS } else { "" };
    format!("{of_clients}{}-{}.{end}", id.digest.algorithm().as_str(), id.digest.hex())
}

/// Whether forebay gives files below `tmp/` such names.
pub(super) fn is_ours(name: &str) -> bool {
    let of_fill = || name.strip_suffix(GAPS).is_some_and(|front| resumable(&format!("{front}{PART}")).is_some());
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let of_object = || {
        let rest = name.strip_prefix("object-").or_else(|| name.strip_prefix("upload-"));
        rest.and_then(|rest| rest.strip_suffix(".new")).is_some_and(number)
    };
    resumable(name).is_some() || of_fill() || of_object()
}

/// The content of a file below `tmp/` that a fill can go on with.
pub(super) fn resumable(name: &str) -> Option<ContentKey> {
    let (visibility, name) = match name.strip_prefix(CLIENTS) {
        Some(rest) => (Visibility::PerClient, rest),
        None => (Visibility::Shared, name),
    };
    let (algorithm, hex) = name.strip_suffix(PART)?.strip_suffix('.')?.split_once('-')?;
    let algorithm = Algorithm::ALL.into_iter().find(|known| known.as_str() == algorithm)?;
    super::digest_of(algorithm, hex).map(|digest| visibility.key(&digest))
}

impl DiskStore {
    /// Begins a blob of which `reservation` bytes are promised. There is one at a time per digest but for those made
    /// [beside](DiskStore::create_beside) it. What is left of it belongs to the registry that its bytes come from.
    pub async fn create(&self, id: &ContentKey, registry: &Registry, reservation: Reservation) -> io::Result<TempBlob> {
        let (store, id, registry) = (self.clone(), id.clone(), registry.fingerprint());
        write(move || {
            let path = store.0.root.join("tmp").join(name(&id, false));
            // What an earlier fill left under this name, found too late to be gone on with, is overwritten: it must
            // not be evicted under our hands.
            store.index().forget(&IndexKey::Partial(id.clone()));
            // A file of its own: who still reads the earlier one must not see it cut.
            remove(&path);
            let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
            note_registry(&file, &registry);
            Ok(TempBlob::new(store, id, file, reservation, None))
        })
        .await
    }

    /// The same, while another fill of this content is under way. Nothing of it is left for a later one.
    pub async fn create_beside(&self, id: &ContentKey, reservation: Reservation) -> io::Result<TempBlob> {
        let (store, id) = (self.clone(), id.clone());
        write(move || {
            let unique = unique_name();
            let path = store.0.root.join("tmp").join(&unique);
            let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
            Ok(TempBlob::new(store, id, file, reservation, Some(unique)))
        })
        .await
    }

    /// Whether an earlier fill of this blob left something.
    ///
    /// Waits for the start-up scan, which is to count it first.
    pub async fn has_left(&self, id: &ContentKey) -> bool {
        self.scanned().await && self.index().contains(&IndexKey::Partial(id.clone()))
    }

    /// What an earlier fill of this blob from this registry left, and its length in bytes; `None` when there is nothing.
    ///
    /// Bytes that another registry sent are not gone on with: they are not verified, and if they were wrong, the clients
    /// of this one would have the error.
    /// Where there is something, waits for the start-up scan, which is to count it first.
    pub async fn resume(&self, id: &ContentKey, registry: &Registry) -> Option<(TempBlob, u64)> {
        let key = IndexKey::Partial(id.clone());
        let (store, id) = (self.clone(), id.clone());
        if !self.is_scanned() {
            let path = self.path(&key);
            if !blocking(move || path.exists()).await || !self.scanned().await {
                return None;
            }
        }
        if !self.index().contains(&key) {
            return None;
        }
        let registry = registry.fingerprint();
        blocking(move || {
            let flags = OFlags::NOFOLLOW.bits().cast_signed();
            let file = File::options().read(true).write(true).custom_flags(flags).open(store.path(&key)).ok()?;
            // What was verified before a kill is the content, from whichever registry it came.
            let usable = match noted_registry(&file) {
                Some(noted) => noted == registry,
                None => verified_at::noted(&file).is_some_and(|noted| noted.verified.is_some()),
            };
            if !usable {
                return None;
            }
            let (reservation, len) = Reservation::adopt(&store, &key, &IndexKey::Blob(id.clone()))?;
            store.publish();
            let whole = file.metadata().is_ok_and(|metadata| metadata.len() == len);
            let front = noted_front(&file).unwrap_or(len);
            let failed = take_failure(&file);
            let mut temp = TempBlob::new(store, id, file, reservation, None);
            (temp.left, temp.failed) = (front, failed);
            // One that is not what the index says is dropped, and removed by that.
            (whole && front <= len).then_some((temp, front))
        })
        .await
    }
}

impl DiskStore {
    /// Makes an object of `len` bytes of a file below `tmp/`. Blocks.
    ///
    /// Synced before the rename, so that a power cut leaves the whole object or nothing under its name.
    pub(super) fn place(
        &self,
        file: &File,
        temporary: &Path,
        reservation: &mut Option<Reservation>,
        purpose: Purpose,
        key: IndexKey,
        len: u64,
    ) -> io::Result<Arc<Pin>> {
        file.set_len(len)?;
        // First: beside them, the note would make the file system allocate a block for attributes.
        for attribute in [FRONT, REGISTRY] {
            let _ = rustix::fs::fremovexattr(file, attribute);
        }
        verified_at::note(file, len);
        // A client's own fill of it, from another registry, was quicker: that one is in use.
        let purpose = if self.index().contains(&key) { Purpose::Client } else { purpose };
        if purpose == Purpose::Ahead {
            // Never used: it is the first to go after a restart, too.
            file.set_modified(SystemTime::UNIX_EPOCH)?;
        }
        file.sync_all()?;
        let path = self.path(&key);
        let reservation = reservation.take().ok_or(io::ErrorKind::StorageFull)?;
        self.rename(temporary, &path)?;
        let pin = Arc::new(reservation.fulfil_pinned(purpose, key, len));
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(pin)
    }
}

impl TempBlob {
    fn new(store: DiskStore, id: ContentKey, file: File, reservation: Reservation, unique: Option<String>) -> Self {
        let name = Name::new(&store, &id, unique);
        Self {
            store,
            id,
            file: Arc::new(file),
            reservation: Some(reservation),
            name,
            live: true,
            left: 0,
            failed: false,
        }
    }

    /// The file, for those who read while it grows.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Makes sure there is room for `len` bytes in all.
    pub async fn grow_to(&mut self, purpose: Purpose, len: u64) -> Result<(), NoSpace> {
        match &mut self.reservation {
            Some(reservation) => reservation.grow_to(purpose, len).await,
            None => Err(NoSpace),
        }
    }

    /// `bytes` more of what is reserved are on disk.
    pub fn note_written(&mut self, bytes: u64) {
        if let Some(reservation) = &mut self.reservation {
            reservation.note_written(bytes);
        }
    }

    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The whole content was verified: gives it its final name. Blocks.
    ///
    /// The pin keeps the blob while those read on who began while it grew.
    pub fn commit(mut self, purpose: Purpose, len: u64) -> io::Result<Arc<Pin>> {
        let key = IndexKey::Blob(self.id.clone());
        let pin = self.store.place(&self.file, &self.name.path(), &mut self.reservation, purpose, key, len)?;
        self.live = false;
        Ok(pin)
    }

    /// The fill broke after `front` bytes without a gap: leaves them for the next one. Blocks.
    ///
    /// What stands behind is not cut off: the kernel would put zeroes into pages that may still be queued in a socket,
    /// also of a client whose reader is gone. Where the front cannot be noted, nothing is kept. What an earlier fill left
    /// goes when the upstream has `answered` two fills that went on with it, and neither got a byte more.
    pub fn keep(mut self, purpose: Purpose, front: u64, answered: bool) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        if front < WORTH_KEEPING || len < front || self.name.is_unique() {
            return Ok(());
        }
        if (len > front || noted_front(&self.file).is_some()) && !note_front(&self.file, front) {
            return Ok(());
        }
        let in_vain = self.left > 0 && front <= self.left && (answered || self.failed);
        if in_vain && ((answered && self.failed) || !note_failure(&self.file)) {
            return Ok(());
        }
        self.name.respell(false)?;
        self.live = false;
        if let Some(reservation) = self.reservation.take() {
            reservation.fulfil(purpose, IndexKey::Partial(self.id.clone()), len);
        }
        Ok(())
    }
}

impl Drop for TempBlob {
    fn drop(&mut self) {
        if self.live {
            remove(&self.name.path());
        }
    }
}

/// Whether a restart will find it.
fn note_front(file: &File, front: u64) -> bool {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::fsetxattr(file, FRONT, front.to_string().as_bytes(), flags).is_ok()
}

fn noted_front(file: &File) -> Option<u64> {
    let mut value = [0; 20];
    let read = rustix::fs::fgetxattr(file, FRONT, &mut value).ok()?;
    std::str::from_utf8(value.get(..read)?).ok()?.parse().ok()
}

/// Where that cannot be noted, no fill goes on with what this one leaves.
fn note_registry(file: &File, fingerprint: &str) {
    let flags = rustix::fs::XattrFlags::empty();
    if let Err(error) = rustix::fs::fsetxattr(file, REGISTRY, fingerprint.as_bytes(), flags) {
        tracing::debug!(%error, "the file system of the cache has no extended attributes: downloads are not resumed");
    }
}

fn noted_registry(file: &File) -> Option<String> {
    let mut value = [0; 16];
    let read = rustix::fs::fgetxattr(file, REGISTRY, &mut value).ok()?;
    Some(std::str::from_utf8(value.get(..read)?).ok()?.to_owned())
}

/// Whether that could be noted.
fn note_failure(file: &File) -> bool {
    rustix::fs::fsetxattr(file, FAILED, b"1", rustix::fs::XattrFlags::empty()).is_ok()
}

/// Whether it was noted; it is no more.
fn take_failure(file: &File) -> bool {
    rustix::fs::fremovexattr(file, FAILED).is_ok()
}

pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(path = %path.display(), %error, "cannot remove a temporary file of the cache");
    }
}

/// Writes all of `buffers`, one after the other, from `offset` on. Blocks.
pub fn write_all_at(file: &File, mut buffers: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    while !buffers.is_empty() {
        match rustix::io::pwritev(file, buffers, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut buffers, written);
                offset += written as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::{cache::Config, metrics::Metrics, oci::Digest};

    pub(crate) fn store(directory: &Path) -> DiskStore {
        let config = Config::at(directory);
        DiskStore::open(&config, Metrics::new().unwrap()).unwrap()
    }

    fn registry() -> Registry {
        Registry::new(&"docker.io".into(), &["https://registry-1.docker.io".parse().unwrap()])
    }

    /// A store that is not scanned yet, in whose `tmp/` an earlier one left 100 kB of a blob.
    fn with_leftovers(directory: &Path) -> (DiskStore, ContentKey) {
        let digest = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"));
        let store = store(directory);
        let path = directory.join("tmp").join(name(&digest, false));
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        note_registry(&File::open(path).unwrap(), &registry().fingerprint());
        (store, digest)
    }

    #[tokio::test]
    async fn who_comes_before_the_scan_is_through_goes_on_with_what_is_left_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let (store, digest) = with_leftovers(directory.path());
        let registry = registry();
        let (resumed, ()) = tokio::join!(store.resume(&digest, &registry), store.scan());
        assert_eq!(resumed.map(|(_, len)| len), Some(100_000));
        assert!(!store.index().contains(&IndexKey::Partial(digest)), "what is being written is no leftover");
    }

    #[tokio::test]
    async fn leftovers_that_were_found_too_late_are_overwritten_and_not_evicted_while_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let (store, digest) = with_leftovers(directory.path());
        store.scan().await;
        let key = IndexKey::Blob(digest.clone());
        let before = store.index().total();
        let temp = store.create(&digest, &registry(), store.reserve(&key, 10).await.unwrap()).await.unwrap();
        assert_eq!(temp.file().metadata().unwrap().len(), 0);
        assert!(!store.index().contains(&IndexKey::Partial(digest.clone())));
        temp.file().write_all_at(b"0123456789", 0).unwrap();
        drop(temp.commit(Purpose::Client, 10).unwrap());
        assert_eq!(store.open_blob(&digest).await.unwrap().map(|blob| blob.len), Some(10));
        assert!(store.index().total() < before);
    }

    #[tokio::test]
    async fn what_is_dropped_leaves_neither_file_nor_promise() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let digest = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"));
        let before = store.index().total();
        for keep in [None, Some(0), Some(WORTH_KEEPING - 1)] {
            let reservation = store.reserve(&IndexKey::Blob(digest.clone()), 200_000).await.unwrap();
            let temp = store.create(&digest, &registry(), reservation).await.unwrap();
            assert!(store.index().total() > before + 200_000);
            temp.name().allow_gaps().unwrap();
            match keep {
                None => drop(temp),
                Some(len) => temp.keep(Purpose::Client, len, false).unwrap(),
            }
            assert_eq!(store.index().total(), before);
            assert_eq!(std::fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_gone_on_with_where_its_holes_begin() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let digest = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"));
        let reservation = store.reserve(&IndexKey::Blob(digest.clone()), 500_000).await.unwrap();
        let temp = store.create(&digest, &registry(), reservation).await.unwrap();
        temp.name().allow_gaps().unwrap();
        temp.file().write_all_at(&[1; 100_000], 0).unwrap();
        temp.file().write_all_at(&[1; 1000], 400_000).unwrap();
        // A page that is queued in a socket for a client whose reader is gone: not a byte of it may change.
        let path = directory.path().join("tmp").join(name(&digest, true));
        let before = std::fs::read(path).unwrap();
        temp.keep(Purpose::Client, 100_000, false).unwrap();
        assert_eq!(std::fs::read(directory.path().join("tmp").join(name(&digest, false))).unwrap(), before);
        drop(store);
        let store = self::store(directory.path());
        store.scan().await;
        let (temp, front) = store.resume(&digest, &registry()).await.unwrap();
        assert_eq!(front, 100_000);
        // It breaks again, a little later.
        temp.file().write_all_at(&[1; 50_000], 100_000).unwrap();
        temp.keep(Purpose::Client, 150_000, true).unwrap();
        let (temp, front) = store.resume(&digest, &registry()).await.unwrap();
        assert_eq!(front, 150_000);
        // All is there now: who finds the file after a kill is to believe in all of it.
        temp.name().close_gaps(temp.file()).unwrap();
        assert_eq!(noted_front(temp.file()), None);
        drop(temp);
        assert!(store.resume(&digest, &registry()).await.is_none());
    }

    #[tokio::test]
    async fn what_is_left_goes_when_it_was_in_vain_twice() {
        let directory = tempfile::tempdir().unwrap();
        let (store, digest) = with_leftovers(directory.path());
        store.scan().await;
        // Outages, an answer, an answer after one byte more, and two answers with an outage between them.
        let fills = [(false, 0), (false, 0), (true, 0), (false, 0), (true, 1), (true, 0), (false, 0), (true, 0)];
        for (answered, more) in fills {
            let (temp, front) = store.resume(&digest, &registry()).await.unwrap();
            temp.file().write_all_at(&vec![1; more], front).unwrap();
            temp.keep(Purpose::Client, front + more as u64, answered).unwrap();
        }
        assert!(store.resume(&digest, &registry()).await.is_none());
        assert!(std::fs::read_dir(directory.path().join("tmp")).unwrap().next().is_none());
    }

    #[tokio::test]
    async fn what_another_registry_left_is_not_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let (store, digest) = with_leftovers(directory.path());
        store.scan().await;
        let url = |url: &str| [url.parse().unwrap()];
        let others = [
            Registry::new(&"evil.example".into(), &url("https://registry-1.docker.io")),
            Registry::new(&"docker.io".into(), &url("https://evil.example")),
        ];
        for other in &others {
            assert!(store.resume(&digest, other).await.is_none());
        }
        assert!(store.resume(&digest, &registry()).await.is_some());
        // What an earlier forebay left says not from where.
        let directory = tempfile::tempdir().unwrap();
        let (store, digest) = with_leftovers(directory.path());
        let path = directory.path().join("tmp").join(name(&digest, false));
        rustix::fs::removexattr(path, REGISTRY).unwrap();
        store.scan().await;
        assert!(store.resume(&digest, &registry()).await.is_none());
    }

    #[tokio::test]
    async fn what_a_client_has_stays_used_when_it_also_comes_ahead() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let digest = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"));
        let key = IndexKey::Blob(digest.clone());
        let modified = || std::fs::metadata(store.path(&key)).unwrap().modified().unwrap();
        for (purpose, is_used) in [(Purpose::Ahead, false), (Purpose::Client, true), (Purpose::Ahead, true)] {
            let temp = store.create(&digest, &registry(), store.reserve(&key, 10).await.unwrap()).await.unwrap();
            temp.file().write_all_at(b"0123456789", 0).unwrap();
            drop(temp.commit(purpose, 10).unwrap());
            assert_eq!(modified() > SystemTime::UNIX_EPOCH, is_used, "{purpose:?}");
        }
    }

    #[tokio::test]
    async fn two_fills_of_one_content_do_not_share_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let digest = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"));
        let before = store.index().total();
        let reserve = async || store.reserve(&IndexKey::Blob(digest.clone()), 100_000).await.unwrap();
        let first = store.create(&digest, &registry(), reserve().await).await.unwrap();
        let second = store.create_beside(&digest, reserve().await).await.unwrap();
        for (temp, byte) in [(&first, 1), (&second, 2)] {
            temp.name().allow_gaps().unwrap();
            temp.file().write_all_at(&[byte; 100_000], 0).unwrap();
        }
        drop(second.commit(Purpose::Client, 100_000).unwrap());
        let once = store.index().total();
        assert_eq!(std::fs::read(store.path(&IndexKey::Blob(digest.clone()))).unwrap(), [2; 100_000]);
        drop(first.commit(Purpose::Client, 100_000).unwrap());
        assert!(store.index().total() <= once, "one blob is counted once");
        let given_up = store.create_beside(&digest, reserve().await).await.unwrap();
        given_up.file().write_all_at(&[1; 100_000], 0).unwrap();
        given_up.keep(Purpose::Client, 100_000, false).unwrap();
        assert!(store.resume(&digest, &registry()).await.is_none());
        assert_eq!(std::fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
        store.remove(IndexKey::Blob(digest)).await;
        assert!(store.index().total() <= before + 8192, "but for directories");
    }

    #[test]
    fn only_names_that_a_fill_gives_can_be_gone_on_with() {
        for (algorithm, visibility) in
            Algorithm::ALL.into_iter().flat_map(|algorithm| Visibility::ALL.map(|visibility| (algorithm, visibility)))
        {
            let id = visibility.key(&Digest::of(algorithm, b"whatever"));
            assert_eq!(resumable(&name(&id, false)), Some(id.clone()));
            assert_eq!(resumable(&name(&id, true)), None);
        }
        for name in ["", ".part", "part", "sha256-.part", "sha256-0.part", "sha256part", "object-1.new", "md5-00.part"]
        {
            assert_eq!(resumable(name), None, "{name}");
        }
    }
}
