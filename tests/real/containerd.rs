//! containerd pulls from two registries through one mirror: `ns=` says which.

use forebay_test_support::real::{
    containerd::Containerd,
    forebay::Forebay,
    image::{Format, Image, Index},
    registry::Registry,
    turn::Turn,
};

async fn two_registries(first: &Index, second: &Image) -> (Registry, Registry, Forebay) {
    let (hub, other) = (Registry::open().await, Registry::open().await);
    hub.pusher().index("library/multi", "1", first).await;
    other.pusher().image("team/app", "1", second).await;
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
    (hub, other, forebay)
}

fn hosts_toml(url: &str) -> String {
    format!("[host.{url:?}]\ncapabilities = [\"pull\", \"resolve\"]\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_pulls_from_two_registries_through_one_default_mirror() {
    let _turn = Turn::of_the_engines().await;
    let (multi, app) = (Index::new(Format::Oci, 20, &[90_000, 800]), Image::new(Format::Docker, 22, &[70_000]));
    let (mut hub, mut other, forebay) = two_registries(&multi, &app).await;
    let containerd = Containerd::start().await;
    containerd.configure("_default", &hosts_toml(&forebay.url("")));

    containerd.try_pull("docker.io/library/multi:1").await.ok();
    containerd.try_pull("second.example/team/app:1").await.ok();

    assert_eq!(containerd.content(&multi.index.blob).await, multi.index.blob.bytes, "the index, byte for byte");
    for blob in multi.images[0].layers.iter().chain(&app.layers) {
        assert_eq!(containerd.content(blob).await, blob.bytes);
    }
    // The second engine finds everything in the cache.
    hub.kill();
    other.kill();
    let second = Containerd::start().await;
    second.configure("_default", &hosts_toml(&forebay.url("")));
    second.try_pull("docker.io/library/multi:1").await.ok();
    second.try_pull("second.example/team/app:1").await.ok();
    let said = second.try_pull("third.example/team/app:1").await.failed();
    assert!(!said.is_empty(), "a registry that is not configured is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_pulls_through_a_mirror_per_registry_with_a_path() {
    let _turn = Turn::of_the_engines().await;
    let (multi, app) = (Index::new(Format::Docker, 24, &[50_000]), Image::new(Format::Oci, 26, &[60_000]));
    let (_hub, _other, forebay) = two_registries(&multi, &app).await;
    let containerd = Containerd::start().await;
    containerd.configure("docker.io", &hosts_toml(&forebay.url("/some/prefix")));
    containerd.configure("second.example", &hosts_toml(&forebay.url("")));

    containerd.try_pull("docker.io/library/multi:1").await.ok();
    containerd.try_pull("second.example/team/app:1").await.ok();

    assert_eq!(containerd.content(&multi.images[0].layers[0]).await, multi.images[0].layers[0].bytes);
    assert_eq!(containerd.content(&app.layers[0]).await, app.layers[0].bytes);
}

/// What stands in `hosts.toml` is all of the path in front of the repository, `/v2` too.
#[tokio::test(flavor = "multi_thread")]
async fn ctr_pulls_through_mirrors_whose_path_is_all_of_it() {
    let _turn = Turn::of_the_engines().await;
    let (multi, app) = (Index::new(Format::Oci, 34, &[50_000]), Image::new(Format::Docker, 36, &[60_000]));
    let (mut hub, mut other, forebay) = two_registries(&multi, &app).await;
    let of = |path: &str| format!("{}override_path = true\n", hosts_toml(&forebay.url(path)));
    // Cold, and out of the cache alone. In the second line, the name of the path and that of `ns=` are one.
    for _ in 0..2 {
        let containerd = Containerd::start().await;
        containerd.configure("docker.io", &of("/v2"));
        containerd.configure("second.example", &of("/v2/second.example"));
        containerd.try_pull("docker.io/library/multi:1").await.ok();
        containerd.try_pull("second.example/team/app:1").await.ok();
        for blob in multi.images[0].layers.iter().chain(&app.layers) {
            assert_eq!(containerd.content(blob).await, blob.bytes);
        }
        hub.kill();
        other.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_pulls_though_its_hosts_toml_has_a_header_for_the_mirror() {
    let _turn = Turn::of_the_engines().await;
    let (multi, app) = (Index::new(Format::Oci, 28, &[40_000]), Image::new(Format::Docker, 30, &[70_000]));
    let (_hub, _other, forebay) = two_registries(&multi, &app).await;
    let containerd = Containerd::start().await;
    let url = forebay.url("");
    let header = format!("[host.{url:?}.header]\nauthorization = \"Basic YW5uOm9sZA==\"\n");
    containerd.configure("_default", &format!("{}{header}", hosts_toml(&url)));

    containerd.try_pull("docker.io/library/multi:1").await.ok();
    containerd.try_pull("second.example/team/app:1").await.ok();

    assert_eq!(containerd.content(&app.layers[0]).await, app.layers[0].bytes);
}
