//! An upstream that has had enough of pulls, and answers the HEADs of its clients.

use std::time::{Duration, Instant};

use super::*;
use forebay_test_support::fake_registry::{Fault, When};
use forebay_test_support::manifest::asked;

const TAG: &str = "/v2/team/a/manifests/1";
const STALE: Option<&str> = Some("forebay; hit; detail=stale");

fn pulls() -> When {
    When::manifests().method(Method::GET)
}

async fn mirror_of(world: &World) -> Mirror {
    let keys = "access_ttl = \"0s\"\naccess_grace = \"1h\"";
    let ttls = |config: &mut forebay::config::Config| {
        config.cache.tag_ttl = Duration::ZERO;
        config.cache.negative_ttl = Duration::ZERO;
    };
    world.mirror(keys).config(ttls).start().await
}

/// GET and HEAD of the tag both give this manifest.
async fn gives(mirror: &Mirror, who: (&str, &str), image: &Image, cache_status: Option<&str>) {
    for method in [Method::HEAD, Method::GET] {
        let answer = request_as(mirror, who, method.clone(), TAG).await;
        assert_eq!((answer.status, answer.header("cache-status")), (200, cache_status), "{method} {}", answer.text());
        assert_eq!(answer.header("docker-content-digest"), Some(image.manifest.as_str()), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_head_is_enough_for_the_former_manifest() {
    for fault in [Fault::too_many("60"), Fault::status(429), Fault::status(503), Fault::Disconnect] {
        let world = World::new().await;
        let mut mirror = mirror_of(&world).await;
        assert_eq!(get_as(&mirror, ANN, TAG).await.body, world.of_ann.manifest_bytes);
        let moved = world.registry.add_image("team/a", "1", &[b"a newer layer"]);
        world.registry.fault(pulls(), fault.clone());
        gives(&mirror, ANN, &world.of_ann, STALE).await;
        // What was said before is forgotten: the former one is asked about by a HEAD.
        mirror.restart().await;
        gives(&mirror, ANN, &world.of_ann, STALE).await;
        assert!(matches!(get_as(&mirror, BOB, TAG).await.status, 401 | 403), "{fault:?}");
        assert_eq!(mirror.get(TAG).await.status, 401, "{fault:?}");
        world.registry.heal();
        let answer = get_as(&mirror, ANN, TAG).await;
        assert_eq!(answer.header("docker-content-digest"), Some(moved.manifest.as_str()), "{fault:?}");
    }
}

/// The upstream is in an outage for GETs: one of them is enough to know it for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_remembered_for_the_previous_manifest() {
    for _ in 0..10 {
        let world = World::new().await;
        let ttls = |config: &mut forebay::config::Config| config.cache.tag_ttl = Duration::from_secs(3600);
        let mirror = world.mirror("access_ttl = \"0s\"\naccess_grace = \"1h\"").config(ttls).start().await;
        assert_eq!(get_as(&mirror, ANN, TAG).await.body, world.of_ann.manifest_bytes);
        world.registry.add_image("team/a", "1", &[b"a newer layer"]);
        world.registry.fault(pulls(), Fault::status(503));
        let before = world.registry.count(|request| pulls().matches(request));
        let begin = Instant::now();
        for _ in 0..3 {
            gives(&mirror, ANN, &world.of_ann, STALE).await;
        }
        // The memory is short: on a machine that took longer, the round says nothing.
        if begin.elapsed() < Duration::from_secs(4) {
            assert_eq!(world.registry.count(|request| pulls().matches(request)) - before, 1);
            return;
        }
    }
    panic!("no round took less than four seconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_manifest_is_for_whom_the_upstream_gives_it() {
    let world = World::new().await;
    world.registry.require(Auth::Open);
    let mirror = mirror_of(&world).await;
    assert_eq!(get_as(&mirror, ANN, TAG).await.status, 200);
    world.registry.add_image("team/a", "1", &[b"a newer layer"]);
    world.registry.fault(pulls(), Fault::too_many("60"));
    let former = || When::path_of(world.of_ann.manifest.as_str());
    for status in [403, 404, 401] {
        world.registry.fault_times(1, former().method(Method::HEAD), Fault::status(status));
        assert_eq!(get_as(&mirror, BOB, TAG).await.status, 429, "{status}");
    }
    gives(&mirror, BOB, &world.of_ann, STALE).await;
    // That was no word of the upstream's to him on the tag's manifest: it ends with the right to the repository.
    world.registry.fault(When::manifests().method(Method::HEAD), Fault::status(403));
    for method in [Method::HEAD, Method::GET] {
        assert_eq!(request_as(&mirror, BOB, method, TAG).await.status, 403);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_scarce_for_one_client_is_not_for_another() {
    let world = World::new().await;
    world.registry.require(Auth::Open);
    let mirror = mirror_of(&world).await;
    for (name, value) in [("ratelimit-limit", "100;w=600"), ("ratelimit-remaining", "1;w=600")] {
        world.registry.fault_times(1, pulls(), Fault::Header(name, Some(value.to_owned())));
    }
    assert_eq!(get_as(&mirror, ANN, TAG).await.status, 200);
    let moved = world.registry.add_image("team/a", "1", &[b"a newer layer"]);
    gives(&mirror, ANN, &world.of_ann, STALE).await;
    assert_eq!(asked(&world.registry, Method::GET), 1);
    let answer = get_as(&mirror, BOB, TAG).await;
    assert_eq!(answer.header("docker-content-digest"), Some(moved.manifest.as_str()));
    assert_eq!(asked(&world.registry, Method::GET), 2);
}
