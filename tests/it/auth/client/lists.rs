//! Lists of an upstream that decides by its clients: each is told what it was told itself.

use super::*;
use crate::cache::list::STALE;
use forebay_test_support::fake_registry::{Fault, Server, When};
use forebay_test_support::manifest::OCI_INDEX;

const TAGS: &str = "/v2/team/a/tags/list";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_list_is_only_for_the_client_that_received_it() {
    for (grace, in_outage) in [("1h", 200), ("0s", 502)] {
        let world = World::new().await;
        let keys = format!("access_ttl = \"0s\"\naccess_grace = \"{grace}\"");
        let mirror = world.mirror(&keys).start().await;
        for _ in 0..2 {
            assert_eq!(get_as(&mirror, ANN, TAGS).await.status, 200);
            for other in [get_as(&mirror, BOB, TAGS).await, mirror.get(TAGS).await] {
                assert_eq!((other.status, &*other.error_code()), (401, "UNAUTHORIZED"));
            }
        }
        world.registry.take_down(Server::Api).await;
        assert_eq!(get_as(&mirror, ANN, TAGS).await.status, in_outage, "{grace}");
        for other in
            [get_as(&mirror, BOB, TAGS).await, get_as(&mirror, ("ann", "x"), TAGS).await, mirror.get(TAGS).await]
        {
            assert_eq!(other.status, 502, "{grace}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn referrers_are_cached_per_client_while_its_grant_lasts() {
    for (ttl, asked) in [("1h", 1), ("0s", 3)] {
        let world = World::new().await;
        world.registry.offer_referrers(true);
        let mirror = world.mirror(&format!("access_ttl = \"{ttl}\"\naccess_grace = \"1h\"")).start().await;
        let path = format!("/v2/team/a/referrers/{}", world.of_ann.manifest);
        // She has a token then.
        assert_eq!(get_as(&mirror, ANN, TAGS).await.status, 200);
        world.registry.forget_requests();
        for _ in 0..3 {
            assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
        }
        assert_eq!(world.registry.count(|it| it.path == path), asked, "{ttl}");
        for other in [get_as(&mirror, BOB, &path).await, mirror.get(&path).await] {
            assert_eq!(other.status, 401);
        }
    }
}

/// A manifest is refused to her whose lists are kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_ends_what_was_kept_of_lists() {
    let world = World::new().await;
    world.registry.offer_referrers(true);
    let mirror = world.mirror("access_ttl = \"1h\"\naccess_grace = \"1h\"").start().await;
    let referrers = format!("/v2/team/a/referrers/{}", world.of_ann.manifest);
    for path in [TAGS, &*referrers, &*referrers] {
        assert_eq!(get_as(&mirror, ANN, path).await.status, 200, "{path}");
    }
    world.registry.require(Auth::Bearer(Bearer { rights: vec![("bob", "team/b")], ..World::rules() }));
    world.registry.revoke_tokens();
    assert_eq!(get_as(&mirror, ANN, "/v2/team/a/manifests/1").await.status, 401);
    assert_eq!(get_as(&mirror, ANN, &referrers).await.status, 401);
    world.registry.take_down(Server::Api).await;
    for path in [TAGS, &*referrers] {
        assert_eq!(get_as(&mirror, ANN, path).await.status, 502, "{path}");
    }
}

/// By a reload, a name comes to stand for another registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_of_the_registry_at_its_urls() {
    let (world, other) = (World::new().await, World::new().await);
    world.registry.offer_referrers(true);
    other.registry.offer_referrers(true);
    other.registry.require(Auth::Bearer(Bearer { rights: vec![("bob", "team/b")], ..World::rules() }));
    let mirror = world.mirror("access_ttl = \"1h\"\naccess_grace = \"1h\"").start().await;
    let referrers = format!("/v2/team/a/referrers/{}", world.of_ann.manifest);
    for path in [TAGS, &*referrers] {
        assert_eq!(get_as(&mirror, ANN, path).await.status, 200, "{path}");
    }
    let mut config = mirror.config().clone();
    config.upstreams[0].urls = vec![other.registry.url()];
    mirror.app().reload(config).unwrap();
    for path in [TAGS, &*referrers] {
        assert_eq!(get_as(&mirror, ANN, path).await.status, 401, "{path}");
    }
}

/// An older registry says 404 to the path before it authenticates; the tag is cached for clients with a grant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn referrers_by_tag_need_a_grant_for_the_tag() {
    let world = World::new().await;
    let subject = &world.of_ann.manifest;
    let index =
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[], "annotations":{{"a":"secret"}}}}"#);
    let pushed = world.registry.add_manifest("team/a", OCI_INDEX, index.clone());
    world.registry.tag("team/a", &subject.as_str().replace(':', "-"), &pushed);
    world.registry.fault(When::referrers(), Fault::status(404));
    let mirror = world
        .mirror("access_ttl = \"0s\"\naccess_grace = \"1h\"")
        .config(|config| config.cache.negative_ttl = std::time::Duration::ZERO)
        .start()
        .await;
    let path = format!("/v2/team/a/referrers/{subject}");
    for _ in 0..2 {
        assert_eq!(get_as(&mirror, ANN, &path).await.text(), index);
        for other in [get_as(&mirror, BOB, &path).await, mirror.get(&path).await] {
            assert_eq!((other.status, &*other.error_code()), (401, "UNAUTHORIZED"));
        }
    }
    world.registry.take_down(Server::Api).await;
    let hit = get_as(&mirror, ANN, &path).await;
    assert_eq!((hit.status, hit.text()), (200, &*index));
    assert!([STALE, Some("forebay; hit")].contains(&hit.header("cache-status")), "{hit:?}");
    for other in [get_as(&mirror, BOB, &path).await, mirror.get(&path).await] {
        assert_eq!(other.status, 502);
    }
}

/// A proxy with a single sign-on answers a client that it refuses with 200 and a document of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_200_that_is_no_list_is_none() {
    let world = World::new().await;
    world.registry.offer_referrers(true);
    let mirror = world.mirror("access_ttl = \"0s\"\naccess_grace = \"1h\"").start().await;
    let referrers = format!("/v2/team/a/referrers/{}", world.of_ann.manifest);
    let paths = [TAGS, &*referrers, "/v2/_catalog"];
    for path in [TAGS, &*referrers] {
        assert_eq!(get_as(&mirror, ANN, path).await.status, 200, "{path}");
    }
    for body in [r#"{"login":"https://sso.example/"}"#, "", "[[]]", r#"{"schemaVersion":2}"#] {
        let headers = vec![("content-type", "application/json".to_owned())];
        world.registry.heal();
        world.registry.fault(When::any(), Fault::Answer { status: 200, headers, body: body.to_owned() });
        for path in paths {
            assert_eq!(get_as(&mirror, BOB, path).await.status, 502, "{body}: {path}");
        }
        // It is an outage, and what she was told holds.
        for path in [TAGS, &*referrers] {
            let stale = get_as(&mirror, ANN, path).await;
            assert_eq!(stale.status, 200, "{body}: {path}");
            assert!(!stale.text().contains("login"));
        }
    }
    world.registry.heal();
    assert_eq!(get_as(&mirror, BOB, TAGS).await.status, 401);
}
