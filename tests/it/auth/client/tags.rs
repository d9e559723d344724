//! What an upstream answers one client by a tag: it may be anything, and counts for the manifest that it is, for all that may read that.

use std::time::Duration;

use super::*;
use forebay_test_support::fake_registry::{FakeRegistry, Fault, When};

const TAG: &str = "/v2/team/a/manifests/1";
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const LOGIN: &str = r#"{"login":"https://sso.example/"}"#;

fn answer(media_type: &str, digest: Option<String>, body: &str) -> Fault {
    let digest = digest.map(|digest| ("docker-content-digest", digest));
    let headers = [("content-type", media_type.to_owned())].into_iter().chain(digest).collect();
    Fault::Answer { status: 200, headers, body: body.to_owned() }
}

fn sha256(content: &str) -> String {
    forebay::oci::Digest::of(forebay::oci::Algorithm::Sha256, content.as_bytes()).to_string()
}

/// A registry that knows nothing but passwords, and takes every one.
async fn world_of_passwords() -> World {
    let world = World::new().await;
    world.registry.require(Auth::Open);
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_page_sent_to_one_client_becomes_no_tag() {
    for keys in ["", "push = true"] {
        let world = world_of_passwords().await;
        let mirror = world.mirror(keys).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
        let secret = get_as(&mirror, ANN, TAG).await;
        for path in World::pull("team/a", &world.of_ann) {
            assert_eq!(get_as(&mirror, BOB, &path).await.status, 200);
        }
        for body in [LOGIN, "{}", "[]", "", "busy", "<busy/>", r#"{"schemaVersion":2,"error":"login"}"#] {
            for media_type in ["application/json", IMAGE, "text/plain"] {
                for named in [false, true] {
                    let digest = named.then(|| sha256(body));
                    world.registry.fault(When::manifests(), answer(media_type, digest, body));
                    for method in [Method::GET, Method::HEAD] {
                        let stale = request_as(&mirror, BOB, method, TAG).await;
                        assert_eq!(
                            stale.header("docker-content-digest"),
                            Some(world.of_ann.manifest.as_str()),
                            "{body}"
                        );
                    }
                    world.registry.heal();
                    let fresh = get_as(&mirror, ANN, TAG).await;
                    assert_eq!(fresh.body, secret.body, "{body}");
                    assert_eq!(fresh.header("cache-status"), Some("forebay; hit; detail=revalidated"), "{body}");
                }
            }
        }
    }
}

/// He was told of another digest than the one that is cached, or of none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_to_one_digest_is_none_to_another() {
    let own = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    let zeros = format!("sha256:{}", "0".repeat(64));
    let refused = [(When::blobs(), Fault::status(403)), (When::manifests(), Fault::status(403))];
    for (is_head_alone, fault, status) in [
        (false, answer("application/json", Some(sha256(LOGIN)), LOGIN), 502),
        (true, answer("application/json", Some(zeros.clone()), ""), 403),
        (true, answer(IMAGE, Some(zeros), ""), 403),
        (false, answer("application/json", None, r#"{"schemaVersion":2,"error":"login"}"#), 502),
        (false, answer("application/json", None, r#"{"mediaType":"application/json","login":"x"}"#), 502),
        (false, answer(IMAGE, Some(sha256(own)), own), 200),
    ] {
        for ttl in ["0s", "1h"] {
            let world = world_of_passwords().await;
            let keys = format!("access_ttl = \"{ttl}\"\naccess_grace = \"1h\"");
            let ttls = |config: &mut forebay::config::Config| {
                config.cache.tag_ttl = if ttl == "0s" { Duration::ZERO } else { Duration::from_secs(3600) };
                config.cache.negative_ttl = Duration::ZERO;
            };
            let mirror = world.mirror(&keys).config(ttls).start().await;
            for path in World::pull("team/a", &world.of_ann) {
                assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
            }
            let tag = When::path_of("/team/a/manifests/1");
            world.registry.fault(if is_head_alone { tag.method(Method::HEAD) } else { tag }, fault.clone());
            for (when, fault) in refused.clone() {
                world.registry.fault(when, fault);
            }
            // Twice: what he was told before is not what others were told.
            for _ in 0..2 {
                let told = get_as(&mirror, BOB, TAG).await;
                assert_eq!(told.status, status, "{fault:?}");
                assert_eq!(told.body == own, status == 200, "{fault:?}");
                for path in World::pull("team/a", &world.of_ann).split_off(1) {
                    assert_eq!(get_as(&mirror, BOB, &path).await.status, 403, "{ttl} {fault:?}: {path}");
                }
            }
            let head = request_as(&mirror, BOB, Method::HEAD, TAG).await;
            assert_eq!(head.header("docker-content-digest"), (status == 200).then(|| sha256(own)).as_deref());
            world.registry.heal();
            let ann = request_as(&mirror, ANN, Method::HEAD, TAG).await;
            let digest = ann.header("docker-content-digest").unwrap();
            assert!(digest == world.of_ann.manifest.as_str() || (status == 200 && digest == sha256(own)), "{fault:?}");
            assert_eq!(ann.header("content-type"), Some(IMAGE), "{fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_moved_is_given_as_it_is_now() {
    let world = world_of_passwords().await;
    let mirror = world.mirror("").config(|config| config.cache.tag_ttl = Duration::from_secs(3600)).start().await;
    assert_eq!(get_as(&mirror, ANN, TAG).await.status, 200);
    let moved = world.registry.add_image("team/a", "1", &[b"a newer layer"]);
    world.registry.forget_requests();
    for (who, cache_status) in [(BOB, "forebay; fwd=miss; stored"), (BOB, "forebay; hit"), (ANN, "forebay; hit")] {
        let answer = get_as(&mirror, who, TAG).await;
        assert_eq!(answer.header("docker-content-digest"), Some(moved.manifest.as_str()), "{who:?}");
        assert_eq!(answer.header("cache-status"), Some(cache_status), "{who:?}");
    }
    assert_eq!(world.registry.requests().len(), 3, "a HEAD for each, and the manifest");
    // It is a right to what the tag is, by its digest too, also when the registry is down.
    world.registry.take_down(forebay_test_support::fake_registry::Server::Api).await;
    let path = format!("/v2/team/a/manifests/{}", moved.manifest);
    assert_eq!(get_as(&mirror, BOB, &path).await.status, 200);
    assert_eq!(get_as(&mirror, BOB, TAG).await.status, 200);
    assert_eq!(get_as(&mirror, BOB, &layer("team/a", &world.of_ann)).await.status, 502);
}

/// A rule may make a tag mean what the upstream named before: that needs a grant of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_gives_no_one_what_the_upstream_refuses() {
    let world = World::new().await;
    let rule = "access_ttl = 0\n[[rule]]\nmatch = \"*\"\nminimum_age = \"7d\"\nminimum_age_first = \"allow\"";
    let mirror = world.mirror(rule).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
    let old = world.of_ann.manifest.as_str();
    let digest = async |who, method| {
        let answer = request_as(&mirror, who, method, TAG).await;
        (answer.status, answer.header("docker-content-digest").map(str::to_owned))
    };
    for method in [Method::GET, Method::HEAD] {
        assert_eq!(digest(ANN, method.clone()).await, (200, Some(old.to_owned())));
        assert_eq!(digest(BOB, method).await.0, 401);
    }
    world.registry.add_image("team/a", "1", &[b"new"]);
    for method in [Method::GET, Method::HEAD, Method::GET] {
        assert_eq!(digest(ANN, method.clone()).await, (200, Some(old.to_owned())));
        assert_eq!(digest(BOB, method).await.0, 401);
    }
    // By now the upstream refuses it to her.
    world.registry.fault(When::path_of(format!("/team/a/manifests/{old}")), Fault::status(403));
    for method in [Method::GET, Method::HEAD] {
        assert_eq!(digest(ANN, method).await.0, 403);
    }
}

/// A single sign-on that an upstream sends a client to refuses for the upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_elsewhere_is_no_reason_for_access_grace() {
    for status in [401, 403] {
        let (world, elsewhere) = (world_of_passwords().await, FakeRegistry::start().await);
        elsewhere.fault(When::any(), Fault::page(status));
        let keys = "access_ttl = \"0s\"\naccess_grace = \"1h\"";
        let mirror = world.mirror(keys).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
        let tags = "/v2/team/a/tags/list";
        for path in [TAG, tags] {
            assert_eq!(get_as(&mirror, ANN, path).await.status, 200);
        }
        let location = vec![("location", format!("{}/v2/login", elsewhere.url()))];
        world.registry.fault(When::any(), Fault::Answer { status: 302, headers: location, body: String::new() });
        for path in [TAG, tags] {
            assert_eq!(get_as(&mirror, ANN, path).await.status, 403, "{status} {path}");
        }
        assert!(!elsewhere.requests().is_empty());
    }
}
