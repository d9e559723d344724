//! podman logs in, pushes, and pulls again what it has removed.

use super::{ANN, BOB, World};
use forebay_test_support::real::{
    forebay::Forebay,
    image::{Format, Image},
    podman::Podman,
    program::Finished,
};

async fn log_in(user: &Podman, forebay: &Forebay, name: &str, password: &str) -> Finished {
    let host = format!("127.0.0.1:{}", forebay.port);
    user.podman(&["login", "--username", name, "--password", password, &host]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pushes_and_pulls_what_is_its_users() {
    let mut world = World::new().await;
    let image = Image::new(Format::Oci, 86, &[300_000, 1_000]);
    world.hub.pusher().image("team/source", "1", &image).await;
    let forebay = world.forebay(&world.registry.url(), "access_ttl = \"0s\"").await;
    let registries = [forebay.port, world.hub.port]
        .map(|port| format!("[[registry]]\nlocation = \"127.0.0.1:{port}\"\ninsecure = true\n"))
        .concat();
    let source = format!("127.0.0.1:{}/team/source:1", world.hub.port);
    let target = format!("127.0.0.1:{}/ann/app:1", forebay.port);
    let host = format!("127.0.0.1:{}", forebay.port);

    let user = Podman::new(&registries);
    let policy = user.place("policy.json").display().to_string();
    let push = ["push", "--signature-policy", &policy, &source, &target];
    user.pull(&source).await.ok();
    user.podman(&push).await.failed();
    log_in(&user, &forebay, "ann", "wrong").await.failed();
    log_in(&user, &forebay, BOB.name, BOB.password).await.ok();
    user.podman(&push).await.failed();
    log_in(&user, &forebay, ANN.name, ANN.password).await.ok();
    user.podman(&push).await.ok();
    user.podman(&["rmi", "--all", "--force"]).await.ok();
    user.pull(&target).await.ok();
    let inspect = ["image", "inspect", "--format", "{{json .RootFS.Layers}}", &target];
    let layers: Vec<String> = serde_json::from_slice(&user.podman(&inspect).await.ok()).expect("layers are JSON");
    assert_eq!(layers, image.diff_ids);

    // Another user of the machine, and the registry is gone.
    let other = Podman::new(&registries);
    log_in(&other, &forebay, BOB.name, BOB.password).await.ok();
    other.pull(&target).await.failed();
    world.stop();
    other.pull(&target).await.failed();
    user.podman(&["rmi", "--all", "--force"]).await.ok();
    user.pull(&target).await.ok();
    user.podman(&["logout", &host]).await.ok();
    user.podman(&["rmi", "--all", "--force"]).await.ok();
    user.pull(&target).await.failed();
}
