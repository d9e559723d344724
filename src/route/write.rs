//! What a request would change at its upstream: uploads, manifests, deletions.
//!
//! Source: OCI distribution specification v1.1, "Endpoints", end-4 to end-7, end-9 to end-11, end-13.

use http::Method;

use crate::oci::{Digest, Reference, Repository};

/// A request that changes something, or asks about an upload under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Begins an upload, makes a whole one, or mounts a blob of another repository.
    Begin(MountSource),
    /// An upload under way: its status, more of it, its end, or its cancellation.
    Upload,
    PutManifest(Reference),
    DeleteManifest(Reference),
    DeleteBlob(Digest),
    /// The endpoint has no such method.
    NotAllowed,
}

/// The repository that `from=` names, as the upstream calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// There is no `from=`.
    Unsaid,
    /// A repository of the same upstream.
    Here(Repository),
    /// A repository of another upstream, or no repository: nothing can be mounted.
    Elsewhere,
}

impl Write {
    pub(super) fn manifest(method: &Method, reference: Reference) -> Self {
        match *method {
            Method::PUT => Self::PutManifest(reference),
            Method::DELETE => Self::DeleteManifest(reference),
            _ => Self::NotAllowed,
        }
    }

    pub(super) fn blob(method: &Method, digest: Digest) -> Self {
        if *method == Method::DELETE { Self::DeleteBlob(digest) } else { Self::NotAllowed }
    }

    pub(super) fn upload(method: &Method, under_way: bool) -> Self {
        match *method {
            Method::POST if !under_way => Self::Begin(MountSource::Unsaid),
            Method::GET | Method::HEAD | Method::PATCH | Method::PUT | Method::DELETE if under_way => Self::Upload,
            _ => Self::NotAllowed,
        }
    }
}
