//! The image that a caller names, and its upstream.

use http::StatusCode;

use super::response::ApiError;
use crate::{
    cache::{Visibility, inventory::ImageName},
    rule,
    upstream::Upstream,
};

/// The image of a name as for docker, and its upstream.
///
/// # Errors
/// It is no name, or not one of a configured upstream.
pub(super) fn named_image<'a>(text: &str, upstreams: &'a [Upstream]) -> Result<(ImageName, &'a Upstream), ApiError> {
    let find = |name: &str| upstreams.iter().find(|upstream| **upstream.name() == *name);
    let full = rule::full_name(text, |name| find(name).is_some());
    let shown: String = text.chars().take(600).collect();
    let refused = |why: String| ApiError::new(StatusCode::BAD_REQUEST, why);
    let name = ImageName::parse(Visibility::Shared, &full);
    let name = name.map_err(|_| refused(format!("{shown:?} is no name of an image, such as node:22")))?;
    let Some(upstream) = find(&name.upstream) else {
        let known: Vec<&str> = upstreams.iter().map(|upstream| &**upstream.name()).collect();
        let known = known.join(", ");
        return Err(refused(format!(
            "{full} is of {}, which is no upstream: add an [[upstream]] of that name; there are {known}",
            name.upstream
        )));
    };
    Ok((ImageName { visibility: Visibility::of(upstream), ..name }, upstream))
}
