//! The map at the end of a `….part` file, written and read apart from forebay.

pub const CHUNK: usize = 1024 * 1024;
const FOOTER: usize = 64;
const BLOCK: usize = 4096;

/// `bytes` from the front of a blob of `total` bytes, followed by the map that says so.
pub fn append(bytes: &[u8], total: Option<usize>, origin: &[u8]) -> Vec<u8> {
    let count = total.map_or(bytes.len().div_ceil(CHUNK), |total| total.div_ceil(CHUNK));
    let end = total.unwrap_or(count * CHUNK).next_multiple_of(BLOCK);
    let mut file = bytes.to_vec();
    file.resize(end, 0);
    for index in 0..count {
        let chunk = &bytes[(index * CHUNK).min(bytes.len())..((index + 1) * CHUNK).min(bytes.len())];
        file.extend_from_slice(&u32::try_from(chunk.len()).unwrap().to_le_bytes());
        file.extend_from_slice(&crc32c::crc32c(chunk).to_le_bytes());
    }
    let mut footer = b"forebay1".to_vec();
    for number in [CHUNK as u64, total.map_or(u64::MAX, |total| total as u64), count as u64] {
        footer.extend_from_slice(&number.to_le_bytes());
    }
    footer.extend_from_slice(origin);
    footer.resize(FOOTER - 4, 0);
    footer.extend_from_slice(&crc32c::crc32c(&footer).to_le_bytes());
    file.extend_from_slice(&footer);
    file
}

/// How many bytes of each chunk are there, with their checksums; none if the file has no map.
pub fn records(file: &[u8]) -> Vec<(u32, u32)> {
    let footer = &file[file.len().saturating_sub(FOOTER)..];
    if !footer.starts_with(b"forebay1") {
        return Vec::new();
    }
    let count = usize::try_from(u64::from_le_bytes(footer[24..32].try_into().unwrap())).unwrap();
    let records = &file[file.len() - FOOTER - count * 8..file.len() - FOOTER];
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    records.chunks(8).map(|record| (number(&record[..4]), number(&record[4..]))).collect()
}
