//! HEAD by tag: what costs no pull must not be made to cost one, and registries that cannot answer it.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;

use crate::cache::manifest::tag::{age, never_trusting};
use forebay_test_support::manifest::{OCI_MANIFEST, asked, manifest};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Gate, Image, Server, When},
    mirror::{Answer, Mirror},
    until::{bounded, until},
};

fn assert_is_head_of(head: &Answer, image: &Image) {
    assert_eq!((head.status, head.header("content-type")), (200, Some(OCI_MANIFEST)));
    assert_eq!(head.header("docker-content-digest"), Some(image.manifest.as_str()));
    assert_eq!(head.header("content-length"), Some(&*image.manifest_bytes.len().to_string()));
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn a_head_is_a_head_and_a_later_get_works() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    for cache_status in ["forebay; fwd=miss", "forebay; hit"] {
        let head = mirror.head(&manifest(1)).await;
        assert_is_head_of(&head, &image);
        assert_eq!(head.header("cache-status"), Some(cache_status));
    }
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 0));
    for cache_status in ["forebay; fwd=miss; stored", "forebay; hit"] {
        let get = mirror.get(&manifest(1)).await;
        assert_eq!((get.body.clone(), get.header("cache-status")), (image.manifest_bytes.clone(), Some(cache_status)));
    }
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 1));
}

#[tokio::test]
async fn a_head_of_an_old_tag_is_one_head() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    let unchanged = mirror.head(&manifest(1)).await;
    assert_is_head_of(&unchanged, &old);
    assert_eq!(unchanged.header("cache-status"), Some("forebay; hit; detail=revalidated"));
    let new = registry.add_image("team/app", "1", &[b"new"]);
    // What a GET gives next is here then.
    assert_is_head_of(&mirror.head(&manifest(1)).await, &new);
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (2, 2));
    assert_eq!(mirror.get(&manifest(1)).await.body, new.manifest_bytes);
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (3, 2));
    // It is here, too, when the tag moves back.
    registry.tag("team/app", "1", &old.manifest);
    assert_is_head_of(&mirror.head(&manifest(1)).await, &old);
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (4, 2));
}

/// Docker Hub counts GETs alone; clients ask by HEAD first, and then for the digest that they were told.
#[tokio::test]
async fn a_moved_tag_that_cannot_be_had_is_the_old_one() {
    for fault in [
        Fault::too_many("60"),
        Fault::status(503),
        Fault::html(),
        Fault::no_backend(),
        Fault::Disconnect,
        Fault::Corrupt { at: 3 },
    ] {
        let registry = FakeRegistry::start().await;
        let old = registry.add_image("team/app", "1", &[b"old"]);
        let mirror = never_trusting(&registry).await;
        mirror.get(&manifest(1)).await;
        let new = registry.add_image("team/app", "1", &[b"new"]);
        registry.fault(When::manifests().method(Method::GET), fault.clone());
        for _ in 0..2 {
            let head = mirror.head(&manifest(1)).await;
            assert_is_head_of(&head, &old);
            assert_eq!(head.header("cache-status"), Some("forebay; hit; detail=stale"), "{fault:?}");
            assert_eq!(mirror.get(&manifest(1)).await.body, old.manifest_bytes, "{fault:?}");
        }
        registry.take_down(Server::Api).await;
        assert_is_head_of(&mirror.head(&manifest(1)).await, &old);
        assert_eq!(mirror.get(&manifest(&old.manifest)).await.body, old.manifest_bytes);
        registry.bring_up(Server::Api).await;
        registry.heal();
        assert_is_head_of(&mirror.head(&manifest(1)).await, &new);
        registry.take_down(Server::Api).await;
        assert_is_head_of(&mirror.head(&manifest(1)).await, &new);
        for reference in ["1", new.manifest.as_str()] {
            assert_eq!(mirror.get(&manifest(reference)).await.body, new.manifest_bytes, "{fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_of_a_moved_tag_fetch_it_once() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"old"]);
    let mut mirror = Mirror::of(&registry).await;
    mirror.get(&manifest(1)).await;
    mirror.drain().await;
    age(&mirror.cache_dir(), Duration::from_secs(3600));
    mirror.start().await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    registry.forget_requests();
    let gate = Gate::new();
    registry.fault(When::manifests().method(Method::GET), Fault::HoldHead(gate.clone()));
    let methods = (0..20).map(|number| if number % 2 == 0 { Method::GET } else { Method::HEAD });
    let all = async { join_all(methods.map(|method| async { mirror.request(method, &manifest(1), &[]).await })).await };
    let open = async {
        gate.reached().await;
        gate.open();
    };
    let (answers, ()) = bounded(async { tokio::join!(all, open) }).await;
    for answer in answers {
        assert_eq!((answer.status, answer.header("docker-content-digest")), (200, Some(new.manifest.as_str())));
    }
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 1));
}

/// Each of these HEADs is asked of the upstream, since its client may be about to push.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_pushes_are_taken_a_moved_tag_is_fetched_once() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"old"]);
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].push = true).start().await;
    mirror.get(&manifest(1)).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    registry.forget_requests();
    let gate = Gate::new();
    registry.fault(When::manifests().method(Method::GET), Fault::HoldHead(gate.clone()));
    let some = || join_all((0..10).map(|_| async { mirror.head(&manifest(1)).await }));
    // The later ones come when the move is noted.
    let all = async {
        let later = async {
            gate.reached().await;
            some().await
        };
        let (first, later) = tokio::join!(some(), later);
        [first, later].concat()
    };
    let open = async {
        until("all are asked", async || asked(&registry, Method::HEAD) == 20).await;
        gate.open();
    };
    let (answers, ()) = bounded(async { tokio::join!(all, open) }).await;
    for answer in answers {
        assert_is_head_of(&answer, &new);
    }
    assert_eq!(asked(&registry, Method::GET), 1);
    // It was kept.
    assert_eq!(mirror.get(&manifest(1)).await.body, new.manifest_bytes);
    assert_eq!(asked(&registry, Method::GET), 1);
}

/// A GET is counted, and one that is refused says enough for a moment.
#[tokio::test]
async fn where_pushes_are_taken_a_refused_get_is_one() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"old"]);
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].push = true).start().await;
    mirror.get(&manifest(1)).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    registry.forget_requests();
    registry.fault(When::manifests().method(Method::GET), Fault::too_many("60"));
    for _ in 0..3 {
        assert_is_head_of(&mirror.head(&manifest(1)).await, &new);
    }
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (3, 1));
}

/// containerd and docker accept other types. What the one has got is given to the other in an outage.
#[tokio::test]
async fn a_head_names_what_clients_of_another_kind_have() {
    let accept = [("accept", "application/vnd.oci.image.manifest.v1+json, */*;q=0.1")];
    for fault in [Fault::too_many("60"), Fault::status(502), Fault::Disconnect] {
        let registry = FakeRegistry::start().await;
        let old = registry.add_image("team/app", "1", &[b"old"]);
        let mirror = never_trusting(&registry).await;
        mirror.get(&manifest(1)).await;
        let new = registry.add_image("team/app", "1", &[b"new"]);
        registry.fault(When::manifests().method(Method::GET), fault.clone());
        for method in [Method::HEAD, Method::GET] {
            let answer = mirror.request(method.clone(), &manifest(1), &accept).await;
            let named = answer.header("docker-content-digest");
            assert_eq!((answer.status, named), (200, Some(old.manifest.as_str())), "{method} {fault:?}");
        }
        registry.heal();
        registry.forget_requests();
        assert_is_head_of(&mirror.request(Method::HEAD, &manifest(1), &accept).await, &new);
        assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 1));
        registry.take_down(Server::Api).await;
        assert_eq!(mirror.get_with(&manifest(1), &accept).await.body, new.manifest_bytes);
    }
}

#[tokio::test]
async fn a_manifest_that_came_late_is_older_than_a_head() {
    let registry = FakeRegistry::start().await;
    let first = registry.add_image("team/app", "1", &[b"first"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    registry.add_image("team/app", "1", &[b"second"]);
    let gate = Gate::new();
    registry.fault_times(1, When::manifests().method(Method::GET), Fault::HoldHead(gate.clone()));
    let (path, late) = (manifest(1), async {
        gate.reached().await;
        tokio::time::pause();
    });
    let (answer, ()) = tokio::join!(mirror.get(&path), late);
    assert_eq!(answer.body, first.manifest_bytes);
    // So long the question waits.
    tokio::time::sleep(Duration::from_secs(31)).await;
    tokio::time::resume();
    gate.open();
    // Time for the answer to come. Should it come later, it is that of the third.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let third = registry.add_image("team/app", "1", &[b"third"]);
    assert_eq!(mirror.get(&manifest(1)).await.body, third.manifest_bytes);
}

/// Of a tag that no client pulls, no manifest is fetched: what watches it by HEAD costs no pull.
#[tokio::test]
async fn a_moved_tag_that_was_never_pulled_costs_no_get() {
    let registry = FakeRegistry::start().await;
    let mirror = never_trusting(&registry).await;
    for layer in [b"old", b"new"] {
        let image = registry.add_image("team/app", "1", &[layer]);
        assert_is_head_of(&mirror.head(&manifest(1)).await, &image);
    }
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (2, 0));
}

#[tokio::test]
async fn where_pushes_are_taken_a_head_names_what_the_upstream_has() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mirror = Mirror::build(&registry).config(|config| {
        config.cache.tag_ttl = Duration::ZERO;
        config.upstreams[0].push = true;
    });
    let mirror = mirror.start().await;
    mirror.get(&manifest(1)).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    registry.fault(When::manifests().method(Method::GET), Fault::too_many("60"));
    assert_is_head_of(&mirror.head(&manifest(1)).await, &new);
    assert_eq!(mirror.get(&manifest(1)).await.body, old.manifest_bytes);
    registry.heal();
    assert_is_head_of(&mirror.head(&manifest(1)).await, &new);
    registry.take_down(Server::Api).await;
    assert_eq!(mirror.get(&manifest(1)).await.body, new.manifest_bytes);
}

#[tokio::test]
async fn a_useless_head_is_followed_by_a_get() {
    let head = || When::manifests().method(Method::HEAD);
    let faults = [
        ("HEAD is not allowed", Fault::status(405)),
        ("no digest", Fault::Header("docker-content-digest", None)),
        ("no length", Fault::NoContentLength),
        ("no type", Fault::Header("content-type", None)),
        // Harbor, of what it would have to fetch from its own upstream first.
        ("404 to a HEAD alone", Fault::status(404)),
    ];
    for (name, fault) in faults {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        let mirror = Mirror::of(&registry).await;
        registry.fault(head(), fault);
        for path in [manifest(1), manifest(&image.manifest)] {
            assert_is_head_of(&mirror.head(&path).await, &image);
        }
        assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 1), "{name}");
        assert_eq!(mirror.get(&manifest(1)).await.header("cache-status"), Some("forebay; hit"), "{name}");
    }
}

#[tokio::test]
async fn a_head_404_of_a_cached_tag_is_followed_by_a_get() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    registry.fault(When::manifests().method(Method::HEAD), Fault::status(404));
    assert_eq!(mirror.get(&manifest(1)).await.body, image.manifest_bytes);
    assert_is_head_of(&mirror.head(&manifest(1)).await, &image);
}

#[tokio::test]
async fn a_head_of_a_tag_is_stale_in_an_outage() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = never_trusting(&registry).await;
    mirror.head(&manifest(1)).await;
    registry.take_down(Server::Api).await;
    for _ in 0..2 {
        let stale = mirror.head(&manifest(1)).await;
        assert_is_head_of(&stale, &image);
        assert_eq!(stale.header("cache-status"), Some("forebay; hit; detail=stale"));
        mirror.restart().await;
    }
    assert_eq!(mirror.get(&manifest(1)).await.status, 502, "only its head is known");
}
