//! Receives an archive: plain files of a layout, in any order.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{ImportError, ImportsInner, content::ArrivingBlob};
use crate::{
    cache::{Visibility, storage::Pin},
    oci::{
        Digest, Manifest,
        layout::{INDEX_FILE, LAYOUT_FILE, LayoutFile, LayoutImage, MAX_DOCKER_LIST, parse_index},
    },
    tar::{Entry, Kind, Piece, Reader},
};

/// How many entries an archive may have.
const MAX_ENTRIES: usize = 50_000;
/// The longest manifest, index or `index.json`, in bytes, as from upstreams.
const MAX_MANIFEST: u64 = 16 * 1024 * 1024;
/// How many bytes of manifests an archive may have.
const MAX_MANIFESTS: usize = 64 * 1024 * 1024;
/// The longest `oci-layout`, in bytes.
const MAX_LAYOUT: u64 = 4 * 1024;

/// An archive that is being received.
pub(crate) struct Import {
    pub(super) imports: Arc<ImportsInner>,
    reader: Reader,
    entries: usize,
    /// What the next content is of.
    current: Current,
    /// The files that have come.
    seen: HashSet<LayoutFile>,
    pub(super) received: Received,
    _places: [OwnedSemaphorePermit; 2],
}

/// What has come of an archive, verified.
#[derive(Default)]
pub(super) struct Received {
    /// Of `index.json`.
    pub images: Option<Vec<LayoutImage>>,
    pub manifests: HashMap<Digest, Bytes>,
    manifest_bytes: usize,
    /// The blobs on disk, with their sizes.
    pub blobs: HashMap<Digest, (u64, Arc<Pin>)>,
}

/// What the next content is of.
enum Current {
    /// It does not count, or is here already.
    Nothing,
    /// A file that is read whole.
    Document {
        file: LayoutFile,
        size: u64,
        content: BytesMut,
    },
    Blob(Box<ArrivingBlob>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

impl Import {
    pub(super) fn new(imports: Arc<ImportsInner>, places: [OwnedSemaphorePermit; 2]) -> Self {
        Self {
            imports,
            reader: Reader::default(),
            entries: 0,
            current: Current::Nothing,
            seen: HashSet::new(),
            received: Received::default(),
            _places: places,
        }
    }

    /// The images that the archive names, once its index has come.
    pub(crate) fn images(&self) -> Option<&[LayoutImage]> {
        self.received.images.as_deref()
    }

    /// Takes the next bytes of the archive.
    ///
    /// # Errors
    /// The archive cannot be imported: what comes after that does not matter.
    pub(crate) async fn push(&mut self, bytes: Bytes) -> Result<(), ImportError> {
        self.reader.push(bytes);
        while let Some(piece) = self.reader.read()? {
            match piece {
                Piece::Entry(entry) => {
                    self.end_entry().await?;
                    self.begin_entry(entry).await?;
                }
                Piece::Content(bytes) => match &mut self.current {
                    Current::Nothing => {}
                    Current::Document { content, .. } => content.extend_from_slice(&bytes),
                    Current::Blob(blob) => blob.push(bytes).await?,
                },
                Piece::End => self.end_entry().await?,
            }
        }
        Ok(())
    }

    /// Checks that the archive is whole.
    pub(super) fn check_end(&self) -> Result<(), ImportError> {
        self.reader.finish()?;
        for (file, name) in [(LayoutFile::Layout, LAYOUT_FILE), (LayoutFile::Index, INDEX_FILE)] {
            if !self.seen.contains(&file) {
                return Err(ImportError::NoLayout(name));
            }
        }
        Ok(())
    }

    async fn begin_entry(&mut self, entry: Entry) -> Result<(), ImportError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(ImportError::TooMany(MAX_ENTRIES));
        }
        let Entry { name, kind, size } = entry;
        match kind {
            Kind::Directory => return Ok(()),
            Kind::Other => return Err(ImportError::Kind(shown(&name))),
            Kind::File => {}
        }
        // As `tar -c .` writes it.
        let path = name.strip_prefix("./").unwrap_or(&name);
        let file = LayoutFile::of(path).ok_or_else(|| ImportError::Name(shown(&name)))?;
        if !self.seen.insert(file.clone()) && file != LayoutFile::OfDocker {
            return Err(ImportError::Twice(shown(&name)));
        }
        let most = match &file {
            LayoutFile::Layout => MAX_LAYOUT,
            LayoutFile::Index => MAX_MANIFEST,
            LayoutFile::OfDocker => MAX_DOCKER_LIST,
            LayoutFile::Blob(digest) if size > MAX_MANIFEST => return self.begin_blob(digest, size).await,
            LayoutFile::Blob(_) => MAX_MANIFEST,
        };
        if size > most {
            return Err(ImportError::TooLong { name: shown(&name), most });
        }
        if file == LayoutFile::OfDocker {
            return Ok(());
        }
        self.current = Current::Document { file, size, content: BytesMut::new() };
        Ok(())
    }

    /// Begins a blob that is too long for a manifest. One that is on disk already is not written again.
    async fn begin_blob(&mut self, digest: &Digest, size: u64) -> Result<(), ImportError> {
        match self.imports.blobs.kept(&Visibility::Shared.key(digest)).await {
            Some(stored) if stored.len == size => {
                self.received.blobs.insert(digest.clone(), (size, stored.pin));
            }
            _ => self.current = Current::Blob(Box::new(self.imports.begin_blob(digest, size).await?)),
        }
        Ok(())
    }

    async fn end_entry(&mut self) -> Result<(), ImportError> {
        match std::mem::replace(&mut self.current, Current::Nothing) {
            Current::Nothing => Ok(()),
            Current::Blob(blob) => {
                let (digest, size) = (blob.digest().clone(), blob.size());
                let pin = blob.finish().await?;
                self.received.blobs.insert(digest, (size, pin));
                Ok(())
            }
            Current::Document { file, size, content } => {
                let content = content.freeze();
                debug_assert_eq!(content.len() as u64, size, "the reader gave all of it");
                match file {
                    LayoutFile::Layout => check_version(&content),
                    LayoutFile::Index => {
                        let read = move || parse_index(&content);
                        let len = usize::try_from(size).unwrap_or(usize::MAX);
                        let images = self.imports.documents.read(len, read).await.ok_or(ImportError::End)?;
                        self.received.images = Some(images.map_err(ImportError::Index)?);
                        Ok(())
                    }
                    LayoutFile::Blob(digest) => self.end_document(digest, content).await,
                    LayoutFile::OfDocker => Ok(()),
                }
            }
        }
    }

    /// Keeps a short file if it is a manifest, and makes it a blob otherwise.
    async fn end_document(&mut self, digest: Digest, content: Bytes) -> Result<(), ImportError> {
        let (bytes, expected) = (content.clone(), digest.clone());
        let read = move || {
            let is_right = Digest::of(expected.algorithm(), &bytes) == expected;
            (is_right, Manifest::parse(&bytes).is_ok())
        };
        let (is_right, is_manifest) = self.imports.documents.read(content.len(), read).await.ok_or(ImportError::End)?;
        if !is_right {
            return Err(ImportError::Mismatch(digest));
        }
        if is_manifest {
            self.received.manifest_bytes += content.len();
            if self.received.manifest_bytes > MAX_MANIFESTS {
                return Err(ImportError::ManifestsTooLong(MAX_MANIFESTS));
            }
            self.received.manifests.insert(digest, content);
            return Ok(());
        }
        self.received.add_blob(&self.imports, digest, content).await
    }
}

impl Received {
    /// Makes content that is verified a blob.
    pub(super) async fn add_blob(
        &mut self,
        imports: &ImportsInner,
        digest: Digest,
        content: Bytes,
    ) -> Result<(), ImportError> {
        let size = content.len() as u64;
        let stored = imports.blobs.kept(&Visibility::Shared.key(&digest)).await;
        let pin = match stored.filter(|stored| stored.len == size) {
            Some(stored) => stored.pin,
            None => {
                let mut blob = imports.begin_blob(&digest, size).await?;
                blob.push(content).await?;
                blob.finish().await?
            }
        };
        self.blobs.insert(digest, (size, pin));
        Ok(())
    }
}

fn check_version(content: &[u8]) -> Result<(), ImportError> {
    let layout: Option<Layout> = serde_json::from_slice(content).ok();
    // Source: image-layout.md: versions are semantic.
    let is_known = layout.is_some_and(|layout| layout.image_layout_version.starts_with("1."));
    if is_known { Ok(()) } else { Err(ImportError::Version) }
}

/// A name of the archive as it is told: a stranger wrote it.
fn shown(name: &str) -> String {
    name.chars().take(200).collect()
}
