//! A file with what several upstreams said of one digest (pure): signatures, or a type, that the digest does not cover.
//!
//! One record is the file as it is. Of several, each has its length before it, on a line of its own.

use std::ops::Range;

use super::Content;

/// Before the length of a record.
const MARK: &[u8] = b"@@";
/// How many upstreams' records one file has.
const MAX_RECORDS: usize = 16;

/// Where the records of a file are; the last one may be cut.
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

/// Where the record begins behind its length, and that.
fn length(file: &[u8]) -> Option<(usize, usize)> {
    let rest = file.strip_prefix(MARK)?;
    let line_end = rest.iter().position(|&byte| byte == b'\n')?;
    let length = std::str::from_utf8(&rest[..line_end]).ok()?.parse().ok()?;
    Some((MARK.len() + line_end + 1, length))
}

/// A file with an upstream's record, and those of the others before it as far as they fit.
pub(super) fn with(file: &[u8], upstream: &str, record: Vec<u8>) -> Vec<u8> {
    // Whatever URLs it had: of those that have its name one record is enough.
    let by_this = |rest: &[u8]| {
        rest.strip_prefix(upstream.as_bytes()).is_some_and(|rest| rest.starts_with(b"@") || rest.starts_with(b" "))
    };
    let of_another = |other: &&[u8]| other.strip_prefix(b"@").is_some_and(|rest| !by_this(rest));
    let others: Vec<&[u8]> = records(file).into_iter().map(|range| &file[range]).filter(of_another).collect();
    let mut kept: Vec<&[u8]> = others.into_iter().rev().take(MAX_RECORDS - 1).rev().collect();
    kept.push(&record);
    let size = |records: &[&[u8]]| records.iter().map(|record| framed(record).len() as u64).sum::<u64>();
    while kept.len() > 1 && size(&kept) > Content::MAX_FILE_LEN {
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
        // Under its name it had other URLs, or none that were noted.
        let renewed = with(&two, "a", b"@a@11,22 x/y\nnew".to_vec());
        assert_eq!(texts(&renewed), ["@b x/y\ntwo", "@a@11,22 x/y\nnew"]);
        assert_eq!(texts(&with(&renewed, "a", b"@a@33 x/y\nnewer".to_vec())), ["@b x/y\ntwo", "@a@33 x/y\nnewer"]);
        assert_eq!(texts(&with(&two, "", b"@ x/y\nempty".to_vec())).len(), 3, "no name is the front of another");
        // What an earlier forebay kept tells not whose it is.
        assert_eq!(with(b"x/y\nold", "a", b"@a x/y\nnew".to_vec()), b"@a x/y\nnew");
        let mut many = Vec::new();
        for number in 0..100 {
            many = with(&many, &number.to_string(), format!("@{number} x/y\n").into_bytes());
        }
        assert_eq!((texts(&many).len(), texts(&many).pop().as_deref()), (MAX_RECORDS, Some("@99 x/y\n")));
        let large = |name: &str| [format!("@{name} x/y\n").as_bytes(), &vec![b'x'; 9 << 20]].concat();
        assert_eq!(with(&large("a"), "b", large("b")), large("b"), "they do not fit together");
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
