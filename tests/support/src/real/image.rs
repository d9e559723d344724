//! Images with known bytes: layers, configs, manifests and indexes, in the OCI's and in Docker's types.

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::tar;

/// Which family of media types a manifest is written in.
#[derive(Clone, Copy)]
pub enum Format {
    Oci,
    Docker,
}

impl Format {
    fn manifest(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.manifest.v1+json",
            Format::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.index.v1+json",
            Format::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.config.v1+json",
            Format::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Format::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// Bytes, and the digest that names them.
#[derive(Clone)]
pub struct Blob {
    pub bytes: Bytes,
    pub digest: String,
}

impl Blob {
    pub fn new(bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        let digest = digest(&bytes);
        Blob { bytes, digest }
    }

    /// `size` pseudo-random bytes, the same for the same seed.
    pub fn random(seed: u64, size: usize) -> Blob {
        Blob::new(random(seed, size))
    }

    /// The digest without its algorithm.
    pub fn hex(&self) -> &str {
        &self.digest["sha256:".len()..]
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "size": self.bytes.len(), "digest": self.digest })
    }
}

/// A manifest or an index: the exact bytes and what they are served as.
#[derive(Clone)]
pub struct Document {
    pub blob: Blob,
    pub media_type: &'static str,
}

impl Document {
    fn new(value: &Value, media_type: &'static str) -> Document {
        // Not what a canonical writer would make: a mirror that re-serialises is found out.
        let text = serde_json::to_string_pretty(value).expect("a value can be written");
        Document { blob: Blob::new(text), media_type }
    }
}

/// One image for one architecture.
#[derive(Clone)]
pub struct Image {
    pub manifest: Document,
    pub config: Blob,
    pub layers: Vec<Blob>,
    /// The digests of the unpacked layers: what an engine calls them once it holds them.
    pub diff_ids: Vec<String>,
    architecture: &'static str,
}

impl Image {
    /// An image for this machine, with one layer per size; `seed` makes its bytes its own.
    pub fn new(format: Format, seed: u64, layers: &[usize]) -> Image {
        Image::of(format, seed, layers, architecture())
    }

    fn of(format: Format, seed: u64, layers: &[usize], architecture: &'static str) -> Image {
        let mut diff_ids = Vec::new();
        let layers: Vec<Blob> = (seed * 100..)
            .zip(layers)
            .map(|(seed, size)| {
                let archive = tar::archive(&[(&format!("file-{seed}"), &random(seed, *size))]);
                diff_ids.push(digest(&archive));
                Blob::new(tar::gzip(&archive))
            })
            .collect();
        let config = Blob::new(
            json!({
                "architecture": architecture, "os": "linux",
                "config": { "Cmd": ["/file"], "Labels": { "seed": seed.to_string() } },
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
                "history": diff_ids.iter().map(|_| json!({ "created_by": "forebay test" })).collect::<Vec<_>>(),
            })
            .to_string(),
        );
        let manifest = json!({
            "schemaVersion": 2, "mediaType": format.manifest(),
            "config": config.descriptor(format.config()),
            "layers": layers.iter().map(|layer| layer.descriptor(format.layer())).collect::<Vec<_>>(),
        });
        Image { manifest: Document::new(&manifest, format.manifest()), config, layers, diff_ids, architecture }
    }
}

/// A multi-architecture image; the first of `images` is this machine's.
#[derive(Clone)]
pub struct Index {
    pub index: Document,
    pub images: Vec<Image>,
}

impl Index {
    pub fn new(format: Format, seed: u64, layers: &[usize]) -> Index {
        let images: Vec<Image> = (seed..)
            .zip([architecture(), other_architecture()])
            .map(|(seed, architecture)| Image::of(format, seed, layers, architecture))
            .collect();
        let manifests: Vec<Value> = images
            .iter()
            .map(|image| {
                let mut descriptor = image.manifest.blob.descriptor(format.manifest());
                descriptor["platform"] = json!({ "os": "linux", "architecture": image.architecture });
                descriptor
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": format.index(), "manifests": manifests });
        Index { index: Document::new(&index, format.index()), images }
    }
}

/// A manifest that refers to another one, as a signature does; and the index by which registries without an endpoint for
/// that have it found (OCI distribution specification, "Referrers Tag Schema").
pub struct Referrer {
    pub manifest: Document,
    pub config: Blob,
    pub content: Blob,
    pub index: Document,
    /// The tag of the index.
    pub tag: String,
}

impl Referrer {
    pub fn of(subject: &Document, content: &'static [u8]) -> Referrer {
        const KIND: &str = "application/vnd.test.signature";
        let (config, content) = (Blob::new(&b"{}"[..]), Blob::new(content));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": Format::Oci.manifest(), "artifactType": KIND,
            "config": config.descriptor(KIND), "layers": [content.descriptor("application/octet-stream")],
            "subject": subject.blob.descriptor(subject.media_type),
        });
        let manifest = Document::new(&manifest, Format::Oci.manifest());
        let mut descriptor = manifest.blob.descriptor(manifest.media_type);
        descriptor["artifactType"] = json!(KIND);
        let index = json!({ "schemaVersion": 2, "mediaType": Format::Oci.index(), "manifests": [descriptor] });
        let index = Document::new(&index, Format::Oci.index());
        Referrer { manifest, config, content, index, tag: subject.blob.digest.replace(':', "-") }
    }
}

/// `sha256:` and the hex of the bytes' SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
pub fn random(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// This machine, in the words of images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn other_architecture() -> &'static str {
    if architecture() == "s390x" { "amd64" } else { "s390x" }
}
