//! The records of a manifest's file (pure): what several upstreams gave for one digest, such as a media type or
//! signatures that the digest does not cover.
//!
//! A single record is the whole file. Each of several records follows a line with its length.

use std::ops::Range;

/// The longest file, in bytes: the largest manifest with its first line.
pub(super) const MAX_FILE_LEN: u64 = 16 * 1024 * 1024 + 16 * 1024;
/// Precedes the length of a record.
const MARK: &[u8] = b"@@";
/// How many records a file has at most, one for each upstream.
const MAX_RECORDS: usize = 16;

/// Where the records of a file are. The last one may be truncated.
pub(super) fn records(file: &[u8]) -> Vec<Range<usize>> {
    if !file.starts_with(MARK) {
        return Vec::from([Range { start: 0, end: file.len() }]);
    }
    let mut records = Vec::new();
    let mut at = 0;
    while at < file.len() && records.len() < MAX_RECORDS {
        let Some((start, len)) = length(&file[at..]) else { break };
        let start = at + start;
        let end = start.saturating_add(len).min(file.len());
        records.push(start..end);
        at = end;
    }
    records
}

/// Where the record begins after the line with its length, and its length.
fn length(file: &[u8]) -> Option<(usize, usize)> {
    let rest = file.strip_prefix(MARK)?;
    let line_end = rest.iter().position(|&byte| byte == b'\n')?;
    let length = std::str::from_utf8(&rest[..line_end]).ok()?.parse().ok()?;
    Some((MARK.len() + line_end + 1, length))
}

/// Adds an upstream's record to a file, and drops the oldest records of other upstreams that do not fit.
pub(super) fn with(file: &[u8], upstream: &str, record: Vec<u8>) -> Vec<u8> {
    // An upstream has one record, whatever its URLs are.
    let is_own = |rest: &[u8]| {
        rest.strip_prefix(upstream.as_bytes()).is_some_and(|rest| rest.starts_with(b"@") || rest.starts_with(b" "))
    };
    let of_another = |other: &&[u8]| other.strip_prefix(b"@").is_some_and(|rest| !is_own(rest));
    let others: Vec<&[u8]> = records(file).into_iter().map(|range| &file[range]).filter(of_another).collect();
    let mut kept: Vec<&[u8]> = others.into_iter().rev().take(MAX_RECORDS - 1).rev().collect();
    kept.push(&record);
    let size = |records: &[&[u8]]| records.iter().map(|record| framed(record).len() as u64).sum::<u64>();
    while kept.len() > 1 && size(&kept) > MAX_FILE_LEN {
        kept.remove(0);
    }
    if kept.len() > 1 { kept.into_iter().flat_map(framed).collect() } else { record }
}

fn framed(record: &[u8]) -> Vec<u8> {
    [MARK, record.len().to_string().as_bytes(), b"\n", record].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(file: &[u8]) -> Vec<String> {
        records(file).into_iter().map(|range| String::from_utf8_lossy(&file[range]).into_owned()).collect()
    }

    #[test]
    fn each_upstream_has_one_record_beside_those_of_others() {
        let one = with(b"", "a", b"@a x/y\none".to_vec());
        assert_eq!(one, b"@a x/y\none");
        let two = with(&one, "b", b"@b x/y\ntwo".to_vec());
        assert_eq!(texts(&two), ["@a x/y\none", "@b x/y\ntwo"]);
        let three = with(&two, "a", b"@a x/y\nthree".to_vec());
        assert_eq!(texts(&three), ["@b x/y\ntwo", "@a x/y\nthree"]);
        assert_eq!(texts(&with(&three, "c", b"@c x/y\n@@1\n".to_vec())).len(), 3);
        // The earlier record of the upstream has other URLs, or none.
        let renewed = with(&two, "a", b"@a@11,22 x/y\nnew".to_vec());
        assert_eq!(texts(&renewed), ["@b x/y\ntwo", "@a@11,22 x/y\nnew"]);
        assert_eq!(texts(&with(&renewed, "a", b"@a@33 x/y\nnewer".to_vec())), ["@b x/y\ntwo", "@a@33 x/y\nnewer"]);
        assert_eq!(texts(&with(&two, "", b"@ x/y\nempty".to_vec())).len(), 3, "the name is no prefix of the others");
        // A file of an earlier version does not say which upstream it is from.
        assert_eq!(with(b"x/y\nold", "a", b"@a x/y\nnew".to_vec()), b"@a x/y\nnew");
        let mut many = Vec::new();
        for number in 0..100 {
            many = with(&many, &number.to_string(), format!("@{number} x/y\n").into_bytes());
        }
        assert_eq!((texts(&many).len(), texts(&many).pop().as_deref()), (MAX_RECORDS, Some("@99 x/y\n")));
        let large = |name: &str| [format!("@{name} x/y\n").as_bytes(), &vec![b'x'; 9 << 20]].concat();
        assert_eq!(with(&large("a"), "b", large("b")), large("b"), "two do not fit into one file");
    }

    proptest! {
        #[test]
        fn any_file_has_records_within_it(file in prop::collection::vec(any::<u8>(), 0..60), front in "(@@[0-9]{0,21}\n?)?") {
            let file = [front.as_bytes(), &file].concat();
            for range in records(&file) {
                prop_assert!(range.start <= range.end && range.end <= file.len());
            }
        }
    }
}
