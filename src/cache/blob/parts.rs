//! Several parts of one blob for one client, one after the other.
//!
//! Each part is opened when the client has read the one before it, as if the client had requested that part alone: from
//! the file, from the download (which fetches a range far ahead by a separate transfer), or straight from the upstream.
//! So forebay only ever requests single ranges from an upstream. The download is never without a reader between two
//! parts.

use std::{fs::File, net::IpAddr, sync::Arc};

use super::super::{BlobCache, BlobError, BlobReader, Client, ReadError, Source, storage::Pin};
use crate::{
    file_slice::FileSlice,
    oci::{ByteRange, ResolvedRange},
    transport::Recipient,
};

/// The parts of a blob that a client gets.
pub(crate) struct Parts {
    blobs: BlobCache,
    source: Source,
    /// The address of the client.
    address: IpAddr,
    recipient: Recipient,
    total: u64,
    ranges: Vec<ResolvedRange>,
    /// How many parts were opened.
    opened: usize,
    /// The file that contains all remaining parts, once one part came from a file.
    file: Option<(Arc<File>, Arc<Pin>)>,
}

impl Parts {
    /// `first` reads the first of these ranges of a blob of `total` bytes.
    pub(super) fn new(
        blobs: BlobCache,
        source: Source,
        client: Client<'_>,
        (ranges, total): (Vec<ResolvedRange>, u64),
        first: &BlobReader,
    ) -> Self {
        let (address, recipient) = (client.address, client.recipient.clone());
        Self { blobs, source, address, recipient, total, ranges, opened: 1, file: file_of(first) }
    }

    /// All ranges, in the order in which they are sent.
    pub(crate) fn ranges(&self) -> &[ResolvedRange] {
        &self.ranges
    }

    /// The size of the whole blob in bytes.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Makes `reader`, which has sent one part, read the next one. Returns the range of that part, or `None` after the
    /// last.
    pub(crate) async fn next(&mut self, reader: &mut BlobReader) -> Result<Option<ResolvedRange>, ReadError> {
        let Some(range) = self.ranges.get(self.opened).copied() else { return Ok(None) };
        self.opened += 1;
        if let Some((file, pin)) = &self.file {
            let slice = FileSlice { file: file.clone(), offset: range.first, len: range.len() };
            *reader = BlobReader::File { slice: Some(slice), pin: pin.clone() };
        } else if let BlobReader::Through(through) = reader {
            let going = through.go_to(&self.source, range.first, range.last);
            self.source.upstream.trace().wait(going).await.map_err(ReadError::Upstream)?;
        } else {
            let asked = ByteRange::Bounded { first: range.first, last: range.last };
            let client = Client { address: self.address, recipient: &self.recipient };
            let opened = self.blobs.open(&self.source, Some(asked), client).await?;
            if opened.range != Some(range) || opened.total != Some(self.total) {
                return Err(ReadError::Abandoned);
            }
            self.file = file_of(&opened.reader);
            *reader = opened.reader;
        }
        Ok(Some(range))
    }
}

fn file_of(reader: &BlobReader) -> Option<(Arc<File>, Arc<Pin>)> {
    match reader {
        BlobReader::File { slice: Some(slice), pin } => Some((slice.file.clone(), pin.clone())),
        _ => None,
    }
}

impl From<BlobError> for ReadError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Upstream(error) => Self::Upstream(error),
            BlobError::Mismatch => Self::Mismatch,
            BlobError::Range { .. }
            | BlobError::TooManyRanges
            | BlobError::WaitCycle
            | BlobError::Crowded(_)
            | BlobError::Exhausted
            | BlobError::Abandoned => Self::Abandoned,
        }
    }
}
