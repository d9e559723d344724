//! The keys of a manifest that tell its type, read in one pass and without a copy of the document.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The keys that tell the type. A repeated key is an error: which one counts would depend on the reader.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Keys {
    pub schema_version: Value,
    pub media_type: Value,
    pub config: Value,
    pub layers: Value,
    pub manifests: Value,
    pub blobs: Value,
    pub fs_layers: Value,
    pub history: Value,
    pub signatures: Value,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            schema_version: Value::Null,
            media_type: Value::Null,
            config: Value::Null,
            layers: Value::Null,
            manifests: Value::Null,
            blobs: Value::Null,
            fs_layers: Value::Null,
            history: Value::Null,
            signatures: Value::Null,
        }
    }
}

/// Whether the descriptors in a value have media types of OCI or of Docker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MediaTypesInside {
    pub docker: bool,
    pub oci: bool,
    /// An element is no descriptor.
    pub other: bool,
}

impl MediaTypesInside {
    fn of(media_type: &str) -> Self {
        let begins =
            |front: &str| media_type.get(..front.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(front));
        Self { docker: begins("application/vnd.docker."), oci: begins("application/vnd.oci."), other: false }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { docker: self.docker || other.docker, oci: self.oci || other.oci, other: self.other || other.other }
    }
}

/// The kind of a value; for a descriptor or a list of descriptors, also whose media types they have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Text(String),
    Number(u64),
    List(MediaTypesInside),
    Map(MediaTypesInside),
    Other,
}

impl Value {
    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::List(_))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut inside = MediaTypesInside::default();
        while let Some(element) = list.next_element()? {
            match element {
                Value::Map(of_one) => inside = inside.and(of_one),
                _ => inside.other = true,
            }
        }
        Ok(Value::List(inside))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        inside(&mut map).map(Value::Map)
    }
}

/// Whose media type a descriptor has. A value with a type, a digest and a size is a descriptor. One with two types
/// counts for both.
fn inside<'de, A: MapAccess<'de>>(map: &mut A) -> Result<MediaTypesInside, A::Error> {
    let mut inside = MediaTypesInside::default();
    let (mut named, mut digest, mut size) = (false, false, false);
    while let Some(key) = map.next_key::<DescriptorKey>()? {
        match key {
            DescriptorKey::MediaType => {
                if let Value::Text(text) = map.next_value()? {
                    inside = inside.and(MediaTypesInside::of(&text));
                    named = true;
                }
            }
            DescriptorKey::Digest => digest = matches!(map.next_value()?, Value::Text(text) if text.contains(':')),
            DescriptorKey::Size => size = matches!(map.next_value()?, Value::Number(_)),
            DescriptorKey::Other => drop(map.next_value::<IgnoredAny>()?),
        }
    }
    inside.other |= !(named && digest && size);
    Ok(inside)
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum DescriptorKey {
    MediaType,
    Digest,
    Size,
    #[serde(other)]
    Other,
}
