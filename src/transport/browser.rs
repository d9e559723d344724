//! Headers that bound what browsers do with a response.

use http::{HeaderMap, HeaderValue, header};

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const SANDBOX: HeaderValue = HeaderValue::from_static("default-src 'none'; sandbox");

/// Keeps a browser from running what an upstream sends (`text/html`, `image/svg+xml`) as a page of forebay's origin.
///
/// Source: Fetch, "X-Content-Type-Options"; Content Security Policy Level 3, "sandbox".
pub fn isolate(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.insert(header::CONTENT_SECURITY_POLICY, SANDBOX);
}
