//! The few elements of DER that forebay reads in certificates (pure).

pub(super) const OBJECT: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

/// The bytes after the first such object identifier, which is given without tag and length.
pub(super) fn find<'a>(bytes: &'a [u8], object: &[u8]) -> Option<&'a [u8]> {
    let whole = [&[OBJECT, u8::try_from(object.len()).ok()?][..], object].concat();
    let at = bytes.windows(whole.len()).position(|window| window == whole)?;
    bytes.get(at + whole.len()..)
}

/// The content of the element at the beginning of `bytes`, if it has this tag, and the bytes after it.
pub(super) fn element(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |len, digit| (len << 8) | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    (found == tag).then_some((content, rest))
}
