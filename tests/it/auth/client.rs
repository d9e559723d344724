//! `access = "client"`: what an upstream gives is for those to whom the upstream gives it, cached or not.

pub mod changed_urls;
pub mod grants;
pub mod isolation;
pub mod lists;
pub mod login;
pub mod password_attempts;
pub mod peers;
pub mod push;
pub mod rate_limit;
pub mod stored;
pub mod tags;

use bytes::Bytes;
use http::Method;

use forebay_test_support::users::basic;
use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Image},
    mirror::{Answer, Builder, Mirror},
};

const ANN: (&str, &str) = ("ann", "ann's password");
const BOB: (&str, &str) = ("bob", "bob's password");

/// A layer that is ann's, and one that is bob's.
const SECRET: &[u8] = b"what only ann may read, and more of it, so that it has parts";
const OTHER: &[u8] = b"what only bob may read";

/// A registry where ann may use `team/a`, bob `team/b`, and every client `team/open`.
struct World {
    registry: FakeRegistry,
    of_ann: Image,
    of_bob: Image,
    open: Image,
}

impl World {
    async fn new() -> Self {
        let registry = FakeRegistry::start().await;
        registry.require(Auth::Bearer(Self::rules()));
        Self {
            of_ann: registry.add_image("team/a", "1", &[SECRET]),
            of_bob: registry.add_image("team/b", "1", &[OTHER]),
            open: registry.add_image("team/open", "1", &[b"what everybody may read"]),
            registry,
        }
    }

    fn rules() -> Bearer {
        let users = [ANN, BOB].map(|(user, password)| (user.to_owned(), password.to_owned())).to_vec();
        let all = ["", "ann", "bob"].map(|user| (user, "team/open"));
        let rights = [("ann", "team/a"), ("bob", "team/b")].into_iter().chain(all).collect();
        Bearer { users, rights, ..Bearer::default() }
    }

    /// The upstream is the default one.
    fn mirror(&self, keys: &str) -> Builder {
        Mirror::parse(&format!(
            "[[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n{keys}\n",
            self.registry.url()
        ))
    }

    /// All requests of a pull.
    fn pull(repository: &str, image: &Image) -> Vec<String> {
        let blobs = std::iter::once(&image.config).chain(&image.layers);
        [format!("/v2/{repository}/manifests/1"), format!("/v2/{repository}/manifests/{}", image.manifest)]
            .into_iter()
            .chain(blobs.map(|digest| format!("/v2/{repository}/blobs/{digest}")))
            .collect()
    }
}

/// GETs a path with the credentials of a user.
async fn get_as(mirror: &Mirror, who: (&str, &str), path: &str) -> Answer {
    mirror.get_with(path, &[("authorization", &basic(who.0, who.1))]).await
}

async fn request_as(mirror: &Mirror, who: (&str, &str), method: Method, path: &str) -> Answer {
    mirror.request(method, path, &[("authorization", &basic(who.0, who.1))]).await
}

fn layer(repository: &str, image: &Image) -> String {
    format!("/v2/{repository}/blobs/{}", image.layers[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gets_what_the_upstream_gives_them_and_no_more() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    // Before and after it is cached.
    for round in 0..2 {
        for (who, repository, image, content) in
            [(ANN, "team/a", &world.of_ann, SECRET), (BOB, "team/b", &world.of_bob, OTHER)]
        {
            for path in World::pull(repository, image) {
                let answer = get_as(&mirror, who, &path).await;
                assert_eq!(answer.status, 200, "{path}");
                if round == 1 {
                    assert!(answer.header("cache-status").unwrap().starts_with("forebay; hit"), "{path}");
                }
            }
            assert_eq!(get_as(&mirror, who, &layer(repository, image)).await.body, Bytes::from_static(content));
        }
        for path in World::pull("team/open", &world.open) {
            assert_eq!(mirror.get(&path).await.status, 200, "{path}");
            assert_eq!(get_as(&mirror, BOB, &path).await.status, 200, "{path}");
        }
        for (who, repository, image) in [(BOB, "team/a", &world.of_ann), (ANN, "team/b", &world.of_bob)] {
            for path in World::pull(repository, image) {
                for refused in [get_as(&mirror, who, &path).await, mirror.get(&path).await] {
                    assert_eq!((refused.status, &*refused.error_code()), (401, "UNAUTHORIZED"), "{path}");
                    let challenge = refused.header("www-authenticate").unwrap();
                    assert!(challenge.starts_with("Basic realm=\"forebay\""), "{challenge}");
                }
            }
        }
    }
    let layers = [&world.of_ann, &world.of_bob].map(|image| image.layers[0].clone());
    for layer in layers {
        // Bob may not: his request was for the words of the refusal.
        let gets = world.registry.count(|request| request.is_blob_get(&layer) && request.header("range").is_none());
        assert_eq!(gets, 1, "forebay fetches a blob once for all clients");
    }
}
