//! Decodes a gzip stream piece by piece.
//!
//! What must hold: no more than one piece is decoded at a time, whatever the bytes are.

use std::io::{self, BufRead, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

/// The length of a piece, in bytes: decoding takes a fifth of a millisecond, which a serving thread may spend.
const PIECE: usize = 64 * 1024;

/// The decoder of one body.
pub(in crate::upstream) struct Gunzip(MultiGzDecoder<Input>);

#[derive(Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Decoded {
    Piece(Bytes),
    /// More encoded bytes are needed.
    Hungry,
    End,
}

impl Gunzip {
    pub(in crate::upstream) fn new() -> Self {
        Self(MultiGzDecoder::new(Input { bytes: Bytes::new(), is_all: false }))
    }

    /// Adds encoded bytes, after `Hungry`.
    pub(in crate::upstream) fn feed(&mut self, bytes: Bytes) {
        self.0.get_mut().bytes = bytes;
    }

    /// The encoded bytes have ended.
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

    /// Decodes all of `raw`; false if it is no gzip, or `take` rejects a piece.
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

/// Encoded bytes that are not decoded yet.
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

    /// Decodes `raw`, fed in pieces of this length.
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
    fn decoding_ends_when_a_piece_is_rejected() {
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
