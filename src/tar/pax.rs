//! The records of an extended header (pure): `LENGTH KEY=VALUE` and a line end, where the length counts the whole record.

/// What an extended header says of the next entry, as far as it counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub path: Option<String>,
    pub size: Option<u64>,
    /// The content has holes that are not in the archive.
    pub is_sparse: bool,
}

/// A record.
pub(super) fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    // The number counts its own digits.
    let mut len = rest.len();
    while len != rest.len() + len.to_string().len() {
        len = rest.len() + len.to_string().len();
    }
    format!("{len}{rest}").into_bytes()
}

/// Reads all records; `None` if they are none.
pub(super) fn parse(mut records: &[u8]) -> Option<Extended> {
    let mut extended = Extended::default();
    while !records.is_empty() {
        let space = records.iter().take(20).position(|byte| *byte == b' ')?;
        let len: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
        let (record, rest) = records.split_at_checked(len)?;
        records = rest;
        let record = std::str::from_utf8(record.get(space + 1..)?.strip_suffix(b"\n")?).ok();
        // A value that is no UTF-8 is of a key that does not count, such as an extended attribute.
        let Some((key, value)) = record.and_then(|record| record.split_once('=')) else { continue };
        match key {
            "path" => extended.path = Some(value.to_owned()),
            "size" => extended.size = Some(value.parse().ok()?),
            key => extended.is_sparse |= key.starts_with("GNU.sparse."),
        }
    }
    Some(extended)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_read_as_they_are_written() {
        assert_eq!(record("path", "a"), b"9 path=a\n");
        let of =
            |path: Option<&str>, size, is_sparse| Some(Extended { path: path.map(str::to_owned), size, is_sparse });
        for (records, expected) in [
            (&b""[..], of(None, None, false)),
            (b"10 path=a\n12 size=123\n", of(Some("a"), Some(123), false)),
            (b"10 path=a\n10 path=b\n", of(Some("b"), None, false)),
            (b"7 x=\xff\xfe\n", of(None, None, false)),
            (b"22 GNU.sparse.major=1\n", of(None, None, true)),
            (b"11 path=a\n", None),
            (b"10 path=a", None),
            (b"8 path=a\n", None),
            (b"0 path=a\n", None),
            (b"-1 path=a\n", None),
            (b"path=a\n", None),
            (b"10 size=x\n", None),
        ] {
            assert_eq!(parse(records), expected, "{}", String::from_utf8_lossy(records));
        }
    }

    proptest! {
        #[test]
        fn any_value_is_read_back(path in "[^\n]{0,1200}", size: u64) {
            let records = [record("path", &path), record("size", &size.to_string())].concat();
            prop_assert_eq!(parse(&records), Some(Extended { path: Some(path), size: Some(size), is_sparse: false }));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
