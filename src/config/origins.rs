//! Where each value of a configuration came from.

use super::{
    error::{Key, Mistake, Place},
    node::Node,
};

/// The place of each key: file, variable, flag, limit, or default.
#[derive(Clone, Debug)]
pub struct Origins {
    root: Node,
    /// What wins over file and variables.
    flags: Vec<(Key, Place)>,
}

impl Origins {
    pub(super) fn new(root: Node) -> Self {
        Self { root, flags: Vec::new() }
    }

    /// A flag set this key.
    pub(super) fn set_flag(&mut self, key: &str, flag: &str) {
        self.flags.push((Key::new(key), Place::Flag(flag.into())));
    }

    /// The limit of open files lowered the value of this key.
    pub fn set_limit(&mut self, key: &str) {
        self.flags.push((Key::new(key), Place::Limit));
    }

    /// Where the value of `key`, such as `upstream[1].urls`, came from. [`Place::Default`]: no source set it.
    pub fn of(&self, key: &Key) -> Place {
        let written = self.root.at(key).map(|node| &node.place);
        self.flag(key).or(written).cloned().unwrap_or(Place::Default)
    }

    /// Something wrong with the value of `key`, at its place; or at the place of its section, if no source set the key.
    pub fn mistake(&self, key: &Key, problem: impl Into<String>) -> Mistake {
        let place = self.flag(key).cloned().unwrap_or_else(|| self.root.place_of(key));
        Mistake { place, key: Some(key.clone()), problem: problem.into() }
    }

    fn flag(&self, key: &Key) -> Option<&Place> {
        self.flags.iter().find(|(known, _)| known == key).map(|(_, place)| place)
    }
}
