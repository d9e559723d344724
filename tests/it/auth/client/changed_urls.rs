//! Under the same name, other URLs lead to another registry: nothing of the former one is an answer of it.

use std::time::Duration;

use super::*;
use forebay_test_support::fake_registry::Server;

/// Another registry, with another manifest under the same tag, which only bob may read there.
async fn another() -> (World, Image) {
    let other = World::new().await;
    let image = other.registry.add_image("team/a", "1", &[b"of the other registry"]);
    let users = vec![(BOB.0.to_owned(), BOB.1.to_owned())];
    let rights = vec![("bob", "team/a")];
    other.registry.require(Auth::Bearer(Bearer { users, rights, ..Bearer::default() }));
    (other, image)
}

const TAG: &str = "/v2/team/a/manifests/1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_of_one_registry_is_none_of_another_under_its_name() {
    for restarts in [false, true] {
        let (world, (other, image)) = (World::new().await, another().await);
        let hour = |config: &mut forebay::config::Config| config.cache.tag_ttl = Duration::from_secs(3600);
        let mut mirror = world.mirror("").config(hour).start().await;
        let secret = get_as(&mirror, ANN, TAG).await;
        assert_eq!(secret.status, 200);
        let urls = vec![other.registry.url()];
        if restarts {
            mirror.restart_with(|config| config.upstreams[0].urls = urls).await;
        } else {
            let mut config = mirror.config().clone();
            config.upstreams[0].urls = urls;
            mirror.app().reload(config).unwrap();
        }
        let head = request_as(&mirror, BOB, Method::HEAD, TAG).await;
        assert_eq!(head.header("docker-content-digest"), Some(&*image.manifest.to_string()), "restarts: {restarts}");
        let body = get_as(&mirror, BOB, TAG).await;
        assert_eq!((body.status, body.body != secret.body), (200, true), "restarts: {restarts}");
        // Nor is it what there is when the other one is down.
        other.registry.take_down(Server::Api).await;
        assert_eq!(get_as(&mirror, BOB, TAG).await.body, body.body);
        assert_eq!(get_as(&mirror, ANN, TAG).await.status, 502);
    }
}

/// Not found, too, is the word of one registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_registry_has_not_another_may_have() {
    let (world, (other, image)) = (World::new().await, another().await);
    let keys = "name = \"private.example\"\ndefault = true\n";
    let parse = |url: &url::Url| Mirror::parse(&format!("[[upstream]]\nurls = [\"{url}\"]\n{keys}"));
    world.registry.require(Auth::Open);
    other.registry.require(Auth::Open);
    let mirror = parse(&world.registry.url()).config(|config| config.cache.tag_ttl = Duration::from_secs(3600)).start();
    let mirror = mirror.await;
    let only_there = other.registry.add_image("team/new", "1", &[b"new"]);
    assert_eq!(mirror.get("/v2/team/new/manifests/1").await.status, 404);
    assert_eq!(mirror.get(TAG).await.status, 200);
    let mut config = mirror.config().clone();
    config.upstreams[0].urls = vec![other.registry.url()];
    mirror.app().reload(config).unwrap();
    for (path, image) in [("/v2/team/new/manifests/1", &only_there), (TAG, &image)] {
        let answer = mirror.get(path).await;
        assert_eq!(answer.header("docker-content-digest"), Some(&*image.manifest.to_string()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_more_or_less_of_a_registry_keeps_its_tags() {
    let (world, more) = (World::new().await, World::new().await);
    world.registry.require(Auth::Open);
    more.registry.require(Auth::Open);
    let (one, both) = (vec![world.registry.url()], vec![more.registry.url(), world.registry.url()]);
    let keys = format!("[[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\ndefault = true\n", one[0]);
    let hour = |config: &mut forebay::config::Config| config.cache.tag_ttl = Duration::from_secs(3600);
    let mut mirror = Mirror::parse(&keys).config(hour).start().await;
    assert_eq!(mirror.get(TAG).await.status, 200);
    for urls in [both.clone(), both.iter().rev().cloned().collect(), one] {
        mirror.restart_with(|config| config.upstreams[0].urls = urls).await;
        assert_eq!(mirror.get(TAG).await.header("cache-status"), Some("forebay; hit"));
    }
    assert_eq!(more.registry.requests().len(), 0);
}
