//! The uploads in parts that are under way, on disk: a kill leaves parts in the store, which cost money and are in no
//! listing.

use std::{
    io,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use object_store::{MultipartId, path::Path};
use parking_lot::Mutex;

use crate::state_dir::{STORE_UPLOADS, StateDirectory};

/// How many uploads are noted: those that run, and those that could not be aborted yet.
const MAX_UPLOADS: usize = 1_000;
/// The longest file that is read, in bytes: names and ids have some hundreds.
const MAX_FILE: u64 = 2 * 1024 * 1024;

/// The uploads that are under way.
#[derive(Debug)]
pub(super) struct Journal(Arc<Mutex<Noted>>);

/// An upload in parts: its object, and the store's name for it.
pub(super) type Upload = (Path, MultipartId);

#[derive(Debug, Default)]
struct Noted {
    /// `None`: there is no state directory, and nothing is noted.
    directory: Option<PathBuf>,
    running: Vec<Upload>,
    /// Those that are to be aborted.
    left: Vec<Upload>,
}

impl Journal {
    /// Reads what an earlier run noted, and did not end. Blocks.
    pub(super) fn new(directory: Option<&FilePath>) -> Self {
        let mut noted = Noted { directory: directory.map(FilePath::to_owned), ..Noted::default() };
        noted.left = noted.read().inspect_err(tell).unwrap_or_default();
        Self(Arc::new(Mutex::new(noted)))
    }

    /// The uploads that are to be aborted.
    pub(super) fn left_over(&self) -> Vec<Upload> {
        self.0.lock().left.clone()
    }

    /// Whether another upload can be noted.
    pub(super) fn has_room(&self) -> bool {
        let noted = self.0.lock();
        noted.running.len() + noted.left.len() < MAX_UPLOADS
    }

    /// Before the first part.
    pub(super) async fn add(&self, path: &Path, id: &MultipartId) {
        let upload = (path.clone(), id.clone());
        self.on_disk(|noted| {
            noted.running.push(upload);
            noted.write()
        })
        .await;
    }

    /// It is completed or aborted.
    pub(super) async fn remove(&self, path: &Path, id: &MultipartId) {
        let ended = (path.clone(), id.clone());
        self.on_disk(move |noted| {
            noted.running.retain(|upload| *upload != ended);
            noted.left.retain(|upload| *upload != ended);
            noted.write()
        })
        .await;
    }

    /// It is neither completed nor aborted: it comes after the others. The file has it already.
    pub(super) fn leave(&self, path: &Path, id: &MultipartId) {
        let left = (path.clone(), id.clone());
        let noted = &mut *self.0.lock();
        noted.running.retain(|upload| *upload != left);
        noted.left.retain(|upload| *upload != left);
        noted.left.push(left);
    }

    /// A journal that cannot be written costs parts that stay in the store, and no upload.
    async fn on_disk<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Noted) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let noted = self.0.clone();
        let done = tokio::task::spawn_blocking(move || act(&mut noted.lock())).await.map_err(io::Error::other);
        done.flatten().inspect_err(tell).ok()
    }
}

fn tell(error: &io::Error) {
    tracing::warn!(%error, "the uploads to the object store cannot be noted in state_directory");
}

impl Noted {
    fn read(&self) -> io::Result<Vec<Upload>> {
        // Whoever only looks at the configuration creates no directory.
        let Some(directory) = self.directory.as_ref().filter(|directory| directory.is_dir()) else {
            return Ok(Vec::new());
        };
        let state = StateDirectory::open(directory).map_err(io::Error::other)?;
        Ok(parse(&String::from_utf8_lossy(&state.read(STORE_UPLOADS, MAX_FILE)?)))
    }

    fn write(&self) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let state = StateDirectory::open(directory).map_err(io::Error::other)?;
        state.write(STORE_UPLOADS, text(self.left.iter().chain(&self.running)).as_bytes())
    }
}

/// A line for each: its id, a tab, its path. Neither has a line end: ids are URL-safe, paths are forebay's own.
fn text<'a>(uploads: impl IntoIterator<Item = &'a Upload>) -> String {
    uploads.into_iter().map(|(path, id)| format!("{id}\t{path}\n")).collect()
}

fn parse(text: &str) -> Vec<Upload> {
    let of_line = |line: &str| {
        let (id, path) = line.split_once('\t')?;
        Some((Path::parse(path).ok()?, id.to_owned())).filter(|_| !id.is_empty())
    };
    text.lines().filter_map(of_line).take(MAX_UPLOADS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_uploads_are_left_out() {
        let upload = |id: &str, path: &str| (Path::parse(path).unwrap(), id.to_owned());
        for (found, expected) in [
            ("", vec![]),
            ("a1\tblobs/x\nb2\tblobs/y\n", vec![upload("a1", "blobs/x"), upload("b2", "blobs/y")]),
            ("a1\n\tblobs/x\nb2\tblobs/../y\nc3\tz\nd4", vec![upload("c3", "z")]),
        ] {
            assert_eq!(parse(found), expected, "{found}");
            assert_eq!(parse(&text(&expected)), expected);
        }
    }

    #[tokio::test]
    async fn uploads_that_a_stop_cut_are_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| Path::parse(name).unwrap();
        let journal = Journal::new(Some(directory.path()));
        for (name, id) in [("a", "1"), ("b", "2"), ("b", "3")] {
            journal.add(&path(name), &id.to_owned()).await;
        }
        journal.remove(&path("b"), &"2".to_owned()).await;
        let next = Journal::new(Some(directory.path()));
        // A new upload may begin before those of the last run are aborted.
        next.add(&path("c"), &"4".to_owned()).await;
        assert_eq!(next.left_over(), [(path("a"), "1".to_owned()), (path("b"), "3".to_owned())]);
        next.remove(&path("a"), &"1".to_owned()).await;
        next.leave(&path("c"), &"4".to_owned());
        let expected = [(path("b"), "3".to_owned()), (path("c"), "4".to_owned())];
        assert_eq!(next.left_over(), expected);
        assert_eq!(Journal::new(Some(directory.path())).left_over(), expected);
        assert_eq!(Journal::new(None).left_over(), []);
    }

    #[tokio::test]
    async fn the_journal_says_when_it_is_full() {
        let (journal, path) = (Journal::new(None), Path::parse("a").unwrap());
        for id in 0..MAX_UPLOADS {
            assert!(journal.has_room());
            journal.add(&path, &id.to_string()).await;
        }
        assert!(!journal.has_room());
        journal.leave(&path, &"7".to_owned());
        assert!(!journal.has_room(), "it may still have parts");
        journal.remove(&path, &"7".to_owned()).await;
        assert!(journal.has_room());
    }
}
