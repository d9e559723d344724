//! The headers that tell a browser what the page may do.

use http::{HeaderValue, Response, header};

use crate::registry::body::Body;

/// What a browser may load and run for the page: what comes from this origin.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");

/// Marks a response that forebay made for browsers.
#[derive(Clone, Copy)]
pub(super) struct OfPage;

/// Replaces the sandbox of other responses by the policy of the page, if the response belongs to the page.
pub(in super::super) fn set_policy(response: &mut Response<Body>) {
    if response.extensions_mut().remove::<OfPage>().is_some() {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
        response.headers_mut().insert(header::REFERRER_POLICY, NO_REFERRER);
    }
}
