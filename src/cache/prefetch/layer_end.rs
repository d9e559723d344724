//! How the fetching of one layer ahead ended.

use super::images::Layer;
use crate::{
    cache::download::{Download, DownloadError, while_it_advances},
    upstream::ErrorKind,
};

/// How the fetching of a layer ended.
#[derive(Debug)]
pub(super) enum PrefetchEnded {
    Complete,
    Failed(DownloadError),
    /// Next to nothing came for a while, or not all in a long one.
    Stalled,
    /// The upstream has another size than the manifest says, which may be too large to fetch ahead.
    OtherSize,
}

impl PrefetchEnded {
    /// Whether the layer is another one than the manifest says.
    pub(super) fn is_lie(&self) -> bool {
        matches!(self, Self::OtherSize | Self::Failed(DownloadError::Mismatch))
    }

    /// Whether the other layers of the image are likely to end so too.
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
                // It comes without a length, so that it can be seen only as it comes that it is too long.
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
            // One that came without a length may be shorter, and one that was announced wrong may be right.
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
