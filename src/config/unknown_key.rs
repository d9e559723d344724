//! What is said of a key that does not exist (pure).

use super::{
    error::Key,
    node::{Node, Value},
    schema::{Kind, Schema},
    suggest::closest,
    wanted::without_indices,
};

/// Names of other programs, or of what people try first, and the key that they mean.
const ALSO_CALLED: [(&str, &str); 13] = [
    ("url", "urls"),
    ("endpoint", "urls"),
    ("mirror", "urls"),
    ("remoteurl", "urls"),
    ("alias", "aliases"),
    ("user", "username"),
    ("address", "listen"),
    ("addr", "listen"),
    ("bind", "listen"),
    ("cert", "certificate"),
    ("path", "directory"),
    ("dir", "directory"),
    ("size", "max_size"),
];

/// Names under which people write a password into the file.
const SECRETS: [&str; 5] = ["password", "passwd", "pass", "token", "secret"];

/// What is said of such a key.
pub(super) const NO_PASSWORD: &str =
    "passwords are not written here; put it into a file and name it: password_file = \"hub.password\"";

/// Whether a key of this name would be a password: its value is never repeated.
pub(super) fn is_secret(name: &str) -> bool {
    SECRETS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

/// Why `name` is no key of `section`, whose keys are `fields`, and what may be meant.
pub(super) fn explain(section: &Key, name: &str, is_section: bool, fields: &[&str], schema: &Schema) -> String {
    let lower = name.to_ascii_lowercase();
    if is_secret(name) && fields.contains(&"password_file") {
        return NO_PASSWORD.to_owned();
    }
    let also = ALSO_CALLED.iter().find(|(called, meant)| *called == lower && fields.contains(meant));
    let longer =
        || fields.iter().copied().find(|field| field.strip_prefix(&lower).is_some_and(|rest| rest.starts_with('_')));
    let meant = also.map(|(_, meant)| *meant).or_else(|| closest(name, fields.iter().copied())).or_else(longer);
    if section.as_str().is_empty() && is_section {
        return match meant.filter(|meant| matches!(schema.kind(meant), Some(Kind::Section | Kind::Sections))) {
            Some(meant) => format!("unknown section; did you mean {}?", schema.header(meant)),
            None => {
                let sections = fields.iter().filter(|field| is_header(schema, field));
                let headers: Vec<_> = sections.map(|field| schema.header(field)).collect();
                format!("unknown section; there are {}", headers.join(", "))
            }
        };
    }
    if let Some(meant) = meant {
        return format!("unknown key; did you mean {meant}?");
    }
    let elsewhere = schema.headers_with(&lower);
    if !elsewhere.is_empty() {
        return format!("unknown key here; write it below {}", elsewhere.join(" or "));
    }
    if section.as_str().is_empty() {
        return format!("unknown key; above the first section there can be only {}", top(fields, schema));
    }
    format!("unknown key; {} has {}", schema.header(&without_indices(section)), fields.join(", "))
}

/// Whether a value is written as a section, or several.
pub(super) fn is_section(node: &Node) -> bool {
    match &node.value {
        Value::Table(_) => true,
        Value::List(items) => items.iter().any(|item| matches!(item.value, Value::Table(_))),
        _ => false,
    }
}

fn is_header(schema: &Schema, field: &str) -> bool {
    matches!(schema.kind(field), Some(Kind::Section | Kind::Sections))
}

fn top(fields: &[&str], schema: &Schema) -> String {
    let keys = fields.iter().copied().filter(|field| !is_header(schema, field));
    keys.collect::<Vec<_>>().join(", ")
}
