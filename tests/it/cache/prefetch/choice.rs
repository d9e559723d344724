//! Which manifest a pulled config belongs to, where several have it.

use super::*;

/// An image with one layer, under a tag of its own, and a configuration that others have, too; its layer.
fn variant(registry: &FakeRegistry, tag: &str, (kind, config): (&str, &Digest), layer: &[u8]) -> Digest {
    let layer_digest = registry.add_blob(REPOSITORY, layer.to_vec());
    let size = layer.len();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{kind}","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+{tag}","digest":"{layer_digest}","size":{size}}}]}}"#
    );
    let manifest = registry.add_manifest(REPOSITORY, "application/vnd.oci.image.manifest.v1+json", manifest);
    registry.tag(REPOSITORY, tag, &manifest);
    layer_digest
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OF: [&str; 2] = ["127.0.0.1", "127.0.0.2"];

async fn get_tag(mirror: &Mirror, client: &str, tag: &str) {
    assert_eq!(get_as(mirror, client, &format!("/v2/{REPOSITORY}/manifests/{tag}")).await, 200);
}

/// Returns when what was begun before is begun.
async fn until_another_is_begun(registry: &FakeRegistry, mirror: &Mirror, seed: u64) {
    let repository = format!("team/another{seed}");
    let layer = content(LAYER / 4, 1000 + seed);
    let another = pull_config(registry, mirror, ("127.0.0.9", &repository), &[&layer]).await;
    until_asked(registry, &another.layers[0]).await;
}

/// The same layers in gzip and in zstd: an index names both, and a client takes one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layers_of_the_manifest_that_was_read_come_ahead() {
    for restarts in [false, true] {
        let registry = FakeRegistry::start().await;
        let mut mirror = Mirror::of(&registry).await;
        let config = registry.add_blob(REPOSITORY, "{}");
        let gzip = variant(&registry, "gzip", (CONFIG, &config), &content(LAYER, 1));
        let zstd = variant(&registry, "zstd", (CONFIG, &config), &content(LAYER, 2));
        let both = [gzip.clone(), zstd.clone()];
        // Both are known, and are in memory or on the disk.
        for tag in ["zstd", "gzip", "zstd"] {
            get_tag(&mirror, "127.0.0.3", tag).await;
        }
        if restarts {
            mirror.restart().await;
        }
        get_tag(&mirror, OF[0], "gzip").await;
        get_tag(&mirror, OF[1], "zstd").await;
        assert_eq!(get_as(&mirror, OF[0], &path(&config)).await, 200);
        until_asked(&registry, &gzip).await;
        until_another_is_begun(&registry, &mirror, 1).await;
        assert_eq!(asked(&registry, &both), std::slice::from_ref(&gzip), "{restarts}");
        // The configuration was asked for a moment ago, for the other one.
        assert_eq!(get_as(&mirror, OF[1], &path(&config)).await, 200);
        until_asked(&registry, &zstd).await;
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert_eq!(asked(&registry, &both), both, "{restarts}");
    }
}

/// So one client that pulls first the one and then the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_gets_each_image_it_reads_ahead() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let config = registry.add_blob(REPOSITORY, "{}");
    for (seed, tag) in (1..).zip(["gzip", "zstd"]) {
        let layer = variant(&registry, tag, (CONFIG, &config), &content(LAYER, seed));
        get_tag(&mirror, OF[0], tag).await;
        assert_eq!(get_as(&mirror, OF[0], &path(&config)).await, 200);
        until_asked(&registry, &layer).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_ahead_where_it_is_not_clear_of_what() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let config = registry.add_blob(REPOSITORY, "{}");
    let layers = [1, 2].map(|n| variant(&registry, &n.to_string(), (CONFIG, &config), &content(LAYER, n)));
    // It has read both; it has read none; it has read none since. A HEAD reads nothing.
    for tag in ["1", "2"] {
        get_tag(&mirror, "127.0.0.1", tag).await;
    }
    for (seed, client) in (1..).zip(["127.0.0.1", "127.0.0.2", "127.0.0.1"]) {
        let head = mirror.head(&format!("/v2/{REPOSITORY}/manifests/2")).await;
        assert_eq!(head.status, 200);
        assert_eq!(get_as(&mirror, client, &path(&config)).await, 200);
        until_another_is_begun(&registry, &mirror, seed).await;
        assert!(asked(&registry, &layers).is_empty(), "{client}");
    }
}

/// Artifacts are told apart by nothing but their manifests: their configuration is `{}`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_with_an_empty_configuration_brings_nothing_ahead() {
    const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let config = registry.add_blob(REPOSITORY, "{}");
    let mut layers = Vec::new();
    // One alone, one beside another artifact, and an image beside them.
    for (seed, kind) in (1..).zip([EMPTY, EMPTY, CONFIG]) {
        let tag = seed.to_string();
        layers.push(variant(&registry, &tag, (kind, &config), &content(LAYER, seed)));
        // A client that has read nothing else requests the first one each time.
        for (client, tag) in [(OF[0], &*tag), (OF[1], "1")] {
            get_tag(&mirror, client, tag).await;
            assert_eq!(get_as(&mirror, client, &path(&config)).await, 200);
        }
        if kind == CONFIG {
            until_asked(&registry, &layers[2]).await;
        }
        until_another_is_begun(&registry, &mirror, seed).await;
        assert!(asked(&registry, &layers[..layers.len().min(2)]).is_empty(), "{seed}");
    }
}
