//! `Range` and `Content-Range`: a parsed header prints as itself, and a resolved range lies inside the blob.

#![no_main]

use forebay::oci::{ByteRange, ContentRange};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (total, data) = input;
    if let Some(range) = ByteRange::parse(data) {
        assert_eq!(ByteRange::parse(range.to_string()), Some(range));
        if let Some(resolved) = range.resolve(total) {
            assert!(resolved.first <= resolved.last && resolved.last < total);
            let content_range = resolved.content_range(total);
            assert_eq!(ContentRange::parse(content_range.to_string()), Ok(content_range));
        }
    }
    if let Ok(range) = ContentRange::parse(data) {
        assert!(range.first <= range.last);
        assert_eq!(ContentRange::parse(range.to_string()), Ok(range));
    }
    ContentRange::parse_unsatisfied(data);
});
