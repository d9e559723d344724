//! Whether a response is the requested list.
//!
//! A proxy in front of a registry may answer a client that it refuses with 200 and a document of its own.

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::query::List;

/// The field must be present; registries send `null` for an empty list.
type Items = Option<Vec<IgnoredAny>>;

#[derive(Deserialize)]
struct Tags {
    #[serde(deserialize_with = "Option::deserialize", rename = "tags")]
    _tags: Items,
}

#[derive(Deserialize)]
struct Catalog {
    #[serde(deserialize_with = "Option::deserialize", rename = "repositories")]
    _repositories: Items,
}

#[derive(Deserialize)]
struct Referrers {
    #[serde(deserialize_with = "Option::deserialize", rename = "manifests")]
    _manifests: Items,
}

/// Parses the whole body: call it off the async threads.
pub(super) fn is_list(list: &List, body: &Bytes) -> bool {
    match list {
        List::Tags(_) => is_object_as::<Tags>(body),
        List::Catalog => is_object_as::<Catalog>(body),
        List::Referrers { .. } => is_object_as::<Referrers>(body),
    }
}

fn is_object_as<T: DeserializeOwned>(body: &[u8]) -> bool {
    // serde takes an array for the fields in their order.
    body.trim_ascii_start().first() == Some(&b'{') && serde_json::from_slice::<T>(body).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};

    #[test]
    fn only_the_requested_list_is_valid() {
        let repository: crate::oci::Repository = "team/a".parse().unwrap();
        let digest = Digest::of(Algorithm::Sha256, b"");
        let (tags, catalog) = (List::Tags(repository.clone()), List::Catalog);
        let referrers = List::Referrers { repository, digest };
        for (list, text, expected) in [
            (&tags, r#"{"name":"team/a","tags":["1","2"]}"#, true),
            (&tags, r#" {"name":"team/a","tags":null}"#, true),
            (&tags, r#"{"name":"team/a"}"#, false),
            (&tags, r#"{"tags":"1"}"#, false),
            (&tags, r#"{"login":"https://sso.example"}"#, false),
            (&tags, r#"[["1"]]"#, false),
            (&tags, "", false),
            (&tags, r#"{"repositories":[]}"#, false),
            (&catalog, r#"{"repositories":["team/a"]}"#, true),
            (&catalog, r#"{"tags":["1"]}"#, false),
            (&referrers, r#"{"schemaVersion":2,"manifests":[{"digest":"x"}]}"#, true),
            (&referrers, r#"{"schemaVersion":2}"#, false),
            (&referrers, "<html>", false),
        ] {
            assert_eq!(is_list(list, &Bytes::from(text)), expected, "{list:?} {text}");
        }
    }
}
