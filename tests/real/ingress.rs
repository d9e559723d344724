//! A registry behind an ingress, whose own answers are not the registry's.

use forebay_test_support::real::{
    containerd::Containerd,
    download::client,
    forebay::Forebay,
    image::{Format, Image},
    ingress::{Ingress, PAGES},
    registry::Registry,
    turn::Turn,
};

/// A mirror that asks about a tag every time.
async fn forebay_of(ingress: &Ingress) -> Forebay {
    let config =
        format!("[cache]\ntag_ttl = 0\n[[upstream]]\nname = \"second.example\"\nurls = [\"{}\"]\n", ingress.url());
    Forebay::start(&config, &[]).await
}

/// Pulls by a containerd that has nothing yet.
async fn pulled(forebay: &Forebay, expected: &Image) {
    let containerd = Containerd::start().await;
    let hosts = format!("[host.{:?}]\ncapabilities = [\"pull\", \"resolve\"]\n", forebay.url(""));
    containerd.configure("_default", &hosts);
    containerd.try_pull("second.example/team/app:1").await.ok();
    for blob in expected.layers.iter().chain([&expected.manifest.blob]) {
        assert_eq!(containerd.content(blob).await, blob.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctr_pulls_what_is_cached_when_the_ingress_has_no_backend() {
    let _turn = Turn::of_the_engines().await;
    let image = Image::new(Format::Oci, 31, &[60_000]);
    let registry = Registry::open().await;
    registry.pusher().image("team/app", "1", &image).await;
    let ingress = Ingress::before(registry.port).await;
    let forebay = forebay_of(&ingress).await;
    pulled(&forebay, &image).await;

    for page in PAGES {
        ingress.lose_backend(page);
        pulled(&forebay, &image).await;
        let missing = client().get(forebay.url("/v2/second.example/team/other/manifests/1")).send().await;
        assert_eq!(missing.expect("forebay answers").status(), 404, "{page}: clients go on elsewhere");
        ingress.find_backend(page);
    }
}

/// A limit that counts GETs alone, as Docker Hub's: the HEAD tells where the tag is now, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn ctr_pulls_the_old_image_when_the_new_one_cannot_be_had() {
    let _turn = Turn::of_the_engines().await;
    let (old, new) = (Image::new(Format::Oci, 32, &[60_000]), Image::new(Format::Oci, 33, &[50_000]));
    let mut registry = Registry::open().await;
    registry.pusher().image("team/app", "1", &old).await;
    let ingress = Ingress::before(registry.port).await;
    let forebay = forebay_of(&ingress).await;
    pulled(&forebay, &old).await;

    ingress.limit_pulls();
    registry.pusher().image("team/app", "1", &new).await;
    pulled(&forebay, &old).await;
    registry.kill();
    pulled(&forebay, &old).await;
}
