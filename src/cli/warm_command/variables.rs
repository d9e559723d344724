//! Variables in compose files: `$X`, `${X}`, `${X:-default}` and the like (pure).
//!
//! Source: Compose specification, "Interpolation".

/// How deep a default may have variables of its own.
const MAX_DEPTH: usize = 8;
/// The longest text that comes of one, in bytes.
const MAX_LEN: usize = 4096;

/// Why a text has no value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum VariableError {
    #[error("the variable {0} is not set: set it in the environment of this command, or write ${{{0}:-default}}")]
    Unset(String),
    #[error("{name}: {message}")]
    Required { name: String, message: String },
    #[error("{0:?} has a $ that begins no variable; write $$ for the character itself")]
    Syntax(String),
    #[error("its variables lead to a text of more than {MAX_LEN} bytes")]
    TooLong,
}

/// A text with its variables replaced; `value`: that of a variable.
///
/// # Errors
/// A variable is not set and has no default, or the text makes no sense.
pub(super) fn replaced(text: &str, value: &impl Fn(&str) -> Option<String>) -> Result<String, VariableError> {
    replaced_at(text, value, 0)
}

fn replaced_at(text: &str, value: &impl Fn(&str) -> Option<String>, depth: usize) -> Result<String, VariableError> {
    let syntax = || VariableError::Syntax(text.chars().take(80).collect());
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some(braced) = after.strip_prefix('{') {
            let end = closing(braced).filter(|_| depth < MAX_DEPTH).ok_or_else(syntax)?;
            let (inside, after) = braced.split_at(end);
            result.push_str(&braced_value(inside, value, depth)?.ok_or_else(syntax)?);
            rest = after.get(1..).unwrap_or_default();
        } else {
            let (name, after) = after.split_at(name_len(after));
            if name.is_empty() {
                return Err(syntax());
            }
            result.push_str(&value(name).ok_or_else(|| VariableError::Unset(name.to_owned()))?);
            rest = after;
        }
        if result.len() > MAX_LEN {
            return Err(VariableError::TooLong);
        }
    }
    result.push_str(rest);
    if result.len() > MAX_LEN { Err(VariableError::TooLong) } else { Ok(result) }
}

/// The value of what stands between `${` and `}`; `None`: it makes no sense.
fn braced_value(
    inside: &str,
    value: &impl Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<Option<String>, VariableError> {
    let (name, rest) = inside.split_at(name_len(inside));
    if name.is_empty() {
        return Ok(None);
    }
    let found = value(name);
    let given = found.clone().filter(|value| !value.is_empty());
    let operator = ["", ":-", "-", ":?", "?", ":+", "+"].into_iter().rfind(|operator| match *operator {
        "" => rest.is_empty(),
        operator => rest.starts_with(operator),
    });
    let Some(operator) = operator else { return Ok(None) };
    let word = rest.get(operator.len()..).unwrap_or_default();
    let default = |found: Option<String>| match found {
        Some(found) => Ok(Some(found)),
        None => replaced_at(word, value, depth + 1).map(Some),
    };
    let required = |found: Option<String>| {
        let message = if word.is_empty() { "it is required".to_owned() } else { word.chars().take(200).collect() };
        found.map(Some).ok_or(VariableError::Required { name: name.to_owned(), message })
    };
    let alternative = |found: Option<String>| match found {
        Some(_) => replaced_at(word, value, depth + 1).map(Some),
        None => Ok(Some(String::new())),
    };
    match operator {
        "" => found.map(Some).ok_or_else(|| VariableError::Unset(name.to_owned())),
        ":-" => default(given),
        "-" => default(found),
        ":?" => required(given),
        "?" => required(found),
        ":+" => alternative(given),
        _ => alternative(found),
    }
}

/// Where the brace ends that was opened before this text.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' if open == 0 => return Some(index),
            b'}' => open -= 1,
            _ => {}
        }
    }
    None
}

fn name_len(text: &str) -> usize {
    let is_first = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    match text.as_bytes().first().filter(|byte| is_first(byte)) {
        Some(_) => text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count(),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replace(text: &str) -> Result<String, String> {
        let value = |name: &str| match name {
            "TAG" => Some("22".to_owned()),
            "EMPTY" => Some(String::new()),
            "LONG" => Some("x".repeat(MAX_LEN)),
            _ => None,
        };
        replaced(text, &value).map_err(|error| error.to_string())
    }

    #[test]
    fn variables_are_replaced_as_compose_does() {
        for (text, expected) in [
            ("node:22", "node:22"),
            ("node:$TAG", "node:22"),
            ("node:${TAG}-slim", "node:22-slim"),
            ("$TAG.$TAG", "22.22"),
            ("a$$b", "a$b"),
            ("${NONE:-18}", "18"),
            ("${NONE-18}", "18"),
            ("${EMPTY:-18}", "18"),
            ("x${EMPTY-18}", "x"),
            ("${TAG:-18}", "22"),
            ("${NONE:-ghcr.io/o/a:${TAG}}", "ghcr.io/o/a:22"),
            ("${NONE:-}", ""),
            ("${TAG:+set}", "set"),
            ("${EMPTY:+set}${EMPTY+set}", "set"),
            ("${TAG?needed}${TAG:?needed}", "2222"),
        ] {
            assert_eq!(replace(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_refused_clearly() {
        for (text, expected) in [
            (
                "node:$NONE",
                "the variable NONE is not set: set it in the environment of this command, or write ${NONE:-default}",
            ),
            ("node:${NONE}", "the variable NONE is not set"),
            ("${NONE:?say which}", "NONE: say which"),
            ("${EMPTY:?}", "EMPTY: it is required"),
            ("${NONE:-$OTHER}", "the variable OTHER is not set"),
            ("node:$", "has a $ that begins no variable"),
            ("node:$1", "has a $ that begins no variable"),
            ("${TAG", "has a $ that begins no variable"),
            ("${}", "has a $ that begins no variable"),
            ("${TAG!}", "has a $ that begins no variable"),
            ("$LONG$TAG", "more than 4096 bytes"),
        ] {
            let error = replace(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = format!("{}x{}", "${NONE:-".repeat(1000), "}".repeat(1000));
        assert!(replace(&deep).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_replaced_or_refused_without_a_panic(text in "[${}A-Z:?+é-]{0,60}") {
            let _ = replace(&text);
        }
    }
}
