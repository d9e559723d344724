//! Small objects, read and written whole: manifests and tag records.
//!
//! Like blobs, they are written under a temporary name, then renamed. The reader detects a file that a power cut
//! damaged (by the manifest's digest or the record's format) and treats it as a miss.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use super::{DiskStore, IndexKey, Purpose, blocking, change, file_names::unique_name, recent_uses::touch, verified_at};
use crate::{
    cache::{Visibility, storage::tag_record::TagKey},
    oci::Repository,
};

/// Renames the written file to its final name.
pub type Landing<'a> = Box<dyn FnOnce() -> io::Result<()> + 'a>;

impl DiskStore {
    /// Reads an object of at most `limit` bytes; `None` when it is not cached.
    pub async fn read(&self, key: IndexKey, limit: u64) -> io::Result<Option<Vec<u8>>> {
        if self.is_scanned() && !self.0.index.contains(&key) {
            return Ok(None);
        }
        let store = self.clone();
        blocking(move || store.read_blocking(&key, limit)).await
    }

    fn read_blocking(&self, key: &IndexKey, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.path(key)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.0.index.forget(key);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        let mut bytes = Vec::new();
        let file = Arc::new(file);
        (&*file).take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            self.remove_blocking(key);
            return Ok(None);
        }
        if !self.0.index.touch(key) && !self.is_scanned() {
            self.0.index.insert(key.clone(), metadata.len());
        }
        touch(&file, &metadata);
        Ok(Some(bytes))
    }

    /// The records on disk of the same tag for other classes of clients.
    pub async fn tag_classes(&self, key: &TagKey) -> Vec<TagKey> {
        if self.is_scanned() {
            let mut classes = self.0.index.tag_classes(key);
            classes.retain(|other| other.class != key.class);
            return classes;
        }
        let (store, key) = (self.clone(), key.clone());
        blocking(move || {
            let path = store.path(&IndexKey::Tag(key.clone()));
            let Some(files) = path.parent().and_then(|directory| std::fs::read_dir(directory).ok()) else {
                return Vec::new();
            };
            let top = store.folder(key.visibility, "tags");
            files
                .filter_map(|file| TagKey::from_path(key.visibility, file.ok()?.path().strip_prefix(&top).ok()?))
                .filter(|other| other.tag == key.tag && other.class != key.class)
                .collect()
        })
        .await
    }

    /// The surplus records of a tag if it has more than `most`; this one is never among them.
    pub fn surplus_classes(&self, key: &TagKey, most: usize) -> Vec<TagKey> {
        self.0.index.surplus_classes(key, most)
    }

    /// The records on disk of all tags of a repository.
    pub async fn tags_of(&self, visibility: Visibility, upstream: &str, repository: &Repository) -> Vec<TagKey> {
        let top = self.folder(visibility, "tags");
        let directory = top.join(upstream).join(repository.as_str());
        blocking(move || {
            let files = std::fs::read_dir(directory).into_iter().flatten();
            files.filter_map(|file| TagKey::from_path(visibility, file.ok()?.path().strip_prefix(&top).ok()?)).collect()
        })
        .await
    }

    /// Writes an object whole. A lack of room is not an error: the object is then not cached.
    pub async fn write(&self, key: IndexKey, bytes: Vec<u8>) -> io::Result<()> {
        self.write_when(key, bytes, |land| land()).await
    }

    /// The same, where `gate` decides at the end whether to rename the file: if it does not call its argument, nothing
    /// is cached.
    pub async fn write_when(
        &self,
        key: IndexKey,
        bytes: Vec<u8>,
        gate: impl FnOnce(Landing<'_>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let Ok(reservation) = self.reserve(&key, bytes.len() as u64).await else { return Ok(()) };
        let store = self.clone();
        change(move || {
            let temporary = store.0.root.join("tmp").join(unique_name());
            let mut landed = false;
            let land = || {
                store.rename(&temporary, &store.path(&key))?;
                landed = true;
                reservation.fulfil(Purpose::Client, key.clone(), bytes.len() as u64);
                Ok(())
            };
            let written = write_file(&key, &temporary, &bytes).and_then(|()| gate(Box::new(land)));
            if !landed {
                drop(std::fs::remove_file(&temporary));
            }
            written
        })
        .await
    }
}

fn write_file(key: &IndexKey, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(bytes)?;
    if !matches!(key, IndexKey::Tag(_)) {
        verified_at::note(&file, bytes.len() as u64);
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{cache::Config, metrics::Metrics};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_tag_stays_whose_directory_is_pruned_as_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let config = Config::at(directory.path());
        let store = DiskStore::open(&config, Metrics::new().unwrap()).unwrap();
        store.scan().await;
        let tag = |round: u32| {
            let path = format!("u/team/app/{}@01", round % 2);
            IndexKey::Tag(TagKey::from_path(Visibility::Shared, Path::new(&path)).unwrap())
        };
        store.write(tag(0), b"record".to_vec()).await.unwrap();
        for round in 1..400 {
            // The only record in its directory is removed while the next one is written.
            let (written, ()) = tokio::join!(
                async {
                    tokio::spawn({
                        let (store, key) = (store.clone(), tag(round));
                        async move { store.write(key, b"record".to_vec()).await }
                    })
                    .await
                    .unwrap()
                },
                store.remove(tag(round - 1)),
            );
            written.unwrap();
            assert!(store.read(tag(round), 100).await.unwrap().is_some(), "round {round}");
        }
    }
}
