//! What a rule serves although the upstream may not have it any more is not evicted.

use super::*;
use forebay_test_support::{
    blob::{add, content, path},
    fake_registry::Image,
};

const MIB: usize = 1024 * 1024;
const RULE: &str = "[[rule]]\nmatch = \"*\"\nminimum_age = \"7d\"\nminimum_age_first = \"allow\"";

async fn pull(mirror: &Mirror, image: &Image) {
    assert_tag_is(mirror, "1", image).await;
    for blob in image.layers.iter().chain([&image.config]) {
        assert_eq!(mirror.get(&path(blob)).await.status, 200);
    }
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
}

/// Pulls more than the cache has room for.
async fn fill(registry: &FakeRegistry, mirror: &Mirror, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        assert_eq!(mirror.get(&path(&add(registry, MIB, seed).0)).await.status, 200);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_digest_stays_in_the_cache_while_it_is_served() {
    let registry = FakeRegistry::start().await;
    let layer = content(MIB, 99);
    let old = registry.add_image("team/app", "1", &[&layer]);
    let mut mirror = build(&registry, RULE).max_size(4 * MIB as u64).start().await;
    pull(&mirror, &old).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    assert_tag_is(&mirror, "1", &old).await;
    // The upstream removes what no tag names.
    registry.remove_manifest("team/app", &old.manifest);
    for blob in old.layers.iter().chain([&old.config]) {
        registry.remove_blob("team/app", blob);
    }
    fill(&registry, &mirror, 0..6).await;
    pull(&mirror, &old).await;
    mirror.restart().await;
    fill(&registry, &mirror, 6..12).await;
    pull(&mirror, &old).await;
    // Once the next one is served, it goes.
    later(&mut mirror, 7 * DAY).await;
    assert_tag_is(&mirror, "1", &new).await;
    fill(&registry, &mirror, 12..18).await;
    assert_eq!(mirror.get(&path(&old.layers[0])).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_rule_the_same_is_evicted() {
    let registry = FakeRegistry::start().await;
    let layer = content(MIB, 99);
    let old = registry.add_image("team/app", "1", &[&layer]);
    let mirror = build(&registry, RULE).max_size(4 * MIB as u64).start().await;
    pull(&mirror, &old).await;
    registry.add_image("team/app", "1", &[b"new"]);
    assert_tag_is(&mirror, "1", &old).await;
    registry.remove_blob("team/app", &old.layers[0]);
    let rules = forebay::rule::Rules::default();
    mirror.app().reload(forebay::config::Config { rules, ..mirror.config().clone() }).unwrap();
    fill(&registry, &mirror, 0..6).await;
    assert_eq!(mirror.get(&path(&old.layers[0])).await.status, 404);
}
