//! The map at the end of a `….part` file: which chunks of the blob are in the file, with their checksums.
//!
//! ```text
//! 0            the bytes of the blob, with gaps
//! records_at   a record per chunk: how many bytes from its start are in the file, and their CRC-32C
//! end - 64     the footer
//! ```
//!
//! All numbers are little-endian. The map is in the same file as the bytes, so that the two are renamed, removed and
//! counted together; the commit cuts it off. It lies behind a block boundary: no page that a client may still be sent
//! holds bytes of both.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// The bytes of a chunk that are in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkRecord {
    /// From the start of the chunk, in bytes.
    pub written: u64,
    /// CRC-32C.
    pub crc: u32,
}

/// What a `….part` file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialMap {
    /// The size of a chunk in bytes.
    pub chunk: u64,
    /// The size of the blob in bytes, if it is known.
    pub total: Option<u64>,
    pub records: Vec<ChunkRecord>,
}

impl PartialMap {
    /// How many bytes of the blob are in the file.
    pub fn written(&self) -> u64 {
        self.records.iter().map(|record| record.written).sum()
    }
}

/// The part of the map that does not depend on the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub chunk: u64,
    pub total: Option<u64>,
    /// The number of records.
    pub count: u64,
    /// The fingerprint of the source of the bytes.
    pub origin: [u8; 16],
    /// Whether a download has resumed the file in vain.
    pub failed: bool,
}

const MAGIC: &[u8; 8] = b"forebay1";
const FOOTER: usize = 64;
const RECORD: u64 = 8;
const ALIGNMENT: u64 = 4096;
/// More chunks are not believed.
const MAX_COUNT: u64 = 1 << 20;
/// The largest chunk: the number of its bytes fits into a record.
const MAX_CHUNK: u64 = 1 << 31;

/// How many bytes the map of a blob of `total` bytes takes at most.
pub fn map_size(total: u64, chunk: u64) -> u64 {
    ALIGNMENT + total.div_ceil(chunk) * RECORD + FOOTER as u64
}

impl Footer {
    /// Where the records begin; `None` if there are too many, or if the chunks are too large.
    fn records_at(&self) -> Option<u64> {
        let fits = self.count <= MAX_COUNT && (1..=MAX_CHUNK).contains(&self.chunk);
        let end = self.total.map_or_else(|| self.count.checked_mul(self.chunk), Some)?;
        fits.then(|| end.checked_next_multiple_of(ALIGNMENT)).flatten()
    }

    /// The length of the file.
    fn file_len(&self) -> Option<u64> {
        self.records_at()?.checked_add(self.count * RECORD + FOOTER as u64)
    }

    fn encode(&self) -> [u8; FOOTER] {
        let mut bytes = [0; FOOTER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.chunk.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.total.unwrap_or(u64::MAX).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.count.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.origin);
        bytes[48] = u8::from(self.failed);
        let crc = crc32c::crc32c(&bytes[..FOOTER - 4]);
        bytes[FOOTER - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` if these bytes are no footer.
    fn decode(bytes: &[u8; FOOTER]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let crc = u32::from_le_bytes(bytes[FOOTER - 4..].try_into().ok()?);
        if &bytes[..8] != MAGIC || crc != crc32c::crc32c(&bytes[..FOOTER - 4]) {
            return None;
        }
        Some(Self {
            chunk: number(8)?,
            total: number(16).filter(|total| *total != u64::MAX),
            count: number(24)?,
            origin: bytes[32..48].try_into().ok()?,
            failed: bytes[48] != 0,
        })
    }

    /// Writes the footer, which gives the file its length. Blocks.
    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        let end = self.file_len().ok_or(io::ErrorKind::FileTooLarge)?;
        // An old footer of another length must not be found behind this one.
        file.set_len(end)?;
        file.write_all_at(&self.encode(), end - FOOTER as u64)
    }

    /// Writes the record of one chunk. Blocks.
    pub(super) fn write_record(&self, file: &File, index: usize, record: ChunkRecord) -> io::Result<()> {
        let at = self.records_at().ok_or(io::ErrorKind::FileTooLarge)?;
        let index = index as u64;
        if index >= self.count {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file.write_all_at(&encode_record(record), at + index * RECORD)
    }

    /// Writes the records of all chunks. Blocks.
    pub(super) fn write_records(&self, file: &File, records: &[ChunkRecord]) -> io::Result<()> {
        let at = self.records_at().ok_or(io::ErrorKind::FileTooLarge)?;
        let bytes: Vec<u8> = records.iter().flat_map(|record| encode_record(*record)).collect();
        file.write_all_at(&bytes, at)
    }

    /// Reads the map of a file; `None` if the file has none. Blocks.
    pub(super) fn read(file: &File) -> io::Result<Option<(Self, PartialMap)>> {
        let len = file.metadata()?.len();
        let Some(at) = len.checked_sub(FOOTER as u64) else { return Ok(None) };
        let mut bytes = [0; FOOTER];
        file.read_exact_at(&mut bytes, at)?;
        let Some(footer) = Self::decode(&bytes).filter(|footer| footer.file_len() == Some(len)) else {
            return Ok(None);
        };
        let mut records = vec![0; usize::try_from(footer.count * RECORD).unwrap_or(0)];
        file.read_exact_at(&mut records, footer.records_at().unwrap_or(0))?;
        let records = records.as_chunks().0.iter().map(|bytes| decode_record(*bytes)).collect();
        let map = PartialMap { chunk: footer.chunk, total: footer.total, records };
        Ok(Some((footer, map)))
    }
}

fn encode_record(record: ChunkRecord) -> [u8; RECORD as usize] {
    let mut bytes = [0; RECORD as usize];
    bytes[..4].copy_from_slice(&u32::try_from(record.written).unwrap_or(0).to_le_bytes());
    bytes[4..].copy_from_slice(&record.crc.to_le_bytes());
    bytes
}

fn decode_record([a, b, c, d, e, f, g, h]: [u8; RECORD as usize]) -> ChunkRecord {
    ChunkRecord { written: u32::from_le_bytes([a, b, c, d]).into(), crc: u32::from_le_bytes([e, f, g, h]) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn footer(total: Option<u64>, count: u64) -> Footer {
        Footer { chunk: 1 << 20, total, count, origin: *b"0123456789abcdef", failed: false }
    }

    #[test]
    fn a_map_is_read_as_it_was_written() {
        for total in [None, Some(0), Some(1), Some(5 << 20), Some((5 << 20) - 1)] {
            let file = tempfile::tempfile().unwrap();
            let records: Vec<_> = (0..5).map(|n| ChunkRecord { written: n * 1000, crc: 7 * n as u32 }).collect();
            let footer = Footer { failed: true, ..footer(total, 5) };
            footer.write(&file).unwrap();
            footer.write_records(&file, &records).unwrap();
            let last = ChunkRecord { written: 1 << 20, crc: u32::MAX };
            footer.write_record(&file, 4, last).unwrap();
            assert!(footer.write_record(&file, 5, last).is_err());
            let (read, map) = Footer::read(&file).unwrap().unwrap();
            let expected = records[..4].iter().copied().chain([last]).collect();
            assert_eq!((read, map), (footer, PartialMap { chunk: 1 << 20, total, records: expected }));
            let len = file.metadata().unwrap().len();
            assert!(len - total.unwrap_or(5 << 20) <= map_size(5 << 20, 1 << 20));
            for wrong in [len - 1, len + 1, 63, 0] {
                file.set_len(wrong).unwrap();
                assert_eq!(Footer::read(&file).unwrap(), None, "{wrong}");
            }
        }
    }

    #[test]
    fn a_footer_that_claims_too_much_is_no_footer() {
        for footer in [
            footer(Some(u64::MAX - 1), 1),
            footer(None, MAX_COUNT + 1),
            Footer { chunk: MAX_CHUNK + 1, ..footer(Some(1), 1) },
            Footer { chunk: 0, ..footer(Some(1), 1) },
            Footer { chunk: MAX_CHUNK, ..footer(None, u64::MAX) },
        ] {
            assert_eq!(footer.file_len(), None, "{footer:?}");
            assert!(footer.write(&tempfile::tempfile().unwrap()).is_err());
        }
    }

    proptest! {
        #[test]
        fn one_wrong_bit_makes_no_footer(bit in 0..FOOTER * 8) {
            let mut bytes = footer(Some(1 << 30), 1024).encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Footer::decode(&bytes), None);
        }
    }
}
