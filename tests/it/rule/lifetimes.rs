//! `tag_ttl` and `stale_if_error` of a rule.

use super::*;
use crate::cache::manifest::tag::age;
use forebay_test_support::fake_registry::Server;

#[tokio::test]
async fn a_tag_is_trusted_for_as_long_as_its_rule_says() {
    let registry = FakeRegistry::start().await;
    let rules =
        "[[upstream.rule]]\nmatch = \"fake.example/*:1\"\ntag_ttl = \"1h\"\n[[rule]]\nmatch = \"*\"\ntag_ttl = 0";
    let mirror = mirror_of(&registry, rules).await;
    for (tag, requests) in [("1", 1), ("2", 4)] {
        registry.add_image("team/app", tag, &[b"layer"]);
        for _ in 0..2 {
            assert_eq!(get_tag(&mirror, tag).await.status, 200);
        }
        // The first HEAD and the GET after it.
        assert!(asked_for_tag(&registry, tag) <= requests + 1, "{:?}", registry.requests());
        assert!(asked_for_tag(&registry, tag) >= requests, "{:?}", registry.requests());
    }
}

#[tokio::test]
async fn a_stale_tag_is_served_for_as_long_as_its_rule_says() {
    let registry = FakeRegistry::start().await;
    let rules =
        "[[rule]]\nmatch = \"*:1\"\nstale_if_error = \"1h\"\n[[rule]]\nmatch = \"*:2\"\nstale_if_error = \"90d\"";
    let mut mirror = mirror_of(&registry, rules).await;
    for tag in ["1", "2", "3"] {
        registry.add_image("team/app", tag, &[b"layer"]);
        assert_eq!(get_tag(&mirror, tag).await.status, 200);
    }
    registry.take_down(Server::Api).await;
    for (days, expected) in [(2, [502, 200, 200]), (60, [502, 200, 502])] {
        mirror.drain().await;
        age(&mirror.cache_dir(), days * DAY);
        mirror.start().await;
        for (tag, status) in ["1", "2", "3"].into_iter().zip(expected) {
            assert_eq!(get_tag(&mirror, tag).await.status, status, "{tag} after {days} days");
        }
    }
}
