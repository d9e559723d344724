//! Changes to the text of an htpasswd file; pure.
//!
//! What must hold: comments, empty lines, the lines of other users and the order of all stay byte for byte.

use super::htpasswd::entry;

/// The users and their hashes, in the order of the file.
pub(super) fn users(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| entry(line).flatten())
}

/// The text with this hash for this user: in place of the user's line, or in a new line at the end.
pub(super) fn with(text: &str, user: &str, hash: &str) -> String {
    let mut is_new = true;
    let mut changed = String::with_capacity(text.len() + user.len() + hash.len() + 3);
    for line in text.split_inclusive('\n') {
        if is_of(line, user) {
            is_new = false;
            let end = &line[line.trim_end_matches(['\r', '\n']).len()..];
            changed.extend([user, ":", hash, end]);
        } else {
            changed.push_str(line);
        }
    }
    if is_new {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        changed.extend([end, user, ":", hash, "\n"]);
    }
    changed
}

/// The text without the line of this user.
pub(super) fn without(text: &str, user: &str) -> String {
    text.split_inclusive('\n').filter(|line| !is_of(line, user)).collect()
}

fn is_of(line: &str, user: &str) -> bool {
    entry(line).flatten().is_some_and(|(name, _)| name == user)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_change_touches_no_other_line() {
        let text = "# staff\n\nann:1\n  bob:2  \r\n#ann:old\n";
        for (changed, expected) in [
            (with("", "ann", "9"), "ann:9\n"),
            (with(text, "ann", "9"), "# staff\n\nann:9\n  bob:2  \r\n#ann:old\n"),
            (with(text, "bob", "9"), "# staff\n\nann:1\nbob:9\r\n#ann:old\n"),
            (with(text, "eve", "9"), "# staff\n\nann:1\n  bob:2  \r\n#ann:old\neve:9\n"),
            (with("ann:1", "ann", "9"), "ann:9"),
            (with("ann:1", "eve", "9"), "ann:1\neve:9\n"),
            (without(text, "ann"), "# staff\n\n  bob:2  \r\n#ann:old\n"),
            (without(text, "an"), text),
            (without("ann:1", "ann"), ""),
        ] {
            assert_eq!(changed, expected);
        }
    }

    proptest! {
        #[test]
        fn only_the_line_of_the_user_changes(
            lines in prop::collection::vec("(#|)[ab ]{0,2}(:|)[x]{0,2}", 0..8),
            end in prop::sample::select(&["", "\n", "\r\n"][..]),
            user in "[ab]{1,2}",
        ) {
            let text = lines.join("\n") + end;
            let others = |text: &str| {
                let lines = text.lines().filter(|line| !is_of(line, &user)).map(str::to_owned);
                lines.collect::<Vec<_>>()
            };
            let was_there = users(&text).any(|(name, _)| name == user);
            let (changed, removed) = (with(&text, &user, "9"), without(&text, &user));
            prop_assert_eq!(others(&changed), others(&text));
            prop_assert_eq!(others(&removed), others(&text));
            prop_assert!(users(&changed).filter(|(name, _)| *name == user).all(|(_, hash)| hash == "9"));
            prop_assert!(users(&changed).any(|(name, _)| name == user));
            prop_assert!(users(&removed).all(|(name, _)| name != user));
            if !was_there {
                prop_assert_eq!(&removed, &text);
                let back = without(&changed, &user);
                prop_assert_eq!(back.trim_end(), text.trim_end());
            }
        }
    }
}
