//! Layers that are fetched before a client asks for them.

use forebay::oci::Digest;

pub mod budget;
pub mod choice;
pub mod false_manifests;

use forebay_test_support::{
    blob::{REPOSITORY, content, file, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::{Mirror, UPSTREAM},
    raw::Raw,
    until::bounded,
};

const LAYER: usize = 200_000;

fn layers(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|seed| content(LAYER, seed).to_vec()).collect()
}

fn image(registry: &FakeRegistry, layers: &[Vec<u8>]) -> forebay_test_support::fake_registry::Image {
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    registry.add_image(REPOSITORY, "1", &layers)
}

async fn get_manifest(mirror: &Mirror) {
    assert_eq!(mirror.get(&format!("/v2/{REPOSITORY}/manifests/1")).await.status, 200);
}

/// The blobs that were asked for, in order.
fn asked(registry: &FakeRegistry, of: &[Digest]) -> Vec<Digest> {
    let requests = registry.requests();
    requests.iter().filter_map(|record| of.iter().find(|digest| record.is_blob_get(digest)).cloned()).collect()
}

/// An image with one layer, whose manifest says another size than it has.
fn image_with_size(registry: &FakeRegistry, layer: &[u8], size: &str) -> (Digest, Digest) {
    let layer = registry.add_blob(REPOSITORY, layer.to_vec());
    (image_of(registry, &[(layer.clone(), size)]), layer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pulled_config_has_its_layers_prefetched() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.cache.prefetch = 1).start().await;
    let layers = layers(3);
    let image = image(&registry, &layers);
    get_manifest(&mirror).await;
    assert!(asked(&registry, &image.layers).is_empty(), "a manifest alone says nothing");
    assert_eq!(mirror.get(&path(&image.config)).await.status, 200);
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 4.0).await;
    assert_eq!(asked(&registry, &image.layers), image.layers, "in the manifest's order");
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    for (digest, layer) in image.layers.iter().zip(&layers) {
        let hit = mirror.get(&path(digest)).await;
        assert!(hit.header("cache-status") == Some("forebay; hit") && hit.body == layer);
    }
    // Nothing is missing now.
    mirror.get(&path(&image.config)).await;
    assert_eq!(asked(&registry, &image.layers).len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_joins_the_download_of_a_prefetched_layer() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let layers = layers(2);
    let image = image(&registry, &layers);
    let gate = Gate::new();
    registry.fault_times(1, When::blob(&image.layers[0]), Fault::HoldBody { at: 100_000, gate: gate.clone() });
    get_manifest(&mirror).await;
    mirror.get(&path(&image.config)).await;
    gate.reached().await;
    // The head comes as soon as the fill's size is known, and the fill cannot be over.
    let client = Raw::get(mirror.address(), &path(&image.layers[0]), &[]).await;
    assert_eq!(client.header("cache-status"), Some("forebay; fwd=miss; collapsed"));
    gate.open();
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == layers[0]);
    assert_eq!(asked(&registry, &image.layers[..1]).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_layers_that_clients_want_are_prefetched() {
    // Switched off; too large for the cache; a HEAD; a part; no manifest seen; a manifest of another repository.
    for case in 0..6 {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::build(&registry).config(|config| match case {
            0 => config.cache.prefetch = 0,
            1 => config.cache.max_size = 3 * LAYER as u64,
            _ => {}
        });
        let mirror = mirror.start().await;
        let image = image(&registry, &layers(3));
        let mut config = path(&image.config);
        match case {
            4 => {}
            5 => {
                registry.add_blob(
                    "team/other",
                    format!(r#"{{"architecture":"amd64","os":"linux","author":"{REPOSITORY}:1"}}"#),
                );
                config = format!("/v2/team/other/blobs/{}", image.config);
                get_manifest(&mirror).await;
            }
            _ => get_manifest(&mirror).await,
        }
        let answer = match case {
            2 => mirror.head(&config).await,
            3 => mirror.get_with(&config, &[("range", "bytes=0-0")]).await,
            _ => mirror.get(&config).await,
        };
        assert!(answer.status < 300, "case {case}: {}", answer.status);
        // What was begun then was begun before this one, whose layer comes: ahead, but where that is switched off.
        let after = registry.add_image(REPOSITORY, "2", &[&content(LAYER / 2, 9)]);
        assert_eq!(mirror.get(&format!("/v2/{REPOSITORY}/manifests/2")).await.status, 200);
        assert_eq!(mirror.get(&path(&after.config)).await.status, 200);
        if case == 0 {
            assert_eq!(mirror.get(&path(&after.layers[0])).await.status, 200);
        }
        registry.wait_for(|records| records.iter().any(|record| record.is_blob_get(&after.layers[0]))).await;
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert!(asked(&registry, &image.layers).is_empty(), "case {case}");
    }
}

/// What a layer takes on disk.
const ALLOCATED: u64 = (LAYER as u64).next_multiple_of(4096);

/// An image of these layers in a repository of its own; the client at this address gets its manifest and configuration.
async fn pull_config(
    registry: &FakeRegistry,
    mirror: &Mirror,
    (client, repository): (&str, &str),
    layers: &[&[u8]],
) -> forebay_test_support::fake_registry::Image {
    let image = registry.add_image(repository, "next", layers);
    for path in ["manifests/next".to_owned(), format!("blobs/{}", image.config)] {
        assert_eq!(get_as(mirror, client, &format!("/v2/{repository}/{path}")).await, 200);
    }
    image
}

async fn get_as(mirror: &Mirror, client: &str, path: &str) -> u16 {
    let address: std::net::IpAddr = client.parse().unwrap();
    let client = reqwest::Client::builder().no_proxy().local_address(address).build().unwrap();
    let answer = client.get(format!("{}{path}", mirror.url())).send().await.unwrap();
    let status = answer.status().as_u16();
    answer.bytes().await.unwrap();
    status
}

async fn until_asked(registry: &FakeRegistry, digest: &Digest) {
    registry.wait_for(|records| records.iter().any(|record| record.is_blob_get(digest))).await;
}

async fn is_hit(mirror: &Mirror, path: &str) -> bool {
    mirror.get(path).await.header("cache-status") == Some("forebay; hit")
}

/// An image whose manifest says these sizes of its layers; its configuration.
fn image_of(registry: &FakeRegistry, layers: &[(Digest, &str)]) -> Digest {
    let config = registry.add_blob(REPOSITORY, "{}");
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<_> = layers
        .iter()
        .map(|(layer, size)| format!(r#"{{"mediaType":"{kind}","digest":"{layer}","size":{size}}}"#))
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{config}","size":2}},"layers":[{}]}}"#,
        layers.join(",")
    );
    let manifest = registry.add_manifest(REPOSITORY, "application/vnd.oci.image.manifest.v1+json", manifest);
    registry.tag(REPOSITORY, "1", &manifest);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joined_download_outlives_its_prefetch() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let content = content(LAYER, 1);
    let (config, layer) = image_with_size(&registry, &content, "10");
    let gate = Gate::new();
    registry.fault(When::blob(&layer), Fault::HoldBody { at: 1000, gate: gate.clone() });
    let client = Raw::get(mirror.address(), &path(&layer), &[]).await;
    assert_eq!(client.header("cache-status"), Some("forebay; fwd=miss; stored"));
    get_manifest(&mirror).await;
    assert_eq!(mirror.get(&path(&config)).await.status, 200);
    // The next image's layer comes after it.
    pull_config(&registry, &mirror, ("127.0.0.1", "team/other"), &[&forebay_test_support::blob::content(LAYER, 2)])
        .await;
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 3.0).await;
    gate.open();
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    assert_eq!(asked(&registry, &[layer]).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_stands_still_is_in_no_other_upstreams_way() {
    let (slow, quick) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let upstream = |name: &str, registry: &FakeRegistry| {
        format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{}\"]\n", registry.url())
    };
    let text = upstream("slow.example", &slow) + &upstream(UPSTREAM, &quick) + "default = true\n";
    let mirror = Mirror::parse(&text).config(|config| config.cache.prefetch = 16).start().await;
    let of_slow = image(&slow, &layers(40));
    let gate = Gate::new();
    slow.fault(When::blobs(), Fault::HoldBody { at: 1000, gate: gate.clone() });
    let pull = async |image: &forebay_test_support::fake_registry::Image, end: &str| {
        assert_eq!(mirror.get(&format!("/v2/{REPOSITORY}/manifests/1{end}")).await.status, 200);
        assert_eq!(mirror.get(&format!("{}{end}", path(&image.config))).await.status, 200);
    };
    pull(&of_slow, "?ns=slow.example").await;
    slow.wait_for(|records| {
        records.iter().filter(|record| of_slow.layers.iter().any(|layer| record.is_blob_get(layer))).count() == 8
    })
    .await;
    let of_quick = image(&quick, &layers(3).into_iter().map(|layer| layer[..LAYER / 2].to_vec()).collect::<Vec<_>>());
    pull(&of_quick, "").await;
    // The configuration is the same and was there.
    mirror.until_metric("forebay_fills_total", &[("upstream", UPSTREAM), ("result", "complete")], 3.0).await;
    assert_eq!(asked(&slow, &of_slow.layers).len(), 8);
    gate.open();
    mirror.until_metric("forebay_fills_total", &[("upstream", "slow.example"), ("result", "complete")], 41.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_ends_the_prefetch_of_the_other_layers() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.cache.prefetch = 1).start().await;
    let image = image(&registry, &layers(3));
    registry.fault(When::blob(&image.layers[0]), Fault::status(403));
    get_manifest(&mirror).await;
    mirror.get(&path(&image.config)).await;
    mirror.until_metric("forebay_fills_total", &[("result", "refused")], 1.0).await;
    // Another image's come all the same, after what would have been asked for.
    let after = registry.add_image(REPOSITORY, "2", &[&content(LAYER, 9)]);
    mirror.get(&format!("/v2/{REPOSITORY}/manifests/2")).await;
    mirror.get(&path(&after.config)).await;
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 3.0).await;
    assert_eq!(asked(&registry, &image.layers), image.layers[..1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_fails_is_not_retried_and_blocks_no_other() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.cache.prefetch = 1).start().await;
    let layers = layers(2);
    let image = image(&registry, &layers);
    registry.fault(When::blob(&image.layers[0]), Fault::status(404));
    get_manifest(&mirror).await;
    mirror.get(&path(&image.config)).await;
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 2.0).await;
    assert_eq!(asked(&registry, &image.layers), image.layers);
    assert_eq!(mirror.get(&path(&image.layers[0])).await.status, 404);
    registry.heal();
    assert_eq!(mirror.get(&path(&image.layers[0])).await.body, layers[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefetch_after_a_restart_ends_with_the_drain() {
    let registry = FakeRegistry::start().await;
    let mut mirror =
        Mirror::build(&registry).config(|config| config.server.drain_timeout = std::time::Duration::ZERO).start().await;
    let image = image(&registry, &layers(2));
    get_manifest(&mirror).await;
    mirror.restart().await;
    get_manifest(&mirror).await;
    let gate = Gate::new();
    registry.fault(When::blob(&image.layers[0]), Fault::HoldBody { at: 100_000, gate: gate.clone() });
    mirror.get(&path(&image.config)).await;
    gate.reached().await;
    bounded(mirror.drain()).await;
}
