//! Texts as values of the languages that clients are configured in.

/// A string of JSON, and one of YAML: all that JSON escapes, YAML reads in the same way.
///
/// Source: YAML 1.2.2 section 5.7.
pub(super) fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A string of TOML, also as a key.
///
/// Source: TOML 1.0, "String": the escapes of JSON are escapes of TOML; of what JSON leaves, TOML refuses U+007F.
pub(super) fn toml(text: &str) -> String {
    json(text).replace('\u{7f}', "\\u007f")
}

/// A word of a shell command.
pub(super) fn shell(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_word_of_the_shell_is_quoted_where_it_must_be() {
        for (text, word) in [
            ("mirror.lan:5000/ghcr.io/REPOSITORY:TAG", "mirror.lan:5000/ghcr.io/REPOSITORY:TAG"),
            ("[::1]:5000", "'[::1]:5000'"),
            ("a'; reboot; '", "'a'\\''; reboot; '\\'''"),
            ("", "''"),
        ] {
            assert_eq!(shell(text), word);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_back_as_it_was(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&json(&text)).unwrap(), text.clone());
            let table: toml::Table = format!("{} = {}", toml(&text), toml(&text)).parse().unwrap();
            prop_assert_eq!(table[&text].as_str(), Some(&*text));
        }
    }
}
