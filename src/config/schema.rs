//! Which sections and keys exist, and of what kind their values are.
//!
//! The schema is learnt from the structs of the sections: they read a document of dummies, and tell by the types that
//! they want which fields they have. So a new field needs no second entry anywhere.

use std::{cell::RefCell, fmt};

use serde::{
    Deserialize,
    de::{self, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Number,
    /// Text, and all that is written as text: paths, sizes, durations, choices.
    Text,
    /// A list of texts or numbers.
    List,
    /// `[name]`
    Section,
    /// `[[name]]`
    Sections,
}

/// All keys, in the order of the structs. A path has no indices: `upstream.urls`.
#[derive(Debug)]
pub(super) struct Schema(Vec<(String, Kind)>);

impl Schema {
    /// The schema of a struct of sections.
    pub(super) fn of<T: for<'de> Deserialize<'de>>() -> Self {
        let mut skipped: Vec<String> = Vec::new();
        loop {
            let found = RefCell::default();
            let Err(Refusal(path)) = T::deserialize(Probe { path: String::new(), found: &found, skipped: &skipped })
            else {
                return Self(found.into_inner());
            };
            // A field that takes no dummy is text of a form of its own; the next pass leaves it out.
            match path {
                Some(path) if !skipped.contains(&path) => skipped.push(path),
                _ => return Self(found.into_inner()),
            }
        }
    }

    /// The kind of a key.
    pub(super) fn kind(&self, path: &str) -> Option<Kind> {
        self.0.iter().find(|(known, _)| known == path).map(|(_, kind)| *kind)
    }

    /// The full paths of all keys that hold a value.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let has_value = |kind| !matches!(kind, Kind::Section | Kind::Sections);
        self.0.iter().filter(move |(_, kind)| has_value(*kind)).map(|(path, _)| path.as_str())
    }

    /// The sections that have a key of this name, with their header's brackets, such as `[cache]`.
    pub(super) fn headers_with(&self, name: &str) -> Vec<String> {
        let sections = self.keys().filter_map(|path| path.rsplit_once('.')).filter(|(_, last)| *last == name);
        sections.map(|(section, _)| self.header(section)).collect()
    }

    /// A section's header, such as `[[upstream]]`.
    pub(super) fn header(&self, section: &str) -> String {
        match self.kind(section) {
            Some(Kind::Sections) => format!("[[{section}]]"),
            _ => format!("[{section}]"),
        }
    }
}

/// Deserialises a dummy of any type, and notes which types its readers want.
struct Probe<'p> {
    path: String,
    found: &'p RefCell<Vec<(String, Kind)>>,
    skipped: &'p [String],
}

/// A field that took no dummy.
#[derive(Debug)]
struct Refusal(Option<String>);

impl Probe<'_> {
    fn note(&self, kind: Kind) {
        let mut found = self.found.borrow_mut();
        match found.iter_mut().find(|(path, _)| *path == self.path) {
            // The item of a list has the path of the list.
            Some((_, known)) if *known == Kind::List && kind == Kind::Section => *known = Kind::Sections,
            Some(_) => {}
            None if self.path.is_empty() => {}
            None => found.push((self.path.clone(), kind)),
        }
    }

    fn place<T>(&self, read: Result<T, Refusal>) -> Result<T, Refusal> {
        read.map_err(|Refusal(path)| Refusal(path.or_else(|| Some(self.path.clone()))))
    }
}

macro_rules! dummies {
    ($($method:ident => $kind:ident, $visit:ident($value:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            self.note(Kind::$kind);
            self.place(visitor.$visit($value))
        }
    )*};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Refusal;

    dummies! {
        deserialize_any => Text, visit_str("0");
        deserialize_bool => Boolean, visit_bool(false);
        deserialize_i64 => Number, visit_i64(0);
        deserialize_u16 => Number, visit_u16(0);
        deserialize_u32 => Number, visit_u32(0);
        deserialize_u64 => Number, visit_u64(0);
        deserialize_f64 => Number, visit_f64(0.0);
        deserialize_str => Text, visit_str("");
        deserialize_string => Text, visit_str("");
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note(Kind::List);
        let Self { path, found, skipped } = self;
        visitor.visit_seq(OneItem(Some(Probe { path, found, skipped })))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.note(Kind::Section);
        visitor.visit_map(Fields { section: self, fields: fields.iter(), next: None })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.note(Kind::Text);
        self.place(visitor.visit_enum(variants.first().copied().unwrap_or_default().into_deserializer()))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

/// A list of one dummy.
struct OneItem<'p>(Option<Probe<'p>>);

impl<'de> SeqAccess<'de> for OneItem<'_> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        self.0.take().map(|item| seed.deserialize(item)).transpose()
    }
}

/// A dummy for each field of a section.
struct Fields<'p> {
    section: Probe<'p>,
    fields: std::slice::Iter<'static, &'static str>,
    next: Option<String>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        for name in self.fields.by_ref() {
            let section = &self.section.path;
            let path = if section.is_empty() { (*name).to_owned() } else { format!("{section}.{name}") };
            if self.section.skipped.contains(&path) {
                Probe { path, ..self.section.copy() }.note(Kind::Text);
                continue;
            }
            self.next = Some(path);
            return seed.deserialize((*name).into_deserializer()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refusal> {
        let path = self.next.take().unwrap_or_default();
        let read = seed.deserialize(Probe { path: path.clone(), ..self.section.copy() });
        // A type that is made of another refuses its value after the deserialiser is done.
        read.map_err(|Refusal(inner)| Refusal(inner.or(Some(path))))
    }
}

impl<'p> Probe<'p> {
    fn copy(&self) -> Probe<'p> {
        Probe { path: String::new(), found: self.found, skipped: self.skipped }
    }
}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(None)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} takes no dummy", self.0.as_deref().unwrap_or("a section"))
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Deserialize)]
    #[serde(try_from = "String")]
    struct Even;

    impl TryFrom<String> for Even {
        type Error = String;

        fn try_from(text: String) -> Result<Self, String> {
            if text == "even" { Ok(Self) } else { Err("odd".to_owned()) }
        }
    }

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only the names of the fields matter")]
    enum Choice {
        One,
    }

    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[allow(dead_code, reason = "only the names of the fields matter")]
    struct Root {
        top: Option<std::path::PathBuf>,
        one: Inner,
        many: Vec<Inner>,
    }

    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[allow(dead_code, reason = "only the names of the fields matter")]
    struct Inner {
        flag: Option<bool>,
        count: Option<usize>,
        names: Option<Vec<String>>,
        even: Option<Even>,
        choice: Option<Choice>,
    }

    #[test]
    fn the_schema_has_each_field_with_its_kind() {
        let schema = Schema::of::<Root>();
        for (path, kind) in [
            ("top", Some(Kind::Text)),
            ("one", Some(Kind::Section)),
            ("one.flag", Some(Kind::Boolean)),
            ("one.count", Some(Kind::Number)),
            ("one.names", Some(Kind::List)),
            ("one.even", Some(Kind::Text)),
            ("one.choice", Some(Kind::Text)),
            ("many", Some(Kind::Sections)),
            ("many.choice", Some(Kind::Text)),
            ("many.names", Some(Kind::List)),
            ("flag", None),
        ] {
            assert_eq!(schema.kind(path), kind, "{path}");
        }
        assert_eq!(schema.keys().count(), 11);
        assert_eq!(schema.headers_with("flag"), ["[one]", "[[many]]"]);
    }
}
