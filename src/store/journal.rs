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

/// How many uploads are noted. Only those that can neither be completed nor aborted stay.
const MAX_UPLOADS: usize = 1_000;
/// The longest file that is read, in bytes: names and ids have some hundreds.
const MAX_FILE: u64 = 2 * 1024 * 1024;

/// The uploads that are under way.
#[derive(Debug)]
pub(super) struct Journal(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    /// `None`: there is no state directory, and nothing is noted.
    directory: Option<PathBuf>,
    uploads: Vec<(Path, MultipartId)>,
}

impl Journal {
    pub(super) fn new(directory: Option<&FilePath>) -> Self {
        Self(Arc::new(Mutex::new(Noted { directory: directory.map(FilePath::to_owned), uploads: Vec::new() })))
    }

    /// What an earlier run noted, and did not end.
    pub(super) async fn left_over(&self) -> Vec<(Path, MultipartId)> {
        let found = self.on_disk(|noted| {
            let Some(directory) = &noted.directory else { return Ok(Vec::new()) };
            let state = StateDirectory::open(directory).map_err(io::Error::other)?;
            let text = state.read(STORE_UPLOADS, MAX_FILE)?;
            let found = parse(&String::from_utf8_lossy(&text));
            noted.uploads.extend(found.iter().cloned());
            Ok(found)
        });
        found.await.unwrap_or_default()
    }

    /// Before the first part.
    pub(super) async fn add(&self, path: &Path, id: &MultipartId) {
        let upload = (path.clone(), id.clone());
        self.on_disk(|noted| {
            if noted.uploads.len() < MAX_UPLOADS {
                noted.uploads.push(upload);
            }
            noted.write()
        })
        .await;
    }

    /// It is completed or aborted.
    pub(super) async fn remove(&self, path: &Path, id: &MultipartId) {
        let (path, id) = (path.clone(), id.clone());
        self.on_disk(move |noted| {
            noted.uploads.retain(|upload| *upload != (path.clone(), id.clone()));
            noted.write()
        })
        .await;
    }

    /// A journal that cannot be written costs parts that stay in the store, and no upload.
    async fn on_disk<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Noted) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let noted = self.0.clone();
        let done = tokio::task::spawn_blocking(move || act(&mut noted.lock())).await.map_err(io::Error::other);
        done.flatten()
            .inspect_err(|error| {
                tracing::warn!(%error, "the uploads to the object store cannot be noted in state_directory");
            })
            .ok()
    }
}

impl Noted {
    fn write(&self) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let state = StateDirectory::open(directory).map_err(io::Error::other)?;
        state.write(STORE_UPLOADS, text(&self.uploads).as_bytes())
    }
}

/// A line for each: its id, a tab, its path. Neither has a line end: ids are URL-safe, paths are forebay's own.
fn text(uploads: &[(Path, MultipartId)]) -> String {
    uploads.iter().map(|(path, id)| format!("{id}\t{path}\n")).collect()
}

fn parse(text: &str) -> Vec<(Path, MultipartId)> {
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
        assert_eq!(next.left_over().await, [(path("a"), "1".to_owned()), (path("b"), "3".to_owned())]);
        next.remove(&path("a"), &"1".to_owned()).await;
        assert_eq!(Journal::new(Some(directory.path())).left_over().await, [(path("b"), "3".to_owned())]);
        assert_eq!(Journal::new(None).left_over().await, []);
    }
}
