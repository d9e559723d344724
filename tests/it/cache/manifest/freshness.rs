//! What is cached is served when the upstream cannot answer, says so, and stops when the upstream says no.

use std::time::{Duration, Instant};

use http::Method;

use crate::cache::manifest::tag::{age, never_trusting};
use forebay_test_support::manifest::{DOCKER_MANIFEST, asked, manifest};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Gate, Server, When},
    mirror::{Answer, Mirror},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn assert_stale(answer: &Answer, why: &str) {
    assert_eq!((answer.status, answer.header("cache-status")), (200, Some("forebay; hit; detail=stale")), "{why}");
}

#[tokio::test]
async fn an_upstream_that_cannot_answer_leaves_the_old_answer() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    let faults = [
        Fault::too_many("60"),
        Fault::status(500),
        Fault::status(502),
        Fault::status(503),
        Fault::status(504),
        Fault::Disconnect,
        Fault::html(),
    ];
    for fault in faults {
        registry.heal();
        registry.fault(When::any(), fault.clone());
        let get = mirror.get(&manifest(1)).await;
        assert_stale(&get, &format!("{fault:?}"));
        assert_eq!(get.body, image.manifest_bytes);
        let head = mirror.head(&manifest(1)).await;
        assert_stale(&head, &format!("HEAD, {fault:?}"));
        assert_eq!(head.header("docker-content-digest"), Some(image.manifest.as_str()));
    }
    registry.heal();
    registry.take_down(Server::Api).await;
    assert_stale(&mirror.get(&manifest(1)).await, "the port is closed");
    mirror.until_metric("forebay_requests_total", &[("outcome", "stale"), ("status", "200")], 15.0).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    registry.bring_up(Server::Api).await;
    let back = mirror.get(&manifest(1)).await;
    assert_eq!((back.status, back.body), (200, new.manifest_bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_hangs_is_not_waited_for() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::HoldHead(gate.clone()));
    for method in [Method::GET, Method::HEAD] {
        let asked_at = Instant::now();
        let answer = mirror.request(method, &manifest(1), &[]).await;
        assert_stale(&answer, "it hangs");
        assert!(asked_at.elapsed() < Duration::from_secs(20), "the client would have given up");
        assert_eq!(answer.header("docker-content-digest"), Some(image.manifest.as_str()));
    }
    gate.open();
}

#[tokio::test]
async fn an_upstream_that_could_not_answer_is_left_alone_for_a_moment() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = Mirror::of(&registry).await;
    mirror.get(&manifest(1)).await;
    mirror.drain().await;
    age(&mirror.cache_dir(), Duration::from_secs(3600));
    mirror.start().await;
    registry.forget_requests();
    registry.fault(When::any(), Fault::status(503));
    for _ in 0..3 {
        assert_stale(&mirror.get(&manifest(1)).await, "503");
        assert_stale(&mirror.head(&manifest(1)).await, "503");
    }
    assert_eq!(registry.requests().len(), 1);
    // So it is for clients that accept other types, and have what the others got.
    let accept = [("accept", "application/vnd.oci.image.manifest.v1+json, */*;q=0.1")];
    for _ in 0..3 {
        assert_stale(&mirror.get_with(&manifest(1), &accept).await, "503");
        assert_stale(&mirror.request(Method::HEAD, &manifest(1), &accept).await, "503");
    }
    assert_eq!(registry.requests().len(), 2);
}

#[tokio::test]
async fn stale_answers_have_an_end() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = Mirror::of(&registry).await;
    mirror.get(&manifest(1)).await;
    registry.take_down(Server::Api).await;
    for (days, status) in [(29, 200), (31, 502)] {
        mirror.drain().await;
        age(&mirror.cache_dir(), days * DAY);
        mirror.start().await;
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(mirror.request(method, &manifest(1), &[]).await.status, status, "{days} days");
        }
    }
    // By digest there is nothing to confirm.
    assert_eq!(mirror.get(&manifest(&image.manifest)).await.status, 200);
}

#[tokio::test]
async fn nothing_stale_is_served_where_it_is_not_wanted() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::build(&registry).config(|config| {
        config.cache.tag_ttl = Duration::ZERO;
        config.cache.stale_if_error = Duration::ZERO;
    });
    let mirror = mirror.start().await;
    assert_eq!(mirror.get(&manifest(1)).await.status, 200);
    registry.fault(When::any(), Fault::too_many("17"));
    let refused = mirror.get(&manifest(1)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("17")));
    assert_eq!(refused.error_code(), "TOOMANYREQUESTS");
    registry.take_down(Server::Api).await;
    let refused = mirror.get(&manifest(1)).await;
    assert_eq!((refused.status, &*refused.error_code()), (502, "UNAVAILABLE"));
}

#[tokio::test]
async fn a_deleted_tag_is_gone_for_every_client() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = never_trusting(&registry).await;
    let other = [("accept", "application/vnd.oci.image.manifest.v1+json")];
    mirror.get(&manifest(1)).await;
    mirror.get_with(&manifest(1), &other).await;
    registry.untag("team/app", "1");
    let gone = mirror.get(&manifest(1)).await;
    assert_eq!((gone.status, &*gone.error_code()), (404, "MANIFEST_UNKNOWN"));
    registry.take_down(Server::Api).await;
    assert_eq!(mirror.get_with(&manifest(1), &other).await.status, 502, "not from what others were told before");
    mirror.restart().await;
    for headers in [&[][..], &other[..], &[("accept", DOCKER_MANIFEST)][..]] {
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(mirror.request(method, &manifest(1), headers).await.status, 502);
        }
    }
    assert_eq!(mirror.get(&manifest(&image.manifest)).await.status, 200, "what it named is no less true");
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_no_outage() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    for status in [401, 403] {
        registry.heal();
        registry.fault(When::any(), Fault::status(status));
        let refused = mirror.get(&manifest(1)).await;
        assert_eq!((refused.status, &*refused.error_code()), (403, "DENIED"), "{status}");
        assert_eq!(refused.header("www-authenticate"), None);
    }
    registry.heal();
    assert_eq!(mirror.get(&manifest(1)).await.status, 200);
}

#[tokio::test]
async fn a_new_manifest_that_is_damaged_leaves_the_old_one() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mirror = never_trusting(&registry).await;
    mirror.get(&manifest(1)).await;
    let new = registry.add_image("team/app", "1", &[b"new"]);
    registry.fault_times(2, When::manifests(), Fault::Corrupt { at: 3 });
    let stale = mirror.get(&manifest(1)).await;
    assert_stale(&stale, "the new one is damaged");
    assert_eq!(stale.body, old.manifest_bytes);
    assert_eq!(mirror.get(&manifest(1)).await.body, new.manifest_bytes);
    assert_eq!(asked(&registry, Method::GET), 3);
}
