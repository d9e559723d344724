//! Which of the known names an unknown one was meant to be (pure).

/// The known name that is closest to `name`; `None` if none is close.
///
/// Letters that were left out, added, changed or swapped count: a third of the letters at most.
pub(super) fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let name = plain(name);
    let length = name.chars().count();
    let is_close = |distance: usize, known: &str| distance * 3 <= name.len().max(known.len());
    // The distance is at least the difference of the lengths, and takes long to find for a long name.
    let known = known.into_iter().filter(|known| is_close(length.abs_diff(known.chars().count()), known));
    let distances = known.map(|known| (strsim::osa_distance(&name, &plain(known)), known));
    let close = distances.filter(|(distance, known)| is_close(*distance, known));
    close.min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// A list as prose: `"a", "b" or "c"`.
pub(super) fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_close_and_another_word_is_not() {
        let known = ["listen", "max_size", "urls", "tag_ttl", "connections"];
        for (name, expected) in [
            ("lisen", Some("listen")),
            ("listne", Some("listen")),
            ("LISTEN", Some("listen")),
            ("max-size", Some("max_size")),
            ("maxsize", Some("max_size")),
            ("max_sise", Some("max_size")),
            ("url", Some("urls")),
            ("tagttl", Some("tag_ttl")),
            ("conections", Some("connections")),
            ("size", None),
            ("ttl", None),
            ("x", None),
            ("", None),
            ("é", None),
        ] {
            assert_eq!(closest(name, known), expected, "{name}");
        }
    }

    #[test]
    fn alternatives_read_as_prose() {
        for (words, expected) in [(&[][..], ""), (&["a"], "\"a\""), (&["a", "b", "c"], "\"a\", \"b\" or \"c\"")] {
            assert_eq!(alternatives(words), expected);
        }
    }
}
