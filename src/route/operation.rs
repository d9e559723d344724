//! What a request asks of an upstream: to read content or a list, or to change something.
//!
//! Source: OCI distribution specification v1.1, "Endpoints"; `_catalog` is Docker's.

use http::Method;

use super::RouteError;
use crate::{
    cache::List,
    oci::{self, Digest, Endpoint, Reference, Repository},
};

/// Where a request goes. `U` is an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<U> {
    pub destination: Destination<U>,
    /// The value of `ns=` as the client wrote it, to be echoed as `OCI-Namespace`.
    pub namespace: Option<String>,
}

/// An upstream, and an operation on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination<U> {
    /// `GET /v2/`; without an upstream where the request names none and there is no default.
    Base(Option<U>),
    Upstream(U, Operation),
}

/// An operation on an upstream. The query (`n`, `last`, `artifactType`) stays in the request's URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Manifest {
        repository: Repository,
        reference: Reference,
    },
    Blob {
        repository: Repository,
        digest: Digest,
    },
    List(List),
    /// Any method but GET and HEAD on an endpoint of a repository, and every request about an upload.
    Write {
        repository: Repository,
        write: Write,
    },
}

/// A change of a repository, or a request about an upload in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Begins an upload, uploads a blob in one request, or mounts a blob of another repository.
    Begin(MountSource),
    /// An upload in progress: its status, more content, its end, or its cancellation.
    Upload,
    PutManifest(Reference),
    DeleteManifest(Reference),
    DeleteBlob(Digest),
    /// The endpoint has no such method.
    NotAllowed,
}

/// The repository that `from=` names, as the upstream spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// There is no `from=`.
    Missing,
    /// A repository of the same upstream.
    Here(Repository),
    /// A repository of another upstream, or no valid name: nothing can be mounted.
    Elsewhere,
}

impl<U> Route<U> {
    pub fn upstream(&self) -> Option<&U> {
        match &self.destination {
            Destination::Base(upstream) => upstream.as_ref(),
            Destination::Upstream(upstream, _) => Some(upstream),
        }
    }

    pub fn repository(&self) -> Option<&Repository> {
        match &self.destination {
            Destination::Base(_) => None,
            Destination::Upstream(_, operation) => operation.repository(),
        }
    }

    /// The tag or the digest in the path.
    pub(crate) fn reference(&self) -> Option<Reference> {
        match &self.destination {
            Destination::Base(_) => None,
            Destination::Upstream(_, operation) => operation.reference(),
        }
    }

    /// The label in metrics and the log.
    pub(crate) const fn label(&self) -> oci::Operation {
        match &self.destination {
            Destination::Base(_) => oci::Operation::Base,
            Destination::Upstream(_, operation) => operation.label(),
        }
    }

    /// The same route to another form of its upstream.
    pub(crate) fn map<V>(self, convert: impl FnOnce(U) -> V) -> Route<V> {
        let destination = match self.destination {
            Destination::Base(upstream) => Destination::Base(upstream.map(convert)),
            Destination::Upstream(upstream, operation) => Destination::Upstream(convert(upstream), operation),
        };
        Route { destination, namespace: self.namespace }
    }
}

impl Operation {
    /// The operation of `method` on an endpoint; `None` for the base. The source of a mount is left to be filled in.
    ///
    /// # Errors
    /// The base and the catalog can only be read.
    pub(super) fn new(method: &Method, endpoint: Endpoint) -> Result<Option<Self>, RouteError> {
        let is_read = *method == Method::GET || *method == Method::HEAD;
        Ok(Some(match endpoint {
            Endpoint::Base | Endpoint::Catalog if !is_read => return Err(RouteError::MethodNotAllowed),
            Endpoint::Base => return Ok(None),
            Endpoint::Catalog => Self::List(List::Catalog),
            Endpoint::Manifest { name, reference } if is_read => Self::Manifest { repository: name, reference },
            Endpoint::Manifest { name, reference } => Self::write(name, Write::manifest(method, reference)),
            Endpoint::Blob { name, digest } if is_read => Self::Blob { repository: name, digest },
            Endpoint::Blob { name, digest } => Self::write(name, Write::blob(method, digest)),
            Endpoint::Tags { name } if is_read => Self::List(List::Tags(name)),
            Endpoint::Referrers { name, digest } if is_read => Self::List(List::Referrers { repository: name, digest }),
            Endpoint::Tags { name } | Endpoint::Referrers { name, .. } => Self::write(name, Write::NotAllowed),
            Endpoint::Uploads { name, session } => Self::write(name, Write::upload(method, session.is_some())),
        }))
    }

    fn write(repository: Repository, write: Write) -> Self {
        Self::Write { repository, write }
    }

    /// `None` for the catalog.
    pub(crate) fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Manifest { repository, .. } | Self::Blob { repository, .. } | Self::Write { repository, .. } => {
                Some(repository)
            }
            Self::List(list) => list.repository(),
        }
    }

    pub(crate) fn reference(&self) -> Option<Reference> {
        match self {
            Self::Manifest { reference, .. }
            | Self::Write { write: Write::PutManifest(reference) | Write::DeleteManifest(reference), .. } => {
                Some(reference.clone())
            }
            Self::Blob { digest, .. }
            | Self::List(List::Referrers { digest, .. })
            | Self::Write { write: Write::DeleteBlob(digest), .. } => Some(Reference::Digest(digest.clone())),
            Self::List(List::Tags(_) | List::Catalog)
            | Self::Write { write: Write::Begin(_) | Write::Upload | Write::NotAllowed, .. } => None,
        }
    }

    pub(super) fn repository_mut(&mut self) -> Option<&mut Repository> {
        match self {
            Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::List(List::Tags(repository) | List::Referrers { repository, .. })
            | Self::Write { repository, .. } => Some(repository),
            Self::List(List::Catalog) => None,
        }
    }

    pub(crate) const fn label(&self) -> oci::Operation {
        match self {
            Self::Manifest { .. } => oci::Operation::Manifest,
            Self::Blob { .. } => oci::Operation::Blob,
            Self::List(list) => list.operation(),
            Self::Write { .. } => oci::Operation::Push,
        }
    }
}

impl Write {
    fn manifest(method: &Method, reference: Reference) -> Self {
        match *method {
            Method::PUT => Self::PutManifest(reference),
            Method::DELETE => Self::DeleteManifest(reference),
            _ => Self::NotAllowed,
        }
    }

    fn blob(method: &Method, digest: Digest) -> Self {
        if *method == Method::DELETE { Self::DeleteBlob(digest) } else { Self::NotAllowed }
    }

    fn upload(method: &Method, is_in_progress: bool) -> Self {
        match *method {
            Method::POST if !is_in_progress => Self::Begin(MountSource::Missing),
            Method::GET | Method::HEAD | Method::PATCH | Method::PUT | Method::DELETE if is_in_progress => Self::Upload,
            _ => Self::NotAllowed,
        }
    }
}
