//! Archives of images: made, and taken apart.

use bytes::Bytes;
use forebay::{
    oci::{Algorithm, Digest, layout::blob_path},
    tar::{END, Piece, Reader, file_header, padding},
};
use serde_json::json;

use crate::{
    fake_registry::{FakeRegistry, Image},
    manifest::{OCI_INDEX, OCI_MANIFEST},
};

/// An index of two platforms, which share a layer, under the tag `1` of `team/app`.
pub struct TwoPlatforms {
    pub registry: FakeRegistry,
    pub digest: Digest,
    pub amd64: Image,
    pub arm64: Image,
}

impl TwoPlatforms {
    pub async fn new() -> Self {
        let registry = FakeRegistry::start().await;
        let amd64 = registry.add_image("team/app", "amd64", &[b"a layer of both", b"a layer of amd64"]);
        let arm64 = registry.add_image("team/app", "arm64", &[b"a layer of both", b"a layer of arm64"]);
        let child = |image: &Image, architecture: &str| {
            json!({
                "mediaType": OCI_MANIFEST, "digest": image.manifest.as_str(), "size": image.manifest_bytes.len(),
                "platform": { "os": "linux", "architecture": architecture },
            })
        };
        let children = [child(&amd64, "amd64"), child(&arm64, "arm64")];
        let content = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children }).to_string();
        let digest = registry.add_manifest("team/app", OCI_INDEX, content);
        registry.tag("team/app", "1", &digest);
        Self { registry, digest, amd64, arm64 }
    }

    /// The blobs of an image.
    pub fn blobs(image: &Image) -> Vec<Digest> {
        image.layers.iter().chain([&image.config]).cloned().collect()
    }
}

/// The files of a whole archive, in their order.
pub fn files(archive: &[u8]) -> Vec<(String, Bytes)> {
    let (mut reader, mut files) = (Reader::default(), Vec::<(String, Vec<u8>)>::new());
    reader.push(Bytes::copy_from_slice(archive));
    while let Some(piece) = reader.read().unwrap() {
        match piece {
            Piece::Entry(entry) => files.push((entry.name, Vec::new())),
            Piece::Content(bytes) => files.last_mut().unwrap().1.extend_from_slice(&bytes),
            Piece::End => break,
        }
    }
    reader.finish().unwrap();
    files.into_iter().map(|(name, content)| (name, content.into())).collect()
}

/// An archive of these files.
pub fn archive(files: &[(String, Bytes)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        archive.extend(file(name, content));
    }
    archive.extend(END);
    archive
}

/// A file as it is in an archive.
pub fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let len = content.len() as u64;
    let mut bytes = file_header(name, len);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + padding(len), 0);
    bytes
}

/// The blob of this content, as it is in an archive.
pub fn blob(content: impl Into<Bytes>) -> (String, Bytes) {
    let content = content.into();
    (blob_path(&Digest::of(Algorithm::Sha256, &content)), content)
}

/// The files of a layout with one image of a configuration and this layer; `name` as its index has it.
pub fn image_files(name: Option<&str>, layer: impl Into<Bytes>) -> Vec<(String, Bytes)> {
    let config = blob(&br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#[..]);
    let layer = blob(layer);
    let descriptor = |kind: &str, (path, content): &(String, Bytes)| {
        let digest = format!("sha256:{}", path.rsplit('/').next().unwrap());
        json!({ "mediaType": kind, "digest": digest, "size": content.len() })
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = blob(manifest.to_string());
    let mut entry = descriptor(OCI_MANIFEST, &manifest);
    if let Some(name) = name {
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    }
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    let layout = Bytes::from_static(br#"{"imageLayoutVersion":"1.0.0"}"#);
    vec![
        ("oci-layout".to_owned(), layout),
        ("index.json".to_owned(), index.to_string().into()),
        manifest,
        config,
        layer,
    ]
}
