//! `WWW-Authenticate`: the parser reads any header, and never returns more challenges than its bound.

#![no_main]

use forebay::upstream::challenge::{self, Challenge};
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let values: Vec<HeaderValue> =
        data.split(|&byte| byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let challenges = challenge::parse(values.iter());
    assert!(challenges.len() <= 16);
    for challenge in challenges {
        if let Challenge::Bearer(bearer) = challenge {
            assert!(!bearer.realm.is_empty());
        }
    }
});
