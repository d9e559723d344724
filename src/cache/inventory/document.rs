//! What a manifest names, as far as the inventory needs it (pure).

use crate::{
    cache::manifest::VerifiedManifest,
    oci::{Content, Digest, Manifest, Platform},
};

/// How many parts of one manifest are remembered. No runtime stacks so many layers, and there are not so many platforms: a
/// document with more is not read.
const MAX_PARTS: usize = 4096;

/// What a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Document {
    Index(Vec<Child>),
    /// The configuration and the layers, without those that no registry stores.
    Image(Vec<Digest>),
    /// Nothing that forebay knows.
    Other,
}

/// A manifest of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub digest: Digest,
    pub platform: Option<Platform>,
}

impl Document {
    /// Reads the file of a manifest; `None` if it is damaged.
    pub(super) fn in_file(digest: &Digest, file: &[u8]) -> Option<Self> {
        if !VerifiedManifest::is_whole(digest, file) {
            return None;
        }
        VerifiedManifest::document_in(file).map(Self::read)
    }

    fn read(bytes: &[u8]) -> Self {
        match Manifest::parse(bytes).map(|manifest| manifest.content) {
            Ok(Content::Index { manifests }) if manifests.len() <= MAX_PARTS => {
                let platforms = Platform::of_index(bytes).into_iter().chain(std::iter::repeat(None));
                let children = manifests.into_iter().zip(platforms);
                Self::Index(children.map(|(child, platform)| Child { digest: child.digest, platform }).collect())
            }
            Ok(Content::Image { config, layers }) if layers.len() < MAX_PARTS => {
                let layers = layers.into_iter().filter(|layer| layer.is_distributable());
                Self::Image([config].into_iter().chain(layers).map(|blob| blob.digest).collect())
            }
            Ok(Content::Index { .. } | Content::Image { .. }) | Err(_) => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::Algorithm;

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    fn descriptor(kind: &str, of: &str) -> Value {
        json!({ "mediaType": kind, "size": 1, "digest": digest(of).as_str() })
    }

    #[test]
    fn what_a_manifest_names_is_read() {
        let mut child = descriptor("a/b", "arm");
        child["platform"] = json!({ "os": "linux", "architecture": "arm", "variant": "v7" });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor("a/b", "any"), child] });
        let Document::Index(children) = Document::read(index.to_string().as_bytes()) else { panic!("an index") };
        let read: Vec<_> =
            children.iter().map(|child| (&child.digest, child.platform.as_ref().map(Platform::as_str))).collect();
        assert_eq!(read, [(&digest("any"), None), (&digest("arm"), Some("linux/arm/v7"))]);

        let foreign = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "windows");
        let layers = [descriptor("a/b", "layer"), foreign];
        let image = json!({ "schemaVersion": 2, "config": descriptor("a/b", "config"), "layers": layers });
        let expected = Document::Image(vec![digest("config"), digest("layer")]);
        assert_eq!(Document::read(image.to_string().as_bytes()), expected);

        let many = vec![descriptor("a/b", "x"); MAX_PARTS + 1];
        for other in [
            json!({ "schemaVersion": 1 }),
            json!({ "schemaVersion": 2, "manifests": many }),
            json!({ "schemaVersion": 2, "config": descriptor("a/b", "config"), "layers": many }),
        ] {
            assert_eq!(Document::read(other.to_string().as_bytes()), Document::Other);
        }
    }

    #[test]
    fn a_damaged_file_says_nothing() {
        let bytes = br#"{"schemaVersion":2,"manifests":[]}"#;
        let file = [b"a/b\n".as_slice(), bytes].concat();
        let digest = Digest::of(Algorithm::Sha256, bytes);
        assert_eq!(Document::in_file(&digest, &file), Some(Document::Index(Vec::new())));
        assert_eq!(Document::in_file(&digest, &file[..file.len() - 1]), None);
        assert_eq!(Document::in_file(&digest, b""), None);
    }
}
