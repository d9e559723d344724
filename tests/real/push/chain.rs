//! Two forebays in a row before a registry that has no endpoint for referrers.

use futures_util::future::join_all;
use http::StatusCode;
use serde_json::{Value, json};

use super::open_mirror;
use forebay_test_support::real::{
    download::client,
    forebay::Forebay,
    image::{Format, Image},
    podman::Podman,
    registry::Registry,
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

async fn mirror_of(inner: &Forebay) -> Forebay {
    let upstream = format!("[[upstream]]\nname = \"hub.test\"\nurls = [\"{}\"]\ndefault = true\n", inner.url(""));
    Forebay::start(&format!("{upstream}push = true\n"), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_and_syncs_through_two_mirrors() {
    let registry = Registry::open().await;
    let image = Image::new(Format::Oci, 81, &[300_000, 1_000]);
    registry.pusher().image("team/source", "1", &image).await;
    let inner = open_mirror(&registry).await;
    let outer = mirror_of(&inner).await;
    let user = Podman::new("");
    let host = format!("127.0.0.1:{}", outer.port);
    let clear = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    let source = format!("docker://{host}/team/source:1");
    user.skopeo(&["copy", clear[0], clear[1], &source, &format!("docker://{host}/team/app:1")]).await.ok();
    let source = format!("{host}/team/source");
    let sync = ["sync", "--src", "docker", "--dest", "docker", clear[0], clear[1], &source, &format!("{host}/synced")];
    user.skopeo(&sync).await.ok();
    for repository in ["team/app", "synced/source"] {
        let manifest = client().get(registry.url() + &format!("/v2/{repository}/manifests/1"));
        let manifest = manifest.header("accept", image.manifest.media_type).send().await.expect("the registry answers");
        assert_eq!(manifest.bytes().await.expect("a manifest"), image.manifest.blob.bytes, "{repository}");
    }
}

/// As clients of the referrers tag schema do it: ask for the list, and where there is none, put the tag with one more.
#[tokio::test(flavor = "multi_thread")]
async fn eight_attachments_at_once_are_all_listed() {
    let registry = Registry::open().await;
    let image = Image::new(Format::Oci, 82, &[1_000]);
    registry.pusher().image("team/app", "1", &image).await;
    let mirrors = [open_mirror(&registry).await, open_mirror(&registry).await];
    let digest = image.manifest.blob.digest.to_string();
    let (list, tag) = (format!("/v2/team/app/referrers/{digest}"), digest.replace(':', "-"));
    let tag = format!("/v2/team/app/manifests/{tag}");
    // A client changes the tag one change after the other; what each attachment sees and puts goes by either mirror.
    let changes = tokio::sync::Mutex::new(());
    let attach = async |at: usize| {
        let (one, other) = (&mirrors[at % 2], &mirrors[(at + 1) % 2]);
        let config = &image.config;
        let artifact = json!({
            "schemaVersion": 2, "mediaType": image.manifest.media_type, "artifactType": "application/x", "layers": [],
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "size": config.bytes.len(), "digest": config.digest.to_string() },
            "subject": { "mediaType": image.manifest.media_type, "size": image.manifest.blob.bytes.len(), "digest": digest },
            "annotations": { "at": at.to_string() },
        })
        .to_string();
        let put = client().put(one.url(&format!("/v2/team/app/manifests/at-{at}")));
        let put = put.header("content-type", image.manifest.media_type).body(artifact.clone()).send().await;
        let put = put.expect("forebay answers");
        assert_eq!((put.status(), put.headers().get("oci-subject")), (StatusCode::CREATED, None));
        let digest = put.headers()["docker-content-digest"].to_str().expect("a digest").to_owned();
        let listed = client().get(one.url(&list)).send().await.expect("forebay answers");
        assert_eq!(listed.status(), StatusCode::NOT_FOUND);
        let error = listed.text().await.expect("an error");
        assert!(error.contains("UNSUPPORTED"), "{error}");
        let _turn = changes.lock().await;
        let read = client().get(one.url(&tag)).header("accept", INDEX).send().await.expect("forebay answers");
        let mut manifests: Vec<Value> = vec![];
        if read.status() == StatusCode::OK {
            let index: Value = serde_json::from_slice(&read.bytes().await.expect("an index")).expect("JSON");
            manifests.extend(index["manifests"].as_array().expect("a list").iter().cloned());
        }
        manifests.push(json!({ "mediaType": image.manifest.media_type, "size": artifact.len(), "digest": digest }));
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string();
        let put = client().put(other.url(&tag)).header("content-type", INDEX).body(index).send().await;
        assert_eq!(put.expect("forebay answers").status(), StatusCode::CREATED);
    };
    join_all((0..8).map(attach)).await;
    for mirror in &mirrors {
        let read = client().get(mirror.url(&tag)).header("accept", INDEX).send().await.expect("forebay answers");
        let index: Value = serde_json::from_slice(&read.bytes().await.expect("an index")).expect("JSON");
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(8));
    }
}
