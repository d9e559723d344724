//! Container engines follow redirects to the store.

use std::fs;

use serde_json::json;

use super::{gets_of, node, redirects, upload};
use forebay_test_support::real::{
    containerd::Containerd,
    docker::Docker,
    forebay::Forebay,
    image::{Format, Image},
    podman::Podman,
    registry::Registry,
    seaweedfs::SeaweedFs,
    turn::Turn,
};

/// Two layers that clients get from the store, and one that they do not.
const LAYERS: [usize; 3] = [3_000_000, 2_000_000, 40_000];
const LARGE: usize = 2;

/// forebay, what is around it, and what it knows.
struct World {
    registry: Registry,
    store: SeaweedFs,
    forebay: Forebay,
}

impl World {
    async fn new() -> World {
        let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
        let forebay = node(&registry, store.port, "127.0.0.0/8").await;
        World { registry, store, forebay }
    }

    /// An image that is in the registry and in the store.
    async fn image(&self, format: Format, seed: u64, tag: &str) -> Image {
        let image = Image::new(format, seed, &LAYERS);
        self.registry.pusher().image("library/app", tag, &image).await;
        for blob in &image.layers {
            upload(&self.forebay, &self.store, "", "library/app", blob).await;
        }
        image
    }

    /// Panics unless a pull was sent to the store for each large layer, `before` which there were so many redirects, and got the
    /// rest here.
    async fn assert_redirected(&self, image: &Image, before: f64) {
        assert_eq!(redirects(&self.forebay).await - before, LARGE as f64, "{}", self.forebay.log());
        for (index, layer) in image.layers.iter().enumerate() {
            // The first one is that of the upload.
            let gets = gets_of(&self.forebay, layer);
            assert_eq!(gets.len(), 2, "{gets:?}");
            let (outcome, status, sent) = match index < LARGE {
                true => ("redirected", 307, 0),
                false => ("hit", 200, layer.bytes.len()),
            };
            assert_eq!(
                (&gets[1]["outcome"], &gets[1]["status"], &gets[1]["sent"]),
                (&json!(outcome), &json!(status), &json!(sent))
            );
            self.registry.assert_one_get_of(layer).await;
        }
    }

    /// The same of a forebay that has lost its cache.
    async fn assert_redirected_after_wipe(&self, image: &Image) {
        assert_eq!(redirects(&self.forebay).await, LARGE as f64, "{}", self.forebay.log());
        for layer in &image.layers[..LARGE] {
            let gets = gets_of(&self.forebay, layer);
            assert_eq!(gets.last().expect("the client asked")["outcome"], "redirected");
            self.registry.assert_one_get_of(layer).await;
            // Nor was it fetched ahead: nobody reads it here.
            assert!(self.forebay.stored_blobs().iter().all(|(_, digest)| *digest != layer.digest));
        }
    }

    /// forebay ends, loses its cache, and begins again.
    async fn wipe(&mut self) {
        self.forebay.kill();
        fs::remove_dir_all(self.forebay.cache()).expect("the cache can be removed");
        self.forebay.revive().await;
    }
}

/// It requests the configuration first, after which forebay fetches layers ahead that clients read here.
#[tokio::test(flavor = "multi_thread")]
async fn dockerd_pulls_layers_from_the_store() {
    let _turn = Turn::of_the_engines().await;
    let mut world = World::new().await;
    let image = world.image(Format::Docker, 550, "1").await;
    world.wipe().await;
    let docker = Docker::start(json!({ "registry-mirrors": [world.forebay.url("")] }), &[], &[]).await;
    docker.pull_and_remove("app:1", &image).await;
    world.assert_redirected_after_wipe(&image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_layers_from_the_store() {
    let _turn = Turn::of_the_engines().await;
    let world = World::new().await;
    let image = world.image(Format::Oci, 560, "1").await;
    let containerd = Containerd::start().await;
    let url = world.forebay.url("");
    containerd.configure("_default", &format!("[host.{url:?}]\ncapabilities = [\"pull\", \"resolve\"]\n"));
    let before = redirects(&world.forebay).await;
    containerd.try_pull("docker.io/library/app:1").await.ok();
    for layer in &image.layers {
        assert_eq!(containerd.content(layer).await, layer.bytes);
    }
    world.assert_redirected(&image, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pulls_layers_from_the_store() {
    let _turn = Turn::of_the_engines().await;
    let mut world = World::new().await;
    let image = world.image(Format::Oci, 570, "1").await;
    world.wipe().await;
    let podman =
        Podman::new(&format!("[[registry]]\nlocation = \"127.0.0.1:{}\"\ninsecure = true\n", world.forebay.port));
    let reference = format!("127.0.0.1:{}/library/app:1", world.forebay.port);
    podman.pull(&reference).await.ok();
    let inspect = ["image", "inspect", "--format", "{{json .RootFS.Layers}}", &reference];
    let layers: Vec<String> = serde_json::from_slice(&podman.podman(&inspect).await.ok()).expect("layers are JSON");
    assert_eq!(layers, image.diff_ids);
    world.assert_redirected_after_wipe(&image).await;
}
