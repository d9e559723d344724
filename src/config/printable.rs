//! What a message may repeat of the operator's text (pure): nothing that deceives a person, no password of a URL, no megabytes.

use std::borrow::Cow;

use crate::visible::is_deceptive;

/// Longer than any message about a line that a person wrote, in characters.
const MAX_LENGTH: usize = 2_000;

/// A text that is safe to print.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let is_plain = |text: &str| text.len() <= MAX_LENGTH && !text.contains("://") && !text.contains(is_deceptive);
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let end = text.char_indices().nth(MAX_LENGTH).map(|(end, _)| end);
    let mut shown = String::new();
    for character in without_passwords(text.get(..end.unwrap_or(text.len())).unwrap_or_default()).chars() {
        match is_deceptive(character) {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    if end.is_some() {
        shown.push('…');
    }
    Cow::Owned(shown)
}

/// What stands between `://` and `@` in a URL is a user name and a password.
fn without_passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // A password may have any other character in it.
        let url = part.split(['"', '\'', ' ']).next().unwrap_or_default();
        let credentials = url.rfind('@').unwrap_or(0);
        shown.push_str("://");
        shown.push_str(if credentials > 0 { "…" } else { "" });
        shown.push_str(part.get(credentials..).unwrap_or_default());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_repeats_no_password_and_deceives_no_person() {
        for (text, shown) in [
            ("write urls = \"a.b\"", "write urls = \"a.b\""),
            ("not \"https://me:hun/ter2@a.b\"", "not \"https://…@a.b\""),
            ("http://a.b and https://x@y@z, ftp://me@", "http://a.b and https://…@z, ftp://…@"),
            ("\"https://a.b\", mail me@a.b", "\"https://a.b\", mail me@a.b"),
            ("a\u{1b}[31m\nforebay: é\0", "a\\u{1b}[31m\\nforebay: é\\u{0}"),
            ("a\u{202e}b\u{e0041}", "a\\u{202e}b\\u{e0041}"),
            ("://@", "://@"),
        ] {
            assert_eq!(printable(text), shown);
        }
        let long = printable(&"é".repeat(100_000)).into_owned();
        assert_eq!(long.chars().count(), MAX_LENGTH + 1);
    }
}
