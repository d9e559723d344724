//! The path of a request: decoded once, checked, and split at `/v2/`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::RouteError;
use crate::oci::ParseError;

/// A path whose components are all harmless, split at its first component `v2`.
#[derive(Debug)]
pub(super) struct Path<'a> {
    decoded: Cow<'a, str>,
    /// Where the component `v2` begins.
    v2: usize,
}

impl Path<'_> {
    /// The last component in front of `/v2/`.
    pub(super) fn prefix(&self) -> Option<&str> {
        let front = self.decoded[..self.v2].strip_suffix('/')?;
        let (_, last) = front.rsplit_once('/')?;
        Some(last)
    }

    /// Everything below `/v2/`; empty for `/v2/` and for `/v2`.
    pub(super) fn below(&self) -> &str {
        self.decoded[self.v2 + "v2".len()..].trim_start_matches('/')
    }
}

/// Decodes and splits a path.
///
/// # Errors
/// `NotFound` when it has no component `v2`; `Name` when another reader could take it for another path.
pub(super) fn split(path: &str) -> Result<Path<'_>, RouteError> {
    let invalid = |why| RouteError::Name(ParseError::Repository(why));
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| invalid("the path is not UTF-8"))?;
    let rest = decoded.strip_prefix('/').ok_or(RouteError::NotFound)?;
    let mut v2 = None;
    let mut offset = 1;
    for component in rest.split('/') {
        if component == "v2" {
            v2 = Some(offset);
            break;
        }
        offset += component.len() + 1;
    }
    let v2 = v2.ok_or(RouteError::NotFound)?;
    if decoded.contains('%') {
        return Err(invalid("the path is encoded twice"));
    }
    if decoded.contains(|character: char| character == '\\' || character.is_control()) {
        return Err(invalid("the path has a backslash or a control character"));
    }
    // The slash at the end belongs to `/v2/` and to `/blobs/uploads/`.
    let ends_open = decoded.len() == v2 + "v2/".len() || decoded.ends_with("/blobs/uploads/");
    let components = if ends_open { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
    if components.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return Err(invalid("the path has an empty component, or one of dots"));
    }
    Ok(Path { decoded, v2 })
}
