//! Referrers in a registry that has no endpoint for them: an index under a tag that is made of the subject's digest.
//!
//! Source: OCI distribution specification v1.1, "Referrers Tag Schema" and "Listing Referrers". Descriptors are passed on
//! whole, whatever is in them: what the specification adds to them later is not lost here.

use bytes::Bytes;
use serde_json::Value;

use super::{Algorithm, MediaTypeKind, Tag};

/// What is said of a subject that nothing refers to.
pub const NO_REFERRERS: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// The longest index that is looked into, in bytes; the form in memory takes several times that.
const MOST_FILTERED: usize = 4 * 1024 * 1024;

/// The answer that an index of referrers makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrers {
    pub index: Bytes,
    /// Whether only those of the types that were asked for are in it.
    pub filtered: bool,
}

impl Referrers {
    /// Of an index as it was stored, those whose `artifactType` is one of these; all when none is asked for.
    ///
    /// An index that is too long to be looked into is given whole, which clients have to expect. What is no index, as when
    /// somebody used the tag for something else, refers to nothing.
    pub fn of(index: &Bytes, artifact_types: &[String]) -> Self {
        let filtered = !artifact_types.is_empty();
        if index.len() > MOST_FILTERED {
            return Self { index: index.clone(), filtered: false };
        }
        let Some(mut document) = parse(index) else {
            return Self { index: Bytes::from_static(NO_REFERRERS), filtered };
        };
        match document.get_mut("manifests") {
            Some(Value::Array(manifests)) if filtered => {
                let wanted = |descriptor: &Value| {
                    let artifact_type = descriptor.get("artifactType").and_then(Value::as_str);
                    artifact_type.is_some_and(|is| artifact_types.iter().any(|wanted| wanted == is))
                };
                manifests.retain(wanted);
                Self { index: document.to_string().into(), filtered }
            }
            Some(Value::Array(_)) => Self { index: index.clone(), filtered },
            // Go writes an empty list as null.
            _ => Self { index: Bytes::from_static(NO_REFERRERS), filtered },
        }
    }
}

/// The document, if it is an index.
/// Whether a tag is one that stands for the referrers of a digest.
///
/// Source: OCI distribution specification v1.1, "Referrers Tag Schema".
pub fn is_referrers_tag(tag: &Tag) -> bool {
    let Some((algorithm, hex)) = tag.as_str().split_once('-') else { return false };
    Algorithm::ALL.iter().any(|known| known.as_str() == algorithm)
        && hex.len() == 64
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn parse(index: &[u8]) -> Option<Value> {
    let document: Value = serde_json::from_slice(index).ok()?;
    let is_index = match document.get("mediaType") {
        Some(media_type) => media_type.as_str().and_then(MediaTypeKind::of_essence) == Some(MediaTypeKind::OciIndex),
        None => document.get("manifests").is_some(),
    };
    (document.is_object() && is_index).then_some(document)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const INDEX: &str = MediaTypeKind::OciIndex.as_str();

    fn of(document: &Value, artifact_types: &[&str]) -> (Value, bool) {
        let types: Vec<String> = artifact_types.iter().map(|&text| text.to_owned()).collect();
        let Referrers { index, filtered } = Referrers::of(&document.to_string().into(), &types);
        (serde_json::from_slice(&index).unwrap(), filtered)
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
    fn those_of_the_types_that_were_asked_for_are_left_and_nothing_in_them_is_changed() {
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
    fn what_nobody_filters_is_given_byte_for_byte() {
        let stored = Bytes::from(format!("{{ \"mediaType\":\"{INDEX}\",\n \"manifests\": [ ] }}"));
        assert_eq!(Referrers::of(&stored, &[]), Referrers { index: stored.clone(), filtered: false });
        let long = Bytes::from(format!("{}{}", " ".repeat(MOST_FILTERED), "{}"));
        assert_eq!(Referrers::of(&long, &["x/a".to_owned()]), Referrers { index: long.clone(), filtered: false });
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
            let made = Referrers::of(&bytes.into(), &types);
            prop_assert_eq!(made.filtered, !types.is_empty());
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
