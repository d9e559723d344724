//! One configuration while it is read: the tree of its values, and what is wrong with it so far.
//!
//! The sections are deserialised into plain values, so that no value carries its place around. A check that finds a wrong
//! value knows its key, and the document finds the place.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::de::DeTable;

use super::{
    error::{Error, Key, MAX_MISTAKES, Mistake, Place},
    node::{Node, Text, Value},
    origins::Origins,
    schema::Schema,
    syntax, typed,
    variables::{self, Variables},
};

/// How many mistakes are noted; the first of them in the order of the file are told.
const MAX_NOTED: usize = 10 * MAX_MISTAKES;

/// The values of a file and of variables, with their places.
pub(super) struct Document<'a> {
    file: Option<&'a Path>,
    root: Node,
    warnings: Vec<Mistake>,
    mistakes: RefCell<Vec<Mistake>>,
    /// Lines that could not be read: what stands there is missing in the tree. With each, whether it misleads about those
    /// behind it.
    unread: Vec<(usize, bool)>,
}

impl<'a> Document<'a> {
    /// `file` is None when there is no file; `text` is then empty. `built_in` are the names of the upstreams of a file
    /// without upstreams.
    pub(super) fn new(
        file: Option<&'a Path>,
        text: &str,
        variables: &Variables,
        schema: &Schema,
        built_in: &[&str],
    ) -> Self {
        let (mut root, mut mistakes, mut unread) = (Node::empty(Place::Default), Vec::new(), Vec::new());
        if let Some(file) = file {
            let text = Text::new(file, text);
            let (table, errors) = DeTable::parse_recoverable(text.text);
            root = text.tree(table.get_ref());
            for found in syntax::explain(&text, &errors, &root) {
                unread.push((found.line, found.misleads));
                mistakes.push(found.mistake);
            }
        }
        let findings = variables::amend(&mut root, variables, schema, built_in);
        mistakes.extend(findings.mistakes);
        Self { file, root, warnings: findings.warnings, mistakes: RefCell::new(mistakes), unread }
    }

    /// The sections, with the default of each key whose value is of a wrong type.
    ///
    /// # Errors
    /// What could not be read misleads about the rest: so would checks of what it means.
    pub(super) fn read<T: Default + for<'de> Deserialize<'de>>(&self, schema: &Schema) -> Result<T, Error> {
        let (sections, mistakes) = typed::read(&self.root, schema);
        self.note(mistakes);
        match self.unread.iter().any(|(_, misleads)| *misleads) {
            false => Ok(sections),
            true => Err(self.error_of_all()),
        }
    }

    /// Of many more mistakes than are told, the rest is not noted: each check looks through those that are.
    fn note(&self, mistakes: Vec<Mistake>) {
        let room = MAX_NOTED.saturating_sub(self.mistakes.borrow().len());
        let mistakes = mistakes.into_iter().filter(|mistake| !self.is_of_unread_line(mistake));
        self.mistakes.borrow_mut().extend(mistakes.take(room));
    }

    /// Whether a mistake may come of a line that could not be read.
    fn is_of_unread_line(&self, mistake: &Mistake) -> bool {
        let Some(position) = mistake.position() else { return false };
        self.unread.iter().any(|(line, misleads)| *line == position.line || *misleads && *line < position.line)
    }

    /// An error about the value of `key`, placed at the key or, if it has no value, at its section.
    pub(super) fn error(&self, key: &Key, problem: impl Into<String>) -> Error {
        let problem = problem.into();
        if key.is_flag() {
            return Mistake { place: Place::Flag(key.as_str().into()), key: Some(key.clone()), problem }.into();
        }
        let is_one_value = |list: &Key| self.root.at(list).is_some_and(|node| !matches!(node.value, Value::List(_)));
        let list = key.list();
        // A list of one may be written as its one value.
        let key = if list != *key && is_one_value(&list) { &list } else { key };
        Mistake { place: self.place(key), key: Some(key.clone()), problem }.into()
    }

    /// Notes an error about the value of `key`, so that other checks can go on.
    pub(super) fn refuse(&self, key: &Key, problem: impl Into<String>) {
        self.note(self.error(key, problem).into_mistakes());
    }

    /// The value of `read`; its mistakes are noted, so that other checks can go on.
    pub(super) fn keep<T>(&self, read: Result<T, Error>) -> Option<T> {
        read.map_err(|error| self.note(error.into_mistakes())).ok()
    }

    /// Each item of a list, read with its key, without those that are refused.
    pub(super) fn each<T>(&self, key: &Key, items: &[String], read: impl Fn(&Key, &str) -> Result<T, Error>) -> Vec<T> {
        let items = items.iter().enumerate();
        items.filter_map(|(index, item)| self.keep(read(&key.item(index), item))).collect()
    }

    /// Whether a key, or one below it, has a mistake already: then its value is a default that may mislead other checks.
    pub(super) fn is_refused(&self, key: &Key) -> bool {
        self.mistakes.borrow().iter().any(|mistake| mistake.key.as_ref().is_some_and(|wrong| key.contains(wrong)))
    }

    /// Refuses a key of which a mistake hides what it says: in its value, or in a table that it is in.
    pub(super) fn known(&self, key: &Key) -> Result<(), Error> {
        let mistakes = self.mistakes.borrow();
        let hides = |wrong: &Key| key.contains(wrong) || wrong.contains(key);
        match mistakes.iter().find(|mistake| mistake.key.as_ref().is_some_and(hides)) {
            Some(mistake) => Err(mistake.clone().into()),
            None => Ok(()),
        }
    }

    /// The first mistake in a line that could not be read.
    pub(super) fn unread_mistake(&self) -> Option<Mistake> {
        let is_unread = |line: usize| self.unread.iter().any(|(unread, _)| *unread == line);
        let mistakes = self.mistakes.borrow();
        let of_line = |mistake: &&Mistake| mistake.position().is_some_and(|position| is_unread(position.line));
        mistakes.iter().find(of_line).cloned()
    }

    /// Resolves a path: a relative one is relative to the file, that of a variable to the working directory.
    pub(super) fn resolve(&self, key: &Key, path: &Path) -> PathBuf {
        match (self.place(key), self.file.and_then(Path::parent)) {
            (Place::File { .. }, Some(directory)) => directory.join(path),
            _ => path.to_owned(),
        }
    }

    /// Where the values came from, and what to warn of.
    ///
    /// # Errors
    /// All mistakes, if there are any.
    pub(super) fn finish(self) -> Result<(Origins, Vec<Mistake>), Error> {
        match Error::of(self.mistakes.into_inner()) {
            Some(error) => Err(error),
            None => Ok((Origins::new(self.root), self.warnings)),
        }
    }

    /// The line of a key, counted from 1, if the file has the key.
    pub(super) fn line(&self, key: &Key) -> Option<usize> {
        match self.place(key) {
            Place::File { position: Some(position), .. } => Some(position.line),
            _ => None,
        }
    }

    fn error_of_all(&self) -> Error {
        let mistakes = std::mem::take(&mut *self.mistakes.borrow_mut());
        let unread = || Mistake { place: Place::Default, key: None, problem: "the text is no TOML".to_owned() };
        Error::of(mistakes).unwrap_or_else(|| unread().into())
    }

    fn place(&self, key: &Key) -> Place {
        self.root.place_of(key)
    }
}
