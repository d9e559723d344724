//! One header block: its fields, and their forms (pure).

use std::ops::Range;

use super::{BLOCK, error::TarError, padding, pax};

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const USER: Range<usize> = 108..116;
const GROUP: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const TIME: Range<usize> = 136..148;
const SUM: Range<usize> = 148..156;
const KIND: usize = 156;
const MAGIC: Range<usize> = 257..263;
const VERSION: Range<usize> = 263..265;
const PREFIX: Range<usize> = 345..500;
/// The magic of POSIX. GNU's has other fields where the prefix is.
const USTAR: &[u8] = b"ustar\0";
/// The largest number of eleven octal digits.
const MAX_OCTAL: u64 = 0o777_7777_7777;
/// The first bit of a number in the base of 256, as GNU tar and Go write large ones.
const BASE_256: u8 = 0x80;

/// The fields that count.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub name: Vec<u8>,
    pub size: u64,
    pub kind: u8,
}

/// The headers of a plain file.
pub(super) fn of_file(name: &str, size: u64) -> Vec<u8> {
    let mut headers = Vec::with_capacity(BLOCK);
    let (is_long, is_large) = (name.len() > NAME.len(), size > MAX_OCTAL);
    if is_long || is_large {
        let mut records = Vec::new();
        if is_long {
            records.extend(pax::record("path", name));
        }
        if is_large {
            records.extend(pax::record("size", &size.to_string()));
        }
        let len = records.len() as u64;
        headers.extend(block(b"extended", len, b'x'));
        headers.extend(records);
        headers.resize(headers.len() + padding(len), 0);
    }
    headers.extend(block(name.as_bytes(), if is_large { 0 } else { size }, b'0'));
    headers
}

/// A header of another kind, without content.
#[cfg(test)]
pub(super) fn special(name: &str, kind: u8, size: u64) -> Vec<u8> {
    block(name.as_bytes(), size, kind).to_vec()
}

fn block(name: &[u8], size: u64, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        block.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
    };
    put(NAME.start, name.get(..NAME.len()).unwrap_or(name));
    put(MODE.start, b"0000644\0");
    put(USER.start, b"0000000\0");
    put(GROUP.start, b"0000000\0");
    put(SIZE.start, format!("{size:011o}\0").as_bytes());
    put(TIME.start, b"00000000000\0");
    put(KIND, &[kind]);
    put(MAGIC.start, USTAR);
    put(VERSION.start, b"00");
    let sum = format!("{:06o}\0 ", sum(&block));
    block.iter_mut().skip(SUM.start).zip(sum.as_bytes()).for_each(|(place, byte)| *place = *byte);
    block
}

impl Header {
    /// Reads a block that is not all zero.
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        if number(&block[SUM]) != Some(u64::from(sum(block))) {
            return Err(TarError::NoHeader);
        }
        let mut name = text(&block[NAME]).to_vec();
        let prefix = text(&block[PREFIX]);
        if block[MAGIC] == *USTAR && !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        let size = number(&block[SIZE]).ok_or(TarError::NoHeader)?;
        Ok(Self { name, size, kind: block[KIND] })
    }
}

/// The sum of all bytes, where those of the sum itself count as spaces.
fn sum(block: &[u8; BLOCK]) -> u32 {
    let counted = |(at, byte): (usize, &u8)| u32::from(if SUM.contains(&at) { b' ' } else { *byte });
    block.iter().enumerate().map(counted).sum()
}

/// What precedes the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, or a number in the base of 256.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & BASE_256 != 0 {
        let digits = std::iter::once(first & !BASE_256).chain(rest.iter().copied());
        return digits.into_iter().try_fold(0_u64, |value, digit| value.checked_mul(256)?.checked_add(digit.into()));
    }
    let digits = std::str::from_utf8(text(field)).ok()?.trim_matches(' ');
    if digits.is_empty() {
        return Some(0);
    }
    digits.bytes().all(|byte| matches!(byte, b'0'..=b'7')).then(|| u64::from_str_radix(digits, 8).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_of_the_base_256() {
        let large = [&[0x80_u8, 0, 0, 0][..], &(1_u64 << 40).to_be_bytes()].concat();
        for (field, expected) in [
            (&b"00000000017\0"[..], Some(15)),
            (b"      17 \0\0\0", Some(15)),
            (b"\0\0\0\0", Some(0)),
            (b"77777777777 ", Some(MAX_OCTAL)),
            (&large, Some(1 << 40)),
            (&[0xff; 12], None),
            (b"8", None),
            (b"-1", None),
            (b"+1", None),
            (b"0x1", None),
            (b"\xc3\0", Some(67 * 256)),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }

    #[test]
    fn a_prefix_counts_in_the_format_of_posix_alone() {
        let with = |magic: &[u8]| {
            let mut block = block(b"name", 3, b'0');
            block[MAGIC].copy_from_slice(magic);
            block[PREFIX.start..PREFIX.start + 3].copy_from_slice(b"dir");
            let sum = format!("{:06o}\0 ", sum(&block));
            block[SUM].copy_from_slice(sum.as_bytes());
            Header::parse(&block).unwrap()
        };
        assert_eq!(with(USTAR), Header { name: b"dir/name".to_vec(), size: 3, kind: b'0' });
        assert_eq!(with(b"ustar ").name, b"name");
    }
}
