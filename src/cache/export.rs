//! Exports: images as one archive with an image layout, for a machine without a network.
//!
//! What must hold: all that goes into an archive is here before its first byte is sent, and stays here until the last one
//! is; what is missing is told image by image instead. Each blob is verified again while it is sent, and on any failure the
//! archive breaks off. Memory and the number of objects are bounded.

mod content;
mod docker;
mod gather;

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::gather::Gathering;
use super::{BlobCache, ContentKey, DiskStore, ManifestCache, storage::Pin};
use crate::{
    oci::{
        Digest, Platform, Reference, Repository,
        layout::{DOCKER_LIST, INDEX_FILE, LAYOUT, LAYOUT_FILE, LayoutImage, blob_path, encode_index},
    },
    offload::Offload,
    tar,
    upstream::Upstream,
};

/// How many exports run at a time: what they send is not evicted meanwhile.
const MAX_EXPORTS: usize = 2;

/// Makes archives. A cheap handle.
#[derive(Clone)]
pub(crate) struct Exports(Arc<ExportsInner>);

struct ExportsInner {
    store: DiskStore,
    manifests: ManifestCache,
    blobs: BlobCache,
    documents: Offload,
    places: Arc<Semaphore>,
}

/// An image to export.
#[derive(Clone)]
pub(crate) struct ExportImage {
    /// Its whole name, as the archive tells it.
    pub name: String,
    pub upstream: Upstream,
    pub repository: Repository,
    pub reference: Reference,
}

/// What keeps an image out of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportProblem {
    pub name: String,
    pub why: String,
}

/// Why there is no archive.
#[derive(Debug)]
pub(crate) enum NoExport {
    /// So many exports run already.
    TooMany(usize),
    Problems(Vec<ExportProblem>),
}

/// An archive that can be sent.
pub(crate) struct Export {
    parts: VecDeque<Part>,
    /// In bytes.
    pub len: u64,
    store: DiskStore,
    _place: OwnedSemaphorePermit,
}

/// A part of an archive.
enum Part {
    /// As it is sent.
    Memory(Bytes),
    Blob(KeptBlob),
}

/// A blob that is here until this is dropped.
struct KeptBlob {
    id: ContentKey,
    len: u64,
    _pin: Arc<Pin>,
}

impl Exports {
    pub(crate) fn new(store: DiskStore, manifests: ManifestCache, blobs: BlobCache) -> Self {
        let (documents, places) = (Offload::default(), Arc::new(Semaphore::new(MAX_EXPORTS)));
        Self(Arc::new(ExportsInner { store, manifests, blobs, documents, places }))
    }

    /// Prepares the archive of these images: downloads what is missing. `platforms`: which manifests of an index are wanted;
    /// if it is empty, all.
    ///
    /// # Errors
    /// Something cannot be exported.
    pub(crate) async fn prepare(&self, images: &[ExportImage], platforms: &[Platform]) -> Result<Export, NoExport> {
        let Ok(place) = self.0.places.clone().try_acquire_owned() else { return Err(NoExport::TooMany(MAX_EXPORTS)) };
        let mut gathering = Gathering::new(&self.0, platforms);
        for image in images {
            gathering.add(image).await;
        }
        let gathered = gathering.end().await.map_err(NoExport::Problems)?;
        let mut parts = VecDeque::from(file(LAYOUT_FILE, Bytes::from_static(LAYOUT.as_bytes())));
        parts.extend(file(INDEX_FILE, encode_index(&gathered.images).into()));
        parts.extend(gathered.docker_list.into_iter().flat_map(|list| file(DOCKER_LIST, list.into())));
        // The manifests come first: its reader knows early what the blobs are for.
        parts.extend(gathered.manifests.into_iter().flat_map(|(digest, bytes)| file(&blob_path(&digest), bytes)));
        parts.extend(gathered.blobs.into_iter().map(Part::Blob));
        let len = parts.iter().map(Part::len).sum::<u64>() + tar::END.len() as u64;
        Ok(Export { parts, len, store: self.0.store.clone(), _place: place })
    }
}

/// A file in memory with what stands around it. The content is not copied: the cache may have it in memory, too.
fn file(path: &str, content: Bytes) -> [Part; 3] {
    let len = content.len() as u64;
    let padding = Bytes::from_static(&tar::END).split_to(tar::padding(len));
    [tar::file_header(path, len).into(), content, padding].map(Part::Memory)
}

impl Part {
    /// The bytes that it takes in the archive.
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Blob(blob) => blob.header().len() as u64 + blob.len + tar::padding(blob.len) as u64,
        }
    }
}

impl KeptBlob {
    fn digest(&self) -> &Digest {
        &self.id.digest
    }

    fn header(&self) -> Vec<u8> {
        tar::file_header(&blob_path(self.digest()), self.len)
    }
}

/// What goes into an archive.
#[derive(Default)]
struct Gathered {
    images: Vec<LayoutImage>,
    docker_list: Option<String>,
    manifests: Vec<(Digest, Bytes)>,
    blobs: Vec<KeptBlob>,
}
