//! podman pulls through mirrors of registries.conf: the default registry, and a second one by its path.

mod partial;

use forebay_test_support::real::{
    forebay::Forebay,
    image::{Format, Image, Index},
    podman::Podman,
    registry::Registry,
};

#[tokio::test(flavor = "multi_thread")]
async fn podman_pulls_through_a_mirror_of_registries_conf() {
    let (mut hub, mut other) = (Registry::open().await, Registry::open().await);
    let (multi, app) = (Index::new(Format::Oci, 30, &[80_000, 900]), Image::new(Format::Docker, 32, &[70_000]));
    hub.pusher().index("library/multi", "1", &multi).await;
    other.pusher().image("team/app", "1", &app).await;
    let config = format!(
        r#"
        [[upstream]]
        name = "docker.io"
        urls = ["{}"]
        default = true
        library = true
        [[upstream]]
        name = "second.example"
        urls = ["{}"]
        "#,
        hub.url(),
        other.url()
    );
    let forebay = Forebay::start(&config, &[]).await;
    let registries = format!(
        r#"
        [[registry]]
        location = "docker.io"
        blocked = false
        [[registry.mirror]]
        location = "127.0.0.1:{port}"
        insecure = true
        [[registry]]
        location = "second.example"
        [[registry.mirror]]
        location = "127.0.0.1:{port}/second.example"
        insecure = true
        "#,
        port = forebay.port
    );

    let podman = Podman::new(&registries);
    pull(&podman, "docker.io/library/multi:1", &multi.images[0]).await;
    pull(&podman, "second.example/team/app:1", &app).await;

    hub.kill();
    other.kill();
    let newcomer = Podman::new(&registries);
    pull(&newcomer, "docker.io/library/multi:1", &multi.images[0]).await;
    pull(&newcomer, "second.example/team/app:1", &app).await;
}

async fn pull(podman: &Podman, reference: &str, image: &Image) {
    podman.pull(reference).await.ok();
    let inspect = ["image", "inspect", "--format", "{{json .RootFS.Layers}}", reference];
    let layers: Vec<String> = serde_json::from_slice(&podman.podman(&inspect).await.ok()).expect("layers are JSON");
    assert_eq!(layers, image.diff_ids, "the layers of {reference}");
}
