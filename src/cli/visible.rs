//! Text that a client or an upstream made up, before a person sees it on a terminal.

use std::fmt::Write as _;

/// Appends JSON, whose strings may have letters that JSON itself need not escape.
pub(super) fn push_visible(line: &mut String, text: &str) {
    for letter in text.chars() {
        if is_deceptive(letter) {
            let _ = write!(line, "\\u{:04x}", u32::from(letter));
        } else {
            line.push(letter);
        }
    }
}

/// Whether a terminal obeys the letter, or a reader of the log takes it for the end or the direction of a line. All of
/// them have one unit in UTF-16.
pub(super) fn is_deceptive(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
