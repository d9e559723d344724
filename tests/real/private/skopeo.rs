//! skopeo: an index with all that belongs to it and what refers to it; lists, copies of a whole repository, deletions.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{ANN, BOB, World, blobs};
use forebay_test_support::real::{
    forebay::Forebay,
    image::{Blob, Format, Index, Referrer},
    podman::Podman,
    push::{Login, Pusher},
};

async fn log_in(user: &Podman, forebay: &Forebay, name: &str, password: &str) {
    let host = format!("127.0.0.1:{}", forebay.port);
    user.skopeo(&["login", "--tls-verify=false", "--username", name, "--password", password, &host]).await.ok();
}

/// `dir:` names blobs by the hex of their digest.
fn assert_copied(folder: &Path, manifest: &Blob, parts: impl IntoIterator<Item = Blob>) {
    assert_eq!(fs::read(folder.join("manifest.json")).expect("a manifest"), manifest.bytes);
    for blob in parts {
        assert_eq!(fs::read(folder.join(blob.hex())).expect("the blob was copied"), blob.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_syncs_and_deletes_an_index_and_referrer() {
    let world = World::new().await;
    let multi = Index::new(Format::Oci, 87, &[100_000, 1_000]);
    let signature = Referrer::of(&multi.index, b"a signature");
    world.hub.pusher().index("team/source", "1", &multi).await;
    let forebay = world.forebay(&world.registry.url(), "").await;
    let source = format!("docker://127.0.0.1:{}/team/source:1", world.hub.port);
    let hers = |tag: &str| format!("docker://127.0.0.1:{}/ann/app:{tag}", forebay.port);
    let name = format!("docker://127.0.0.1:{}/ann/app", forebay.port);
    let ann = Podman::new("");
    let copy = ["copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", &source];
    ann.skopeo(&[&copy[..], &[&hers("1")]].concat()).await.failed();
    log_in(&ann, &forebay, ANN.name, ANN.password).await;
    for tag in ["1", "2"] {
        ann.skopeo(&[&copy[..], &[&hers(tag)]].concat()).await.ok();
    }
    // As tools that sign do it; skopeo would write an index of its own.
    let login = Login::Basic(ANN.name.to_owned(), ANN.password.to_owned());
    Pusher::new(forebay.url(""), None, login).referrer("ann/app", &signature).await;
    let listed = ann.skopeo(&["list-tags", "--tls-verify=false", &name]).await.ok();
    let listed: serde_json::Value = serde_json::from_slice(&listed).expect("a list of tags");
    let listed: BTreeSet<&str> =
        listed["Tags"].as_array().into_iter().flatten().filter_map(|tag| tag.as_str()).collect();
    assert_eq!(listed, BTreeSet::from(["1", "2", &signature.tag]));

    // All that is in the repository, into a folder.
    let folder = ann.place("synced");
    fs::create_dir(&folder).expect("a folder can be made");
    let (from, to) = (format!("127.0.0.1:{}/ann/app", forebay.port), folder.display().to_string());
    let sync = ["sync", "--all", "--src", "docker", "--dest", "dir", "--src-tls-verify=false", &from, &to];
    ann.skopeo(&sync).await.ok();
    for tag in ["1", "2"] {
        assert_copied(&folder.join(format!("app:{tag}")), &multi.index.blob, multi.images.iter().flat_map(blobs));
    }
    let of_signature = folder.join(format!("app:{}", signature.tag));
    for blob in [&signature.content, &signature.config] {
        assert_eq!(fs::read(of_signature.join(blob.hex())).expect("the blob was copied"), blob.bytes);
    }

    let bob = Podman::new("");
    for logged_in in [false, true] {
        if logged_in {
            log_in(&bob, &forebay, BOB.name, BOB.password).await;
        }
        bob.skopeo(&["list-tags", "--tls-verify=false", &name]).await.failed();
        bob.skopeo(&sync).await.failed();
        bob.skopeo(&["inspect", "--raw", "--tls-verify=false", &hers(&signature.tag)]).await.failed();
        bob.skopeo(&["delete", "--tls-verify=false", &hers(&signature.tag)]).await.failed();
    }

    for (tag, document) in [(&*signature.tag, &signature.index), ("1", &multi.index)] {
        let raw = ann.skopeo(&["inspect", "--raw", "--tls-verify=false", &hers(tag)]).await.ok();
        assert_eq!(raw, document.blob.bytes, "no other client could delete it");
        ann.skopeo(&["delete", "--tls-verify=false", &hers(tag)]).await.ok();
        let gone = ann.skopeo(&["inspect", "--raw", "--tls-verify=false", &hers(tag)]).await.failed();
        assert!(gone.contains("manifest unknown"), "{gone}");
    }
}
