//! `minimum_age`: a new digest waits, and the one before it stays.

use std::fs;

use super::*;
use forebay_test_support::fake_registry::{Fault, Server, When};

const WEEK: &str = "[[rule]]\nmatch = \"fake.example/*\"\nminimum_age = \"7d\"";
const ALLOW: &str = "[[rule]]\nmatch = \"*\"\nminimum_age = \"7d\"\nminimum_age_first = \"allow\"";

#[tokio::test]
async fn a_tag_is_refused_until_its_digest_is_old_enough() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = mirror_of(&registry, WEEK).await;
    let words = ["\\\"fake.example/*\\\" (line ", "is served from 20"];
    assert_denied(&mirror, &manifest(1), &words).await;
    assert_eq!((held(&mirror, "too_young").await, held(&mirror, "earlier").await), (2.0, 0.0));
    // By its digest it is what the client asked for.
    assert_eq!(mirror.get(&manifest(&image.manifest)).await.body, image.manifest_bytes);
    assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{}", image.layers[0])).await.status, 200);
    assert_eq!(mirror.get("/v2/team/app/tags/list").await.status, 200);
    later(&mut mirror, 6 * DAY).await;
    assert_denied(&mirror, &manifest(1), &words).await;
    later(&mut mirror, DAY).await;
    assert_tag_is(&mirror, "1", &image).await;
    assert_eq!(held(&mirror, "too_young").await, 0.0);
    assert_eq!(get_tag(&mirror, "none").await.status, 404);
}

#[tokio::test]
async fn a_tag_that_moved_means_the_digest_before() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mut mirror = mirror_of(&registry, WEEK).await;
    get_tag(&mirror, "1").await;
    later(&mut mirror, 8 * DAY).await;
    assert_tag_is(&mirror, "1", &old).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    assert_tag_is(&mirror, "1", &old).await;
    assert_eq!(held(&mirror, "earlier").await, 2.0);
    assert_eq!(mirror.get(&manifest(&new.manifest)).await.body, new.manifest_bytes);
    later(&mut mirror, 6 * DAY).await;
    assert_tag_is(&mirror, "1", &old).await;
    later(&mut mirror, DAY).await;
    assert_tag_is(&mirror, "1", &new).await;
}

#[tokio::test]
async fn what_was_replaced_meanwhile_begins_anew() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mut mirror = mirror_of(&registry, WEEK).await;
    get_tag(&mirror, "1").await;
    later(&mut mirror, 8 * DAY).await;
    assert_tag_is(&mirror, "1", &old).await;
    let evil = registry.add_image("team/app", "1", &[b"evil"]);
    assert_tag_is(&mirror, "1", &old).await;
    later(&mut mirror, 5 * DAY).await;
    // Found and taken back within days.
    let new = registry.add_image("team/app", "1", &[b"new"]);
    assert_tag_is(&mirror, "1", &old).await;
    later(&mut mirror, DAY).await;
    registry.tag("team/app", "1", &evil.manifest);
    assert_tag_is(&mirror, "1", &old).await;
    later(&mut mirror, 6 * DAY).await;
    assert_tag_is(&mirror, "1", &old).await;
    registry.tag("team/app", "1", &new.manifest);
    assert_tag_is(&mirror, "1", &old).await;
    later(&mut mirror, 7 * DAY).await;
    assert_tag_is(&mirror, "1", &new).await;
}

#[tokio::test]
async fn an_outage_ends_no_age_and_proves_none() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mut mirror = mirror_of(&registry, WEEK).await;
    get_tag(&mirror, "1").await;
    registry.take_down(Server::Api).await;
    later(&mut mirror, 8 * DAY).await;
    // The last check was eight days ago, and found it for the first time.
    assert_denied(&mirror, &manifest(1), &["(line "]).await;
    registry.bring_up(Server::Api).await;
    assert_tag_is(&mirror, "1", &old).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    assert_tag_is(&mirror, "1", &old).await;
    registry.take_down(Server::Api).await;
    later(&mut mirror, 5 * DAY).await;
    let stale = get_tag(&mirror, "1").await;
    assert_eq!((stale.status, &stale.body), (200, &old.manifest_bytes));
    assert_eq!(stale.header("cache-status"), Some("forebay; hit; detail=stale"));
    // Also without the record of the tag.
    mirror.drain().await;
    fs::remove_dir_all(mirror.cache_dir().join("tags")).unwrap();
    fs::create_dir(mirror.cache_dir().join("tags")).unwrap();
    mirror.start().await;
    assert_tag_is(&mirror, "1", &old).await;
    registry.bring_up(Server::Api).await;
    later(&mut mirror, 2 * DAY).await;
    assert_tag_is(&mirror, "1", &new).await;
}

#[tokio::test]
async fn without_the_upstream_it_is_served_as_long_as_a_stale_tag() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let rules = format!("{ALLOW}\nstale_if_error = \"3d\"");
    let mut mirror = mirror_of(&registry, &rules).await;
    assert_tag_is(&mirror, "1", &image).await;
    registry.take_down(Server::Api).await;
    for (age, status) in [(90 * DAY, 200), (99 * DAY, 502)] {
        later(&mut mirror, 2 * DAY).await;
        mirror.drain().await;
        // The record of the tag says nothing any more.
        crate::cache::manifest::tag::age(&mirror.cache_dir(), age);
        mirror.start().await;
        assert_eq!(get_tag(&mirror, "1").await.status, status);
    }
}

#[tokio::test]
async fn the_first_digest_may_be_allowed_and_no_other() {
    let registry = FakeRegistry::start().await;
    let first = registry.add_image("team/app", "1", &[b"first"]);
    let mut mirror = mirror_of(&registry, ALLOW).await;
    assert_tag_is(&mirror, "1", &first).await;
    let second = registry.add_image("team/app", "1", &[b"second"]);
    assert_tag_is(&mirror, "1", &first).await;
    mirror.restart().await;
    assert_tag_is(&mirror, "1", &first).await;
    later(&mut mirror, 7 * DAY).await;
    assert_tag_is(&mirror, "1", &second).await;
    // A tag that was deleted and comes again is not the first.
    registry.untag("team/app", "1");
    assert_eq!(get_tag(&mirror, "1").await.status, 404);
    registry.add_image("team/app", "1", &[b"third"]);
    assert_tag_is(&mirror, "1", &second).await;
}

#[tokio::test]
async fn a_rule_that_comes_later_counts_what_is_cached() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let builder = build(&registry, "").config(|config| config.cache.tag_ttl = DAY);
    let mirror = builder.start().await;
    assert_tag_is(&mirror, "1", &image).await;
    for (rules, is_served) in [(WEEK, false), (ALLOW, true), ("", true)] {
        let rules = build(&registry, rules);
        let config = rules.config(|config| config.cache.tag_ttl = DAY).start().await.config().clone();
        let reloaded = forebay::config::Config { rules: config.rules, ..mirror.config().clone() };
        mirror.app().reload(reloaded).unwrap();
        assert_eq!(get_tag(&mirror, "1").await.status == 200, is_served);
    }
}

#[tokio::test]
async fn the_first_digest_that_a_later_rule_allows_is_the_only_one() {
    let registry = FakeRegistry::start().await;
    let first = registry.add_image("team/app", "1", &[b"first"]);
    // The record of the tag is fresh when the rule changes.
    let a_day = |config: &mut forebay::config::Config| config.cache.tag_ttl = DAY;
    let mut mirror = build(&registry, WEEK).config(a_day).start().await;
    assert_denied(&mirror, &manifest(1), &["(line "]).await;
    let rules = build(&registry, ALLOW).start().await.config().rules.clone();
    mirror.app().reload(forebay::config::Config { rules: rules.clone(), ..mirror.config().clone() }).unwrap();
    assert_tag_is(&mirror, "1", &first).await;
    registry.add_image("team/app", "1", &[b"second"]);
    let now = |config: &mut forebay::config::Config| {
        config.rules = rules;
        config.cache.tag_ttl = Duration::ZERO;
    };
    mirror.restart_with(now).await;
    assert_tag_is(&mirror, "1", &first).await;
    assert_eq!(held(&mirror, "earlier").await, 2.0);
}

#[tokio::test]
async fn signatures_and_referrers_are_not_held() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = mirror_of(&registry, WEEK).await;
    for suffix in ["", ".sig", ".att"] {
        let tag = format!("{}{suffix}", image.manifest.as_str().replace(':', "-"));
        let signature = registry.add_image("team/app", &tag, &[tag.as_bytes()]);
        assert_tag_is(&mirror, &tag, &signature).await;
    }
}

/// An old registry converts manifests: each kind of client is told another digest.
#[tokio::test]
async fn clients_of_all_kinds_share_the_age_of_a_digest() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = mirror_of(&registry, WEEK).await;
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let status =
        async |mirror: &Mirror, accept: &str| mirror.get_with(&manifest(1), &[("accept", accept)]).await.status;
    assert_eq!(status(&mirror, oci).await, 403);
    later(&mut mirror, 7 * DAY).await;
    // Another kind of client is the first to come again.
    assert_eq!(status(&mirror, &format!("{oci}, application/x-other")).await, 200);
    assert_eq!(status(&mirror, oci).await, 200);
    registry.add_image("team/app", "1", &[b"new"]);
    for number in 0..20 {
        let answer = mirror.get_with(&manifest(1), &[("accept", &format!("{oci}, application/x-{number}"))]).await;
        assert_eq!((answer.status, &answer.body), (200, &image.manifest_bytes), "{number}");
    }
}

#[tokio::test]
async fn after_damage_what_was_served_is_served_still() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mut mirror = mirror_of(&registry, ALLOW).await;
    assert_tag_is(&mirror, "1", &old).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    assert_tag_is(&mirror, "1", &old).await;
    later(&mut mirror, 6 * DAY).await;
    mirror.drain().await;
    let file = mirror.config().state_directory.as_ref().unwrap().join("first-seen");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("nonsense\n{text}")).unwrap();
    mirror.start().await;
    assert_tag_is(&mirror, "1", &old).await;
    later(&mut mirror, 2 * DAY).await;
    assert_tag_is(&mirror, "1", &old).await;
    later(&mut mirror, 5 * DAY).await;
    assert_tag_is(&mirror, "1", &new).await;
    assert!(fs::read_to_string(file.with_extension("damaged")).unwrap().starts_with("nonsense"));
}

#[tokio::test]
async fn a_manifest_that_is_gone_everywhere_is_not_found() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mut mirror = mirror_of(&registry, ALLOW).await;
    assert_eq!(mirror.head(&manifest(1)).await.status, 200);
    registry.add_image("team/app", "1", &[b"new"]);
    registry.remove_manifest("team/app", &old.manifest);
    mirror.drain().await;
    fs::remove_dir_all(mirror.cache_dir().join("manifests")).unwrap();
    fs::create_dir(mirror.cache_dir().join("manifests")).unwrap();
    mirror.start().await;
    assert_eq!(get_tag(&mirror, "1").await.status, 404);
}

#[tokio::test]
async fn a_tag_in_an_outage_waits_for_no_more_than_its_upstream() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = mirror_of(&registry, WEEK).await;
    registry.fault(When::manifests(), Fault::status(503));
    assert_eq!(get_tag(&mirror, "1").await.status, 502);
    registry.heal();
    assert_denied(&mirror, &manifest(1), &["(line "]).await;
}
