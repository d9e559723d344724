//! Texts in which `*` stands for any run of characters.

/// A text in which `*` matches any run of characters, also none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob(Box<str>);

impl Glob {
    pub(super) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole text matches.
    ///
    /// What stands between two `*` is taken where it is found first: a later place leaves less for the rest. The search of
    /// `str` is linear, and each begins behind the last one, so the time is that of reading both texts.
    pub(super) fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|front| text.strip_prefix(front)) else { return false };
        let Some(end) = parts.next_back() else { return rest.is_empty() };
        let Some(middle) = rest.strip_suffix(end) else { return false };
        rest = middle;
        parts.all(|part| match rest.split_once(part) {
            Some((_, behind)) => {
                rest = behind;
                true
            }
            None => false,
        })
    }

    /// Whether a text that begins with `front` can match.
    pub(super) fn may_begin_with(&self, front: &str) -> bool {
        let pattern = self.0.as_bytes();
        // All places in the pattern that the text read so far may lead to.
        let mut places = vec![false; pattern.len() + 1];
        let enter = |places: &mut [bool], from: usize| {
            for (place, byte) in places.iter_mut().zip(pattern.iter().map(Some).chain([None])).skip(from) {
                *place = true;
                if byte != Some(&b'*') {
                    break;
                }
            }
        };
        enter(&mut places, 0);
        for byte in front.bytes() {
            let mut next = vec![false; places.len()];
            for (place, wanted) in pattern.iter().enumerate() {
                match wanted {
                    _ if !places[place] => {}
                    b'*' => enter(&mut next, place),
                    wanted if *wanted == byte => enter(&mut next, place + 1),
                    _ => {}
                }
            }
            places = next;
        }
        places.contains(&true)
    }

    /// Whether every text that `other` matches is known to match this, too. `false` if that is not obvious.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let front = self.0.strip_suffix('*').filter(|front| !front.contains('*'));
        self == other || front.is_some_and(|front| other.0.starts_with(front))
    }

    /// Whether a text that matches still matches with anything behind it.
    pub(super) fn is_open(&self) -> bool {
        self.0.ends_with('*')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a glob means: a star matches nothing, or one more character.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], text) => model(rest, text) || (!text.is_empty() && model(pattern, &text[1..])),
            ([wanted, rest @ ..], [byte, text @ ..]) => wanted == byte && model(rest, text),
            _ => false,
        }
    }

    #[test]
    fn a_star_is_any_run_of_characters() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "a/b:c", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*b*c", "a/b/b/c", true),
            ("a*b*c", "acb", false),
            ("**a**", "bab", true),
            ("docker.io/library/*:v*", "docker.io/library/x/y:v1", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_long_text_is_searched_once() {
        // Trying again behind each letter would take billions of steps.
        let (len, letters) = (1 << 17, "a".repeat(1 << 16));
        let text = "a".repeat(len);
        for (pattern, expected) in [
            (format!("*{letters}b*"), false),
            (format!("*{letters}*"), true),
            (format!("{}b*", "*".repeat(len)), false),
            (format!("{}a", "*".repeat(len)), true),
            ("*a".repeat(len), true),
            ("*a".repeat(len + 1), false),
        ] {
            assert_eq!(Glob::new(&pattern).matches(&text), expected, "{}", &pattern[..8]);
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = Glob::new(&"*a".repeat(200));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(400))));
        assert!(pattern.matches(&"a".repeat(400)));
    }

    proptest! {
        #[test]
        fn matches_are_those_of_the_model(pattern in "[ab*]{0,9}", text in "[ab]{0,9}") {
            prop_assert_eq!(Glob::new(&pattern).matches(&text), model(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_text_has_an_answer(pattern in any::<String>(), text in any::<String>()) {
            let glob = Glob::new(&pattern);
            prop_assert!(!glob.matches(&text) || glob.may_begin_with(&text));
            prop_assert!(glob.matches(&pattern));
        }

        #[test]
        fn a_front_is_possible_if_a_text_matches(pattern in "[ab*]{0,6}", front in "[ab]{0,3}") {
            let glob = Glob::new(&pattern);
            let rests = (0..=6u32).flat_map(|len| (0..1u32 << len).map(move |bits| (len, bits)));
            let any = rests.into_iter().any(|(len, bits)| {
                let rest: String = (0..len).map(|bit| if bits >> bit & 1 == 0 { 'a' } else { 'b' }).collect();
                glob.matches(&format!("{front}{rest}"))
            });
            prop_assert_eq!(glob.may_begin_with(&front), any);
        }

        #[test]
        fn what_covers_a_glob_matches_what_it_matches(one in "[ab*]{0,4}", other in "[ab*]{0,4}", text in "[ab]{0,5}") {
            let (one, other) = (Glob::new(&one), Glob::new(&other));
            prop_assert!(!one.covers(&other) || !other.matches(&text) || one.matches(&text));
        }

        #[test]
        fn an_open_glob_matches_whatever_follows(pattern in "[ab*]{0,4}", text in "[ab]{0,4}", rest in "[ab]{0,4}") {
            let glob = Glob::new(&pattern);
            let whole = [&*text, &*rest].concat();
            prop_assert!(!glob.is_open() || !glob.matches(&text) || glob.matches(&whole));
        }
    }
}
