//! What is wrong with files that are looked at again and again.

use std::fmt::Display;

/// Told once, and only when it was the same on two looks: whoever replaces two files that belong together replaces one
/// of them first.
#[derive(Default)]
pub(crate) struct RepeatedError {
    seen: Option<String>,
    told: bool,
}

impl RepeatedError {
    pub(crate) fn over(&mut self) {
        *self = RepeatedError::default();
    }

    /// Whether this failure is to be told.
    pub(crate) fn is_news(&mut self, failure: &impl Display) -> bool {
        let now = failure.to_string();
        if self.seen.as_ref() != Some(&now) {
            *self = RepeatedError { seen: Some(now), told: false };
            return false;
        }
        !std::mem::replace(&mut self.told, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_look_is_told_of_and_no_other() {
        let mut trouble = RepeatedError::default();
        let told = ["a", "a", "a", "b", "b", "a"].map(|failure| trouble.is_news(&failure));
        assert_eq!(told, [false, true, false, false, true, false]);
        trouble.over();
        assert!(!trouble.is_news(&"a") && trouble.is_news(&"a"));
    }
}
