//! What followers learn of downloads.

use std::{sync::Arc, time::Duration};

use super::{Download, DownloadResult};
use crate::oci::{Digest, Repository};

/// A download began, or ended.
#[derive(Clone, Debug)]
pub(crate) struct DownloadEvent {
    pub upstream: Arc<str>,
    /// Its upstream authorizes each client.
    pub is_of_client: bool,
    pub repository: Repository,
    pub digest: Digest,
    /// `None`: it began.
    pub result: Option<DownloadResult>,
    /// The size of the blob, if it is known.
    pub size: Option<u64>,
    /// How many bytes upstreams sent for it.
    pub received: u64,
    pub duration: Duration,
}

impl DownloadEvent {
    pub(super) fn of(download: &Download, result: Option<DownloadResult>) -> Self {
        let source = &download.source;
        Self {
            upstream: source.upstream.name().clone(),
            is_of_client: source.upstream.uses_client_credentials(),
            repository: source.repository.clone(),
            digest: source.digest.clone(),
            result,
            size: download.state().total(),
            received: download.received(),
            duration: download.begun.elapsed(),
        }
    }
}
