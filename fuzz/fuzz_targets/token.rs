//! Responses of token realms: whatever a realm sends, a token fits into one header, and is used for no longer than a
//! day.

#![no_main]

use std::time::Duration;

use forebay::upstream::token_exchange::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(token) = parse(data) else { return };
    let authorization = token.authorization();
    assert!(authorization.is_sensitive());
    let bytes = authorization.as_bytes();
    assert!(bytes.starts_with(b"Bearer ") && bytes.len() > 7);
    assert!(!bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    assert!(!token.usable().is_zero() && token.usable() <= Duration::from_secs(24 * 60 * 60));
});
