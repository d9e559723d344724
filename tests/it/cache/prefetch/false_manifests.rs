//! Manifests that say what is not so of their layers.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_lies_ends_prefetch_for_its_repository() {
    // Too small, and too large, with and without a length in the answer; other bytes.
    let lies = [(10, false), (10, true), (2 * LAYER, false), (2 * LAYER, true), (LAYER, false)];
    for (size, chunked) in lies {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        let (config, layer) = image_with_size(&registry, &content(LAYER, 1), &size.to_string());
        if chunked {
            registry.fault(When::blob(&layer), Fault::NoContentLength);
        }
        if size == LAYER {
            registry.fault(When::blob(&layer), Fault::Corrupt { at: 100 });
        }
        get_manifest(&mirror).await;
        assert_eq!(mirror.get(&path(&config)).await.status, 200);
        until_asked(&registry, &layer).await;
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        registry.heal();
        let elsewhere = pull_config(&registry, &mirror, ("127.0.0.1", "team/other"), &[&content(LAYER, 3)]).await;
        until_asked(&registry, &elsewhere.layers[0]).await;
        let here = pull_config(&registry, &mirror, ("127.0.0.1", REPOSITORY), &[&content(LAYER, 2)]).await;
        let elsewhere = pull_config(&registry, &mirror, ("127.0.0.1", "team/third"), &[&content(LAYER, 4)]).await;
        until_asked(&registry, &elsewhere.layers[0]).await;
        assert!(asked(&registry, &here.layers).is_empty(), "{size} {chunked}");
        // Clients get it all the same.
        assert_eq!(mirror.get(&path(&here.layers[0])).await.body, content(LAYER, 2));
    }
}

/// What is on disk may have come by any upstream that shares it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_upstreams_lie_ends_no_prefetch_of_this_one() {
    let (registry, hostile) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let upstream = |name: &str, registry: &FakeRegistry| {
        format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{}\"]\n", registry.url())
    };
    let text = upstream("evil.example", &hostile) + &upstream(UPSTREAM, &registry) + "default = true\n";
    let mut mirror = Mirror::parse(&text).start().await;
    let (config, layer) = image_with_size(&hostile, &content(LAYER, 1), "10");
    for blob in ["{}".into(), content(LAYER, 1).to_vec()] {
        registry.add_blob(REPOSITORY, blob);
    }
    let lie = mirror.get(&format!("/v2/{REPOSITORY}/manifests/1?ns=evil.example")).await;
    mirror.restart().await;
    let manifest = lie.header("docker-content-digest").unwrap();
    let shared = mirror.get(&format!("/v2/{REPOSITORY}/manifests/{manifest}")).await;
    assert_eq!(shared.header("cache-status"), Some("forebay; hit"));
    assert_eq!(mirror.get(&path(&config)).await.status, 200);
    until_asked(&registry, &layer).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let here = pull_config(&registry, &mirror, ("127.0.0.1", REPOSITORY), &[&content(LAYER, 2)]).await;
    until_asked(&registry, &here.layers[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registrys_lie_ends_no_prefetch_of_the_next_one() {
    let (registry, next) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mirror = Mirror::of(&registry).await;
    let (config, layer) = image_with_size(&registry, &content(LAYER, 1), "10");
    get_manifest(&mirror).await;
    assert_eq!(mirror.get(&path(&config)).await.status, 200);
    until_asked(&registry, &layer).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let mut config = mirror.config().clone();
    config.upstreams[0].urls = vec![next.url()];
    mirror.app().reload(config).unwrap();
    let image = pull_config(&next, &mirror, ("127.0.0.1", REPOSITORY), &[&content(LAYER, 2)]).await;
    until_asked(&next, &image.layers[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_says_what_cannot_be_begins_nothing() {
    let huge = u64::MAX.to_string();
    for (sizes, begun) in [
        (vec!["-1"], false),
        (vec!["-9223372036854775808"], false),
        (vec!["1e30"], false),
        (vec!["1.5"], false),
        (vec!["18446744073709551616"], false),
        (vec![&huge], false),
        (vec![&huge, &huge], false),
        (vec!["9223372036854775808", "9223372036854775808", "200000"], false),
        // Beyond what a cache of 64 MiB fetches ahead of one client, alone and in all.
        (vec!["12582913"], false),
        (vec!["6000000", "6000000", "6000000"], false),
        (vec!["1"; 201], false),
        (vec!["1"; 10_000], false),
        (vec!["200000"], true),
    ] {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::build(&registry).max_size(64 << 20).start().await;
        let contents: Vec<_> = (0..sizes.len() as u64).map(|seed| content(LAYER / sizes.len(), seed)).collect();
        let layers: Vec<_> = contents.iter().map(|content| registry.add_blob(REPOSITORY, content.to_vec())).collect();
        let named: Vec<_> = layers.iter().zip(&sizes).map(|(layer, size)| (layer.clone(), *size)).collect();
        let config = image_of(&registry, &named);
        get_manifest(&mirror).await;
        assert_eq!(mirror.get(&path(&config)).await.status, 200);
        let other = pull_config(&registry, &mirror, ("127.0.0.1", "team/other"), &[&content(LAYER, 70_000)]).await;
        until_asked(&registry, &other.layers[0]).await;
        if begun {
            until_asked(&registry, &layers[0]).await;
        }
        assert_eq!(!asked(&registry, &layers).is_empty(), begun, "{} of {}", sizes.len(), sizes[0]);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        for (layer, content) in layers.iter().zip(&contents).take(3) {
            assert_eq!(mirror.get(&path(layer)).await.body, content);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_an_image_names_many_times_counts_once() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).max_size(8 * ALLOCATED).start().await;
    let layer = registry.add_blob(REPOSITORY, content(LAYER, 1).to_vec());
    let size = LAYER.to_string();
    let config = image_of(&registry, &vec![(layer.clone(), size.as_str()); 100]);
    get_manifest(&mirror).await;
    assert_eq!(mirror.get(&path(&config)).await.status, 200);
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 2.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    assert!(is_hit(&mirror, &path(&layer)).await);
    assert_eq!(asked(&registry, &[layer]).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_is_not_as_long_as_told_is_given_up() {
    for chunked in [false, true] {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        let content = content(LAYER, 1);
        let (config, layer) = image_with_size(&registry, &content, "10");
        if chunked {
            registry.fault(When::blob(&layer), Fault::NoContentLength);
        }
        // It would never come to an end.
        registry.fault(When::blob(&layer), Fault::HoldBody { at: 150_000, gate: Gate::new() });
        get_manifest(&mirror).await;
        assert_eq!(mirror.get(&path(&config)).await.status, 200);
        mirror.until_metric("forebay_fills_total", &[("result", "abandoned")], 1.0).await;
        registry.heal();
        assert_eq!(mirror.get(&path(&layer)).await.body, content, "chunked: {chunked}");
    }
}
