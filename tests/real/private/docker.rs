//! Docker: log in, push, pull, log out; before and after it is cached, and while the registry is down.

use serde_json::json;

use super::{ANN, BOB, World, blobs};
use forebay_test_support::{
    real::{
        docker::Docker,
        forebay::{Forebay, local},
        image::{Format, Image},
        program::Finished,
        registry::Registry,
        token_server::User,
        turn::Turn,
    },
    users::basic,
    wire::exchange,
};

async fn log_in(docker: &Docker, forebay: &Forebay, name: &str, password: &str) -> Finished {
    let host = format!("127.0.0.1:{}", forebay.port);
    docker.run(&["login", "--username", name, "--password", password, &host]).await
}

async fn log_in_as(docker: &Docker, forebay: &Forebay, user: User) {
    log_in(docker, forebay, user.name, user.password).await.ok();
}

/// All ways to name an image.
async fn assert_refused(docker: &Docker, repository: &str, tag: &str, image: &Image) {
    // The one it says itself, logged out; the other is what it was told.
    let refusals = ["no basic auth credentials", "unauthorized"];
    for name in ["".to_owned(), format!(":{tag}"), format!("@{}", image.manifest.blob.digest)] {
        let said = docker.try_pull(&format!("{repository}{name}")).await.failed();
        assert!(refusals.iter().any(|refusal| said.contains(refusal)), "{name}: {said}");
    }
    assert!(docker.is_empty().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_users_push_and_pull_what_is_theirs_and_nothing_else() {
    let _turn = Turn::of_the_engines().await;
    let mut world = World::new().await;
    let images = [81, 82].map(|seed| Image::new(Format::Docker, seed, &[1_000_000, 3_000]));
    let his = Image::new(Format::Docker, 83, &[100_000]);
    let tags = [("1", &images[0]), ("2", &images[0]), ("3", &images[1])];
    world.registry.pusher().image("bob/app", "1", &his).await;
    // Asked each time, as it is a minute after the last time.
    let forebay = world.forebay(&world.registry.url(), "access_ttl = \"0s\"").await;
    let name = |repository: &str| format!("127.0.0.1:{}/{repository}", forebay.port);
    let (hers, bobs) = (name("ann/app"), name("bob/app"));

    let first = Docker::start(json!({}), &[], &[]).await;
    for (tag, image) in tags {
        world.hub.pusher().image("team/source", tag, image).await;
        let source = format!("127.0.0.1:{}/team/source:{tag}", world.hub.port);
        first.try_pull(&source).await.ok();
        first.run(&["tag", &source, &format!("{hers}:{tag}")]).await.ok();
    }
    first.run(&["push", "--all-tags", &hers]).await.failed();
    for (user, password) in [("ann", "wrong"), ("ann", BOB.password), ("eve", ANN.password)] {
        let said = log_in(&first, &forebay, user, password).await.failed();
        assert!(said.contains("401 Unauthorized"), "{said}");
    }
    log_in_as(&first, &forebay, ANN).await;
    first.run(&["push", "--all-tags", &hers]).await.ok();
    drop(first);

    let other = Docker::start(json!({}), &[], &[]).await;
    assert_refused(&other, &hers, "1", &images[0]).await;
    log_in_as(&other, &forebay, ANN).await;
    for (tag, image) in tags {
        other.pull_and_remove(&format!("{hers}:{tag}"), image).await;
    }
    other.run(&["logout", &name("")]).await.ok();
    assert_refused(&other, &hers, "1", &images[0]).await;
    log_in_as(&other, &forebay, BOB).await;
    assert_refused(&other, &hers, "1", &images[0]).await;
    other.pull_and_remove(&format!("{bobs}:1"), &his).await;

    // What the registry said holds on while it is down: for whom it said it.
    world.stop();
    for (tag, image) in tags {
        // A refusal of a moment ago, or an outage.
        let said = other.try_pull(&format!("{hers}:{tag}")).await.failed();
        assert!(said.contains("unauthorized") || said.contains("502 Bad Gateway"), "{said}");
        let by_digest = format!("{hers}@{}", image.manifest.blob.digest);
        other.try_pull(&by_digest).await.failed();
    }
    assert!(other.is_empty().await);
    other.pull_and_remove(&format!("{bobs}:1"), &his).await;
    log_in(&other, &forebay, "ann", "wrong").await.failed();
    log_in_as(&other, &forebay, ANN).await;
    for (tag, image) in tags {
        other.pull_and_remove(&format!("{hers}:{tag}"), image).await;
    }
    world.assert_sent_once_at_most(images.iter().chain([&his]).flat_map(blobs));
    forebay.assert_stored_blobs_are_right();
}

/// Such a registry has no tokens: passwords themselves go to it, over TLS.
#[tokio::test(flavor = "multi_thread")]
async fn docker_logs_in_to_a_registry_that_wants_passwords() {
    let _turn = Turn::of_the_engines().await;
    let registry = Registry::with_password(ANN.name, ANN.password).await;
    let hub = Registry::open().await;
    let image = Image::new(Format::Docker, 84, &[300_000, 1_000]);
    hub.pusher().image("team/source", "1", &image).await;
    let config = format!(
        "[[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\nca = \"ca.crt\"\ndefault = true\naccess = \"client\"\n\
         push = true\n",
        registry.url()
    );
    let forebay = Forebay::start(&config, &[("ca.crt", &registry.authority_pem())]).await;
    let target = format!("127.0.0.1:{}/ann/app", forebay.port);
    let source = format!("127.0.0.1:{}/team/source:1", hub.port);

    let docker = Docker::start(json!({}), &[], &[]).await;
    docker.try_pull(&source).await.ok();
    docker.run(&["tag", &source, &format!("{target}:1")]).await.ok();
    log_in(&docker, &forebay, "ann", "wrong").await.failed();
    docker.run(&["push", &format!("{target}:1")]).await.failed();
    log_in_as(&docker, &forebay, ANN).await;
    docker.run(&["push", &format!("{target}:1")]).await.ok();
    docker.run(&["rmi", "--force", &source, &format!("{target}:1")]).await.ok();
    docker.pull_and_remove(&format!("{target}:1"), &image).await;
    docker.run(&["logout", &format!("127.0.0.1:{}", forebay.port)]).await.ok();
    assert_refused(&docker, &target, "1", &image).await;
    // Docker itself asks for nothing without a name where it is challenged.
    for path in ["/v2/ann/app/manifests/1".to_owned(), format!("/v2/ann/app/blobs/{}", image.config.digest)] {
        let accept = ("accept", image.manifest.media_type);
        for name in [None, Some(basic("ann", "wrong")), Some(BOB.basic())] {
            let mut headers = vec![accept];
            headers.extend(name.as_deref().map(|name| ("authorization", name)));
            let refused = exchange(local(forebay.port), &format!("GET {path}"), &headers).await;
            assert_eq!((refused.status, &*refused.error_code()), (401, "UNAUTHORIZED"), "{path}: {name:?}");
        }
        let answer =
            exchange(local(forebay.port), &format!("GET {path}"), &[accept, ("authorization", &ANN.basic())]).await;
        assert_eq!(answer.status, 200, "{path}");
    }
}
