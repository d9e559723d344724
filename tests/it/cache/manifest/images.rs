//! What registries hold under one name: images of every shape, and what is no image.

use bytes::Bytes;
use forebay::oci::{Algorithm, Digest};
use http::Method;
use serde_json::{Value, json};

use forebay_test_support::manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use forebay_test_support::{
    blob,
    fake_registry::{FakeRegistry, Server},
    mirror::{Answer, Mirror},
};

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// What docker, containerd and podman say.
const ACCEPT: &[(&str, &str)] = &[
    ("accept", "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"),
    ("accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"),
    ("accept", "application/vnd.docker.distribution.manifest.v1+json, */*"),
];

/// A registry and what is put into its `team/app`.
struct Shop(FakeRegistry);

impl Shop {
    fn blob(&self, media_type: &str, content: impl Into<Bytes>) -> Value {
        let content = content.into();
        let size = content.len();
        json!({ "mediaType": media_type, "digest": self.0.add_blob("team/app", content).as_str(), "size": size })
    }

    fn put(&self, media_type: &str, document: &Value) -> Value {
        // Not as a canonical writer has it: what is written anew is found out.
        let text = serde_json::to_string_pretty(document).unwrap();
        let digest = self.0.add_manifest("team/app", media_type, text.clone());
        json!({ "mediaType": media_type, "digest": digest.as_str(), "size": text.len() })
    }

    /// An image of this configuration and these layers.
    fn image(&self, config: &Value, layers: &Value) -> Value {
        let image = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers });
        self.put(OCI_MANIFEST, &image)
    }

    /// One of its own bytes.
    fn plain(&self, seed: u64) -> Value {
        let config = self.blob(CONFIG, format!("{{\"seed\":{seed}}}"));
        self.image(&config, &json!([self.blob(LAYER, blob::content(1000, seed))]))
    }

    fn index(&self, manifests: &[Value]) -> Value {
        self.put(OCI_INDEX, &json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests }))
    }

    fn tag(&self, tag: &str, manifest: &Value) {
        self.0.tag("team/app", tag, &digest_of(manifest));
    }
}

fn digest_of(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

fn with(mut descriptor: Value, key: &str, value: Value) -> Value {
    descriptor[key] = value;
    descriptor
}

/// Pulls what a reference names and all that it leads to, as clients do; gives how many contents these are.
async fn pull(mirror: &Mirror, reference: &str) -> usize {
    let path = format!("/v2/team/app/manifests/{reference}");
    let head = mirror.request(Method::HEAD, &path, ACCEPT).await;
    let got = mirror.get_with(&path, ACCEPT).await;
    assert_eq!((head.status, got.status), (200, 200), "{reference}: {}", got.text());
    let digest: Digest = got.header("docker-content-digest").unwrap().parse().unwrap();
    assert!(blob::is(&got.body, &digest), "{reference}");
    for name in ["docker-content-digest", "content-type", "content-length"] {
        assert_eq!(head.header(name), got.header(name), "{reference} {name}");
    }
    let document: Value = serde_json::from_slice(&got.body).unwrap();
    let mut count = 1;
    for descriptor in document["manifests"].as_array().into_iter().flatten() {
        assert_is(descriptor, &mirror.get_with(&manifest(descriptor), ACCEPT).await);
        count += Box::pin(pull(mirror, digest_of(descriptor).as_str())).await;
    }
    let blobs = document["layers"].as_array().into_iter().flatten().chain(document.get("config"));
    for descriptor in blobs.filter(|descriptor| descriptor.get("urls").is_none()) {
        let answer = mirror.get(&format!("/v2/team/app/blobs/{}", digest_of(descriptor))).await;
        assert_is(descriptor, &answer);
        count += 1;
    }
    count
}

fn manifest(descriptor: &Value) -> String {
    format!("/v2/team/app/manifests/{}", digest_of(descriptor))
}

fn assert_is(descriptor: &Value, answer: &Answer) {
    assert_eq!(answer.status, 200, "{descriptor}");
    assert_eq!(json!(answer.body.len()), descriptor["size"], "{descriptor}");
    assert!(blob::is(&answer.body, &digest_of(descriptor)), "{descriptor}");
}

/// Pulls all of these cold, cached, and after a restart without the registry.
async fn pull_three_times(shop: &Shop, tags: &[(&str, usize)]) {
    let mut mirror = Mirror::of(&shop.0).await;
    for _ in 0..2 {
        for (tag, count) in tags {
            assert_eq!(pull(&mirror, tag).await, *count, "{tag}");
        }
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    }
    shop.0.take_down(Server::Api).await;
    mirror.restart().await;
    for (tag, count) in tags {
        assert_eq!(pull(&mirror, tag).await, *count, "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_of_every_shape_are_pulled_whole() {
    let shop = Shop(FakeRegistry::start().await);
    let config = shop.blob(CONFIG, r#"{"os":"linux"}"#);
    let layer = shop.blob(LAYER, blob::content(100_000, 1));
    let empty = shop.blob("application/vnd.oci.empty.v1+json", "{}");
    let many: Vec<_> = (0..150).map(|seed| shop.blob(LAYER, blob::content(10, seed))).collect();
    let inline = with(config.clone(), "data", json!("eyJvcyI6ImxpbnV4In0="));
    let old = json!({
        "schemaVersion": 1, "name": "team/app", "tag": "old", "architecture": "amd64",
        "fsLayers": [{ "blobSum": layer["digest"] }], "history": [{ "v1Compatibility": "{}" }],
    });
    let docker = json!({ "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": [layer] });
    let untyped = json!({ "schemaVersion": 2, "config": config, "layers": [layer], "annotations": { "x": "\u{e9}" } });
    let artifact = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/vnd.example+type",
        "config": empty, "layers": [empty], "subject": shop.plain(1),
    });
    let list =
        json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [shop.put(DOCKER_MANIFEST, &docker)] });
    let shapes = [
        ("no-layers", shop.image(&config, &json!([])), 2),
        ("layers-null", shop.image(&config, &Value::Null), 2),
        ("one-layer-thrice", shop.image(&config, &json!([layer, layer, layer])), 5),
        ("config-as-layer", shop.image(&config, &json!([config])), 3),
        ("an-empty-layer", shop.image(&config, &json!([shop.blob(LAYER, "")])), 3),
        ("150-layers", shop.image(&config, &json!(many)), 152),
        ("inline-config", shop.image(&inline, &json!([layer])), 3),
        ("docker", shop.put(DOCKER_MANIFEST, &docker), 3),
        ("docker-of-oci-type", shop.put(OCI_MANIFEST, &untyped), 3),
        ("docker-list", shop.put(DOCKER_LIST, &list), 4),
        ("an-artifact", shop.put(OCI_MANIFEST, &artifact), 3),
        ("an-empty-index", shop.index(&[]), 1),
        ("schema-1", shop.put(SCHEMA1, &old), 1),
    ];
    shapes.iter().for_each(|(tag, manifest, _)| shop.tag(tag, manifest));
    pull_three_times(&shop, &shapes.map(|(tag, _, count)| (tag, count))).await;
}

/// As buildx writes them: provenance and SBOM of an image stand beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attestations_and_nested_indexes_are_pulled_whole() {
    let shop = Shop(FakeRegistry::start().await);
    let image = with(shop.plain(1), "platform", json!({ "os": "linux", "architecture": "amd64" }));
    let statement = shop.blob("application/vnd.in-toto+json", r#"{"_type":"https://in-toto.io/Statement/v0.1"}"#);
    let attestation =
        shop.image(&shop.blob(CONFIG, r#"{"architecture":"unknown","os":"unknown"}"#), &json!([statement]));
    let attestation = with(attestation, "platform", json!({ "os": "unknown", "architecture": "unknown" }));
    let of =
        json!({ "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image["digest"] });
    let attested = shop.index(&[image, with(attestation, "annotations", of)]);
    let nested = shop.index(&[attested.clone(), shop.plain(2), shop.index(&[shop.index(&[shop.plain(3)])])]);
    shop.tag("attested", &attested);
    shop.tag("nested", &nested);
    pull_three_times(&shop, &[("attested", 7), ("nested", 16)]).await;
}

/// helm and docker each take what is theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_and_a_chart_are_pulled_under_one_tag() {
    let shop = Shop(FakeRegistry::start().await);
    let (image, other) = (shop.plain(1), shop.plain(2));
    let config = shop.blob("application/vnd.cncf.helm.config.v1+json", r#"{"name":"app","version":"1.0.0"}"#);
    let archive = shop.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", blob::content(5000, 3));
    let provenance =
        shop.blob("application/vnd.cncf.helm.chart.provenance.v1.prov", "-----BEGIN PGP SIGNED MESSAGE-----");
    let chart = shop.image(&config, &json!([archive, provenance]));
    let named = with(chart.clone(), "artifactType", json!("application/vnd.cncf.helm.config.v1+json"));
    shop.tag("both", &shop.index(&[image.clone(), named]));
    shop.tag("chart", &chart);
    pull_three_times(&shop, &[("both", 8), ("chart", 4)]).await;
    // In a repository whose tag was one and is the other now.
    shop.0.bring_up(Server::Api).await;
    let mirror = Mirror::build(&shop.0).config(|config| config.cache.tag_ttl = std::time::Duration::ZERO).start().await;
    for (now, count) in [(&image, 3), (&chart, 4), (&other, 3), (&chart, 4)] {
        shop.tag("1.0.0", now);
        assert_eq!(pull(&mirror, "1.0.0").await, count);
        let got = mirror.get("/v2/team/app/manifests/1.0.0").await;
        assert_eq!(got.header("docker-content-digest"), now["digest"].as_str());
    }
}

/// What may not be distributed lies at `urls`, and in no registry: clients have it from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_layer_is_left_to_the_client() {
    let (shop, elsewhere) = (Shop(FakeRegistry::start().await), FakeRegistry::start().await);
    let own = shop.blob(LAYER, blob::content(200_000, 1));
    let content = blob::content(300_000, 2);
    let foreign = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": content.len(),
        "digest": elsewhere.add_blob("team/app", content).as_str(),
        "urls": [format!("{}v2/team/app/blobs/x", elsewhere.url())],
    });
    let config = shop.blob(CONFIG, r#"{"os":"windows"}"#);
    shop.tag("windows", &shop.image(&config, &json!([foreign, own])));
    let mirror = Mirror::build(&shop.0).config(|config| config.cache.prefetch = 1).start().await;
    let path = |blob: &Value| format!("/v2/team/app/blobs/{}", digest_of(blob));
    mirror.get("/v2/team/app/manifests/windows").await;
    mirror.get(&path(&config)).await;
    // One layer after the other comes ahead, in their order.
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 2.0).await;
    assert_eq!(shop.0.count(|request| request.is_blob_get(&digest_of(&foreign))), 0, "it is not fetched ahead");
    for _ in 0..2 {
        assert_eq!(pull(&mirror, "windows").await, 3);
        let missing = mirror.get(&path(&foreign)).await;
        assert_eq!((missing.status, &*missing.error_code()), (404, "BLOB_UNKNOWN"));
        assert_eq!(mirror.head(&path(&foreign)).await.status, 404);
    }
    assert!(elsewhere.requests().is_empty(), "a manifest names no host to ask");
    // Where the registry has it all the same, it is a layer as any.
    shop.0.add_blob("team/app", blob::content(300_000, 2));
    let other = Mirror::of(&shop.0).await;
    assert_is(&foreign, &other.get(&path(&foreign)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_at_their_limits_are_kept_on_disk() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let names = ["a".repeat(255), vec!["a"; 128].join("/"), format!("{}/b", "a".repeat(253)), "a__b.c---d".to_owned()];
    let tags = ["t".repeat(128), format!("_{}", ".".repeat(127)), "A-Z.0_9".to_owned()];
    let mut paths = Vec::new();
    for name in &names {
        for tag in &tags {
            let image = registry.add_image(name, tag, &[b"layer"]);
            let wide = Digest::of(Algorithm::Sha512, name.as_bytes());
            registry.put_blob(name, &wide, name.clone());
            paths.push((format!("/v2/{name}/manifests/{tag}"), image.manifest_bytes));
            paths.push((format!("/v2/fake.example/{name}/manifests/{tag}"), paths.last().unwrap().1.clone()));
            paths.push((format!("/v2/{name}/blobs/{}", image.layers[0]), Bytes::from_static(b"layer")));
            paths.push((format!("/v2/{name}/blobs/{wide}"), name.clone().into()));
        }
    }
    for round in 0..2 {
        for (path, content) in &paths {
            let answer = mirror.get(path).await;
            assert_eq!((answer.status, &answer.body), (200, content), "{round} {path}");
        }
        if round == 0 {
            mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
            registry.take_down(Server::Api).await;
            mirror.restart().await;
        }
    }
    // One more is none, and no upstream is asked.
    registry.bring_up(Server::Api).await;
    registry.forget_requests();
    for (path, status) in
        [(format!("/v2/{}/manifests/1", "a".repeat(256)), 400), (format!("/v2/a/manifests/{}", "t".repeat(129)), 404)]
    {
        assert_eq!(mirror.get(&path).await.status, status, "{path}");
    }
    assert_eq!(registry.count(|_| true), 0);
}
