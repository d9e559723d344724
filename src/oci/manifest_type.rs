//! The media type of a manifest, derived from its bytes.
//!
//! The digest covers the bytes and not the Content-Type. So if the bytes name a type, that type is sent to the clients
//! of all upstreams. A document that two readers could understand differently names none: then the upstream's
//! Content-Type counts, for the clients of that upstream.
//!
//! OCI took the shapes of its formats from Docker's schema 2. If no `mediaType` tells them apart, the types of the
//! descriptors do: Docker's formats usually have descriptors of Docker's types, but OCI's formats may have them too.

use super::{
    MediaType, MediaTypeKind,
    manifest_keys::{Keys, MediaTypesInside, Value},
};

/// The type that a document names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentType {
    /// The document names it by `mediaType`, or else by its shape.
    Said(MediaType),
    /// Docker's schema 1. Its two media types are both in use for both forms.
    Schema1 { signed: bool },
    /// The shape is common to OCI and Docker's schema 2. The descriptors have Docker's types: only those (`docker`), or
    /// also OCI's.
    Either { index: bool, docker: bool },
    /// The document names no type, or more than one.
    Unsaid,
}

/// The header names another manifest type than the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherType;

impl DocumentType {
    /// Reads only which keys a document has. The caller bounds its length.
    pub fn of(bytes: &[u8]) -> Self {
        let Ok(keys) = serde_json::from_slice::<Keys>(bytes) else { return Self::Unsaid };
        match &keys.media_type {
            Value::Null => type_of_shape(&keys),
            Value::Text(text) if text.is_empty() => type_of_shape(&keys),
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

    /// The type for clients, if the upstream's Content-Type is `header`; and whether the document itself names it, so
    /// that it counts for the clients of all upstreams.
    ///
    /// # Errors
    /// The header names another manifest type.
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

/// Whether a document is of schema 1, and names no other type.
pub(super) fn is_schema1(bytes: &[u8]) -> bool {
    let read = serde_json::from_slice::<Keys>(bytes);
    read.is_ok_and(|keys| keys.schema_version == Value::Number(1))
        && matches!(DocumentType::of(bytes), DocumentType::Schema1 { .. })
}

pub(super) fn is_manifest_type(media_type: &MediaType) -> bool {
    const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
    media_type.kind().is_some() || media_type.essence().eq_ignore_ascii_case(ARTIFACT)
}

/// Whether no browser shows documents of this type as a page: a document must not turn itself into one.
fn is_for_programs(media_type: &MediaType) -> bool {
    let essence = media_type.essence().to_ascii_lowercase();
    essence.starts_with("application/") && !essence.contains("html") && !essence.ends_with("xml")
}

/// The type that the shape of a document implies.
fn type_of_shape(keys: &Keys) -> DocumentType {
    let null = |value: &Value| *value == Value::Null;
    // An artifact manifest names its type itself; without the name, its shape implies no type.
    if !null(&keys.blobs) {
        return DocumentType::Unsaid;
    }
    match (&keys.config, &keys.layers, &keys.manifests, &keys.fs_layers) {
        // An image's configuration also has a map `config`, which is no descriptor.
        (Value::Map(config), Value::List(layers), Value::Null, Value::Null) => shared_type(config.and(*layers), false),
        (Value::Map(config), Value::Null, Value::Null, Value::Null) => shared_type(*config, false),
        (config, layers, Value::List(manifests), Value::Null) if null(config) && null(layers) => {
            shared_type(*manifests, true)
        }
        (config, layers, manifests, Value::List(_))
            if null(config)
                && null(layers)
                && null(manifests)
                && keys.history.is_list()
                && keys.schema_version == Value::Number(1) =>
        {
            DocumentType::Schema1 { signed: keys.signatures.is_list() }
        }
        _ => DocumentType::Unsaid,
    }
}

/// The type of a document of a shape that OCI and Docker share.
fn shared_type(inside: MediaTypesInside, index: bool) -> DocumentType {
    match (inside.docker, index) {
        _ if inside.other => DocumentType::Unsaid,
        (true, index) => DocumentType::Either { index, docker: !inside.oci },
        (false, false) => DocumentType::Said(MediaType::OCI_MANIFEST),
        (false, true) => DocumentType::Said(MediaType::OCI_INDEX),
    }
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
    fn a_document_names_its_type_or_none() {
        let said = |text: &str| DocumentType::Said(text.parse().unwrap());
        let one = r#"{"mediaType":"a/b","size":2,"digest":"sha256:0","annotations":{"x":"y"}}"#;
        for (document, expected) in [
            (format!(r#"{{"config":{one},"layers":[]}}"#), said(IMAGE)),
            (format!(r#"{{"config":{one},"layers":null,"manifests":null,"mediaType":""}}"#), said(IMAGE)),
            // Helm charts and artifacts that have only a configuration.
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
            // If the document has a `mediaType` of its own, only that counts.
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
    fn descriptors_tell_docker_from_oci() {
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
