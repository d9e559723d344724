//! Text that a client or an upstream made up, before a person sees it (pure).
//!
//! What must hold: no such text commands a terminal, ends a line of the log, hides in it, or turns it around.

use std::fmt::Write as _;

/// Whether a terminal obeys the letter, or a person does not see it, or takes it for the end or the direction of a line:
/// C0 and C1, line and paragraph separators, marks of direction, and letters without a shape, such as tags and fillers.
/// Source: Unicode Technical Report 36, section 2.5; UAX 9, section 2.
pub fn is_deceptive(letter: char) -> bool {
    let is_format = matches!(
        letter,
        '\u{ad}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    is_format || letter.is_control()
}

/// The text with a question mark in place of each deceptive letter.
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if is_deceptive(letter) { '?' } else { letter }).collect()
}

/// The same of the first letters.
pub fn printable_start(text: &str, letters: usize) -> String {
    let end = text.char_indices().nth(letters).map_or(text.len(), |(end, _)| end);
    printable(text.get(..end).unwrap_or_default())
}

/// Appends JSON, in whose strings may be letters that JSON itself need not escape.
/// Source: RFC 8259, section 7: a letter beyond the first plane is a pair of surrogates.
pub fn push_json(line: &mut String, json: &str) {
    for letter in json.chars() {
        if !is_deceptive(letter) {
            line.push(letter);
            continue;
        }
        for unit in letter.encode_utf16(&mut [0; 2]) {
            // Writing to a string does not fail.
            let _ = write!(line, "\\u{unit:04x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_deceives_a_person_is_told_from_letters() {
        for letter in
            "\0\t\n\r\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{200b}\u{200f}\u{2028}\u{202a}\u{202e}\u{2066}\u{2069}\
             \u{115f}\u{1160}\u{3164}\u{feff}\u{ffa0}\u{1d173}\u{e0000}\u{e0041}\u{e007f}\u{e0100}"
                .chars()
        {
            assert!(is_deceptive(letter), "{letter:?}");
        }
        for letter in " az~é€\u{a0}\u{301}ア漢\u{202f}\u{fe0f}😀".chars() {
            assert!(!is_deceptive(letter), "{letter:?}");
        }
    }

    #[test]
    fn text_for_a_terminal_has_a_mark_where_a_letter_was() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c\u{e0041}é\n"), "a?[2Jb?c?é?");
        assert_eq!(printable_start("é\u{202e}cd", 2), "é?");
        assert_eq!(printable_start("é", 2), "é");
    }

    proptest! {
        #[test]
        fn json_means_the_same_without_deceptive_letters(text in any::<String>(), tag in "[\u{e0000}-\u{e007f}\u{202e}]?") {
            let text = format!("{text}{tag}");
            let mut line = String::new();
            push_json(&mut line, &serde_json::to_string(&text).unwrap());
            prop_assert!(!line.contains(is_deceptive));
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }
    }
}
