//! Reads the tree of values into the sections, and finds all values of a wrong type and all unknown keys.
//!
//! What must hold: a mistake hides no other one. A deserialiser ends at its first error, so a wrong value is noted and
//! left out, and the tree is read again, until it can be read.

use std::{cell::RefCell, fmt};

use serde::{
    Deserialize,
    de::{
        self, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, SeqAccess, Unexpected, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::{
    error::{Key, MAX_MISTAKES, Mistake, Place},
    node::{Node, Value},
    schema::Schema,
    suggest::alternatives,
    unknown_key::{self, is_section},
    wanted::{self, Written},
};

/// The sections of a tree, and what is wrong in it. A wrong value is left out: its key has its default.
pub(super) fn read<T: Default + for<'de> Deserialize<'de>>(root: &Node, schema: &Schema) -> (T, Vec<Mistake>) {
    let (mut mistakes, mut left_out): (Vec<Mistake>, Vec<Key>) = (Vec::new(), Vec::new());
    loop {
        let reading = Reading { schema, left_out: &left_out, unknown: RefCell::default() };
        let read = T::deserialize(Typed { node: root, key: Key::new(""), reading: &reading });
        let unknown = reading.unknown.into_inner();
        let fault = match read {
            Ok(sections) => {
                mistakes.extend(unknown.iter().map(|unknown| unknown.explain(schema)));
                return (sections, mistakes);
            }
            Err(fault) => fault,
        };
        let (key, place) = fault.at.unwrap_or_else(|| (Key::new(""), root.place.clone()));
        // A key that has to be there and was left out is no second mistake.
        let follows = fault.is_missing && left_out.iter().any(|known| known.parent().as_ref() == Some(&key));
        if !follows {
            mistakes.push(Mistake { place, key: Some(key.clone()), problem: fault.problem });
        }
        let next = key.list();
        if next.as_str().is_empty() || left_out.contains(&next) || left_out.len() >= MAX_MISTAKES {
            mistakes.extend(unknown.iter().map(|unknown| unknown.explain(schema)));
            return (T::default(), mistakes);
        }
        left_out.push(next);
    }
}

/// One pass over the tree.
struct Reading<'r> {
    schema: &'r Schema,
    left_out: &'r [Key],
    unknown: RefCell<Vec<Unknown>>,
}

/// A key that its section does not have.
struct Unknown {
    section: Key,
    name: String,
    place: Place,
    is_section: bool,
    fields: &'static [&'static str],
}

impl Unknown {
    fn explain(&self, schema: &Schema) -> Mistake {
        let problem = unknown_key::explain(&self.section, &self.name, self.is_section, self.fields, schema);
        Mistake { place: self.place.clone(), key: Some(self.section.field(&self.name)), problem }
    }
}

/// A value with its key.
struct Typed<'r> {
    node: &'r Node,
    key: Key,
    reading: &'r Reading<'r>,
}

/// Whether a number may be below 0.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    No,
    Perhaps,
}

/// Why a value cannot be read.
#[derive(Debug)]
struct Fault {
    /// The innermost value that the error is about.
    at: Option<(Key, Place)>,
    problem: String,
    is_missing: bool,
}

impl Typed<'_> {
    fn written(&self) -> Written<'_> {
        Written { key: &self.key, node: self.node }
    }

    /// A type that is made of another refuses its value after the deserialiser is done: that error has no place yet.
    fn read<'de, T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        let at = (self.key.clone(), self.node.place.clone());
        seed.deserialize(self).map_err(|fault| Fault { at: fault.at.or(Some(at)), ..fault })
    }

    fn refuse<T>(&self, problem: String) -> Result<T, Fault> {
        self.place(Err(Fault { at: None, problem, is_missing: false }))
    }

    fn place<T>(&self, read: Result<T, Fault>) -> Result<T, Fault> {
        read.map_err(|fault| Fault {
            at: fault.at.or_else(|| Some((self.key.clone(), self.node.place.clone()))),
            ..fault
        })
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V, sign: Sign) -> Result<V::Value, Fault> {
        let number = match &self.node.value {
            Value::Integer(text, Some(..0)) if sign == Sign::No => {
                return self.refuse(format!("must be 0 or more, not {text}"));
            }
            Value::Integer(_, number) => *number,
            _ => return self.refuse(wanted::number(&self.written())),
        };
        let read = match (number.map(u64::try_from), number.map(i64::try_from)) {
            (Some(Ok(number)), _) => visitor.visit_u64(number),
            (_, Some(Ok(number))) => visitor.visit_i64(number),
            _ => return self.refuse("this number is too large".to_owned()),
        };
        self.place(read)
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Text(text) => self.place(visitor.visit_str(text)),
            _ => self.refuse(wanted::text(&self.written())),
        }
    }
}

impl<'de> Deserializer<'de> for Typed<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let read = match &self.node.value {
            Value::Text(text) | Value::Date(text) => visitor.visit_str(text),
            Value::Integer(..) => return self.number(visitor, Sign::Perhaps),
            Value::Float(number) => visitor.visit_f64(number.parse().unwrap_or(f64::NAN)),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::List(items) => visitor.visit_seq(Items::new(items, &self)),
            Value::Table(entries) => visitor.visit_map(Entries::new(entries, &self)),
        };
        self.place(read)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.value {
            Value::Boolean(value) => self.place(visitor.visit_bool(value)),
            _ => self.refuse(wanted::boolean(&self.written())),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Float(_) | Value::Integer(..) => self.deserialize_any(visitor),
            _ => self.refuse(wanted::number(&self.written())),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    /// One value where a list is wanted is a list of one.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let read = match &self.node.value {
            Value::List(items) => visitor.visit_seq(Items::new(items, &self)),
            Value::Table(_) => return self.refuse(wanted::list(&self.written(), self.reading.schema)),
            _ => visitor.visit_seq(Single(Some(Typed { key: self.key.clone(), ..self }))),
        };
        self.place(read)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Table(entries) = &self.node.value else {
            return self.refuse(wanted::section(&self.written(), self.reading.schema));
        };
        let unknown = entries.iter().filter(|(name, _)| !fields.contains(&name.as_str()));
        for (name, node) in unknown.take(MAX_MISTAKES) {
            self.reading.unknown.borrow_mut().push(Unknown {
                section: self.key.clone(),
                name: name.clone(),
                place: node.place.clone(),
                is_section: is_section(node),
                fields,
            });
        }
        let known = Entries { known: Some(fields), ..Entries::new(entries, &self) };
        self.place(visitor.visit_map(known))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Text(text) if variants.contains(&text.as_str()) => {
                let variant: StrDeserializer<'_, Fault> = text.as_str().into_deserializer();
                self.place(visitor.visit_enum(variant))
            }
            _ => self.refuse(wanted::choice(&self.written(), variants)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.number(visitor, Sign::Perhaps)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.number(visitor, Sign::No)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.number(visitor, Sign::No)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.number(visitor, Sign::No)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

/// The items of a list, each with its key.
struct Items<'r> {
    items: std::iter::Enumerate<std::slice::Iter<'r, Node>>,
    key: Key,
    reading: &'r Reading<'r>,
}

impl<'r> Items<'r> {
    fn new(items: &'r [Node], list: &Typed<'r>) -> Self {
        Self { items: items.iter().enumerate(), key: list.key.clone(), reading: list.reading }
    }
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        Typed { node, key: self.key.item(index), reading: self.reading }.read(seed).map(Some)
    }
}

/// One value as a list.
struct Single<'r>(Option<Typed<'r>>);

impl<'de> SeqAccess<'de> for Single<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        self.0.take().map(|value| value.read(seed)).transpose()
    }
}

/// The entries of a table that were not left out.
struct Entries<'r> {
    entries: std::slice::Iter<'r, (String, Node)>,
    /// `None`: all.
    known: Option<&'static [&'static str]>,
    key: Key,
    reading: &'r Reading<'r>,
    next: Option<Typed<'r>>,
}

impl<'r> Entries<'r> {
    fn new(entries: &'r [(String, Node)], table: &Typed<'r>) -> Self {
        Self { entries: entries.iter(), known: None, key: table.key.clone(), reading: table.reading, next: None }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        for (name, node) in self.entries.by_ref() {
            let key = self.key.field(name);
            let is_known = self.known.is_none_or(|known| known.contains(&name.as_str()));
            if is_known && !self.reading.left_out.contains(&key) {
                self.next = Some(Typed { node, key, reading: self.reading });
                return seed.deserialize(name.as_str().into_deserializer()).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        match self.next.take() {
            Some(value) => value.read(seed),
            None => Err(de::Error::custom("a value comes before its key")),
        }
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self { at: None, problem: problem.to_string(), is_missing: false }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format!("must be {expected}, not {}", wanted::found(found)))
    }

    /// The type is right: a number is too large for its field.
    fn invalid_value(found: Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self::custom(format!("{} is out of range", wanted::found(found)))
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        Self::custom(format!("must be {expected}, not {length} of them"))
    }

    fn unknown_variant(_: &str, variants: &'static [&'static str]) -> Self {
        Self::custom(format!("must be {}", alternatives(variants)))
    }

    fn unknown_field(name: &str, _: &'static [&'static str]) -> Self {
        Self::custom(format!("has no key {name}"))
    }

    fn missing_field(name: &'static str) -> Self {
        Self { at: None, problem: format!("needs the key {name}"), is_missing: true }
    }

    fn duplicate_field(name: &'static str) -> Self {
        Self::custom(format!("{name} is set twice; keep one"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Fault {}
