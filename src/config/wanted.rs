//! What to write where a value has the wrong type (pure).

use serde::de::Unexpected;

use super::{
    error::{Key, Place},
    node::{Node, Value},
    schema::{Kind, Schema},
    suggest::{alternatives, closest},
};

/// A value as the operator wrote it.
pub(super) struct Written<'a> {
    pub key: &'a Key,
    pub node: &'a Node,
}

impl Written<'_> {
    /// How to write another value here. `value` is TOML; a variable has no quotes.
    fn assign(&self, value: &str) -> String {
        match &self.node.place {
            Place::Variable(name) => format!("{name}={}", value.trim_matches('"')),
            _ if self.key.as_str().ends_with(']') => value.to_owned(),
            _ => format!("{} = {value}", self.key.name()),
        }
    }

    /// The value in plain words.
    fn found(&self) -> String {
        match &self.node.value {
            Value::Text(text) => format!("{text:?}"),
            Value::Integer(number, _) | Value::Float(number) => number.clone(),
            Value::Boolean(value) => value.to_string(),
            Value::Date(_) => "a date".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a section".to_owned(),
        }
    }

    /// The text of a value that has to be text.
    fn quoted(&self) -> Option<String> {
        match &self.node.value {
            Value::Integer(text, _) | Value::Float(text) | Value::Date(text) => Some(format!("{text:?}")),
            Value::Boolean(value) => Some(format!("\"{value}\"")),
            _ => None,
        }
    }
}

pub(super) fn boolean(written: &Written<'_>) -> String {
    let meant = match &written.node.value {
        Value::Text(text) => truth(text),
        Value::Integer(_, Some(number)) => truth(&number.to_string()),
        _ => None,
    };
    match (meant, written.node) {
        (Some(meant), Node { value: Value::Text(_), place: Place::File { .. } }) => {
            format!("write {}, without quotes", written.assign(meant))
        }
        (Some(meant), _) => format!("write {}", written.assign(meant)),
        (None, _) => format!("must be true or false, not {}", written.found()),
    }
}

/// The boolean that a word means to people.
pub(super) fn truth(word: &str) -> Option<&'static str> {
    match word.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some("true"),
        "false" | "no" | "off" | "0" => Some("false"),
        _ => None,
    }
}

pub(super) fn number(written: &Written<'_>) -> String {
    match &written.node.value {
        Value::Text(text) if text.trim().parse::<u64>().is_ok() => {
            format!("write {}, without quotes", written.assign(text.trim()))
        }
        _ => format!("must be a whole number, not {}", written.found()),
    }
}

pub(super) fn text(written: &Written<'_>) -> String {
    match (&written.node.value, written.quoted()) {
        (_, Some(quoted)) => format!("write {}, in quotes", written.assign(&quoted)),
        (Value::List(items), None) => match items.as_slice() {
            [Node { value: Value::Text(text), .. }] => {
                format!("write {}, without brackets: there can be only one", written.assign(&format!("{text:?}")))
            }
            _ => "must be one text in quotes, not a list".to_owned(),
        },
        _ => format!("must be text in quotes, not {}", written.found()),
    }
}

pub(super) fn choice(written: &Written<'_>, variants: &[&str]) -> String {
    let must = format!("must be {}", alternatives(variants));
    match &written.node.value {
        Value::Text(text) => match closest(text, variants.iter().copied()) {
            Some(meant) => format!("{must}, not {text:?}; did you mean {meant:?}?"),
            None => format!("{must}, not {text:?}"),
        },
        _ => format!("{must}, not {}", written.found()),
    }
}

/// A list is wanted, and a table is there.
pub(super) fn list(written: &Written<'_>, schema: &Schema) -> String {
    match schema.kind(&without_indices(written.key)) {
        Some(Kind::Sections) => {
            format!("write {}, with two brackets: there may be several", schema.header(&without_indices(written.key)))
        }
        _ => format!("must be a list, such as {} = [\"…\"], not a section", written.key.name()),
    }
}

/// A section is wanted, and another value is there.
pub(super) fn section(written: &Written<'_>, schema: &Schema) -> String {
    let header = schema.header(&without_indices(written.key));
    match &written.node.value {
        Value::List(_) if !header.starts_with("[[") => format!("write {header}, with one bracket: there is only one"),
        Value::Text(text) if schema.kind(&format!("{}.name", without_indices(written.key))).is_some() => {
            format!("write {header}, and below it name = {text:?}")
        }
        _ => format!("is a section: write {header}, and its keys below it"),
    }
}

/// The path of a key in the schema.
pub(super) fn without_indices(key: &Key) -> String {
    let parts = key.as_str().split('.').map(|part| part.split_once('[').map_or(part, |(name, _)| name));
    parts.collect::<Vec<_>>().join(".")
}

/// A value in plain words, where its reader does not say which type it wants before it sees the value.
pub(super) fn found(value: Unexpected<'_>) -> String {
    match value {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Float(number) => number.to_string(),
        Unexpected::Str(text) => format!("{text:?}"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map | Unexpected::StructVariant => "a section".to_owned(),
        _ => "this value".to_owned(),
    }
}
