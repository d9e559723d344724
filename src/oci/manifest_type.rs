//! What a manifest's own bytes say of its type.
//!
//! The digest covers the bytes and not the Content-Type, so the type that all clients get comes from the bytes wherever
//! they say one. A document that could be read as two things says nothing: its type is what its upstream says, to that
//! upstream's clients.
//!
//! Docker's schema 2 has the shapes of OCI's formats, which took them over. Where no `mediaType` tells them apart, the types of
//! what is listed inside do: only Docker's formats were made for Docker's own types, but OCI's may name them too.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{MediaType, MediaTypeKind};

/// The type that a document says it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentType {
    /// By `mediaType`, else by its shape.
    Said(MediaType),
    /// Docker's schema 1, whose two types are both in use for both forms.
    Schema1 { signed: bool },
    /// By its shape one of OCI or one of Docker's schema 2; what is inside has Docker's types: only those (`docker`), or OCI's
    /// beside them.
    Either { index: bool, docker: bool },
    /// Nothing, or more than one thing.
    Unsaid,
}

/// The header names another manifest type than the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherType;

impl DocumentType {
    /// Reads no more of a document than which keys it has. Its length is the caller's to bound.
    pub fn of(bytes: &[u8]) -> Self {
        let Ok(keys) = serde_json::from_slice::<Keys>(bytes) else { return Self::Unsaid };
        match &keys.media_type {
            Value::Null => keys.shape(),
            Value::Text(text) if text.is_empty() => keys.shape(),
            Value::Text(text) => match text.parse::<MediaType>() {
                Ok(media_type) if is_for_programs(&media_type) => match media_type.kind() {
                    Some(MediaTypeKind::DockerV1 | MediaTypeKind::DockerV1Signed) => {
                        Self::Schema1 { signed: keys.signatures.is_list() }
                    }
                    _ => Self::Said(media_type),
                },
                Ok(_) | Err(_) => Self::Unsaid,
            },
            _ => Self::Unsaid,
        }
    }

    /// The type that clients get, by what the upstream says, and whether it is the document's own: good for the clients
    /// of every upstream.
    ///
    /// # Errors
    /// The upstream names another manifest type.
    pub fn settle(self, header: Option<MediaType>) -> Result<(MediaType, bool), OtherType> {
        let named = header.as_ref().filter(|header| is_manifest_type(header));
        match self {
            Self::Said(own) => match named {
                Some(named) if !named.essence().eq_ignore_ascii_case(own.essence()) => Err(OtherType),
                _ => Ok((own, true)),
            },
            Self::Schema1 { signed } => match named.map(|named| (named.kind(), named)) {
                Some((Some(MediaTypeKind::DockerV1 | MediaTypeKind::DockerV1Signed), named)) => {
                    Ok((named.clone(), false))
                }
                Some(_) => Err(OtherType),
                None if signed => Ok((MediaType::DOCKER_V1_SIGNED, false)),
                None => Ok((MediaType::DOCKER_V1, false)),
            },
            Self::Either { index, docker } => match named.map(|named| (named.kind(), named)) {
                Some((Some(MediaTypeKind::OciManifest | MediaTypeKind::DockerManifest), named)) if !index => {
                    Ok((named.clone(), false))
                }
                Some((Some(MediaTypeKind::OciIndex | MediaTypeKind::DockerList), named)) if index => {
                    Ok((named.clone(), false))
                }
                Some(_) => Err(OtherType),
                None => {
                    let own = match (index, docker) {
                        (false, false) => MediaType::OCI_MANIFEST,
                        (false, true) => MediaType::DOCKER_MANIFEST,
                        (true, false) => MediaType::OCI_INDEX,
                        (true, true) => MediaType::DOCKER_LIST,
                    };
                    Ok((own, false))
                }
            },
            // Only OCI's formats may leave the type out.
            Self::Unsaid => Ok((header.unwrap_or(MediaType::OCI_MANIFEST), false)),
        }
    }
}

/// What tells a manifest from another document that a proxy may send in its place, such as a page to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestSigns {
    /// Its `schemaVersion` is one of a manifest, or its own type is the one that its upstream says, and more than that it is JSON.
    pub is_likely: bool,
    /// It has what manifests are made of, too: a list of layers or manifests, or that type, which is a manifest's.
    pub is_sure: bool,
}

impl ManifestSigns {
    /// Reads no more of a document than which keys it has; `header`: the type that its upstream says.
    pub fn of(bytes: &[u8], header: Option<&MediaType>) -> Self {
        // An array would be taken for the fields in their order.
        let is_object = bytes.trim_ascii_start().first() == Some(&b'{');
        let Some(keys) = is_object.then(|| serde_json::from_slice::<Keys>(bytes).ok()).flatten() else {
            return Self { is_likely: false, is_sure: false };
        };
        let is_named = match (&keys.media_type, header) {
            (Value::Text(own), Some(header)) => header.essence().eq_ignore_ascii_case(own),
            _ => false,
        };
        let is_typed = is_named && header.is_some_and(is_for_manifests);
        let has_version = matches!(keys.schema_version, Value::Number(1 | 2));
        let is_made_of = matches!(keys.config, Value::Map(_))
            || [&keys.layers, &keys.manifests, &keys.fs_layers].iter().any(|list| list.is_list());
        // A version that no manifest has outweighs what its upstream says of its type.
        let has_other_version = !has_version && keys.schema_version != Value::Null;
        let is_called = !has_other_version && header.is_some_and(is_manifest_type);
        let is_sure = is_typed || (is_made_of && (has_version || is_called));
        let is_own_type = is_named && header.is_some_and(|header| !header.essence().eq_ignore_ascii_case(JSON));
        Self { is_likely: is_sure || has_version || is_own_type, is_sure }
    }
}

/// What proxies call their own documents, too.
const JSON: &str = "application/json";

/// Whether a document is one of schema 1, and says nothing else.
pub(super) fn is_schema1(bytes: &[u8]) -> bool {
    let read = serde_json::from_slice::<Keys>(bytes);
    read.is_ok_and(|keys| keys.schema_version == Value::Number(1))
        && matches!(DocumentType::of(bytes), DocumentType::Schema1 { .. })
}

pub(super) fn is_manifest_type(media_type: &MediaType) -> bool {
    const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
    media_type.kind().is_some() || media_type.essence().eq_ignore_ascii_case(ARTIFACT)
}

/// Also of types that only some vendor knows.
fn is_for_manifests(media_type: &MediaType) -> bool {
    is_manifest_type(media_type) || media_type.essence().to_ascii_lowercase().starts_with("application/vnd.")
}

/// A document must not make itself a page that a browser shows.
fn is_for_programs(media_type: &MediaType) -> bool {
    let essence = media_type.essence().to_ascii_lowercase();
    essence.starts_with("application/") && !essence.contains("html") && !essence.ends_with("xml")
}

/// The keys that tell. One that comes twice is an error: which one counts would depend on the reader.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    schema_version: Value,
    media_type: Value,
    config: Value,
    layers: Value,
    manifests: Value,
    blobs: Value,
    fs_layers: Value,
    history: Value,
    signatures: Value,
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

impl Keys {
    fn shape(&self) -> DocumentType {
        let null = |value: &Value| *value == Value::Null;
        // An artifact manifest names its type itself; without that it says nothing.
        if !null(&self.blobs) {
            return DocumentType::Unsaid;
        }
        match (&self.config, &self.layers, &self.manifests, &self.fs_layers) {
            // An image's configuration has a map `config`, too, which is no descriptor.
            (Value::Map(config), Value::List(layers), Value::Null, Value::Null) => config.and(*layers).type_of(false),
            (Value::Map(config), Value::Null, Value::Null, Value::Null) => config.type_of(false),
            (config, layers, Value::List(manifests), Value::Null) if null(config) && null(layers) => {
                manifests.type_of(true)
            }
            (config, layers, manifests, Value::List(_))
                if null(config)
                    && null(layers)
                    && null(manifests)
                    && self.history.is_list()
                    && self.schema_version == Value::Number(1) =>
            {
                DocumentType::Schema1 { signed: self.signatures.is_list() }
            }
            _ => DocumentType::Unsaid,
        }
    }
}

/// Whose media types descriptors name, and whether they are descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Inside {
    docker: bool,
    oci: bool,
    /// Something is no descriptor.
    other: bool,
}

impl Inside {
    fn of(media_type: &str) -> Self {
        let begins =
            |front: &str| media_type.get(..front.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(front));
        Self { docker: begins("application/vnd.docker."), oci: begins("application/vnd.oci."), other: false }
    }

    fn and(self, other: Self) -> Self {
        Self { docker: self.docker || other.docker, oci: self.oci || other.oci, other: self.other || other.other }
    }

    /// The type of a document of a shape that OCI and Docker share.
    fn type_of(self, index: bool) -> DocumentType {
        match (self.docker, index) {
            _ if self.other => DocumentType::Unsaid,
            (true, index) => DocumentType::Either { index, docker: !self.oci },
            (false, false) => DocumentType::Said(MediaType::OCI_MANIFEST),
            (false, true) => DocumentType::Said(MediaType::OCI_INDEX),
        }
    }
}

/// What a value is; of a descriptor, or a list of them, no more than whose types they name.
#[derive(Debug, PartialEq, Eq)]
enum Value {
    Null,
    Text(String),
    Number(u64),
    List(Inside),
    Map(Inside),
    Other,
}

impl Value {
    fn is_list(&self) -> bool {
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
        let mut inside = Inside::default();
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

/// Whose type a descriptor names, if it is one: it has a type, a digest and a size. One that names two types counts for both.
fn inside<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Inside, A::Error> {
    let mut inside = Inside::default();
    let (mut named, mut digest, mut size) = (false, false, false);
    while let Some(key) = map.next_key::<DescriptorKey>()? {
        match key {
            DescriptorKey::MediaType => {
                if let Value::Text(text) = map.next_value()? {
                    inside = inside.and(Inside::of(&text));
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

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = MediaTypeKind::OciIndex.as_str();
    const IMAGE: &str = MediaTypeKind::OciManifest.as_str();
    const SIGNED: &str = MediaTypeKind::DockerV1Signed.as_str();
    const UNSIGNED: &str = MediaTypeKind::DockerV1.as_str();
    const DOCKER: &str = MediaTypeKind::DockerManifest.as_str();
    const LIST: &str = MediaTypeKind::DockerList.as_str();
    const CONFIG: &str = "application/vnd.docker.container.image.v1+json";

    #[test]
    fn a_document_says_its_type_or_nothing() {
        let said = |text: &str| DocumentType::Said(text.parse().unwrap());
        let one = r#"{"mediaType":"a/b","size":2,"digest":"sha256:0","annotations":{"x":"y"}}"#;
        for (document, expected) in [
            (format!(r#"{{"config":{one},"layers":[]}}"#), said(IMAGE)),
            (format!(r#"{{"config":{one},"layers":null,"manifests":null,"mediaType":""}}"#), said(IMAGE)),
            // Of Helm and of artifacts that have nothing beside their configuration.
            (format!(r#"{{"schemaVersion":2,"config":{one}}}"#), said(IMAGE)),
            (format!(r#"{{"config":{one},"layers":[{one},{one}],"blobs":null}}"#), said(IMAGE)),
            (format!(r#"{{"manifests":[{one}],"config":null}}"#), said(INDEX)),
            // An image's configuration, and other documents that merely have the keys.
            (r#"{"architecture":"amd64","config":{},"rootfs":{"type":"layers"}}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"config":{"Cmd":["a"],"Labels":{"mediaType":"a/b"}}}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"config":{},"layers":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"config":{"size":2,"digest":"sha256:0"},"layers":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"config":{"mediaType":"a/b","digest":"sha256:0"},"layers":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"config":{"mediaType":"a/b","size":2},"layers":[]}"#.to_owned(), DocumentType::Unsaid),
            (
                r#"{"config":{"mediaType":"a/b","size":"2","digest":"sha256:0"},"layers":[]}"#.to_owned(),
                DocumentType::Unsaid,
            ),
            (format!(r#"{{"config":[{one}],"layers":[]}}"#), DocumentType::Unsaid),
            (format!(r#"{{"config":{one},"layers":{{}}}}"#), DocumentType::Unsaid),
            (format!(r#"{{"config":{one},"layers":[{one},{{}}]}}"#), DocumentType::Unsaid),
            (format!(r#"{{"config":{one},"layers":["sha256:0"]}}"#), DocumentType::Unsaid),
            (format!(r#"{{"manifests":[{one},null]}}"#), DocumentType::Unsaid),
            (r#"{"manifests":[{"name":"a","url":"b"}]}"#.to_owned(), DocumentType::Unsaid),
            (format!(r#"{{"blobs":[{one}]}}"#), DocumentType::Unsaid),
            (format!(r#"{{"config":{one},"layers":[],"blobs":[{one}]}}"#), DocumentType::Unsaid),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"schemaVersion":1,"history":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"manifests":[],"mediaType":null}"#.to_owned(), said(INDEX)),
            (format!(r#"{{"mediaType":"{INDEX}","config":{{}},"layers":[]}}"#), said(INDEX)),
            // Only their own `mediaType` counts, where it is there.
            (format!(r#"{{"mediaType":"{IMAGE}","config":{{"mediaType":"{CONFIG}"}},"layers":[]}}"#), said(IMAGE)),
            (r#"{"mediaType":"application/x"}"#.to_owned(), said("application/x")),
            (
                r#"{"schemaVersion":1,"fsLayers":[],"history":[{"v1Compatibility":"{}"}]}"#.to_owned(),
                DocumentType::Schema1 { signed: false },
            ),
            (
                r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}],"history":[],"signatures":[]}"#.to_owned(),
                DocumentType::Schema1 { signed: true },
            ),
            (r#"{"schemaVersion":2,"fsLayers":[],"history":[]}"#.to_owned(), DocumentType::Unsaid),
            (format!(r#"{{"mediaType":"{SIGNED}"}}"#), DocumentType::Schema1 { signed: false }),
            (format!(r#"{{"mediaType":"{SIGNED}","signatures":[]}}"#), DocumentType::Schema1 { signed: true }),
            (format!(r#"{{"mediaType":"{UNSIGNED}"}}"#), DocumentType::Schema1 { signed: false }),
            (r#"{"schemaVersion":1,"fsLayers":[],"history":[],"config":{}}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"schemaVersion":1,"fsLayers":[],"history":[],"layers":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"schemaVersion":1,"fsLayers":[],"history":[],"manifests":{}}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"config":{},"manifests":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"layers":[],"manifests":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"layers":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"config":{},"layers":[],"manifests":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"manifests":{}}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"manifests":[],"manifests":[]}"#.to_owned(), DocumentType::Unsaid),
            (format!(r#"{{"mediaType":"{INDEX}","mediaType":"{IMAGE}"}}"#), DocumentType::Unsaid),
            (r#"{"mediaType":"nonsense","manifests":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"mediaType":5,"manifests":[]}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"mediaType":"text/html"}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"mediaType":"text/plain"}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"mediaType":"image/svg+xml"}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"mediaType":"application/xml"}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"mediaType":"application/html"}"#.to_owned(), DocumentType::Unsaid),
            (r#"{"mediaType":"application/xhtml+xml"}"#.to_owned(), DocumentType::Unsaid),
            ("\u{feff}{\"manifests\":[]}".to_owned(), DocumentType::Unsaid),
            (String::new(), DocumentType::Unsaid),
            ("[]".to_owned(), DocumentType::Unsaid),
            (format!("{{\"manifests\":[],\"x\":{}", "[".repeat(1 << 20)), DocumentType::Unsaid),
        ] {
            let shown: String = document.chars().take(100).collect();
            assert_eq!(DocumentType::of(document.as_bytes()), expected, "{shown}");
        }
    }

    #[test]
    fn a_manifest_is_told_from_other_documents() {
        let (json, vendor) = ("application/json", "application/vnd.example.thing+json");
        for (header, document, is_likely, is_sure) in [
            (INDEX, r#"{"schemaVersion":2,"manifests":[]}"#, true, true),
            (json, r#" {"schemaVersion":2,"manifests":[]}"#, true, true),
            ("text/plain", r#"{"schemaVersion":2,"config":{},"layers":[]}"#, true, true),
            (IMAGE, r#"{"schemaVersion":2,"layers":[]}"#, true, true),
            (IMAGE, r#"{"config":{},"layers":[]}"#, true, true),
            (SIGNED, r#"{"schemaVersion":1,"fsLayers":[]}"#, true, true),
            (INDEX, &format!(r#"{{"mediaType":"{INDEX}","manifests":[]}}"#), true, true),
            (vendor, &format!(r#"{{"mediaType":"{vendor}"}}"#), true, true),
            ("application/x-thing; v=1", r#"{"mediaType":"application/x-thing"}"#, true, false),
            (json, r#"{"schemaVersion":2}"#, true, false),
            (json, r#"{"schemaVersion":2,"error":"login"}"#, true, false),
            (IMAGE, r#"{"schemaVersion":1,"login":"x"}"#, true, false),
            (json, r#"{"mediaType":"application/json","login":"x"}"#, false, false),
            (json, &format!(r#"{{"mediaType":"{INDEX}","manifests":[]}}"#), false, false),
            (json, r#"{"config":{},"layers":[]}"#, false, false),
            (json, r#"{"login":"https://sso.example"}"#, false, false),
            (IMAGE, r#"{"login":"https://sso.example"}"#, false, false),
            (json, r#"{"schemaVersion":3}"#, false, false),
            (IMAGE, r#"{"schemaVersion":3,"config":{}}"#, false, false),
            (vendor, &format!(r#"{{"schemaVersion":3,"mediaType":"{vendor}"}}"#), true, true),
            (json, r#"[2,"application/json"]"#, false, false),
            (json, "{}", false, false),
            (INDEX, "{}", false, false),
            (INDEX, "[]", false, false),
            (INDEX, "", false, false),
            (INDEX, "<xml/>", false, false),
        ] {
            let signs = ManifestSigns::of(document.as_bytes(), Some(&header.parse().unwrap()));
            assert_eq!(signs, ManifestSigns { is_likely, is_sure }, "{header} {document}");
        }
        assert!(ManifestSigns::of(br#"{"schemaVersion":2,"manifests":[]}"#, None).is_sure);
    }

    #[test]
    fn what_is_inside_tells_docker_from_oci() {
        let said = |text: &str| DocumentType::Said(text.parse().unwrap());
        let image = |docker| DocumentType::Either { index: false, docker };
        let index = |docker| DocumentType::Either { index: true, docker };
        let oci_config = "application/vnd.oci.image.config.v1+json";
        let (layer, oci_layer) =
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+gzip");
        let descriptor = |kind: &str| serde_json::json!({ "mediaType": kind, "size": 1, "digest": format!("sha256:{}", "a".repeat(64)) });
        let of_image = |config: &str, layers: &[&str]| {
            let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
            serde_json::json!({ "schemaVersion": 2, "config": descriptor(config), "layers": layers }).to_string()
        };
        let of_index = |entries: &[&str]| {
            let entries: Vec<_> = entries.iter().map(|entry| descriptor(entry)).collect();
            serde_json::json!({ "schemaVersion": 2, "manifests": entries }).to_string()
        };
        for (document, expected) in [
            (of_image(CONFIG, &[layer, layer]), image(true)),
            (of_image(&CONFIG.to_ascii_uppercase(), &[]), image(true)),
            (of_image("application/vnd.docker.plugin.v1+json", &["application/x"]), image(true)),
            (of_image("application/x", &[layer]), image(true)),
            (of_image(oci_config, &[oci_layer, layer]), image(false)),
            (of_image(CONFIG, &[oci_layer]), image(false)),
            (of_image(oci_config, &[oci_layer]), said(IMAGE)),
            (of_image(oci_config, &["application/vnd.dev.cosign.simplesigning.v1+json"]), said(IMAGE)),
            (of_image("application/vnd.cncf.helm.config.v1+json", &["application/x"]), said(IMAGE)),
            (of_image("application/vnd.dockerish+json", &[]), said(IMAGE)),
            (of_image("", &[]), said(IMAGE)),
            (of_index(&[DOCKER, DOCKER]), index(true)),
            (of_index(&[DOCKER, IMAGE]), index(false)),
            (of_index(&[IMAGE]), said(INDEX)),
            (of_index(&[]), said(INDEX)),
            (
                format!(
                    r#"{{"manifests":[{{"mediaType":"{DOCKER}","mediaType":"{IMAGE}","size":1,"digest":"sha256:0"}}]}}"#
                ),
                index(false),
            ),
        ] {
            assert_eq!(DocumentType::of(document.as_bytes()), expected, "{document}");
        }
    }

    #[test]
    fn a_header_settles_only_what_the_document_leaves_open() {
        let index = || DocumentType::Said(MediaType::OCI_INDEX);
        let signed = || DocumentType::Schema1 { signed: true };
        let either = |index, docker| DocumentType::Either { index, docker };
        for (document, header, expected) in [
            (index(), None, Some((INDEX, true))),
            (index(), Some("text/plain"), Some((INDEX, true))),
            (index(), Some("APPLICATION/vnd.oci.image.index.v1+JSON; charset=utf-8"), Some((INDEX, true))),
            (index(), Some(IMAGE), None),
            (index(), Some(SIGNED), None),
            (index(), Some("application/vnd.oci.artifact.manifest.v1+json"), None),
            (DocumentType::Said("application/x".parse().unwrap()), Some(IMAGE), None),
            (signed(), None, Some((SIGNED, false))),
            (signed(), Some(UNSIGNED), Some((UNSIGNED, false))),
            (DocumentType::Schema1 { signed: false }, None, Some((UNSIGNED, false))),
            (signed(), Some("application/json"), Some((SIGNED, false))),
            (signed(), Some(IMAGE), None),
            (either(false, true), None, Some((DOCKER, false))),
            (either(false, true), Some("text/plain"), Some((DOCKER, false))),
            (either(false, true), Some(DOCKER), Some((DOCKER, false))),
            (either(false, true), Some(IMAGE), Some((IMAGE, false))),
            (either(false, true), Some(LIST), None),
            (either(false, true), Some(SIGNED), None),
            (either(false, false), None, Some((IMAGE, false))),
            (either(false, false), Some(DOCKER), Some((DOCKER, false))),
            (either(true, true), None, Some((LIST, false))),
            (either(true, true), Some(LIST), Some((LIST, false))),
            (either(true, true), Some(INDEX), Some((INDEX, false))),
            (either(true, true), Some(DOCKER), None),
            (either(true, false), None, Some((INDEX, false))),
            (DocumentType::Said(MediaType::OCI_MANIFEST), Some(DOCKER), None),
            (DocumentType::Unsaid, Some("text/plain"), Some(("text/plain", false))),
            (DocumentType::Unsaid, None, Some((IMAGE, false))),
        ] {
            let settled = document.clone().settle(header.map(|header| header.parse().unwrap())).ok();
            let settled = settled.as_ref().map(|(media_type, own)| (media_type.as_str(), *own));
            assert_eq!(settled, expected, "{document:?} {header:?}");
        }
    }
}
