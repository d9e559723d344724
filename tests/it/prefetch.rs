//! Layers that are fetched before a client asks for them.

use forebay::oci::Digest;

use crate::support::{
    blob::{REPOSITORY, content, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    until::bounded,
};

const LAYER: usize = 200_000;

fn layers(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|seed| content(LAYER, seed).to_vec()).collect()
}

fn image(registry: &FakeRegistry, layers: &[Vec<u8>]) -> crate::support::fake_registry::Image {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gets_the_configuration_finds_the_layers_there() {
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
async fn who_asks_for_a_layer_meanwhile_joins_its_fill() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let layers = layers(2);
    let image = image(&registry, &layers);
    let gate = Gate::new();
    registry.fault_times(1, When::blob(&image.layers[0]), Fault::HoldBody { at: 100_000, gate: gate.clone() });
    get_manifest(&mirror).await;
    mirror.get(&path(&image.config)).await;
    gate.reached().await;
    let target = path(&image.layers[0]);
    let client = async {
        let answer = bounded(mirror.get(&target)).await;
        assert_eq!(answer.header("cache-status"), Some("forebay; fwd=miss; collapsed"));
        assert_eq!(answer.body, layers[0]);
    };
    let opening = async {
        mirror.until_metric("forebay_requests_total", &[("operation", "manifest")], 1.0).await;
        gate.open();
    };
    tokio::join!(client, opening);
    assert_eq!(asked(&registry, &image.layers[..1]).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_fetched_ahead_that_nobody_wants() {
    // Switched off; too large for the cache; a HEAD; a part; no manifest seen.
    for case in 0..5 {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::build(&registry).config(|config| match case {
            0 => config.cache.prefetch = 0,
            1 => config.cache.max_size = 3 * LAYER as u64,
            _ => {}
        });
        let mirror = mirror.start().await;
        let image = image(&registry, &layers(3));
        if case != 4 {
            get_manifest(&mirror).await;
        }
        let config = path(&image.config);
        let answer = match case {
            2 => mirror.head(&config).await,
            3 => mirror.get_with(&config, &[("range", "bytes=0-0")]).await,
            _ => mirror.get(&config).await,
        };
        assert!(answer.status < 300);
        // What was begun would be over before the process is.
        let mut mirror = mirror;
        mirror.drain().await;
        assert!(asked(&registry, &image.layers).is_empty(), "case {case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_cannot_be_had_is_not_asked_for_again_and_hinders_nobody() {
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
async fn a_manifest_that_was_cached_before_a_restart_is_known_too_and_a_drain_ends_all() {
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
