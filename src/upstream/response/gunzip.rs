//! Gzip, decoded as it comes.
//!
//! What must hold: no more is decoded at a time than is given away, whatever the bytes are.

use std::io::{self, BufRead, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

/// How much is decoded at a time, in bytes: a fifth of a millisecond's work, which a thread that serves may do.
const PIECE: usize = 64 * 1024;

/// One body, on its way through a decoder.
pub(in crate::upstream) struct Gunzip(MultiGzDecoder<Input>);

#[derive(Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Decoded {
    Piece(Bytes),
    /// More of the encoding is needed.
    Hungry,
    End,
}

impl Gunzip {
    pub(in crate::upstream) fn new() -> Self {
        Self(MultiGzDecoder::new(Input { bytes: Bytes::new(), is_all: false }))
    }

    /// Takes more of the encoding, once it is hungry.
    pub(in crate::upstream) fn feed(&mut self, bytes: Bytes) {
        self.0.get_mut().bytes = bytes;
    }

    /// That was all of it.
    pub(in crate::upstream) fn end(&mut self) {
        self.0.get_mut().is_all = true;
    }

    pub(in crate::upstream) fn next(&mut self) -> io::Result<Decoded> {
        let mut piece = vec![0; PIECE];
        match self.0.read(&mut piece) {
            Ok(0) => Ok(Decoded::End),
            Ok(len) => {
                piece.truncate(len);
                Ok(Decoded::Piece(piece.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Decoded::Hungry),
            Err(error) => Err(error),
        }
    }

    /// Decodes all of `raw`, piece by piece; whether it is gzip, and each piece was welcome.
    pub(in crate::upstream) fn all(raw: Bytes, mut take: impl FnMut(&[u8]) -> bool) -> bool {
        let mut gunzip = Self::new();
        gunzip.feed(raw);
        gunzip.end();
        loop {
            match gunzip.next() {
                Ok(Decoded::Piece(piece)) if take(&piece) => {}
                Ok(Decoded::End) => return true,
                Ok(Decoded::Piece(_) | Decoded::Hungry) | Err(_) => return false,
            }
        }
    }
}

/// What has come and is not decoded.
struct Input {
    bytes: Bytes,
    is_all: bool,
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.bytes.is_empty() && !self.is_all {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(&self.bytes),
        }
    }

    fn consume(&mut self, len: usize) {
        drop(self.bytes.split_to(len));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// What becomes of `raw`, in pieces of so many bytes.
    fn decoded(raw: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let (mut gunzip, mut content, mut left) = (Gunzip::new(), Vec::new(), raw.chunks(piece));
        loop {
            match gunzip.next()? {
                Decoded::Piece(piece) => {
                    assert!(piece.len() <= PIECE);
                    content.extend_from_slice(&piece);
                }
                Decoded::Hungry => match left.next() {
                    Some(piece) => gunzip.feed(Bytes::copy_from_slice(piece)),
                    None => gunzip.end(),
                },
                Decoded::End => return Ok(content),
            }
        }
    }

    #[test]
    fn pieces_of_any_length_are_decoded() {
        let content: Vec<u8> = (0..300_000_u32).map(|index| (index % 251) as u8).collect();
        let members = [gzip(&content[..100_000]), gzip(b""), gzip(&content[100_000..])].concat();
        for raw in [gzip(&content), members] {
            for piece in [1, 7, 1000, raw.len()] {
                assert!(decoded(&raw, piece).unwrap() == content, "{piece}");
            }
            for cut in [1, 9, 20, raw.len() - 1] {
                assert!(decoded(&raw[..cut], 7).is_err(), "{cut}");
            }
        }
        assert!(decoded(b"0123456789", 7).is_err());
    }

    #[test]
    fn all_ends_where_a_piece_is_not_welcome() {
        let raw: Bytes = gzip(&vec![0; 10 * PIECE]).into();
        for (welcome, expected) in [(10, true), (9, false)] {
            let mut seen = 0;
            let take = |_: &[u8]| {
                seen += 1;
                seen <= welcome
            };
            assert_eq!(Gunzip::all(raw.clone(), take), expected);
        }
        assert!(!Gunzip::all(raw.slice(..raw.len() - 1), |_| true));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end(raw in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), piece in 1..50_usize) {
            let raw = [&[0x1f, 0x8b, 8][..], &raw].concat();
            let _ = decoded(&raw, piece);
        }
    }
}
