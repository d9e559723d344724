//! Layers that are fetched before a client asks for them.

use forebay::oci::Digest;

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

/// Three layers of one client and one more of all others are what a quarter has room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_that_no_client_takes_have_a_budget() {
    // Each image has a layer of its own, that is right or is a lie; or all are one image's.
    for case in ["images", "lies", "layers"] {
        let registry = FakeRegistry::start().await;
        let build = Mirror::build(&registry).max_size(16 * ALLOCATED).config(|config| config.cache.prefetch = 1);
        let mirror = build.start().await;
        let in_use = content(9 * LAYER, 1);
        let used = registry.add_blob(REPOSITORY, in_use.to_vec());
        assert_eq!(mirror.get(&path(&used)).await.body, in_use);
        if case == "lies" {
            registry.fault(When::blobs(), Fault::Corrupt { at: LAYER / 2 });
        }
        let mut layers = Vec::new();
        let of_client = if case == "layers" { vec![4, 1] } else { vec![1; 5] };
        for (number, count) in of_client.into_iter().enumerate() {
            let contents: Vec<_> = (0..count).map(|layer| content(LAYER, 10 * number as u64 + layer + 10)).collect();
            let contents: Vec<&[u8]> = contents.iter().map(|content| &content[..]).collect();
            let image = pull_config(&registry, &mirror, ("127.0.0.1", &format!("team/app{number}")), &contents).await;
            layers.extend(image.layers);
            for layer in layers.iter().take(3) {
                until_asked(&registry, layer).await;
            }
            mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        }
        for (client, content) in [("127.0.0.2", content(LAYER, 100)), ("127.0.0.3", content(LAYER, 101))] {
            let image = pull_config(&registry, &mirror, (client, &format!("team/{client}")), &[&content]).await;
            layers.extend(image.layers);
            until_asked(&registry, &layers[5]).await;
        }
        registry.heal();
        // What a client takes counts no more, in whatever way it was begun.
        assert_eq!(get_as(&mirror, "127.0.0.1", &format!("/v2/team/app0/blobs/{}", layers[0])).await, 200);
        let last = pull_config(&registry, &mirror, ("127.0.0.4", "team/last"), &[&content(LAYER, 200)]).await;
        until_asked(&registry, &last.layers[0]).await;
        let mut expected = vec![layers[0].clone(), layers[1].clone(), layers[2].clone(), layers[5].clone()];
        if case == "lies" {
            expected.push(layers[0].clone());
        }
        assert_eq!(asked(&registry, &layers), expected, "{case}");
        assert!(is_hit(&mirror, &path(&used)).await, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_layer_drives_out_what_was_used_within_the_hour() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::build(&registry).max_size(8 * ALLOCATED).start().await;
    // There is not room for one more.
    let used: Vec<_> = (0..7).map(|seed| registry.add_blob(REPOSITORY, content(LAYER, seed).to_vec())).collect();
    for digest in &used {
        assert_eq!(mirror.get(&path(digest)).await.status, 200);
    }
    let image = pull_config(&registry, &mirror, ("127.0.0.1", REPOSITORY), &[&content(LAYER, 8)]).await;
    mirror.until_metric("forebay_fills_total", &[("result", "no_room")], 1.0).await;
    for digest in &used {
        assert!(is_hit(&mirror, &path(digest)).await);
    }
    // A client's own request makes room.
    assert_eq!(mirror.get(&path(&image.layers[0])).await.body, content(LAYER, 8));
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 9.0).await;
    assert!(is_hit(&mirror, &path(&image.layers[0])).await);
    // So does what lay idle.
    mirror.drain().await;
    let idle = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 60 * 60);
    std::fs::File::open(file(&mirror.cache_dir(), &used[3])).unwrap().set_modified(idle).unwrap();
    mirror.start().await;
    let image = pull_config(&registry, &mirror, ("127.0.0.1", "team/other"), &[&content(LAYER, 9)]).await;
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 2.0).await;
    assert!(is_hit(&mirror, &path(&image.layers[0])).await);
    assert_eq!(mirror.head(&path(&used[3])).await.header("cache-status"), Some("forebay; fwd=miss"));
}

/// Before one that a client has used, however long ago; and no more once a client has taken it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_no_client_takes_is_the_first_to_go() {
    for (is_taken, restarts) in [(false, false), (true, false), (false, true), (true, true)] {
        let registry = FakeRegistry::start().await;
        let mut mirror = Mirror::build(&registry).max_size(6 * ALLOCATED - ALLOCATED / 10).start().await;
        let older = registry.add_blob(REPOSITORY, content(2 * LAYER, 1).to_vec());
        assert_eq!(mirror.get(&path(&older)).await.status, 200);
        let image = pull_config(&registry, &mirror, ("127.0.0.1", REPOSITORY), &[&content(LAYER, 2)]).await;
        mirror.until_metric("forebay_fills_total", &[("result", "complete")], 3.0).await;
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        if is_taken {
            assert!(is_hit(&mirror, &path(&image.layers[0])).await);
        }
        if restarts {
            mirror.drain().await;
            // The scan knows by its time alone that no client has taken it.
            let modified =
                |digest: &Digest| std::fs::metadata(file(&mirror.cache_dir(), digest)).unwrap().modified().unwrap();
            assert!(is_taken || modified(&image.layers[0]) < modified(&older));
            mirror.start().await;
            mirror.until_metric("forebay_cache_objects", &[("kind", "blob")], 3.0).await;
        }
        let newer = registry.add_blob(REPOSITORY, content(3 * LAYER, 3).to_vec());
        assert_eq!(mirror.get(&path(&newer)).await.status, 200);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        let (gone, stays) = if is_taken { (&older, &image.layers[0]) } else { (&image.layers[0], &older) };
        assert!(is_hit(&mirror, &path(stays)).await, "{is_taken} {restarts}");
        let gone = mirror.head(&path(gone)).await;
        assert_eq!(gone.header("cache-status"), Some("forebay; fwd=miss"), "{is_taken} {restarts}");
    }
}

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

/// An image with one layer, whose manifest says another size than it has.
fn image_with_size(registry: &FakeRegistry, layer: &[u8], size: &str) -> (Digest, Digest) {
    let layer = registry.add_blob(REPOSITORY, layer.to_vec());
    (image_of(registry, &[(layer.clone(), size)]), layer)
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
        // The first one is asked for each time, by a client that has read nothing else.
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
    mirror.until_metric("forebay_fills_total", &[("result", "upstream_failed")], 1.0).await;
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
