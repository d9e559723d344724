//! tar archives of plain files, as far as an image layout needs them (pure).
//!
//! What must hold: whatever an archive says, the reader keeps one header, or an extended header of [`MAX_EXTENDED`] bytes, in
//! memory; content passes through without a copy. What is no entry is bounded: the headers before one, and what follows the
//! end. An entry that is neither a plain file nor a directory is told as such, and the caller decides.
//!
//! forebay reads archives of strangers from a stream: the `tar` crate wants a blocking reader, and reads extended headers of
//! any length into memory.
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar's manual, "Basic Tar Format".

mod error;
mod header;
mod pax;
mod reader;

pub use self::{
    error::TarError,
    reader::{Entry, Kind, Piece, Reader},
};

/// Everything in an archive is a multiple of so many bytes.
pub const BLOCK: usize = 512;
/// What ends an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// The longest extended header that is read, in bytes.
const MAX_EXTENDED: u64 = 64 * 1024;
/// How many extended headers an entry may have: GNU tar writes two, and one for the whole archive.
const MAX_EXTENDED_HEADERS: usize = 16;
/// How many bytes may follow the end: `tar` fills its last record, which has 10 KiB unless its user wants longer ones.
const MAX_TRAILER: usize = 16 * 1024 * 1024;

/// What precedes the content of a plain file: a header, and an extended one before it if the name or the size does not fit.
pub fn file_header(name: &str, size: u64) -> Vec<u8> {
    header::of_file(name, size)
}

/// How many bytes follow the content of a file of this size, all zero.
pub fn padding(size: u64) -> usize {
    // The last block may end behind the largest number.
    let last = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    (BLOCK - last) % BLOCK
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// An archive of these files.
    fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, content) in files {
            let size = content.len() as u64;
            archive.extend(file_header(name, size));
            archive.extend(content);
            archive.resize(archive.len() + padding(size), 0);
        }
        archive.extend(END);
        archive
    }

    /// What a reader finds, however the bytes are divided.
    fn read(archive: &[u8], pieces: usize) -> Result<Vec<(String, Vec<u8>)>, TarError> {
        let (mut reader, mut files) = (Reader::default(), Vec::<(String, Vec<u8>)>::new());
        for bytes in archive.chunks(pieces) {
            reader.push(Bytes::copy_from_slice(bytes));
            while let Some(piece) = reader.read()? {
                match piece {
                    Piece::Entry(entry) => files.push((entry.name, Vec::new())),
                    Piece::Content(bytes) => files.last_mut().unwrap().1.extend_from_slice(&bytes),
                    Piece::End => {}
                }
            }
        }
        reader.finish().map(|()| files)
    }

    proptest! {
        #[test]
        fn archives_are_read_back(
            files in prop::collection::vec(("[a-z0-9/._-]{1,300}", prop::collection::vec(any::<u8>(), 0..1500)), 0..5),
            pieces in 1_usize..2000,
        ) {
            prop_assert_eq!(read(&archive(&files), pieces), Ok(files));
        }

        #[test]
        fn a_cut_archive_is_never_whole(cut in 0_usize..3000) {
            let files = vec![("index.json".to_owned(), vec![7; 700]), ("b".repeat(200), vec![8; 3])];
            let whole = archive(&files);
            // Of the end, one block of zeros is enough.
            let cut = cut.min(whole.len() - END.len() + BLOCK - 1);
            prop_assert_eq!(read(&whole[..cut], 512), Err(TarError::Truncated));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), pieces in 1_usize..600) {
            let _ = read(&bytes, pieces);
        }

        #[test]
        fn any_header_is_read_without_a_panic(at in 0_usize..BLOCK, byte: u8) {
            let mut bytes = archive(&[("a".repeat(150), vec![1; 20])]);
            bytes[at] = byte;
            let _ = read(&bytes, 512);
        }
    }

    #[test]
    fn the_size_of_a_file_is_not_bounded() {
        for size in [0, 1, 0o777_7777_7777, 0o1_0000_0000_0000, u64::MAX - 511, u64::MAX] {
            let mut reader = Reader::default();
            reader.push(file_header("blobs/x", size).into());
            let entry = Entry { name: "blobs/x".to_owned(), kind: Kind::File, size };
            assert_eq!(reader.read(), Ok(Some(Piece::Entry(entry))), "{size}");
            assert_eq!(reader.read(), Ok(None), "{size}");
        }
    }

    #[test]
    fn content_is_padded_to_whole_blocks() {
        for (size, expected) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511), (u64::MAX, 1), (u64::MAX - 511, 0)] {
            assert_eq!(padding(size), expected, "{size}");
        }
    }

    #[test]
    fn headers_and_zeros_without_end_are_refused() {
        // Each precedes the next entry, and none is one.
        let extended = header::special("x", b'g', 0);
        assert_eq!(read(&extended.repeat(MAX_EXTENDED_HEADERS + 1), 700), Err(TarError::ManyHeaders));
        let before = |count: usize| [extended.repeat(count), archive(&[("a".to_owned(), vec![1])])].concat();
        assert!(read(&before(MAX_EXTENDED_HEADERS), 700).is_ok());
        let with_trailer = |len: usize| [&END[..], &vec![0; len - BLOCK]].concat();
        assert_eq!(read(&with_trailer(MAX_TRAILER), 1 << 20), Ok(Vec::new()));
        assert_eq!(read(&with_trailer(MAX_TRAILER + 1), 1 << 20), Err(TarError::Trailer));
    }

    #[test]
    fn what_follows_the_end_does_not_count() {
        let mut bytes = archive(&[("a".to_owned(), vec![1])]);
        bytes.extend([1; 10_000]);
        assert_eq!(read(&bytes, 100), Ok(vec![("a".to_owned(), vec![1])]));
    }
}
