//! Grants: how long they last, what ends them, and which requests they cost.

use std::time::Duration;

pub mod password;
pub mod response;

use http::Method;

use super::*;
use forebay_test_support::fake_registry::{Fault, Gate, Record, Server, When};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_lasts_for_its_ttl_and_costs_one_head() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    for path in World::pull("team/a", &world.of_ann) {
        assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
    }
    world.registry.forget_requests();
    for path in World::pull("team/a", &world.of_ann) {
        assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
    }
    assert!(world.registry.requests().is_empty(), "what was said holds for a minute");

    // Another tag costs one request, the digests cost none.
    let rights = vec![("ann", "team/a"), ("bob", "team/a")];
    world.registry.require(Auth::Bearer(Bearer { rights, ..World::rules() }));
    for path in World::pull("team/a", &world.of_ann) {
        assert_eq!(get_as(&mirror, BOB, &path).await.status, 200);
    }
    let asked: Vec<_> = world.registry.requests().into_iter().filter(|it| it.server == Server::Api).collect();
    // The first without a token that is his.
    assert!(asked.len() <= 2, "{asked:#?}");
    assert!(asked.iter().all(|it| it.method == Method::HEAD && it.path.ends_with("/team/a/manifests/1")), "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_grant_is_renewed_and_a_refusal_ends_it() {
    let world = World::new().await;
    let mirror =
        world.mirror("access_ttl = \"0s\"").config(|config| config.cache.negative_ttl = Duration::ZERO).start().await;
    let path = layer("team/a", &world.of_ann);
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
    world.registry.forget_requests();
    let hit = get_as(&mirror, ANN, &path).await;
    assert_eq!((hit.status, hit.header("cache-status")), (200, Some("forebay; hit")));
    assert_eq!(world.registry.count(|request| request.method == Method::HEAD), 1);

    // She is not to read it any more.
    world.registry.require(Auth::Bearer(Bearer { rights: vec![("bob", "team/b")], ..World::rules() }));
    world.registry.revoke_tokens();
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 401);
    // Nor in an outage: the last response was a refusal.
    world.registry.take_down(Server::Api).await;
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 502);
}

#[tokio::test]
async fn an_answer_that_came_late_holds_no_longer_for_it() {
    for _ in 0..20 {
        let world = World::new().await;
        let mirror = world.mirror("access_ttl = \"3s\"").start().await;
        let (gate, path) = (Gate::new(), layer("team/a", &world.of_ann));
        let heads = || When::blobs().method(Method::HEAD).authorized();
        world.registry.fault_times(1, heads(), Fault::HoldHead(gate.clone()));
        let late = async {
            gate.reached().await;
            tokio::time::pause();
        };
        let (answer, ()) = tokio::join!(get_as(&mirror, ANN, &path), late);
        assert_eq!(answer.status, 504);
        tokio::time::resume();
        gate.open();
        tokio::time::sleep(Duration::from_millis(20)).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        tokio::time::resume();
        assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
        // A right ends by another clock than the runtime's.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        world.registry.forget_requests();
        assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
        // It was old when it was taken; but it may have come only then.
        if world.registry.count(|request| request.method == Method::HEAD) == 1 {
            return;
        }
    }
    panic!("a yes of long ago was believed as if it had just been said");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_an_outage_only_the_clients_own_grant_holds() {
    let world = World::new().await;
    let mirror = world.mirror("access_ttl = \"0s\"\naccess_grace = \"1h\"").start().await;
    for path in World::pull("team/a", &world.of_ann) {
        assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
    }
    for outage in ["down", "busy", "broken"] {
        match outage {
            "down" => world.registry.take_down(Server::Api).await,
            "busy" => world.registry.fault(When::any(), Fault::too_many("5")),
            _ => world.registry.fault(When::any(), Fault::status(500)),
        }
        for path in World::pull("team/a", &world.of_ann) {
            assert_eq!(get_as(&mirror, ANN, &path).await.status, 200, "{outage}: {path}");
            for other in [get_as(&mirror, BOB, &path).await, get_as(&mirror, ("ann", "another password"), &path).await]
            {
                assert!(matches!(other.status, 429 | 502..=504), "{outage}: {path}: {}", other.status);
            }
            // containerd sends no credentials before a challenge.
            let unnamed = mirror.get(&path).await;
            assert_eq!(unnamed.status, 401, "{outage}: {path}");
            assert!(unnamed.header("www-authenticate").is_some());
        }
        if outage == "down" {
            world.registry.bring_up(Server::Api).await;
        }
        world.registry.heal();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_tells_what_is_cached_by_a_grant_alone() {
    let world = World::new().await;
    let never_stale = |config: &mut forebay::config::Config| {
        (config.cache.tag_ttl, config.cache.stale_if_error) = (Duration::ZERO, Duration::ZERO);
    };
    let mirror = world.mirror("access_grace = \"1h\"").config(never_stale).start().await;
    let (tag, blob) = ("/v2/team/a/manifests/1", layer("team/a", &world.of_ann));
    for path in [tag, &blob] {
        assert_eq!(get_as(&mirror, ANN, path).await.status, 200);
    }
    world.registry.fault(When::any(), Fault::status(500));
    let told = async |who, path: &str| {
        let answer = get_as(&mirror, who, path).await;
        assert_eq!(answer.status, 502, "{path}: {}", answer.text());
        answer.text().replace(answer.header("x-request-id").unwrap(), "ID")
    };
    assert!(told(ANN, tag).await.contains("\"stale\":true"));
    for path in [tag, &blob] {
        let (private, missing) = (told(BOB, path).await, told(BOB, &path.replace("team/a", "team/none")).await);
        assert!(private.contains("\"stale\":false"), "{private}");
        assert_eq!(private, missing);
    }
}

/// An ingress, a single sign-on or a firewall may say so in the registry's place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_any_shape_ends_a_right() {
    for (page, ends) in [
        (Fault::page(401), true),
        (Fault::page(403), true),
        (Fault::no_backend(), false),
        (Fault::page(400), false),
        (Fault::page(405), false),
    ] {
        let world = World::new().await;
        let mirror = world.mirror("access_ttl = \"0s\"\naccess_grace = \"1h\"");
        let mirror = mirror.config(|config| config.cache.negative_ttl = Duration::ZERO).start().await;
        for path in World::pull("team/a", &world.of_ann) {
            assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
        }
        for path in World::pull("team/a", &world.of_ann) {
            world.registry.fault(When::any(), page.clone());
            let told = get_as(&mirror, ANN, &path).await.status;
            assert_eq!(told != 200, ends, "{told} {path} {page:?}");
            // Nor is there an outage in which the former right would count.
            world.registry.heal();
            world.registry.fault(When::any(), Fault::status(503));
            assert_eq!(get_as(&mirror, ANN, &path).await.status != 200, ends, "{path} {page:?}");
            world.registry.heal();
        }
    }
}

/// A refusal that another client provokes says nothing about this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_client_cannot_end_a_grant() {
    let world = World::new().await;
    let mirror = world.mirror("access_ttl = \"0s\"\naccess_grace = \"1h\"\npush = true").start().await;
    let path = layer("team/open", &world.open);
    assert_eq!(mirror.get(&path).await.status, 200);
    let long: Vec<String> = (0..40).map(|hop| format!("1.1 hop-{hop}")).collect();
    let unknown = format!("/v2/team/open/blobs/sha256:{}", "0".repeat(64));
    world.registry.fault(When::blob(&unknown.rsplit('/').next().unwrap().parse().unwrap()), Fault::status(400));
    for (path, header, value) in
        [(&unknown, "via", &*long.join(", ")), (&unknown, "x-any", "1"), (&path, "via", &*long.join(", "))]
    {
        mirror.get_with(path, &[(header, value)]).await;
    }
    // Nor by a request for more than any client may.
    world.registry.fault_times(1, When::uploads(), Fault::status(403));
    let pushed = mirror.request(Method::POST, "/v2/team/open/blobs/uploads/", &[]).await;
    assert_eq!(pushed.status, 403);
    // Nor can one who is refused have it forgotten for others.
    get_as(&mirror, ("nobody", "x"), &path).await;
    world.registry.take_down(Server::Api).await;
    assert_eq!(mirror.get(&path).await.status, 200);
}

/// The refusal comes to another kind of request than the one that made the grant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_by_another_route_ends_a_grant() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    let path = layer("team/a", &world.of_ann);
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
    world.registry.require(Auth::Bearer(Bearer { rights: vec![("bob", "team/b")], ..World::rules() }));
    world.registry.revoke_tokens();
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 200, "within access_ttl");
    assert_eq!(get_as(&mirror, ANN, "/v2/team/a/tags/list").await.status, 401);
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 401);
}

/// A response that no client waits for any more counts all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_that_comes_late_is_a_no() {
    let world = World::new().await;
    let mirror = world.mirror("access_ttl = \"0s\"").start().await;
    let path = layer("team/a", &world.of_ann);
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
    let gate = forebay_test_support::fake_registry::Gate::new();
    world.registry.fault(When::any(), Fault::HoldHead(gate.clone()));
    world.registry.require(Auth::Bearer(Bearer { rights: vec![("bob", "team/b")], ..World::rules() }));
    world.registry.revoke_tokens();
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 200, "nothing was said yet");
    gate.open();
    forebay_test_support::until::until("the no is known", async || get_as(&mirror, ANN, &path).await.status == 401)
        .await;
    world.registry.take_down(Server::Api).await;
    assert_ne!(get_as(&mirror, ANN, &path).await.status, 200);
}

/// The client was content with a former answer and left before the refusal came; then the upstream goes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_no_client_waits_for_ends_a_right() {
    let world = World::new().await;
    let mirror = world.mirror("access_ttl = \"0s\"").start().await;
    let path = layer("team/a", &world.of_ann);
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
    let gate = forebay_test_support::fake_registry::Gate::new();
    world.registry.fault(When::any(), Fault::HoldHead(gate.clone()));
    world.registry.fault(When::any(), Fault::status(403));
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 200, "nothing was said yet");
    gate.open();
    let refusals = [("upstream", "private.example"), ("status", "403")];
    // The second one is for the words of the first.
    mirror.until_metric("forebay_upstream_requests_total", &refusals, 2.0).await;
    world.registry.take_down(Server::Api).await;
    forebay_test_support::until::until("the right has ended", async || get_as(&mirror, ANN, &path).await.status == 502)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_grace_nothing_holds() {
    let world = World::new().await;
    let mirror = world.mirror("access_ttl = \"0s\"\naccess_grace = \"0s\"").start().await;
    let path = layer("team/a", &world.of_ann);
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
    world.registry.take_down(Server::Api).await;
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 502);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_answers_while_the_upstream_hangs() {
    let world = World::new().await;
    let mirror = world.mirror("access_ttl = \"0s\"").start().await;
    let path = layer("team/a", &world.of_ann);
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
    let gate = forebay_test_support::fake_registry::Gate::new();
    world.registry.fault(When::any(), Fault::HoldHead(gate.clone()));
    for _ in 0..2 {
        let answer = tokio::time::timeout(Duration::from_secs(10), get_as(&mirror, ANN, &path)).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_sees_the_credentials_of_the_client() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    for (who, repository, image) in [(ANN, "team/a", &world.of_ann), (BOB, "team/b", &world.of_bob)] {
        world.registry.forget_requests();
        for path in World::pull(repository, image) {
            get_as(&mirror, who, &path).await;
        }
        for request in world.registry.requests() {
            let shown = request.header("authorization").unwrap_or_default().to_owned();
            match request.server {
                Server::Realm => {
                    assert_eq!(shown, basic(who.0, who.1));
                    assert_eq!(request.parameter("scope"), [format!("repository:{repository}:pull")]);
                }
                Server::Api => assert!(!shown.starts_with("Basic "), "a password where a token does"),
                Server::Cdn => assert!(shown.is_empty()),
            }
        }
    }
}

/// What was cached under one rule must not be found under the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_configuration_finds_nothing_of_the_former() {
    let world = World::new().await;
    let mut mirror = world.mirror("").start().await;
    for path in World::pull("team/a", &world.of_ann) {
        assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
    }
    mirror.restart_with(|config| config.upstreams[0].access = forebay::upstream::Access::Shared).await;
    world.registry.take_down(Server::Api).await;
    for path in World::pull("team/a", &world.of_ann) {
        assert_eq!(mirror.get(&path).await.status, 502, "{path}");
        assert_eq!(mirror.head(&path).await.status, 502, "{path}");
    }
    world.registry.bring_up(Server::Api).await;
    // And back: it is still there for whom it is.
    mirror
        .restart_with(|config| {
            let hour = Duration::from_secs(3600);
            config.upstreams[0].access = forebay::upstream::Access::Client { ttl: hour, grace: hour };
        })
        .await;
    world.registry.forget_requests();
    let hit = get_as(&mirror, ANN, &layer("team/a", &world.of_ann)).await;
    assert_eq!((hit.status, hit.header("cache-status")), (200, Some("forebay; hit")));
    assert_eq!(world.registry.count(|request| request.is_blob_get(&world.of_ann.layers[0])), 0);
}

/// By reloads, a name comes to stand for another registry, by way of one that is open to all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_is_for_the_registry_at_its_urls() {
    let (world, other) = (World::new().await, World::new().await);
    let mirror = world.mirror("").config(|config| config.cache.negative_ttl = Duration::ZERO).start().await;
    let path = layer("team/a", &world.of_ann);
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
    assert_eq!(get_as(&mirror, ANN, "/v2/").await.status, 200);
    let rights = vec![("bob", "team/b")];
    let users = vec![(BOB.0.to_owned(), BOB.1.to_owned())];
    other.registry.require(Auth::Bearer(Bearer { users, rights, ..Bearer::default() }));
    let reload = |world: &World, access: forebay::upstream::Access| {
        let mut config = mirror.config().clone();
        config.upstreams[0].urls = vec![world.registry.url()];
        config.upstreams[0].access = access;
        mirror.app().reload(config).unwrap();
    };
    let (client, shared) = (mirror.config().upstreams[0].access, forebay::upstream::Access::Shared);
    reload(&world, shared);
    reload(&other, shared);
    reload(&other, client);
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 401);
    assert_eq!(get_as(&mirror, ANN, "/v2/").await.status, 401);
    other.registry.take_down(Server::Api).await;
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 502, "nor in an outage");
    // At its own URLs, what was said is so.
    reload(&world, client);
    world.registry.take_down(Server::Api).await;
    assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_fetched_ahead_is_for_its_clients_alone() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    let paths = World::pull("team/a", &world.of_ann);
    assert_eq!(get_as(&mirror, ANN, &paths[0]).await.status, 200);
    assert_eq!(get_as(&mirror, BOB, &paths[2]).await.status, 401);
    assert_eq!(get_as(&mirror, ANN, &paths[2]).await.status, 200);
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 2.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    assert_eq!(get_as(&mirror, BOB, &paths[3]).await.status, 401);
    let hit = get_as(&mirror, ANN, &paths[3]).await;
    assert!(hit.body == SECRET && hit.header("cache-status") == Some("forebay; hit"));
    let is_whole = |record: &Record| record.is_blob_get(&world.of_ann.layers[0]) && record.header("range").is_none();
    assert_eq!(world.registry.count(is_whole), 1);
}
