//! The list by which `docker load` finds images in an archive: it takes one platform of each (pure).
//!
//! Source: moby, `image/tarexport/load.go`, and "Docker Image Specification v1.2", `manifest.json`. Docker's own archives are
//! an image layout with this list beside it, too.

use bytes::Bytes;
use serde::Serialize;

use crate::oci::{
    Content, Descriptor, Digest, Manifest, Platform,
    layout::{MAX_DOCKER_LIST, blob_path},
};

/// The configurations of what Docker runs: it refuses an archive with others in the list.
const CONFIGURATIONS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// The manifest of an index that Docker gets: that of this machine's platform, or else the first one that has a platform.
pub(super) fn chosen(children: &[(Option<Platform>, Digest)]) -> Option<Digest> {
    let own = Platform::of_this_machine();
    let is_own = |platform: &Platform| own.as_ref().is_some_and(|own| platform.is_a(own));
    let first =
        |is: &dyn Fn(&Platform) -> bool| children.iter().find(|(platform, _)| platform.as_ref().is_some_and(is));
    first(&is_own).or_else(|| first(&|_| true)).map(|(_, digest)| digest.clone())
}

/// The list of these images, each with its whole name and its manifest; `None`: none of them is for Docker.
pub(super) fn list(images: &[(String, Bytes)]) -> Option<String> {
    let (mut entries, mut left) = (Vec::new(), MAX_DOCKER_LIST / 2);
    for entry in images.iter().filter_map(|(name, manifest)| entry(name, manifest)) {
        let len = [&entry.config].into_iter().chain(&entry.repo_tags).chain(&entry.layers).map(|text| text.len() + 50);
        left = left.checked_sub(len.sum::<usize>() as u64)?;
        entries.push(entry);
    }
    if entries.is_empty() { None } else { serde_json::to_string(&entries).ok() }
}

fn entry(name: &str, manifest: &[u8]) -> Option<Entry> {
    let Content::Image { config, layers } = Manifest::parse(manifest).ok()?.content else { return None };
    let is_for_docker = CONFIGURATIONS.contains(&config.media_type.essence());
    let is_whole = layers.iter().all(Descriptor::is_distributable);
    let path = |descriptor: &Descriptor| blob_path(&descriptor.digest);
    (is_for_docker && is_whole).then(|| Entry {
        config: path(&config),
        repo_tags: Some(name).filter(|name| !name.contains('@')).map(str::to_owned).into_iter().collect(),
        layers: layers.iter().map(path).collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::Algorithm;

    fn digest(text: &str) -> Digest {
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }

    fn manifest(config: &str, layer: &str) -> Bytes {
        let blob = |kind: &str, text: &str| json!({ "mediaType": kind, "digest": digest(text).as_str(), "size": 1 });
        let manifest = json!({ "schemaVersion": 2, "config": blob(config, "c"), "layers": [blob(layer, "l")] });
        manifest.to_string().into()
    }

    #[test]
    fn the_list_has_the_images_that_docker_runs() {
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let of_docker = manifest(CONFIGURATIONS[1], layer);
        let images = [
            ("docker.io/library/a:1".to_owned(), manifest(CONFIGURATIONS[0], layer)),
            (format!("docker.io/library/b@{}", digest("b")), of_docker),
            ("ghcr.io/charts/c:1".to_owned(), manifest("application/vnd.cncf.helm.config.v1+json", layer)),
            ("a.example/windows:1".to_owned(), manifest(CONFIGURATIONS[0], "application/vnd.docker.image.foreign.1")),
            ("docker.io/library/index:1".to_owned(), r#"{"schemaVersion":2,"manifests":[]}"#.into()),
        ];
        let list: Value = serde_json::from_str(&list(&images).unwrap()).unwrap();
        let (config, layer) = (blob_path(&digest("c")), blob_path(&digest("l")));
        let expected = |tags: &[&str]| json!({ "Config": config, "RepoTags": tags, "Layers": [layer] });
        assert_eq!(list, json!([expected(&["docker.io/library/a:1"]), expected(&[])]));
        assert_eq!(super::list(&images[2..]), None);
    }

    #[test]
    fn a_list_that_no_import_would_take_is_left_out() {
        let images = vec![("a".repeat(1 << 20), manifest(CONFIGURATIONS[0], "a/b")); 8];
        assert!(list(&images[..7]).is_some());
        assert_eq!(list(&images), None);
    }

    #[test]
    fn docker_gets_the_platform_of_this_machine_or_the_first() {
        let own = Platform::of_this_machine().unwrap();
        let child = |platform: Option<&str>, name| (platform.map(|text| text.parse().unwrap()), digest(name));
        let (none, other) = (child(None, "none"), child(Some("windows/s390x"), "other"));
        let (mine, variant) = (child(Some(own.as_str()), "own"), child(Some(&format!("{own}/v9")), "variant"));
        for (children, expected) in [
            (vec![], None),
            (vec![none.clone()], None),
            (vec![none.clone(), other.clone()], Some("other")),
            (vec![other.clone(), variant.clone(), mine.clone()], Some("variant")),
            (vec![none, other, mine], Some("own")),
        ] {
            assert_eq!(chosen(&children), expected.map(digest), "{children:?}");
        }
    }
}
