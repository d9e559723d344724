//! The text of the file, and where each key is in it.
//!
//! The sections are deserialised into plain values, so that no value carries its span around. A check that finds a
//! wrong value knows its key, and this module finds the line. The TOML parser knows the place of its error, and this
//! module finds the key.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::error::{Error, Key, Position};

/// A configuration file's text with its keys located.
pub(super) struct Document<'a> {
    file: Option<&'a Path>,
    text: &'a str,
    /// Every key that is written down, outer before inner; of equal spans the last is the innermost.
    keys: Vec<(Key, Range<usize>)>,
}

impl<'a> Document<'a> {
    /// `file` is None when there is no file; `text` is then empty.
    pub(super) fn new(file: Option<&'a Path>, text: &'a str) -> Self {
        // If the text is no TOML, the keys before the error are located; `parse` reports the error.
        let (table, _) = DeTable::parse_recoverable(text);
        let mut keys = Vec::new();
        locate(table.get_ref(), &Key::new(""), &mut keys);
        Self { file, text, keys }
    }

    /// Reads the whole document.
    ///
    /// # Errors
    /// The text is no TOML, or has an unknown key or a value of the wrong type or form.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        toml::from_str(self.text).map_err(|error| {
            let start = error.span().map(|span| span.start);
            Error {
                file: self.file.map(Path::to_owned),
                position: start.map(|start| self.position(start)),
                key: start.and_then(|start| self.key_at(start)),
                problem: error.message().trim_end().replace('\n', ", "),
            }
        })
    }

    /// An error about the value of `key`, placed at the key or, if the file does not have it, at the key's section.
    pub(super) fn error(&self, key: &Key, problem: impl Into<String>) -> Error {
        let problem = problem.into();
        if key.is_flag() {
            return Error { file: None, position: None, key: Some(key.clone()), problem };
        }
        let mut place = Some(key.clone());
        let position = loop {
            let Some(candidate) = place else { break None };
            if let Some(span) = self.span(&candidate) {
                break Some(self.position(span.start));
            }
            place = candidate.parent();
        };
        Error { file: self.file.map(Path::to_owned), position, key: Some(key.clone()), problem }
    }

    /// Resolves a path of the file: a relative path is relative to the file.
    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        match self.file.and_then(Path::parent) {
            Some(directory) => directory.join(path),
            None => path.to_owned(),
        }
    }

    fn span(&self, key: &Key) -> Option<&Range<usize>> {
        self.keys.iter().find(|(known, _)| known == key).map(|(_, span)| span)
    }

    /// The innermost key at a byte offset, or else the key that ends there: the parser reports what a value lacks at
    /// its end behind the value.
    fn key_at(&self, offset: usize) -> Option<Key> {
        let at = |offset: usize| {
            let around = self.keys.iter().rev().filter(move |(_, span)| span.contains(&offset));
            around.min_by_key(|(_, span)| span.len()).map(|(key, _)| key.clone())
        };
        at(offset).or_else(|| at(offset.checked_sub(1)?)).or_else(|| self.key_of_line(offset))
    }

    /// The key that the line of a byte offset seems to set, if the parser could not read the line: the name before `=`,
    /// in the table of the last header above.
    fn key_of_line(&self, offset: usize) -> Option<Key> {
        let start = self.text.get(..offset)?.rfind('\n').map_or(0, |end| end + 1);
        let (name, _) = self.text[start..].lines().next()?.split_once('=')?;
        let uncommented = self.text[..start].lines().map(|line| line.split('#').next().unwrap_or(line).trim());
        let mut headers = uncommented.filter(|line| line.starts_with('['));
        let table = match headers.next_back() {
            Some(header) => {
                let name = Key::new(header.trim_matches(['[', ']']));
                let before = headers.filter(|other| *other == header).count();
                if header.starts_with("[[") { name.item(before) } else { name }
            }
            None => Key::new(""),
        };
        Some(table.field(name.trim()))
    }

    fn position(&self, offset: usize) -> Position {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        Position { line: before.matches('\n').count() + 1, column: before[start..].chars().count() + 1 }
    }
}

fn locate(table: &DeTable<'_>, parent: &Key, keys: &mut Vec<(Key, Range<usize>)>) {
    for (name, value) in table {
        let key = parent.field(name.get_ref());
        let span = match value.get_ref() {
            // The span of a `[table]` is that of its header, and the key of the table may stand in another header.
            DeValue::Table(_) => value.span(),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => value.span(),
            _ => name.span().start..value.span().end,
        };
        locate_value(value.get_ref(), key, span, keys);
    }
}

fn locate_value(value: &DeValue<'_>, key: Key, span: Range<usize>, keys: &mut Vec<(Key, Range<usize>)>) {
    keys.push((key.clone(), span));
    match value {
        DeValue::Table(table) => locate(table, &key, keys),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                locate_value(item.get_ref(), key.item(index), item.span(), keys);
            }
        }
        _ => {}
    }
}
