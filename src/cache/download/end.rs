//! The end of a download, which comes with the end of its task.

use std::sync::Arc;

use super::{Download, DownloadError, Downloads, Progress};

/// Ends the download when its task ends, in whatever way.
pub(super) struct DownloadEnd {
    pub downloads: Downloads,
    pub download: Arc<Download>,
}

impl Drop for DownloadEnd {
    fn drop(&mut self) {
        self.downloads.end(&self.download, Progress::Failed(DownloadError::Abandoned));
    }
}
