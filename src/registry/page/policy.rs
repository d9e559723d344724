//! Which responses get the policy of pages.

use http::Response;

use crate::{html, registry::body::Body};

/// Marks a response that forebay made for browsers.
#[derive(Clone, Copy)]
pub(super) struct OfPage;

/// Replaces the sandbox of other responses by the policy of pages, if the response belongs to the page.
pub(in super::super) fn set_policy(response: &mut Response<Body>) {
    if response.extensions_mut().remove::<OfPage>().is_some() {
        html::set_policy(response.headers_mut());
    }
}
