//! Pins, and which images they are about (pure).

use std::collections::{HashMap, HashSet};

use crate::{
    cache::{Visibility, inventory::ImageName},
    rule::{Pattern, PatternError, Subject},
};

/// How many pins there may be.
pub(super) const MAX_PINS: usize = 10_000;
/// How many of them may have a `*`: each of these is compared with each image.
pub(super) const MAX_PATTERNS: usize = 500;

/// A name or a pattern, and why images that it matches are kept: for an operator, for an import, or for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    /// With the name in full.
    pub text: String,
    pub pattern: Pattern,
    /// Until when an operator keeps them; `None`: no operator does.
    pub own: Option<PinEnd>,
    /// An import keeps them until the freeze of the tag ends.
    pub is_imported: bool,
}

/// Until when an operator keeps images. An operator may remove the pin before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PinEnd {
    Never,
    /// In seconds since 1970.
    At(u32),
}

/// All pins. One text has one pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PinList {
    /// Those without a `*`, by their texts: each is the name of one image.
    names: HashMap<String, Pin>,
    patterns: Vec<Pin>,
}

impl Pin {
    /// Whether an operator has kept images until now, and no longer.
    fn is_over(&self, now: u32) -> bool {
        matches!(self.own, Some(PinEnd::At(end)) if end <= now)
    }

    pub(super) fn is_name(&self) -> bool {
        !self.text.contains('*')
    }

    pub(crate) fn matches(&self, name: &ImageName) -> bool {
        self.pattern.matches(&Subject::reference(&name.upstream, &name.repository, &name.reference))
    }
}

impl PinList {
    /// The list with what an operator wants of a text; what an import wants of it stays.
    pub(super) fn with(&self, pin: Pin) -> Self {
        let is_imported = pin.is_imported || self.get(&pin.text).is_some_and(|before| before.is_imported);
        let mut list = self.without(&pin.text);
        list.add(Pin { is_imported, ..pin });
        list
    }

    fn add(&mut self, pin: Pin) {
        match pin.is_name() {
            true => drop(self.names.insert(pin.text.clone(), pin)),
            false => self.patterns.push(pin),
        }
    }

    /// The list with a pin for each of these names, which imports give to images; what an operator wants of them stays.
    pub(super) fn with_imports<'a>(
        &self,
        names: impl IntoIterator<Item = &'a ImageName>,
    ) -> Result<Self, PatternError> {
        let mut list = self.clone();
        for name in names {
            let text = name.to_string();
            let (pattern, own) = (Pattern::parse_in_full(&text)?, list.names.get(&text).and_then(|pin| pin.own));
            list.add(Pin { text, pattern, own, is_imported: true });
        }
        Ok(list)
    }

    /// The list without what imports want of these texts; what an operator wants of them stays.
    pub(super) fn without_imports(&self, texts: &HashSet<String>) -> Self {
        let mut list = self.clone();
        list.change(|pin| pin.is_imported &= !texts.contains(&pin.text));
        list
    }

    /// Changes each pin, and removes those that neither an operator nor an import wants any more.
    fn change(&mut self, change: impl Fn(&mut Pin)) {
        let stays = |pin: &mut Pin| {
            change(pin);
            pin.own.is_some() || pin.is_imported
        };
        self.names.retain(|_, pin| stays(pin));
        self.patterns.retain_mut(stays);
    }

    /// The list without the pin of this text.
    pub(super) fn without(&self, text: &str) -> Self {
        let mut list = self.clone();
        list.names.remove(text);
        list.patterns.retain(|pin| pin.text != text);
        list
    }

    /// The list that is in force now, and the pins of which the time is over.
    pub(super) fn in_force(&self, now: u32) -> (Self, Vec<Pin>) {
        let over: Vec<Pin> = self.iter().filter(|pin| pin.is_over(now)).cloned().collect();
        let mut list = self.clone();
        list.change(|pin| pin.own = pin.own.filter(|_| !pin.is_over(now)));
        (list, over)
    }

    pub(super) fn get(&self, text: &str) -> Option<&Pin> {
        self.names.get(text).or_else(|| self.patterns.iter().find(|pin| pin.text == text))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pin> {
        self.names.values().chain(&self.patterns)
    }

    /// The digests that are pinned by name.
    pub(super) fn digests(&self) -> impl Iterator<Item = ImageName> {
        let digests = self.names.keys().filter(|text| text.contains('@'));
        digests.filter_map(|text| ImageName::parse(Visibility::Shared, text).ok())
    }

    pub(super) fn len(&self) -> usize {
        self.names.len() + self.patterns.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn are_too_many(&self) -> bool {
        self.len() > MAX_PINS || self.patterns.len() > MAX_PATTERNS
    }

    /// Whether any of them is about an image.
    pub(super) fn matches(&self, name: &ImageName) -> bool {
        !self.is_empty()
            && (self.patterns.iter().any(|pin| pin.matches(name)) || self.names.contains_key(&name.to_string()))
    }
}

impl FromIterator<Pin> for PinList {
    fn from_iter<I: IntoIterator<Item = Pin>>(pins: I) -> Self {
        let mut list = Self::default();
        pins.into_iter().for_each(|pin| list.add(pin));
        list
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cache::pins) fn pin(text: &str, until: Option<u32>) -> Pin {
        let own = Some(until.map_or(PinEnd::Never, PinEnd::At));
        Pin { text: text.to_owned(), pattern: Pattern::parse_in_full(text).unwrap(), own, is_imported: false }
    }

    #[test]
    fn a_list_has_each_text_once_and_matches_by_any() {
        let digest = format!("quay.io/a/b@sha256:{}", "1".repeat(64));
        let texts = ["docker.io/library/node:22", "docker.io/library/php:*", &digest];
        let list = texts.iter().fold(PinList::default(), |list, text| list.with(pin(text, None)));
        for (name, expected) in [
            ("docker.io/library/node:22", true),
            ("docker.io/library/node:2", false),
            ("docker.io/library/php:8.1", true),
            ("docker.io/library/php2:8.1", false),
            (&digest, true),
            ("quay.io/a/b:1", false),
        ] {
            for visibility in Visibility::ALL {
                assert_eq!(list.matches(&ImageName::parse(visibility, name).unwrap()), expected, "{name}");
            }
        }
        assert_eq!(list.digests().map(|name| name.to_string()).collect::<Vec<_>>(), [&*digest]);
        let again = texts.iter().fold(list.clone(), |list, text| list.with(pin(text, Some(9))));
        assert_eq!((again.len(), again.get(&digest).unwrap().own), (3, Some(PinEnd::At(9))));
        assert_eq!(texts.iter().fold(again.clone(), |list, text| list.without(text)), PinList::default());
        assert_eq!(again.iter().cloned().collect::<PinList>(), again);
        let mixed = list.with(pin(texts[0], Some(10))).with(pin(texts[1], Some(11)));
        let (left, over) = mixed.in_force(10);
        assert_eq!((left.len(), &*over), (2, &[pin(texts[0], Some(10))][..]));
    }

    #[test]
    fn a_pin_of_an_operator_and_one_of_an_import_are_apart() {
        const TEXTS: [&str; 4] = ["a/b:1", "a/b:2", "a/b:3", "a/*"];
        let names = ["a/b:1", "a/b:2", "a/b:3"].map(|name| ImageName::parse(Visibility::Shared, name).unwrap());
        let before: PinList =
            [pin(TEXTS[0], None), pin(TEXTS[1], Some(9)), pin(TEXTS[3], Some(9))].into_iter().collect();
        let of = |list: &PinList| TEXTS.map(|text| list.get(text).map(|pin| (pin.own, pin.is_imported)));
        let (never, nine) = (Some(PinEnd::Never), Some(PinEnd::At(9)));
        let both = before.with_imports(&names).unwrap();
        assert_eq!(of(&both), [Some((never, true)), Some((nine, true)), Some((None, true)), Some((nine, false))]);
        // What an operator wants changes nothing of what an import wants, and the other way round.
        let pinned = both.with(pin(TEXTS[2], Some(10)));
        assert_eq!(of(&pinned)[2], Some((Some(PinEnd::At(10)), true)));
        let (later, over) = pinned.in_force(10);
        assert_eq!((of(&later), over.len()), ([Some((never, true)), Some((None, true)), Some((None, true)), None], 3));
        let texts = HashSet::from(["a/b:1", "a/b:2"].map(str::to_owned));
        let ended = both.without_imports(&texts);
        assert_eq!(of(&ended), [Some((never, false)), Some((nine, false)), Some((None, true)), Some((nine, false))]);
        assert_eq!(of(&later.without_imports(&texts)), [Some((never, false)), None, Some((None, true)), None]);
        // A person who unpins an image means both.
        assert_eq!(of(&both.without(TEXTS[0]))[0], None);
    }

    #[test]
    fn the_number_of_pins_is_bounded() {
        let many =
            |count: usize, tag: &str| (0..count).map(|n| pin(&format!("u/a{n}:{tag}"), None)).collect::<PinList>();
        assert!(!many(MAX_PINS, "1").are_too_many() && many(MAX_PINS + 1, "1").are_too_many());
        assert!(!many(MAX_PATTERNS, "*").are_too_many() && many(MAX_PATTERNS + 1, "*").are_too_many());
    }
}
