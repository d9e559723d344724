//! The tree of values that a configuration consists of, each with its place.

use std::{ops::Range, path::Path, sync::Arc};

use toml::de::{DeTable, DeValue};

use super::error::{Key, Place, Position};

/// The columns behind this one are not told apart: to count the characters in front of each value of a line of 1 MiB
/// would take minutes.
const MAX_COLUMN: usize = 1_000;

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Value,
    pub place: Place,
}

/// A value, as it is written.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    /// The number is `None` if it is too large.
    Integer(String, Option<i128>),
    Float(String),
    Boolean(bool),
    Date(String),
    List(Vec<Node>),
    /// In the order of the names.
    Table(Vec<(String, Node)>),
}

impl Node {
    /// A table without keys.
    pub(super) fn empty(place: Place) -> Self {
        Self { value: Value::Table(Vec::new()), place }
    }

    pub(super) fn text(text: impl Into<String>, place: Place) -> Self {
        Self { value: Value::Text(text.into()), place }
    }

    /// The value of a key below this one.
    pub(super) fn at(&self, key: &Key) -> Option<&Node> {
        let path = key.as_str();
        let steps = path.split(['.', '[']).filter(|_| !path.is_empty());
        steps.into_iter().try_fold(self, |node, step| match &node.value {
            Value::List(items) => items.get(step.strip_suffix(']')?.parse::<usize>().ok()?),
            _ => node.field(step),
        })
    }

    /// The place of a key, or of the innermost section around it that has one.
    pub(super) fn place_of(&self, key: &Key) -> Place {
        let mut around = Some(key.clone());
        while let Some(key) = around {
            if let Some(node) = self.at(&key) {
                return node.place.clone();
            }
            around = key.parent();
        }
        self.place.clone()
    }

    pub(super) fn field(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|(known, _)| known == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Sets a key below this table, and makes the tables on the way. Does nothing where a table would have to replace
    /// another value.
    pub(super) fn set(&mut self, path: &[&str], node: Node) {
        let Value::Table(entries) = &mut self.value else { return };
        let Some((name, rest)) = path.split_first() else { return };
        let index = match entries.iter().position(|(known, _)| known == name) {
            Some(index) => index,
            None => {
                entries.push(((*name).to_owned(), Node::empty(node.place.clone())));
                entries.len() - 1
            }
        };
        let Some((_, entry)) = entries.get_mut(index) else { return };
        if rest.is_empty() { *entry = node } else { entry.set(rest, node) }
    }
}

/// A file's text, and where its lines begin.
pub(super) struct Text<'a> {
    pub file: Arc<Path>,
    pub text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Text<'a> {
    pub(super) fn new(file: &Path, text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect();
        Self { file: file.into(), text, starts }
    }

    /// The place of a byte offset.
    pub(super) fn place(&self, offset: usize) -> Place {
        Place::File { file: self.file.clone(), position: Some(self.position(offset)) }
    }

    fn position(&self, offset: usize) -> Position {
        let line = self.line_at(offset);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        Position { line, column: before.chars().take(MAX_COLUMN - 1).count() + 1 }
    }

    /// The line of a byte offset, counted from 1.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).max(1)
    }

    /// A line without its end, counted from 1; empty if there is none.
    pub(super) fn line(&self, line: usize) -> &'a str {
        let start = line.checked_sub(1).and_then(|index| self.starts.get(index)).copied();
        start.and_then(|start| self.text.get(start..)?.lines().next()).unwrap_or_default()
    }

    /// The tree of a parsed table.
    pub(super) fn tree(&self, table: &DeTable<'_>) -> Node {
        let place = Place::File { file: self.file.clone(), position: None };
        Node { value: self.table(table), place }
    }

    fn table(&self, table: &DeTable<'_>) -> Value {
        let entries = table.iter().map(|(name, value)| {
            let span = match value.get_ref() {
                // The span of a `[table]` is that of its header, and the key of the table may stand in another header.
                DeValue::Table(_) => value.span(),
                DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => value.span(),
                _ => name.span(),
            };
            (name.get_ref().clone().into_owned(), self.node(value.get_ref(), span))
        });
        Value::Table(entries.collect())
    }

    fn node(&self, value: &DeValue<'_>, span: Range<usize>) -> Node {
        let value = match value {
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Integer(number) => {
                Value::Integer(number.to_string(), i128::from_str_radix(number.as_str(), number.radix()).ok())
            }
            DeValue::Float(number) => Value::Float(number.as_str().to_owned()),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.node(item.get_ref(), item.span())).collect())
            }
            DeValue::Table(table) => self.table(table),
        };
        Node { value, place: self.place(span.start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, key: &str) -> Option<(usize, usize)> {
        let source = Text::new(Path::new("f"), text);
        let tree = source.tree(DeTable::parse(text).unwrap().get_ref());
        match &tree.at(&Key::new(key))?.place {
            Place::File { position: Some(Position { line, column }), .. } => Some((*line, *column)),
            place => panic!("{place:?}"),
        }
    }

    #[test]
    fn each_value_knows_its_place() {
        let text = "a = 1\n[b]\n  c = [\n 'é', 2,\n]\n[[d]]\ne.f = true\n[[d]]\ng = { h = 'é', i = 1 }\n";
        for (key, expected) in [
            ("a", Some((1, 1))),
            ("b", Some((2, 1))),
            ("b.c", Some((3, 3))),
            ("b.c[0]", Some((4, 2))),
            ("b.c[1]", Some((4, 7))),
            ("b.c[2]", None),
            ("d[0].e.f", Some((7, 3))),
            ("d[1].g.i", Some((9, 16))),
            ("x", None),
            ("a.b", None),
        ] {
            assert_eq!(place(text, key), expected, "{key}");
        }
    }

    #[test]
    fn a_long_line_has_no_columns_far_to_the_right() {
        let text = format!("a = [{}]", "'é',".repeat(5_000));
        assert_eq!(place(&text, "a[200]"), Some((1, 806)));
        assert_eq!(place(&text, "a[4999]"), Some((1, MAX_COLUMN)));
    }

    #[test]
    fn a_key_is_set_where_tables_are_or_can_be() {
        let mut root = Node::empty(Place::Default);
        let node = || Node::text("x", Place::Default);
        root.set(&["a", "b", "c"], node());
        root.set(&["a", "b"], node());
        root.set(&["a", "b", "c"], node());
        assert!(matches!(&root.at(&Key::new("a.b")).unwrap().value, Value::Text(text) if text == "x"));
        assert!(root.at(&Key::new("a.b.c")).is_none());
        assert!(root.at(&Key::new("")).is_some());
    }
}
