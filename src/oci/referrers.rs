//! Referrers in a registry that has no endpoint for them: an index under a tag that consists of the subject's digest.
//!
//! Source: OCI distribution specification v1.1, "Referrers Tag Schema" and "Listing Referrers". forebay passes
//! descriptors on byte for byte, so that fields of later specifications are kept. It reads an index once, from start to
//! end, and builds no tree of it in memory; its response is no longer than the index.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Algorithm, MediaTypeKind, Tag};

/// The response for a subject without referrers.
pub const NO_REFERRERS: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// The response that an index of referrers leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Referrers {
    /// The index as it was stored.
    Whole,
    /// The index without the descriptors of other types.
    Filtered(Bytes),
    /// The document is no index, as when the tag was used for another purpose, or it lists no referrers.
    Nothing,
}

impl Referrers {
    /// Filters an index as it was stored: keeps the descriptors whose `artifactType` is one of these; all if none is
    /// given.
    pub fn of(index: &[u8], artifact_types: &[String]) -> Self {
        let Ok(Fields(fields)) = serde_json::from_slice(index) else { return Self::Nothing };
        // The last of equal keys counts, as in most readers.
        let last = |name: &str| fields.iter().rfind(|(key, _)| key == name).map(|(_, value)| *value);
        let is_index = last("mediaType").is_none_or(|value| {
            let media_type: Result<Cow<'_, str>, _> = serde_json::from_str(value.get());
            media_type.is_ok_and(|text| MediaTypeKind::of_essence(&text) == Some(MediaTypeKind::OciIndex))
        });
        // Go writes an empty list as null.
        let Some(manifests) = last("manifests").filter(|value| is_index && value.get().starts_with('[')) else {
            return Self::Nothing;
        };
        if artifact_types.is_empty() {
            return Self::Whole;
        }
        // The result is never longer: the filter only removes bytes.
        let mut left = Left { artifact_types, bytes: Vec::with_capacity(index.len()) };
        left.bytes.push(b'{');
        for (at, (key, value)) in
            fields.iter().filter(|(key, value)| key != "manifests" || std::ptr::eq(*value, manifests)).enumerate()
        {
            left.separate(at > 0);
            left.bytes.extend_from_slice(serde_json::Value::from(&**key).to_string().as_bytes());
            left.bytes.push(b':');
            if key != "manifests" {
                left.bytes.extend_from_slice(value.get().as_bytes());
            } else if left.filter(value).is_err() {
                return Self::Nothing;
            }
        }
        left.bytes.push(b'}');
        left.bytes.shrink_to_fit();
        Self::Filtered(left.bytes.into())
    }
}

/// The members of an object, in order, each as it was written.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// An index has fewer members. A document that consists of members only would take many times its size in memory.
const MAX_FIELDS: usize = 64;

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an index")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    if fields.len() == MAX_FIELDS {
                        return Err(serde::de::Error::custom("more members than an index has"));
                    }
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(FieldsVisitor)
    }
}

/// Borrowed if the text has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The filtered index while it is written.
struct Left<'a> {
    artifact_types: &'a [String],
    bytes: Vec<u8>,
}

impl Left<'_> {
    fn separate(&mut self, is_needed: bool) {
        if is_needed {
            self.bytes.push(b',');
        }
    }

    /// Writes the descriptors of the list that have one of the types.
    fn filter(&mut self, manifests: &RawValue) -> serde_json::Result<()> {
        self.bytes.push(b'[');
        let mut reader = serde_json::Deserializer::from_str(manifests.get());
        reader.deserialize_seq(&mut *self)?;
        self.bytes.push(b']');
        Ok(())
    }

    fn is_wanted(&self, descriptor: &RawValue) -> bool {
        let of_type = serde_json::from_str::<OfType<'_>>(descriptor.get());
        let artifact_type = of_type.ok().and_then(|of_type| of_type.0);
        artifact_type.is_some_and(|is| self.artifact_types.iter().any(|wanted| *wanted == is))
    }
}

impl<'de> Visitor<'de> for &mut Left<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of descriptors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut is_first = true;
        while let Some(descriptor) = list.next_element::<&RawValue>()? {
            if self.is_wanted(descriptor) {
                self.separate(!is_first);
                self.bytes.extend_from_slice(descriptor.get().as_bytes());
                is_first = false;
            }
        }
        Ok(())
    }
}

/// The `artifactType` of a descriptor; the last of equal keys counts. No other member is kept.
struct OfType<'a>(Option<Cow<'a, str>>);

impl<'de> Deserialize<'de> for OfType<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ArtifactTypeVisitor;
        impl<'de> Visitor<'de> for ArtifactTypeVisitor {
            type Value = OfType<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a descriptor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut of_type = None;
                while let Some(Key(key)) = map.next_key()? {
                    if key == "artifactType" {
                        let raw: &RawValue = map.next_value()?;
                        of_type = serde_json::from_str::<Key<'_>>(raw.get()).ok().map(|Key(text)| text);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(OfType(of_type))
            }
        }
        from.deserialize_map(ArtifactTypeVisitor)
    }
}

/// Whether a tag holds what refers to a digest: clients read its manifest, and push it again with one entry more.
///
/// Source: OCI distribution specification v1.1, "Referrers Tag Schema"; cosign's `sha256-<hex>.sig`, `.att` and
/// `.sbom`.
pub fn is_referrers_tag(tag: &Tag) -> bool {
    let Some((algorithm, rest)) = tag.as_str().split_once('-') else { return false };
    let hex = rest.split_once('.').map_or(rest, |(hex, _)| hex);
    Algorithm::ALL.iter().any(|known| known.as_str() == algorithm)
        && hex.len() == 64
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const INDEX: &str = MediaTypeKind::OciIndex.as_str();

    fn of(document: &Value, artifact_types: &[&str]) -> (Value, bool) {
        let types: Vec<String> = artifact_types.iter().map(|&text| text.to_owned()).collect();
        let stored = document.to_string();
        match Referrers::of(stored.as_bytes(), &types) {
            Referrers::Whole => (document.clone(), false),
            Referrers::Filtered(index) => {
                assert!(index.len() <= stored.len());
                (serde_json::from_slice(&index).unwrap(), true)
            }
            Referrers::Nothing => (serde_json::from_slice(NO_REFERRERS).unwrap(), !types.is_empty()),
        }
    }

    fn descriptor(name: &str, artifact_type: Option<&str>) -> Value {
        let mut descriptor = json!({
            "mediaType": MediaTypeKind::OciManifest.as_str(), "digest": format!("blake3:{name}"), "size": u64::MAX,
            "annotations": { "org.example": name }, "data": "e30=", "x": [1, null],
        });
        if let Some(artifact_type) = artifact_type {
            descriptor["artifactType"] = artifact_type.into();
        }
        descriptor
    }

    #[test]
    fn descriptors_of_the_requested_types_stay_unchanged() {
        let (a, b, none) = (descriptor("a", Some("x/a")), descriptor("b", Some("x/b")), descriptor("c", None));
        let index = |manifests: &[&Value]| json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": { "k": "v" } });
        let all = index(&[&a, &none, &b, &a]);
        for (types, left) in [
            (&[][..], &[&a, &none, &b, &a][..]),
            (&["x/a"], &[&a, &a]),
            (&["x/b"], &[&b]),
            (&["x/b", "x/a"], &[&a, &b, &a]),
            (&["X/A"], &[]),
            (&["x/"], &[]),
        ] {
            assert_eq!(of(&all, types), (index(left), !types.is_empty()), "{types:?}");
        }
    }

    #[test]
    fn what_is_left_is_as_it_was_written() {
        let stored = format!("{{ \"mediaType\":\"{INDEX}\",\n \"manifests\": [ ] }}");
        assert_eq!(Referrers::of(stored.as_bytes(), &[]), Referrers::Whole);
        let stored = r#"{"a":1.50, "manifests" : [ {"artifactType":"x\u002fa", "size": 1e2} ,{"artifactType":"b"}, {"x":[[1]]}],"z":{"k" : 0}}"#;
        let left = r#"{"a":1.50,"manifests":[{"artifactType":"x\u002fa", "size": 1e2}],"z":{"k" : 0}}"#;
        assert_eq!(Referrers::of(stored.as_bytes(), &["x/a".to_owned()]), Referrers::Filtered(left.into()));
    }

    #[test]
    fn a_key_that_is_said_twice_counts_once() {
        let twice = r#"{"manifests":[{"artifactType":"a"}],"manifests":[{"artifactType":"b","artifactType":"a"}]}"#;
        let left = r#"{"manifests":[{"artifactType":"b","artifactType":"a"}]}"#;
        assert_eq!(Referrers::of(twice.as_bytes(), &["a".to_owned()]), Referrers::Filtered(left.into()));
        let odd = format!("{{{}\"manifests\":[]}}", r#""k":0,"#.repeat(MAX_FIELDS));
        assert_eq!(Referrers::of(odd.as_bytes(), &[]), Referrers::Nothing);
    }

    #[test]
    fn what_is_no_index_refers_to_nothing() {
        let empty: Value = serde_json::from_slice(NO_REFERRERS).unwrap();
        assert_eq!(empty, json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }));
        for document in [
            json!(null),
            json!([]),
            json!("manifests"),
            json!({}),
            json!({ "schemaVersion": 2, "config": {}, "layers": [] }),
            json!({ "mediaType": MediaTypeKind::DockerList.as_str(), "manifests": [descriptor("a", Some("x/a"))] }),
            json!({ "mediaType": 7, "manifests": [] }),
            json!({ "mediaType": INDEX }),
            json!({ "mediaType": INDEX, "manifests": null }),
            json!({ "mediaType": INDEX, "manifests": {} }),
            json!({ "manifests": null }),
        ] {
            assert_eq!(of(&document, &[]), (empty.clone(), false), "{document}");
            assert_eq!(of(&document, &["x/a"]), (empty.clone(), true), "{document}");
        }
        let odd = json!({ "mediaType": INDEX, "manifests": [null, 7, "x/a", { "artifactType": 7 }] });
        assert_eq!(of(&odd, &["x/a"]).0["manifests"], json!([]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), types in prop::collection::vec(".{0,4}", 0..2)) {
            let made = Referrers::of(&bytes, &types);
            prop_assert!(!matches!(made, Referrers::Filtered(_)) || !types.is_empty());
        }

        #[test]
        fn whatever_is_in_an_index_what_is_left_was_in_it(
            kinds in prop::collection::vec(prop::option::of("[ab]/[ab]"), 0..6), types in prop::collection::vec("[ab]/[ab]", 1..3),
        ) {
            let manifests: Vec<Value> = kinds.iter().enumerate().map(|(at, kind)| descriptor(&at.to_string(), kind.as_deref())).collect();
            let wanted: Vec<&str> = types.iter().map(String::as_str).collect();
            let (left, _) = of(&json!({ "manifests": manifests }), &wanted);
            let expected: Vec<&Value> = manifests.iter().zip(&kinds).filter(|(_, kind)| kind.as_ref().is_some_and(|kind| types.contains(kind))).map(|(it, _)| it).collect();
            prop_assert_eq!(&left["manifests"], &json!(expected));
        }
    }
}
