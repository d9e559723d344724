//! Tells a manifest from another document that a proxy may send in its place, such as a login page.

use super::{
    MediaType,
    manifest_keys::{Keys, Value},
    manifest_type::is_manifest_type,
};

/// Proxies send documents of this type, too.
const JSON: &str = "application/json";

/// Whether a document is a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestSigns {
    /// Its `schemaVersion` is one of a manifest, or its `mediaType` is that of the header and more specific than JSON.
    pub is_likely: bool,
    /// It also has the parts of a manifest, such as a list of layers or manifests; or its `mediaType` is a manifest's.
    pub is_sure: bool,
}

impl ManifestSigns {
    /// Reads only which keys a document has; `header`: the upstream's Content-Type.
    pub fn of(bytes: &[u8], header: Option<&MediaType>) -> Self {
        // serde would read an array as the fields in their order.
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
        // A version that no manifest has outweighs the header.
        let has_other_version = !has_version && keys.schema_version != Value::Null;
        let is_called = !has_other_version && header.is_some_and(is_manifest_type);
        let is_sure = is_typed || (is_made_of && (has_version || is_called));
        let is_own_type = is_named && header.is_some_and(|header| !header.essence().eq_ignore_ascii_case(JSON));
        Self { is_likely: is_sure || has_version || is_own_type, is_sure }
    }
}

/// Whether a type may be that of a manifest, vendor types included.
fn is_for_manifests(media_type: &MediaType) -> bool {
    is_manifest_type(media_type) || media_type.essence().to_ascii_lowercase().starts_with("application/vnd.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::MediaTypeKind;

    const INDEX: &str = MediaTypeKind::OciIndex.as_str();
    const IMAGE: &str = MediaTypeKind::OciManifest.as_str();
    const SIGNED: &str = MediaTypeKind::DockerV1Signed.as_str();

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
}
