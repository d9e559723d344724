//! An image layout: its files, and its index.
//!
//! Source: OCI image specification v1.1, "Image Layout"; containerd's `images/annotations.go` for the name that it reads.

use serde::{Deserialize, Serialize};

use super::{Descriptor, Digest, ParseError};

/// The file that makes a directory a layout, and what it says.
pub const LAYOUT_FILE: &str = "oci-layout";
pub const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The file that names the images.
pub const INDEX_FILE: &str = "index.json";
/// The directory of the blobs, the manifests among them.
pub const BLOBS: &str = "blobs";
/// By which Docker finds the images of an archive.
pub const DOCKER_LIST: &str = "manifest.json";
/// The longest such list that an import passes over, in bytes.
pub const MAX_DOCKER_LIST: u64 = 16 * 1024 * 1024;
/// What archives for Docker have beside a layout: nothing in them counts here.
const OF_DOCKER: [&str; 2] = [DOCKER_LIST, "repositories"];
const OCI_INDEX: &str = super::MediaTypeKind::OciIndex.as_str();

/// A plain file of a layout, by its path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LayoutFile {
    Layout,
    Index,
    Blob(Digest),
    /// It does not count.
    OfDocker,
}

impl LayoutFile {
    /// The file with this path; `None` if a layout has no such file.
    pub fn of(path: &str) -> Option<Self> {
        match path {
            LAYOUT_FILE => Some(Self::Layout),
            INDEX_FILE => Some(Self::Index),
            path if OF_DOCKER.contains(&path) => Some(Self::OfDocker),
            path => {
                let (algorithm, hex) = path.strip_prefix(BLOBS)?.strip_prefix('/')?.split_once('/')?;
                format!("{algorithm}:{hex}").parse().ok().map(Self::Blob)
            }
        }
    }
}

/// The path of a blob.
pub fn blob_path(digest: &Digest) -> String {
    format!("{BLOBS}/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// An image that the index of a layout names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutImage {
    pub manifest: Descriptor,
    /// Its whole name, or a tag alone; `None`: it has no name.
    pub name: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Entry>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations>,
}

/// Those that count: an index may have millions of others.
#[derive(Serialize, Deserialize)]
struct Annotations {
    /// Always a whole name.
    #[serde(rename = "io.containerd.image.name", default, skip_serializing_if = "Option::is_none")]
    image_name: Option<String>,
    /// A tag alone, or a whole name.
    #[serde(rename = "org.opencontainers.image.ref.name", default, skip_serializing_if = "Option::is_none")]
    ref_name: Option<String>,
}

/// The index of a layout with these images, by whole names.
pub fn encode_index(images: &[LayoutImage]) -> String {
    let entry = |LayoutImage { manifest, name }: &LayoutImage| {
        let annotations = |name: &String| Annotations { image_name: Some(name.clone()), ref_name: Some(name.clone()) };
        Entry {
            media_type: manifest.media_type.to_string(),
            digest: manifest.digest.to_string(),
            size: manifest.size,
            annotations: name.as_ref().map(annotations),
        }
    };
    let manifests = Some(images.iter().map(entry).collect());
    let index = Index { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests };
    // Strings and numbers always have a form in JSON.
    serde_json::to_string(&index).unwrap_or_default()
}

/// Reads the index of a layout. The caller bounds its length.
///
/// # Errors
/// It is no index, or names something that is no image.
pub fn parse_index(bytes: &[u8]) -> Result<Vec<LayoutImage>, ParseError> {
    let invalid = |why: String| ParseError::Manifest(why);
    let index: Index = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if index.schema_version != 2 {
        return Err(invalid(format!("schemaVersion must be 2, not {}", index.schema_version)));
    }
    index.manifests.unwrap_or_default().into_iter().map(image).collect()
}

fn image(entry: Entry) -> Result<LayoutImage, ParseError> {
    let Entry { media_type, digest, size, annotations } = entry;
    let name = annotations.and_then(|Annotations { image_name, ref_name }| image_name.or(ref_name));
    let manifest = Descriptor { media_type: media_type.parse()?, digest: digest.parse()?, size };
    Ok(LayoutImage { manifest, name: name.filter(|name| !name.is_empty()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, MediaType};

    fn image(name: Option<&str>) -> LayoutImage {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let manifest = Descriptor { media_type: MediaType::OCI_INDEX, digest, size: 7 };
        LayoutImage { manifest, name: name.map(str::to_owned) }
    }

    #[test]
    fn only_the_files_of_a_layout_have_names() {
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"x");
            assert_eq!(LayoutFile::of(&blob_path(&digest)), Some(LayoutFile::Blob(digest)));
        }
        let hex = "a".repeat(64);
        for (path, expected) in [
            ("oci-layout", Some(LayoutFile::Layout)),
            ("index.json", Some(LayoutFile::Index)),
            ("manifest.json", Some(LayoutFile::OfDocker)),
            ("", None),
            ("/index.json", None),
            ("../index.json", None),
            ("blobs/../index.json", None),
            ("blobs/sha256/../../etc/passwd", None),
            ("blobs/md5/00", None),
            (&format!("blobs/sha256/{hex}x"), None),
            (&format!("blobs/sha256/{hex}/"), None),
            (&format!("blobs/sha256/{}", hex.to_uppercase()), None),
            (&format!("/blobs/sha256/{hex}"), None),
            (&format!("blobs//sha256/{hex}"), None),
        ] {
            assert_eq!(LayoutFile::of(path), expected, "{path}");
        }
    }

    #[test]
    fn an_index_is_read_back() {
        let images = [image(Some("docker.io/library/node:22")), image(None)];
        let text = encode_index(&images);
        assert_eq!(parse_index(text.as_bytes()).unwrap(), images);
        assert!(text.contains(r#""org.opencontainers.image.ref.name":"docker.io/library/node:22""#), "{text}");
    }

    #[test]
    fn a_whole_name_outweighs_a_tag() {
        let text = encode_index(&[image(Some("docker.io/library/node:22"))]);
        let both = text.replace(
            r#""org.opencontainers.image.ref.name":"docker.io/library/node:22""#,
            r#""org.opencontainers.image.ref.name":"22""#,
        );
        assert_eq!(parse_index(both.as_bytes()).unwrap()[0].name.as_deref(), Some("docker.io/library/node:22"));
        let tag = both.replace(r#""io.containerd.image.name":"docker.io/library/node:22","#, "");
        assert_eq!(parse_index(tag.as_bytes()).unwrap()[0].name.as_deref(), Some("22"));
    }

    #[test]
    fn other_annotations_do_not_count() {
        let text = encode_index(&[image(Some("docker.io/library/node:22"))]);
        let more = text.replace(r#""annotations":{"#, r#""annotations":{"a":"","org.example":"x","#);
        assert_ne!(more, text);
        assert_eq!(parse_index(more.as_bytes()).unwrap(), [image(Some("docker.io/library/node:22"))]);
        // Which of two names counts is not for the archive to choose.
        let name = r#""io.containerd.image.name":"docker.io/library/node:22""#;
        let twice = text.replace(name, &format!("{name},{name}"));
        assert!(twice != text && parse_index(twice.as_bytes()).is_err());
    }

    #[test]
    fn other_documents_are_no_index() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for text in [
            "",
            "{}",
            "[]",
            r#"{"schemaVersion":1,"manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[{}]}"#,
            &format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"a","digest":"{digest}","size":1}}]}}"#),
            &format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"a/b","digest":"{digest}","size":-1}}]}}"#),
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"md5:00","size":1}]}"#,
        ] {
            assert!(parse_index(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(parse_index(br#"{"schemaVersion":2}"#).unwrap(), []);
    }
}
