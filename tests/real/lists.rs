//! What refers to an image in a registry that has no endpoint for it, and the tags of a registry that is gone.

use serde_json::{Value, json};

use forebay_test_support::real::{
    download::client,
    forebay::Forebay,
    image::{Blob, Document, Format, Image, Index},
    podman::Podman,
    registry::Registry,
};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const SIGNATURE: &str = "application/vnd.example.signature+json";

/// The index that a client writes for a subject: two artifacts, of two types.
fn referrers(artifacts: &[Image; 2]) -> Document {
    let descriptors: Vec<Value> = artifacts
        .iter()
        .zip([SIGNATURE, "application/vnd.example.sbom"])
        .map(|(artifact, artifact_type)| {
            let Document { blob, media_type } = &artifact.manifest;
            json!({
                "mediaType": media_type, "size": blob.bytes.len(), "digest": blob.digest,
                "artifactType": artifact_type, "annotations": { "org.example.note": "kept" },
            })
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors });
    Document { blob: Blob::new(serde_json::to_string_pretty(&index).expect("JSON")), media_type: OCI_INDEX }
}

async fn get(url: &str) -> (Option<String>, Vec<u8>) {
    let answer = client().get(url).send().await.expect("forebay answers");
    assert_eq!(answer.status(), 200, "{url}");
    assert_eq!(answer.headers()["content-type"], OCI_INDEX);
    let applied = answer.headers().get("oci-filters-applied");
    let applied = applied.map(|value| value.to_str().expect("text").to_owned());
    (applied, answer.bytes().await.expect("a whole answer").to_vec())
}

/// The repositories, one page at a time.
async fn catalogue(forebay: &Forebay) -> Vec<String> {
    let mut pages = Vec::new();
    let mut next = Some("/v2/_catalog?n=1".to_owned());
    while let Some(path) = next.take() {
        let answer = client().get(forebay.url(&path)).send().await.expect("forebay answers");
        assert_eq!(answer.status(), 200, "{path}");
        let link = answer.headers().get("link").map(|link| link.to_str().expect("text").to_owned());
        next = link.map(|link| link.trim_start_matches('<').split('>').next().expect("a target").to_owned());
        let bytes = answer.bytes().await.expect("a whole answer");
        let page: Value = serde_json::from_slice(&bytes).expect("JSON");
        pages.push(page["repositories"].to_string());
        assert!(pages.len() < 9, "it has no end");
    }
    pages
}

fn tag_of(subject: &Image) -> String {
    subject.manifest.blob.digest.replace(':', "-")
}

/// docker-registry 2.8 knows no referrers. skopeo leaves `artifactType` out of an index that it copies, so an index with
/// types is put by hand.
#[tokio::test(flavor = "multi_thread")]
async fn referrers_and_tags_are_served_with_and_without_upstream() {
    let mut registry = Registry::open().await;
    let [signed, described] = [90, 91].map(|seed| Image::new(Format::Oci, seed, &[10_000]));
    let artifacts = [92, 93].map(|seed| Image::new(Format::Oci, seed, &[1_000]));
    let index = referrers(&artifacts);
    let multi = Index::new(Format::Oci, 94, &[2_000]);
    let pusher = registry.pusher();
    pusher.image("team/app", "1", &signed).await;
    pusher.image("team/app", "2", &described).await;
    pusher.index("team/source", "1", &multi).await;
    let described_by = Index { index: index.clone(), images: artifacts.to_vec() };
    pusher.index("team/app", &tag_of(&described), &described_by).await;
    let upstream = format!("[[upstream]]\nname = \"hub.test\"\nurls = [\"{}\"]\ndefault = true\n", registry.url());
    let believing = "[cache]\ntag_ttl = \"1h\"\nnegative_ttl = \"1h\"\n";
    let pushing = Forebay::start(&format!("{upstream}push = true\n{believing}"), &[]).await;
    let forebay = Forebay::start(&format!("{upstream}{believing}"), &[]).await;
    let path = |of: &Image| format!("/v2/team/app/referrers/{}", of.manifest.blob.digest);
    let url = |of: &Image| forebay.url(&path(of));

    let user = Podman::new("");
    let name = |forebay: &Forebay, name: &str| format!("docker://127.0.0.1:{}/{name}", forebay.port);
    let target = name(&pushing, &format!("team/app:{}", tag_of(&signed)));
    let clear = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    let source = name(&pushing, "team/source:1");
    user.skopeo(&["copy", "--all", clear[0], clear[1], &source, &target]).await.ok();
    // Where pushes are taken, clients keep the tag themselves: for them there is no endpoint, whatever the tag has.
    for image in [&signed, &described] {
        let answer = client().get(pushing.url(&path(image))).send().await.expect("forebay answers");
        assert_eq!(answer.status(), 404);
        let error: Value = serde_json::from_slice(&answer.bytes().await.expect("a whole answer")).expect("JSON");
        assert_eq!(error["errors"][0]["code"], "UNSUPPORTED");
    }
    let (_, none) = get(&url(&artifacts[0])).await;
    let none: Value = serde_json::from_slice(&none).expect("JSON");
    assert_eq!(none["manifests"], json!([]));

    let mut of_one_type: Value = serde_json::from_slice(&index.blob.bytes).expect("JSON");
    of_one_type["manifests"].as_array_mut().expect("descriptors").truncate(1);
    let filtered = format!("{}?artifactType={}", url(&described), SIGNATURE.replace('+', "%2B"));
    let mut tags = ["1".to_owned(), "2".to_owned(), tag_of(&signed), tag_of(&described)];
    tags.sort();
    for _ in ["with the registry", "without"] {
        assert_eq!(get(&url(&signed)).await, (None, multi.index.blob.bytes.to_vec()), "byte for byte");
        assert_eq!(get(&url(&described)).await, (None, index.blob.bytes.to_vec()), "byte for byte");
        let (applied, found) = get(&filtered).await;
        let found: Value = serde_json::from_slice(&found).expect("JSON");
        assert_eq!((applied.as_deref(), &found), (Some("artifactType"), &of_one_type));
        let listed = user.skopeo(&["list-tags", "--tls-verify=false", &name(&forebay, "team/app")]).await.ok();
        let listed: Value = serde_json::from_slice(&listed).expect("a list of tags");
        let mut listed: Vec<&str> = listed["Tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        listed.sort_unstable();
        assert_eq!(listed, tags);
        assert_eq!(catalogue(&forebay).await, [r#"["team/app"]"#, r#"["team/source"]"#]);
        registry.kill();
    }
}
