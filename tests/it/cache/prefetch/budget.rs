//! How much a client may have prefetched, and what goes first to make room.

use super::*;

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
