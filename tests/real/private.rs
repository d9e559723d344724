//! Private images with `access = "client"`, real registries and real clients: what a user shows at `docker login` decides
//! what they get, cached or not, and no user gets content of another.

mod docker;
mod kubernetes;
mod podman;
mod skopeo;
mod tries;

use forebay_test_support::real::{
    forebay::Forebay,
    image::{Blob, Image},
    registry::Registry,
    token_server::{TokenServer, User},
};

const ANN: User = User { name: "ann", password: "hers: a colon, spaces", repositories: &["ann/app", "ann/other"] };
const BOB: User = User { name: "bob", password: "his", repositories: &["bob/app"] };

/// A registry of which each user has a part, and one that is open to all.
struct World {
    tokens: TokenServer,
    registry: Registry,
    hub: Registry,
}

impl World {
    async fn new() -> World {
        let tokens = TokenServer::of(&[ANN, BOB]).await;
        let registry = Registry::with_tokens(&tokens).await;
        World { registry, tokens, hub: Registry::open().await }
    }

    /// A forebay that is the private registry at its own address, and the open one by a path. `url`: where it finds the
    /// former; `keys`: more keys of it.
    async fn forebay(&self, url: &str, keys: &str) -> Forebay {
        let config = format!(
            "[[upstream]]\nname = \"hub.test\"\nurls = [\"{}\"]\npush = true\n\
             [[upstream]]\nname = \"private.example\"\nurls = [{url:?}]\ndefault = true\naccess = \"client\"\npush = true\n{keys}\n",
            self.hub.url()
        );
        Forebay::start(&config, &[]).await
    }

    /// Neither the registry nor who gives tokens for it can be asked any more.
    fn stop(&mut self) {
        self.registry.kill();
        self.tokens.stop();
    }

    /// Panics when the registry had to send any of these more than once.
    fn assert_sent_once_at_most(&self, blobs: impl IntoIterator<Item = Blob>) {
        for blob in blobs {
            assert!(self.registry.gets_of(&blob) <= 1, "GETs of {} in the upstream's own log", blob.digest);
        }
    }
}

fn blobs(image: &Image) -> impl Iterator<Item = Blob> {
    image.layers.iter().chain([&image.config]).cloned()
}
