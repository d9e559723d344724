//! How the prefetch of one layer ended.

use super::images::Layer;
use crate::{
    cache::download::{Download, DownloadError, while_it_advances},
    upstream::ErrorKind,
};

/// How the prefetch of a layer ended.
#[derive(Debug)]
pub(super) enum PrefetchEnded {
    Complete,
    Failed(DownloadError),
    /// Next to no bytes arrived for a while, or the layer was not complete after a long time.
    Stalled,
    /// The upstream's layer has another size than the manifest says, and may be too large to prefetch.
    OtherSize,
}

impl PrefetchEnded {
    /// Whether the layer differs from the manifest.
    pub(super) fn is_lie(&self) -> bool {
        matches!(self, Self::OtherSize | Self::Failed(DownloadError::Mismatch))
    }

    /// Whether the prefetches of the image's other layers are likely to end the same way.
    pub(super) fn is_trouble(&self) -> bool {
        match self {
            Self::Complete | Self::Failed(DownloadError::Damaged) => false,
            Self::Failed(DownloadError::Upstream(error)) => !matches!(error.kind, ErrorKind::NotFound),
            Self::Failed(_) | Self::Stalled | Self::OtherSize => true,
        }
    }
}

impl Layer {
    pub(super) async fn end(&self, download: &Download) -> PrefetchEnded {
        let end = async {
            let Some(told) = download.head().await.map_err(PrefetchEnded::Failed)? else {
                // The response has no length, so forebay notices only during the transfer that the layer is too long.
                return download
                    .end_within(self.size)
                    .await
                    .ok_or(PrefetchEnded::OtherSize)?
                    .map_err(PrefetchEnded::Failed);
            };
            if told != self.size {
                return Err(PrefetchEnded::OtherSize);
            }
            download.end().await.map_err(PrefetchEnded::Failed)
        };
        let end = async {
            end.await?;
            // A layer without an announced length may be shorter, and one whose announced length was wrong may be
            // right.
            match download.head().await {
                Ok(Some(len)) if len != self.size => Err(PrefetchEnded::OtherSize),
                Ok(_) => Ok(()),
                Err(error) => Err(PrefetchEnded::Failed(error)),
            }
        };
        match while_it_advances(end, || download.advance()).await {
            Some(Ok(())) => PrefetchEnded::Complete,
            Some(Err(ended)) => ended,
            None => PrefetchEnded::Stalled,
        }
    }
}
