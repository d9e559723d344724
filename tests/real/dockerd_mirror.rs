//! A Docker daemon with `registry-mirrors` pulls from Docker Hub's like through forebay, and goes on pulling when
//! the registry is gone.

use serde_json::json;

use forebay_test_support::real::{
    docker::Docker,
    download::client,
    forebay::Forebay,
    image::{Format, Image, Index},
    registry::Registry,
    token_server::TokenServer,
    turn::Turn,
};

const SIZES: [usize; 3] = [3_000_000, 40_000, 700];

/// A tag is believed for no time at all: what is served without the registry is served because it cannot be asked.
fn config(registry: &Registry) -> String {
    format!(
        r#"
        [cache]
        tag_ttl = "1ms"
        [[upstream]]
        name = "docker.io"
        urls = ["{}"]
        default = true
        library = true
        realms = ["127.0.0.1"]
        username = "somebody"
        password_file = "password"
        "#,
        registry.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn dockerd_pulls_after_an_outage_and_a_restart() {
    let _turn = Turn::of_the_engines().await;
    let tokens = TokenServer::start("somebody", "secret").await;
    let mut registry = Registry::with_tokens(&tokens).await;
    let layers = Image::new(Format::Docker, 1, &SIZES);
    let multi = Index::new(Format::Oci, 2, &SIZES);
    registry.pusher().image("library/layers", "1", &layers).await;
    registry.pusher().index("library/multi", "1", &multi).await;
    let mut forebay = Forebay::start(&config(&registry), &[("password", "secret\n")]).await;
    let docker = Docker::start(json!({ "registry-mirrors": [forebay.url("")] }), &[], &[]).await;
    let pull_both = async || {
        docker.pull_and_remove("layers:1", &layers).await;
        docker.pull_and_remove("multi:1", &multi.images[0]).await;
    };

    pull_both().await;
    let asked = tokens.asked();
    assert!(!asked.is_empty(), "the pulls needed tokens");
    for question in &asked {
        assert_eq!(question.user.as_deref(), Some("somebody"), "{question:?}");
        assert_eq!(question.service, tokens.service(), "{question:?}");
        assert!(question.scopes.iter().all(|scope| scope.ends_with(":pull")), "{question:?}");
    }
    for layer in layers.layers.iter().chain(&multi.images[0].layers) {
        registry.assert_one_get_of(layer).await;
    }

    registry.kill();
    tokens.stop();
    pull_both().await;

    assert!(forebay.terminate().await.success(), "SIGTERM ends forebay with 0:\n{}", forebay.log());
    forebay.revive().await;
    pull_both().await;

    forebay.kill();
    forebay.revive().await;
    pull_both().await;
}

/// dockerd refuses a mirror's URL with a path before version 24, so what a newer one asks is asked here by hand:
/// the path stands before `/v2/` (moby, daemon/hosts.go).
#[tokio::test(flavor = "multi_thread")]
async fn a_path_in_the_mirrors_url_is_left_out_of_the_name() {
    let registry = Registry::open().await;
    let image = Image::new(Format::Docker, 3, &[9_000]);
    registry.pusher().image("library/layers", "1", &image).await;
    let forebay = Forebay::start(
        &format!("[[upstream]]\nname = \"docker.io\"\nurls = [\"{}\"]\ndefault = true\nlibrary = true", registry.url()),
        &[],
    )
    .await;
    let get = async |path: &str| {
        let request = client().get(forebay.url(path)).header("accept", image.manifest.media_type);
        let answer = request.send().await.expect("forebay answers");
        let status = answer.status();
        (status.as_u16(), answer.bytes().await.expect("the answer is whole"))
    };

    assert_eq!(get("/prefix/v2/").await.0, 200);
    let manifest = &image.manifest.blob;
    assert_eq!(get("/prefix/v2/library/layers/manifests/1").await, (200, manifest.bytes.clone()));
    let layer = &image.layers[0];
    let path = format!("/prefix/v2/library/layers/blobs/{}", layer.digest);
    assert_eq!(get(&path).await, (200, layer.bytes.clone()));
}
