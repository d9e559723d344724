//! Blobs of the object store, which is asked after peers and before the registry.
//!
//! What must hold: what the store does says nothing about the upstream, its rates and its counters; a blob of an
//! upstream that authorizes each client is read from the store for a client alone to whom the upstream has just granted
//! it. See docs/decisions/0036-store.md.

use std::{path::Path, sync::Arc};

use http::{Method, Response, StatusCode, header};
use rustls::ClientConfig;

use super::{
    Upstream,
    blob::{BlobStream, range::BlobRange},
    client::{follow_redirects::FinalResponse, trust},
    endpoint::Endpoint,
    error::{Error, ErrorKind},
    read_request::ReadRequest,
    setup_error::SetupError,
    state::UpstreamState,
    store_object::StoreObject,
    transfer_log::{ByteSource, TransferLog},
};
use crate::{
    cluster::Key,
    oci::Digest,
    store::{self, ObjectName, Part, Pool},
};

/// Which certificates of the store are believed: those that the system's CAs, or those of this file, have signed.
///
/// # Errors
/// The file has no usable certificate.
pub(crate) fn store_tls(ca: Option<&Path>) -> Result<ClientConfig, SetupError> {
    trust::of_section("store", ca)
}

impl Upstream {
    /// For a download of this blob, which may come from the store.
    pub(crate) fn with_transfer_log(&self, digest: &Digest) -> Self {
        let is_granted = !self.uses_client_credentials() || self.granted.as_ref() == Some(digest);
        let object = self.store_pool().filter(|_| is_granted).map(|pool| ObjectName::blob(pool, digest));
        Self { transfer_log: Some(Arc::new(TransferLog::new(digest.clone(), object))), ..self.clone() }
    }

    /// For a client to whom the upstream has just granted this blob.
    pub(crate) fn with_grant(&self, digest: &Digest) -> Self {
        Self { granted: Some(digest.clone()), ..self.clone() }
    }

    /// Where its content is in the store; `None`: in no store.
    pub(crate) fn store_pool(&self) -> Option<Pool> {
        self.state.store.as_ref().map(|(_, pool)| *pool)
    }

    /// Whether this forebay is to upload this download.
    pub(crate) fn is_to_be_uploaded(&self, digest: &Digest) -> bool {
        let is_owner = || {
            let key = Key::Blob(digest.clone());
            self.state.cluster.as_ref().is_none_or(|cluster| cluster.ahead(self.name(), &key).is_empty())
        };
        self.store_pool().is_some() && self.transfer_log.as_ref().is_none_or(|log| log.is_to_be_uploaded(is_owner()))
    }

    /// A response told how long the blob is.
    pub(crate) fn note_length(&self, stream: &BlobStream) {
        self.transfer_log.iter().for_each(|log| log.note_length(stream.source()));
    }

    /// A registry contradicts the length of the blob. Returns whether that was the store's, whose object is wrong then.
    pub(crate) fn doubts_store(&self) -> bool {
        let Some(log) = self.transfer_log.as_ref().filter(|log| log.is_length_of_store()) else { return false };
        log.note_store_is_wrong();
        self.blames_store()
    }

    /// Whether this download failed since the store told a wrong length.
    pub(crate) fn is_store_wrong(&self) -> bool {
        self.transfer_log.as_ref().is_some_and(|log| log.is_store_wrong())
    }

    /// The bytes of the store contradict what another source said of the blob.
    pub(crate) fn leave_store(&self) {
        self.transfer_log.iter().for_each(|log| log.leave_store());
    }

    /// Whether the wrong bytes of this download may be the store's: then its object is deleted, and not read again.
    pub(crate) fn blames_store(&self) -> bool {
        let object = self.transfer_log.as_ref().and_then(|log| log.used_object());
        let (Some(object), Some((store, _))) = (object, &self.state.store) else { return false };
        store.distrust(object);
        true
    }
}

impl UpstreamState {
    /// The object to ask for before the registry.
    pub(super) fn object_ahead(&self, request: &ReadRequest) -> Option<StoreObject> {
        let (store, _) = self.store.as_ref().filter(|_| request.method == Method::GET)?;
        let Some(Key::Blob(digest)) = &request.key else { return None };
        let name = request.transfer_log.as_ref()?.object_for(digest)?;
        (store.may_read() && !store.is_distrusted(name))
            .then(|| StoreObject { store: store.clone(), name: name.clone() })
    }

    /// Asks the store. Its response is like a registry's.
    pub(super) async fn read_of_store(
        &self,
        endpoint: &Endpoint,
        object: &StoreObject,
        request: &ReadRequest,
    ) -> Result<FinalResponse, Error> {
        let BlobRange { first, last } = BlobRange::of_headers(&request.headers).unwrap_or_default();
        // That it has no such object is no answer: the registry may have it.
        let not_here = |why: String| Error::new(ErrorKind::Unavailable, why);
        let found = match object.store.get(&object.name, Part { first, last }).await {
            Ok(found) => found,
            Err(error) => {
                // The other connections of the download need not ask, too.
                if error.kind == store::ErrorKind::Missing
                    && let Some(log) = &request.transfer_log
                {
                    log.leave_store();
                }
                return Err(not_here(error.to_string()));
            }
        };
        let len = found.range.end.saturating_sub(found.range.start);
        let mut response = Response::builder().header(header::CONTENT_LENGTH, len);
        if first > 0 || last.is_some() {
            let range = format!("bytes {}-{}/{}", found.range.start, found.range.end.saturating_sub(1), found.len);
            response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
        }
        let response = response.body(reqwest::Body::wrap_stream(found.body));
        let response = response.map_err(|error| not_here(error.to_string()))?;
        if let Some(log) = &request.transfer_log {
            log.note(ByteSource::Store);
        }
        Ok(FinalResponse::direct(response.into(), endpoint.base().clone()))
    }
}
