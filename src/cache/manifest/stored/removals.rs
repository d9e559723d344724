//! What is still to be removed from the object store: it is outdated, and must not be read any more.
//!
//! What must hold: what cannot be removed now is removed later, also by the next process; until then it is not read. The number
//! is bounded.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    cache::{ContentKey, Visibility, storage::tag_record::TagKey},
    oci::{Accept, Repository},
    state_dir::{STORE_REMOVALS, StateDirectory},
};

/// How many there may be; each takes some 300 bytes.
const MAX_REMOVALS: usize = 10_000;
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 8 * 1024 * 1024;

/// What is removed at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Removal {
    /// The records of a tag, for all classes: that of the key has no meaning.
    Tag(TagKey),
    /// The records of all tags of a repository.
    Repository {
        visibility: Visibility,
        upstream: Arc<str>,
        repository: Repository,
    },
    Manifest(ContentKey),
}

impl Removal {
    pub(super) fn of_tag(key: &TagKey) -> Self {
        Self::Tag(key.of_all_classes())
    }

    fn of_repository(key: &TagKey) -> Self {
        let TagKey { visibility, upstream, repository, .. } = key.clone();
        Self::Repository { visibility, upstream, repository }
    }

    /// As a line of the file. No name has a space.
    fn line(&self) -> String {
        match self {
            Self::Tag(TagKey { visibility, upstream, repository, tag, .. }) => {
                format!("tag {} {upstream} {repository} {tag}\n", word(*visibility))
            }
            Self::Repository { visibility, upstream, repository } => {
                format!("repository {} {upstream} {repository}\n", word(*visibility))
            }
            Self::Manifest(id) => format!("manifest {} {}\n", word(id.visibility), id.digest),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        match *words.as_slice() {
            ["tag", visibility, upstream, repository, tag] => Some(Self::Tag(TagKey {
                visibility: visibility_of(visibility)?,
                upstream: upstream.into(),
                repository: repository.parse().ok()?,
                tag: tag.parse().ok()?,
                class: Accept::default().class(),
            })),
            ["repository", visibility, upstream, repository] => Some(Self::Repository {
                visibility: visibility_of(visibility)?,
                upstream: upstream.into(),
                repository: repository.parse().ok()?,
            }),
            ["manifest", visibility, digest] => {
                Some(Self::Manifest(visibility_of(visibility)?.key(&digest.parse().ok()?)))
            }
            _ => None,
        }
    }
}

fn word(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Shared => "shared",
        Visibility::PerClient => "clients",
    }
}

fn visibility_of(word: &str) -> Option<Visibility> {
    Visibility::ALL.into_iter().find(|visibility| self::word(*visibility) == word)
}

/// Puts a repository in the place of several of its tags.
fn join_tags(pending: &mut HashSet<Removal>) {
    let mut tags: HashMap<Removal, usize> = HashMap::new();
    for removal in &*pending {
        if let Removal::Tag(key) = removal {
            *tags.entry(Removal::of_repository(key)).or_default() += 1;
        }
    }
    tags.retain(|_, count| *count > 1);
    pending.retain(|removal| match removal {
        Removal::Tag(key) => !tags.contains_key(&Removal::of_repository(key)),
        Removal::Repository { .. } | Removal::Manifest(_) => true,
    });
    pending.extend(tags.into_keys());
}

/// What is still to be removed. A cheap handle.
#[derive(Clone)]
pub(super) struct Removals(Arc<RemovalsInner>);

struct RemovalsInner {
    pending: Mutex<HashSet<Removal>>,
    /// How many these are: usually none, and each read asks this.
    count: AtomicUsize,
    /// `None`: there is no state directory, and a restart forgets them.
    state: Option<PathBuf>,
    /// How often they changed.
    changes: AtomicU64,
    /// As of which change the file is. One write at a time.
    file: Mutex<u64>,
}

impl Removals {
    /// Takes over what an earlier process left. Blocks.
    pub(super) fn read(state: Option<PathBuf>) -> Self {
        let (pending, count, changes, file) = Default::default();
        let removals = Self(Arc::new(RemovalsInner { pending, count, state, changes, file }));
        if let Some(state) = removals.0.state.as_deref().filter(|state| state.is_dir())
            && let Err(error) = removals.take_over(state)
        {
            tracing::warn!(%error, "what is to be removed from the object store cannot be read in state_directory");
        }
        removals
    }

    fn take_over(&self, state: &Path) -> io::Result<()> {
        let text = StateDirectory::open(state).map_err(io::Error::other)?.read(STORE_REMOVALS, MAX_FILE)?;
        for removal in String::from_utf8_lossy(&text).lines().filter_map(Removal::parse) {
            self.add(&removal);
        }
        Ok(())
    }

    /// What is to be removed from now on; returns whether there is room for it. Where there is none, all records of a repository
    /// are removed instead of those of several of its tags: they are written again.
    pub(super) fn add(&self, removal: &Removal) -> bool {
        let mut pending = self.0.pending.lock();
        if pending.len() >= MAX_REMOVALS && !pending.contains(removal) {
            join_tags(&mut pending);
        }
        let has_room = pending.len() < MAX_REMOVALS || pending.contains(removal);
        if has_room {
            pending.insert(removal.clone());
        }
        self.changed(&pending);
        has_room
    }

    fn changed(&self, pending: &HashSet<Removal>) {
        self.0.count.store(pending.len(), Ordering::SeqCst);
        self.0.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// It is removed.
    pub(super) fn done(&self, removal: &Removal) {
        let mut pending = self.0.pending.lock();
        pending.remove(removal);
        self.changed(&pending);
    }

    pub(super) fn all(&self) -> Vec<Removal> {
        self.0.pending.lock().iter().cloned().collect()
    }

    pub(super) fn has_tag(&self, key: &TagKey) -> bool {
        if self.0.count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let pending = self.0.pending.lock();
        pending.contains(&Removal::of_tag(key)) || pending.contains(&Removal::of_repository(key))
    }

    pub(super) fn has_manifest(&self, id: &ContentKey) -> bool {
        self.0.count.load(Ordering::SeqCst) > 0 && self.0.pending.lock().contains(&Removal::Manifest(id.clone()))
    }

    /// Writes the file anew, unless one that has these changes was written meanwhile.
    pub(super) async fn write(&self) {
        let Some(state) = self.0.state.clone() else { return };
        let removals = self.clone();
        let due = self.0.changes.load(Ordering::SeqCst);
        let write = move || {
            let mut written = removals.0.file.lock();
            if *written >= due {
                return Ok(());
            }
            let changes = removals.0.changes.load(Ordering::SeqCst);
            let text: String = removals.all().iter().map(Removal::line).collect();
            StateDirectory::open(&state).map_err(io::Error::other)?.write(STORE_REMOVALS, text.as_bytes())?;
            *written = changes;
            Ok(())
        };
        let written = tokio::task::spawn_blocking(write).await.map_err(io::Error::other).flatten();
        if let Err(error) = written {
            tracing::warn!(%error, "what is to be removed from the object store cannot be noted in state_directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};

    fn tag(text: &str) -> TagKey {
        TagKey {
            visibility: Visibility::PerClient,
            upstream: "[::1]:5000".into(),
            repository: "team/app".parse().unwrap(),
            tag: text.parse().unwrap(),
            class: Accept::of_images().class(),
        }
    }

    #[tokio::test]
    async fn what_is_to_be_removed_outlives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let removals = || Removals::read(Some(directory.path().join("state")));
        let manifest = Visibility::Shared.key(&Digest::of(Algorithm::Sha512, b"x"));
        let before = removals();
        let all = [Removal::of_tag(&tag("1")), Removal::of_repository(&tag("2")), Removal::Manifest(manifest.clone())];
        assert!(all.iter().all(|removal| before.add(removal)));
        before.write().await;
        let after = removals();
        assert_eq!(after.all().into_iter().collect::<HashSet<_>>(), HashSet::from(all.clone()));
        assert!(after.has_tag(&tag("1")) && after.has_tag(&tag("other")) && after.has_manifest(&manifest));
        all.iter().for_each(|removal| after.done(removal));
        assert!(!after.has_tag(&tag("1")) && !after.has_manifest(&manifest));
        after.write().await;
        assert_eq!(removals().all(), []);
    }

    #[test]
    fn other_lines_are_no_removals() {
        for line in ["", "tag shared a b", "tag all a b c", "manifest shared x", "repository shared a B", "x y z"] {
            assert_eq!(Removal::parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_number_of_removals_is_bounded() {
        let removals = Removals::read(None);
        let manifest = |number: usize| {
            Removal::Manifest(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &number.to_be_bytes())))
        };
        let added = (0..MAX_REMOVALS + 10).filter(|number| removals.add(&manifest(*number)));
        assert_eq!(added.count(), MAX_REMOVALS);
        assert!(removals.add(&manifest(0)), "it is there already");
        assert!(!removals.add(&Removal::of_tag(&tag("1"))));
    }

    #[test]
    fn many_tags_of_a_repository_are_one_removal() {
        let removals = Removals::read(None);
        let other = TagKey { repository: "team/other".parse().unwrap(), ..tag("1") };
        removals.add(&Removal::of_tag(&other));
        for number in 0..2 * MAX_REMOVALS {
            assert!(removals.add(&Removal::of_tag(&tag(&format!("t{number}")))));
        }
        assert!(removals.all().len() <= MAX_REMOVALS);
        for number in [0, MAX_REMOVALS, 2 * MAX_REMOVALS - 1] {
            assert!(removals.has_tag(&tag(&format!("t{number}"))));
        }
        assert!(removals.has_tag(&other) && removals.0.pending.lock().contains(&Removal::of_tag(&other)));
    }

    #[tokio::test]
    async fn a_hundred_changes_at_once_are_few_writes() {
        let directory = tempfile::tempdir().unwrap();
        let removals = Removals::read(Some(directory.path().join("state")));
        for number in 0..100 {
            removals.add(&Removal::of_tag(&tag(&format!("t{number}"))));
        }
        removals.write().await;
        let written = std::fs::metadata(directory.path().join("state").join(STORE_REMOVALS)).unwrap();
        assert_eq!(*removals.0.file.lock(), 100);
        // All that wait for the turn find their changes written.
        std::fs::remove_file(directory.path().join("state").join(STORE_REMOVALS)).unwrap();
        removals.write().await;
        assert!(!directory.path().join("state").join(STORE_REMOVALS).exists() && written.len() > 100);
    }
}
