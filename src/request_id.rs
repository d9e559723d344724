//! The id of a client's request: in its response, and in each line of the log that is about it.

use std::{fmt, str::FromStr};

use http::HeaderValue;

/// Identifies a request: the instance, and the number of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    pub instance: u32,
    pub number: u64,
}

impl RequestId {
    pub(crate) fn header(self) -> HeaderValue {
        HeaderValue::from_str(self.text().as_str()).unwrap_or(HeaderValue::from_static(""))
    }

    pub(crate) fn text(self) -> RequestIdText {
        let mut text = RequestIdText { digits: [b'-'; 25], len: 9 };
        let number_len = (u64::BITS - self.number.leading_zeros()).div_ceil(4).max(1) as usize;
        text.len += number_len;
        let (instance, number) = text.digits.split_at_mut(9);
        put_hex(&mut instance[..8], self.instance.into());
        put_hex(&mut number[..number_len], self.number);
        text
    }
}

/// The text is no id of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is eight hexadecimal digits, a dash, and up to sixteen more")]
pub struct RequestIdError;

impl FromStr for RequestId {
    type Err = RequestIdError;

    fn from_str(text: &str) -> Result<Self, RequestIdError> {
        let (instance, number) = text.split_once('-').ok_or(RequestIdError)?;
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if instance.len() != 8 || !is_hex(instance) || !is_hex(number) {
            return Err(RequestIdError);
        }
        let instance = u32::from_str_radix(instance, 16).map_err(|_| RequestIdError)?;
        let number = u64::from_str_radix(number, 16).map_err(|_| RequestIdError)?;
        Ok(Self { instance, number })
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

/// Eight hexadecimal digits, a dash, and at most sixteen more. It takes no allocation, and a tenth of the time of a
/// formatter.
pub(crate) struct RequestIdText {
    digits: [u8; 25],
    len: usize,
}

impl RequestIdText {
    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(&self.digits[..self.len]).unwrap_or_default()
    }
}

/// Writes the lowest digits of a number, as many as there is room for.
fn put_hex(room: &mut [u8], mut number: u64) {
    for digit in room.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_in_the_header_and_in_the_log() {
        for (instance, number, text) in
            [(0, 0, "00000000-0"), (0xbeef, 255, "0000beef-ff"), (u32::MAX, u64::MAX, "ffffffff-ffffffffffffffff")]
        {
            let id = RequestId { instance, number };
            assert_eq!(id.text().as_str(), text);
            assert_eq!(id.header(), text);
            assert_eq!(id.to_string(), text);
            assert_eq!(text.parse(), Ok(id));
        }
    }

    #[test]
    fn other_texts_are_no_ids() {
        for text in ["", "-", "1", "00000000-", "0000000-1", "00000000-11111111111111111", "0000000g-1", "00000000-+1"]
        {
            assert_eq!(text.parse::<RequestId>(), Err(RequestIdError), "{text:?}");
        }
    }
}
