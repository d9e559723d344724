//! Requests for several ranges of one blob.

use super::{BlobCache, BlobError, OpenedBlob, Sharing};
use crate::{
    cache::{BlobReader, Client, Parts, Source},
    oci::{Adjoining, ByteRange, MAX_RANGES, RangesError},
    upstream::{self, ErrorKind},
};

impl BlobCache {
    /// Opens several ranges of a blob. As for a single range, the whole blob is sent if its size is unknown.
    pub(crate) async fn open_several(
        &self,
        source: &Source,
        ranges: &[ByteRange],
        adjoining: Adjoining,
        client: Client<'_>,
    ) -> Result<OpenedBlob, BlobError> {
        let first = ranges.first().filter(|_| ranges.len() <= MAX_RANGES).ok_or(BlobError::TooManyRanges)?;
        // The response to one range tells the size.
        let (one, total) = match self.open(source, Some(*first), client).await {
            Ok(OpenedBlob { reader: BlobReader::Through(mut reader), .. }) if reader.is_from_front() => {
                // Each part would cost all bytes before it.
                let place = reader.leave_place();
                drop(reader);
                return match place {
                    Some(place) => self.beside(source, None, client, place).await,
                    None => self.through(source, None, client, Sharing::Window(None)).await,
                };
            }
            // The blob is small and not cached: the whole blob costs less than its parts one by one.
            Ok(OpenedBlob { reader: BlobReader::Memory(_), .. }) => {
                return self.through(source, None, client, Sharing::Window(None)).await;
            }
            Ok(opened) => match (opened.range, opened.total) {
                (Some(_), Some(total)) => (Some(opened), total),
                _ => return Ok(opened),
            },
            Err(BlobError::Range { len }) => (None, len),
            Err(error) => return Err(error),
        };
        let parts = ByteRange::resolve_all(ranges, total, adjoining).map_err(|error| match error {
            RangesError::Unsatisfiable => BlobError::Range { len: total },
            RangesError::TooMuch => BlobError::TooManyRanges,
        })?;
        let Some(first) = parts.first().copied() else { return Err(BlobError::Range { len: total }) };
        let opened = match one {
            Some(opened) if opened.range == Some(first) => opened,
            // `one` lives until the other range is open, so that the download that it started continues.
            one => {
                let range = ByteRange::Bounded { first: first.first, last: first.last };
                let opened = self.open(source, Some(range), client).await?;
                let outcome = one.as_ref().map_or(opened.outcome, |one| one.outcome);
                OpenedBlob { outcome, ..opened }
            }
        };
        match opened.range {
            None => Ok(opened),
            Some(range) if range == first && opened.total == Some(total) => {
                let more = (parts.len() > 1)
                    .then(|| Parts::new(self.clone(), source.clone(), client, (parts, total), &opened.reader));
                Ok(OpenedBlob { parts: more, ..opened })
            }
            Some(_) => {
                let error = upstream::Error::new(ErrorKind::Protocol, "the blob has another size than announced");
                Err(BlobError::Upstream(error))
            }
        }
    }
}
