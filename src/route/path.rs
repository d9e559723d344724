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
    // Nearly every path. One look at its bytes takes the place of the decoder and of the two checks of characters.
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'%' && byte != b'\\');
    let decoded = match is_plain {
        true => Cow::Borrowed(path),
        false => percent_decode_str(path).decode_utf8().map_err(|_| invalid("the path is not UTF-8"))?,
    };
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
    if !is_plain && decoded.contains('%') {
        return Err(invalid("the path is encoded twice"));
    }
    if !is_plain && decoded.contains(|character: char| character == '\\' || character.is_control()) {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(path: &str) -> Result<(Option<String>, String), RouteError> {
        split(path).map(|path| (path.prefix().map(str::to_owned), path.below().to_owned()))
    }

    proptest! {
        // Escapes take the way through the decoder.
        #[test]
        fn a_plain_path_means_the_same_with_escapes(path in r"/([a-z.]{0,3}/){0,2}v2/[a-z./:@\\]{0,12}") {
            let escaped: String = path
                .chars()
                .map(|character| if character.is_ascii_alphanumeric() { format!("%{:02X}", character as u32) } else { character.to_string() })
                .collect();
            prop_assert_eq!(parts(&path), parts(&escaped));
        }
    }

    #[test]
    fn characters_that_other_readers_may_change_are_refused() {
        for path in ["/v2/a\\b", "/v2/a%5Cb", "/v2/a\u{7f}b", "/v2/a%00b", "/v2/a%2541b", "/v2/a\u{85}b", "/v2/a%ffb"] {
            assert!(matches!(split(path), Err(RouteError::Name(_))), "{path:?}");
        }
        assert_eq!(parts("/v2/a b/é"), Ok((None, "a b/é".to_owned())));
    }
}
