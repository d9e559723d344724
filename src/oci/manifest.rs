//! Manifests: the little that a mirror has to know of what is inside one.
//!
//! The bytes of a manifest are never written anew: what is served is what was received, and this
//! is only a view of it. A document that could be read as two things is refused, because two
//! readers might then disagree about what the same digest means.
//!
//! Source: OCI image specification v1.1, "Image Manifest" and "Image Index".

use serde::Deserialize;

use super::{Digest, MediaType, ParseError};

/// An image manifest or an index, of OCI or of Docker (schema 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    media_type: Option<MediaType>,
    pub content: Content,
    /// The manifest this one says something about: a signature, an SBOM.
    pub subject: Option<Descriptor>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index { manifests: Vec<Descriptor> },
}

/// A reference to content: what it is, its name, and its length in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub media_type: MediaType,
    pub digest: Digest,
    pub size: u64,
}

impl Manifest {
    /// Reads a schema 2 document. Its length is the caller's to bound.
    ///
    /// # Errors
    /// `ParseError::Manifest`, for a document that is no schema 2 image or index, or is both.
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
        let subject = document.subject.map(Descriptor::try_from).transpose()?;
        Ok(Self { media_type, content, subject })
    }

    /// The media type as the document itself declares it; OCI documents need not.
    pub fn media_type(&self) -> Option<&MediaType> {
        self.media_type.as_ref()
    }

    /// Everything the content refers to, in its order: config and layers, or manifests.
    pub fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, rest) = match &self.content {
            Content::Image { config, layers } => (Some(config), layers),
            Content::Index { manifests } => (None, manifests),
        };
        config.into_iter().chain(rest)
    }
}

/// The document as it stands. A key that comes twice is an error: which one counts would depend on the reader.
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
