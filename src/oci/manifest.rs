//! The content of a manifest, as far as a mirror needs it.
//!
//! forebay serves a manifest byte for byte as it received it; this type is only a view. forebay refuses a document that
//! could be both an image and an index: two readers might disagree about what the same digest means.
//!
//! Source: OCI image specification v1.1, "Image Manifest" and "Image Index".

use serde::Deserialize;

use super::{Digest, MediaType, ParseError};

/// An image manifest or an index, of OCI or of Docker (schema 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    media_type: Option<MediaType>,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index { manifests: Vec<Descriptor> },
}

/// A reference to content: its type, its digest, and its length in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub media_type: MediaType,
    pub digest: Digest,
    pub size: u64,
}

impl Descriptor {
    /// Whether registries store the content: foreign and nondistributable layers must not be redistributed, and clients
    /// get them from elsewhere.
    pub fn is_distributable(&self) -> bool {
        let kind = self.media_type.essence();
        !kind.contains(".foreign.") && !kind.contains(".nondistributable.")
    }
}

impl Manifest {
    /// Parses a schema 2 document. The caller bounds its length.
    ///
    /// # Errors
    /// `ParseError::Manifest`: the document is no schema 2 image or index, or is both.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let invalid = |why: &str| ParseError::Manifest(why.to_owned());
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| ParseError::Manifest(error.to_string()))?;
        if document.schema_version != 2 {
            return Err(ParseError::Manifest(format!("schemaVersion must be 2, not {}", document.schema_version)));
        }
        let media_type: Option<MediaType> = document.media_type.as_deref().map(str::parse).transpose()?;
        let says_index = media_type.as_ref().and_then(MediaType::kind).map(|kind| kind.is_index());
        let content = match (document.config, document.layers, document.manifests) {
            (None, None, Some(manifests)) => Content::Index { manifests: all(manifests)? },
            // Go writes an empty list as null.
            (None, None, None) if says_index == Some(true) => Content::Index { manifests: Vec::new() },
            (Some(config), layers, None) => {
                Content::Image { config: config.try_into()?, layers: all(layers.unwrap_or_default())? }
            }
            (_, _, Some(_)) => return Err(invalid("has both 'manifests' and 'config' or 'layers'")),
            (None, _, None) => return Err(invalid("has neither 'config' nor 'manifests'")),
        };
        if says_index.is_some_and(|index| index != matches!(content, Content::Index { .. })) {
            return Err(invalid("the content is not what mediaType says"));
        }
        document.subject.map(Descriptor::try_from).transpose()?;
        Ok(Self { media_type, content })
    }

    /// The `mediaType` of the document; OCI documents need not have one.
    pub fn media_type(&self) -> Option<&MediaType> {
        self.media_type.as_ref()
    }
}

/// The document as it is written. A repeated key is an error: which one counts would depend on the reader.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    subject: Option<RawDescriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl TryFrom<RawDescriptor> for Descriptor {
    type Error = ParseError;

    fn try_from(raw: RawDescriptor) -> Result<Self, ParseError> {
        // The specification's size is an int64.
        if i64::try_from(raw.size).is_err() {
            return Err(ParseError::Manifest(format!("size {} is beyond 63 bits", raw.size)));
        }
        Ok(Self { media_type: raw.media_type.parse()?, digest: raw.digest.parse()?, size: raw.size })
    }
}

fn all(raw: Vec<RawDescriptor>) -> Result<Vec<Descriptor>, ParseError> {
    raw.into_iter().map(Descriptor::try_from).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn descriptor(size: impl Into<Value>) -> Value {
        json!({ "mediaType": "application/x", "digest": format!("sha256:{}", "a".repeat(64)), "size": size.into() })
    }

    fn parse(document: &Value) -> Result<Manifest, ParseError> {
        Manifest::parse(document.to_string().as_bytes())
    }

    fn read(document: &Value) -> Manifest {
        parse(document).unwrap()
    }

    fn sizes(manifest: &Manifest) -> Vec<u64> {
        let descriptors = match &manifest.content {
            Content::Image { config, layers } => [std::slice::from_ref(config), layers].concat(),
            Content::Index { manifests } => manifests.clone(),
        };
        descriptors.iter().map(|descriptor| descriptor.size).collect()
    }

    #[test]
    fn images_and_indexes() {
        let image = read(&json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST.as_str(), "artifactType": "application/x", "annotations": { "a": "b" },
            "config": descriptor(1), "layers": [descriptor(2), descriptor(3)], "subject": descriptor(4),
        }));
        assert_eq!(image.media_type(), Some(&MediaType::OCI_MANIFEST));
        assert_eq!(sizes(&image), [1, 2, 3]);

        let index = read(&json!({ "schemaVersion": 2, "manifests": [descriptor(1), descriptor(2)] }));
        assert_eq!(index.media_type(), None);
        assert_eq!(sizes(&index), [1, 2]);

        let docker = read(&json!({
            "schemaVersion": 2, "mediaType": MediaType::DOCKER_LIST.as_str(),
            "manifests": [{ "mediaType": MediaType::DOCKER_MANIFEST.as_str(), "size": 528, "digest": format!("sha512:{}", "0".repeat(128)),
                "platform": { "architecture": "arm", "os": "linux", "variant": "v7" } }],
        }));
        assert!(
            matches!(&docker.content, Content::Index { manifests } if manifests[0].media_type == MediaType::DOCKER_MANIFEST)
        );
    }

    #[test]
    fn null_lists_are_empty() {
        let index = read(&json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX.as_str(), "manifests": null }));
        assert_eq!(index.content, Content::Index { manifests: Vec::new() });
        let image = read(&json!({ "schemaVersion": 2, "config": descriptor(1), "layers": null, "manifests": null }));
        assert_eq!(sizes(&image), [1]);
    }

    #[test]
    fn other_documents_are_refused() {
        let one = descriptor(1);
        for document in [
            json!(null),
            json!([]),
            json!({}),
            json!({ "schemaVersion": 2 }),
            json!({ "schemaVersion": 2, "layers": [one] }),
            json!({ "schemaVersion": 1, "manifests": [] }),
            json!({ "schemaVersion": "2", "manifests": [] }),
            json!({ "schemaVersion": 2.0, "manifests": [] }),
            json!({ "manifests": [] }),
            json!({ "schemaVersion": 2, "manifests": {} }),
            json!({ "schemaVersion": 2, "manifests": [], "layers": [] }),
            json!({ "schemaVersion": 2, "manifests": [one], "config": one }),
            json!({ "schemaVersion": 2, "manifests": [one], "config": one, "layers": [one] }),
            json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX.as_str(), "config": one, "layers": [] }),
            json!({ "schemaVersion": 2, "mediaType": MediaType::DOCKER_MANIFEST.as_str(), "manifests": [one] }),
            json!({ "schemaVersion": 2, "config": descriptor(-1) }),
            json!({ "schemaVersion": 2, "config": descriptor(1.0) }),
            json!({ "schemaVersion": 2, "config": descriptor("1") }),
            json!({ "schemaVersion": 2, "config": descriptor(u64::MAX) }),
            json!({ "schemaVersion": 2, "config": descriptor(1), "subject": descriptor(-1) }),
            json!({ "schemaVersion": 2, "config": { "mediaType": "a/b", "digest": "md5:zz", "size": 1 } }),
            json!({ "schemaVersion": 2, "config": { "mediaType": "a", "digest": one["digest"], "size": 1 } }),
            json!({ "schemaVersion": 2, "config": { "digest": one["digest"], "size": 1 } }),
            json!({ "schemaVersion": 2, "mediaType": "nonsense", "manifests": [] }),
        ] {
            assert!(parse(&document).is_err(), "{document}");
        }
        for text in [
            "",
            "{",
            "<html>",
            "{\"schemaVersion\":2,\"manifests\":[]} x",
            "\u{feff}{\"schemaVersion\":2,\"manifests\":[]}",
        ] {
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_repeated_key_is_refused() {
        let twice = br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
        assert!(matches!(Manifest::parse(twice), Err(ParseError::Manifest(_))));
    }

    #[test]
    fn deep_documents_are_an_error_not_a_crash() {
        let deep = format!("{{\"schemaVersion\":2,\"manifests\":[],\"x\":{}", "[".repeat(1 << 20));
        assert!(Manifest::parse(deep.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn never_both_at_once(config: bool, layers: bool, manifests: bool) {
            let mut document = json!({ "schemaVersion": 2 });
            for (present, key, value) in [
                (config, "config", descriptor(1)), (layers, "layers", json!([])), (manifests, "manifests", json!([])),
            ] {
                if present {
                    document[key] = value;
                }
            }
            prop_assert_eq!(parse(&document).is_ok(), config != manifests && !(layers && manifests));
        }

        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Manifest::parse(&bytes);
        }
    }
}
