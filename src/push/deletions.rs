//! Blobs and manifests that were deleted through us: what of them is cached is not served under that repository.
//!
//! Their bytes are removed, but another repository's clients, or an answer on its way, may bring them back. The upstream is
//! asked instead, until the object is pushed again or an hour has passed; we do not learn of what is deleted in other ways.
//! What is on disk outlives a restart, so the deletions do as well: in the state directory, one a line.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};

use moka::{Expiry, sync::Cache};
use rustix::fs::OFlags;

use crate::{
    oci::{Digest, Repository},
    state_dir::{DELETED, StateDirectory},
};

/// How many deletions are remembered.
const MAX_DELETIONS: u64 = 100_000;
const TTL: Duration = Duration::from_secs(60 * 60);
/// The longest file of deletions, in bytes: beyond it they are in memory alone.
const MAX_FILE: u64 = 32 << 20;

/// What was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deleted {
    Blob,
    Manifest,
}

/// One deletion: a later one of the same object is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// In seconds since 1970.
    at: u64,
    number: u64,
}

type Place = (Deleted, Arc<str>, Repository, Digest);

/// What was deleted lately. A cheap handle.
#[derive(Clone)]
pub struct Deletions(Arc<DeletionsInner>);

struct DeletionsInner {
    /// Whether there ever was one: usually not, and every object is asked about.
    any: AtomicBool,
    places: Cache<Place, Deletion>,
    /// How many deletions there were.
    count: AtomicU64,
    /// Opened for each: another process may have written it anew.
    file: Mutex<Option<PathBuf>>,
}

/// What was read from the file lives no longer than it would have.
struct SinceDeleted;

impl Expiry<Place, Deletion> for SinceDeleted {
    fn expire_after_create(&self, _: &Place, deletion: &Deletion, _: std::time::Instant) -> Option<Duration> {
        Some(TTL.saturating_sub(Duration::from_secs(now().saturating_sub(deletion.at))))
    }

    fn expire_after_update(
        &self,
        place: &Place,
        deletion: &Deletion,
        updated_at: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(place, deletion, updated_at)
    }
}

impl Default for Deletions {
    fn default() -> Self {
        let places = Cache::builder().max_capacity(MAX_DELETIONS).expire_after(SinceDeleted).build();
        Self(Arc::new(DeletionsInner {
            any: AtomicBool::default(),
            places,
            count: AtomicU64::default(),
            file: Mutex::default(),
        }))
    }
}

impl Deletions {
    /// Goes on with what an earlier process has noted. Where there is no state directory to be used, deletions are in
    /// memory alone. Blocks.
    pub fn kept(state: Option<&Path>) -> Self {
        let gone = Self::default();
        if let Some(path) = state {
            gone.keep(path);
        }
        gone
    }

    /// The same for what may have been noted in this process, too, where that is not kept there already. Blocks.
    pub fn keep(&self, state: &Path) {
        let mut file = self.file();
        let kept = StateDirectory::open(state).map_err(io::Error::other).and_then(|state| {
            let path = state.file(DELETED);
            if file.as_ref() != Some(&path) {
                self.take_over(&state)?;
            }
            Ok(path)
        });
        match kept {
            Ok(path) => *file = Some(path),
            Err(error) => {
                tracing::warn!(%error, path = %state.display(), "what is deleted through forebay is not remembered over a restart");
            }
        }
    }

    /// Reads the file, and writes it anew without what is old.
    fn take_over(&self, state: &StateDirectory) -> io::Result<()> {
        let mut noted = HashMap::new();
        for line in state.read(DELETED, MAX_FILE)?.split(|byte| *byte == b'\n') {
            match std::str::from_utf8(line).ok().and_then(parsed) {
                Some((true, place, at)) if now().saturating_sub(at) < TTL.as_secs() => drop(noted.insert(place, at)),
                Some((false, place, _)) => drop(noted.remove(&place)),
                Some(_) | None => {}
            }
        }
        // What this process knows is newer.
        for (place, at) in noted.into_iter().filter(|(place, _)| !self.0.places.contains_key(place)) {
            self.insert(place, at);
            self.0.any.store(true, Ordering::SeqCst);
        }
        let mut text = String::new();
        for (place, deletion) in &self.0.places {
            text.push_str(&line(true, &place, deletion.at));
        }
        state.write(DELETED, text.as_bytes())
    }

    pub async fn note(&self, what: Deleted, upstream: &Arc<str>, repository: &Repository, digest: &Digest) {
        let place = (what, upstream.clone(), repository.clone(), digest.clone());
        let at = now();
        self.0.any.store(true, Ordering::SeqCst);
        self.insert(place.clone(), at);
        self.append_line(line(true, &place, at)).await;
    }

    fn insert(&self, place: Place, at: u64) {
        let number = self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.places.insert(place, Deletion { at, number });
    }

    /// The object was pushed.
    pub async fn forget(&self, what: Deleted, upstream: &Arc<str>, repository: &Repository, digest: &Digest) {
        if self.contains(what, upstream, repository, digest) {
            let place = (what, upstream.clone(), repository.clone(), digest.clone());
            self.0.places.invalidate(&place);
            self.append_line(line(false, &place, now())).await;
        }
    }

    /// The upstream, asked after this deletion, has the object: of a later deletion that says nothing.
    pub async fn refute(
        &self,
        deletion: Deletion,
        what: Deleted,
        upstream: &Arc<str>,
        repository: &Repository,
        digest: &Digest,
    ) {
        if self.find(what, upstream, repository, digest) == Some(deletion) {
            self.forget(what, upstream, repository, digest).await;
        }
    }

    pub fn contains(&self, what: Deleted, upstream: &Arc<str>, repository: &Repository, digest: &Digest) -> bool {
        self.find(what, upstream, repository, digest).is_some()
    }

    /// The last deletion of this object, where it still counts.
    pub fn find(
        &self,
        what: Deleted,
        upstream: &Arc<str>,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<Deletion> {
        if !self.0.any.load(Ordering::SeqCst) {
            return None;
        }
        self.0.places.get(&(what, upstream.clone(), repository.clone(), digest.clone()))
    }

    async fn append_line(&self, line: String) {
        let gone = self.clone();
        let appending = tokio::task::spawn_blocking(move || gone.append_now(&line));
        let _ = appending.await;
    }

    fn append_now(&self, line: &str) {
        let mut file = self.file();
        let Some(path) = &*file else { return };
        if let Err(error) = append(path, line) {
            tracing::warn!(%error, "what is deleted through forebay is not remembered over a restart any more");
            *file = None;
        }
    }

    fn file(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.0.file.lock()
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = File::options().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    match file.metadata()?.len() + line.len() as u64 <= MAX_FILE {
        true => file.write_all(line.as_bytes()),
        false => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// No upstream's name has a space.
fn line(deleted: bool, (what, upstream, repository, digest): &Place, at: u64) -> String {
    let mut line = String::new();
    let sign = if deleted { '-' } else { '+' };
    let what = match what {
        Deleted::Blob => "blob",
        Deleted::Manifest => "manifest",
    };
    let _ = writeln!(line, "{sign} {at} {what} {upstream} {repository} {digest}");
    line
}

fn parsed(line: &str) -> Option<(bool, Place, u64)> {
    let mut words = line.split(' ');
    let deleted = match words.next()? {
        "-" => true,
        "+" => false,
        _ => return None,
    };
    let at = words.next()?.parse().ok()?;
    let what = match words.next()? {
        "blob" => Deleted::Blob,
        "manifest" => Deleted::Manifest,
        _ => return None,
    };
    let (upstream, repository, digest) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then(|| (deleted, (what, upstream.into(), repository, digest), at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_asked_before_a_deletion_does_not_end_it() {
        let gone = Deletions::default();
        let (hub, app): (Arc<str>, Repository) = ("docker.io".into(), "team/app".parse().unwrap());
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"whatever");
        let find = || gone.find(Deleted::Blob, &hub, &app, &digest);
        gone.note(Deleted::Blob, &hub, &app, &digest).await;
        let before = find().unwrap();
        gone.note(Deleted::Blob, &hub, &app, &digest).await;
        gone.refute(before, Deleted::Blob, &hub, &app, &digest).await;
        let last = find().unwrap();
        assert_ne!(before, last);
        gone.refute(last, Deleted::Blob, &hub, &app, &digest).await;
        assert_eq!(find(), None);
    }

    #[test]
    fn a_second_deletion_counts_for_its_own_hour() {
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"whatever");
        let place: Place = (Deleted::Blob, "docker.io".into(), "team/app".parse().unwrap(), digest);
        let (deletion, instant) = (Deletion { at: now(), number: 1 }, std::time::Instant::now());
        let left = SinceDeleted.expire_after_update(&place, &deletion, instant, Some(Duration::ZERO));
        assert!(left.is_some_and(|left| left > TTL / 2));
    }

    #[tokio::test]
    async fn a_deletion_is_for_one_repository_until_the_next_push() {
        let directory = tempfile::tempdir().unwrap();
        let gone = Deletions::kept(Some(directory.path()));
        let (hub, other): (Arc<str>, Arc<str>) = ("docker.io".into(), "ghcr.io".into());
        let (app, base) = ("team/app".parse().unwrap(), "team/base".parse().unwrap());
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        for what in [Deleted::Blob, Deleted::Manifest] {
            let is_gone = |gone: &Deletions| gone.contains(what, &hub, &app, &digest);
            gone.note(what, &hub, &app, &digest).await;
            assert!(is_gone(&gone) && is_gone(&Deletions::kept(Some(directory.path()))));
            assert!(!gone.contains(what, &hub, &base, &digest) && !gone.contains(what, &other, &app, &digest));
            gone.forget(what, &hub, &app, &digest).await;
            assert!(!is_gone(&gone) && !is_gone(&Deletions::kept(Some(directory.path()))));
            gone.note(what, &hub, &app, &digest).await;
        }
        gone.forget(Deleted::Blob, &hub, &app, &digest).await;
        assert!(gone.contains(Deleted::Manifest, &hub, &app, &digest), "another object of that digest");
    }

    #[tokio::test]
    async fn what_was_noted_in_memory_alone_is_kept_from_then_on() {
        let directory = tempfile::tempdir().unwrap();
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        let (hub, names): (Arc<str>, _) = ("docker.io".into(), ["of/earlier", "of/memory", "of/both", "of/file"]);
        let is_gone =
            |gone: &Deletions| names.map(|name| gone.contains(Deleted::Blob, &hub, &name.parse().unwrap(), &digest));
        let note = async |gone: &Deletions, name: &str| {
            gone.note(Deleted::Blob, &hub, &name.parse().unwrap(), &digest).await;
        };
        let earlier = Deletions::kept(Some(directory.path()));
        note(&earlier, names[0]).await;
        note(&earlier, names[2]).await;
        let gone = Deletions::default();
        note(&gone, names[1]).await;
        note(&gone, names[2]).await;
        assert_eq!(is_gone(&gone), [false, true, true, false]);
        gone.keep(directory.path());
        assert_eq!(is_gone(&gone), [true, true, true, false]);
        note(&gone, names[3]).await;
        assert_eq!(is_gone(&Deletions::kept(Some(directory.path()))), [true; 4]);
        // Once more: nothing is read again.
        gone.forget(Deleted::Blob, &hub, &names[0].parse().unwrap(), &digest).await;
        gone.keep(directory.path());
        assert_eq!(is_gone(&gone), [false, true, true, true]);
        assert_eq!(is_gone(&Deletions::kept(Some(directory.path()))), [false, true, true, true]);
    }

    #[test]
    fn old_deletions_and_damaged_lines_are_not_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        let written = |at: u64, repository: &str| format!("- {at} blob hub {repository} {digest}\n");
        let lines = [written(now() - TTL.as_secs(), "old"), "- x\n\u{0}\n".to_owned(), written(now() - 9, "new")];
        std::fs::write(directory.path().join(DELETED), lines.concat() + "- 1 blob hub cu").unwrap();
        let gone = Deletions::kept(Some(directory.path()));
        let is_gone = |name: &str| gone.contains(Deleted::Blob, &"hub".into(), &name.parse().unwrap(), &digest);
        assert!(is_gone("new") && !is_gone("old"));
        let kept = std::fs::read_to_string(directory.path().join(DELETED)).unwrap();
        assert_eq!(kept.lines().count(), 1, "{kept}");
    }
}
