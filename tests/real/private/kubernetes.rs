//! A cluster's way: containerd goes to forebay by hosts.toml, with the credentials of an image pull secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{ANN, BOB, World};
use forebay_test_support::real::{
    containerd::Containerd,
    image::{Format, Image},
    token_server::User,
    turn::Turn,
};

/// A secret as `kubectl create secret docker-registry` makes it, for this registry.
fn secret(registry: &str, user: &User) -> Value {
    let auth = STANDARD.encode(format!("{}:{}", user.name, user.password));
    let config = json!({ "auths": { registry: {
        "username": user.name, "password": user.password, "email": "user@example", "auth": auth,
    }}});
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "pull", "namespace": "team" },
        "type": "kubernetes.io/dockerconfigjson",
        "data": { ".dockerconfigjson": STANDARD.encode(config.to_string()) },
    })
}

/// What kubelet hands to containerd for an image of this registry, `USER:PASSWORD`.
fn credentials(secret: &Value, registry: &str) -> String {
    let encoded = secret["data"][".dockerconfigjson"].as_str().expect("a secret of this type has it");
    let decoded = STANDARD.decode(encoded).expect("it is base64");
    let config: Value = serde_json::from_slice(&decoded).expect("it is JSON");
    let auth = config["auths"][registry]["auth"].as_str().expect("it has this registry");
    String::from_utf8(STANDARD.decode(auth).expect("it is base64")).expect("it is text")
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_with_the_credentials_of_a_pull_secret() {
    let _turn = Turn::of_the_engines().await;
    let mut world = World::new().await;
    let image = Image::new(Format::Oci, 85, &[200_000, 1_000]);
    world.registry.pusher().image("ann/app", "1", &image).await;
    let forebay = world.forebay(&world.registry.url(), "").await;
    // The registry itself is nowhere: what forebay refuses is not asked for elsewhere.
    let url = forebay.url("");
    let hosts = format!("server = {url:?}\n[host.{url:?}]\ncapabilities = [\"pull\", \"resolve\"]\n");
    let right = credentials(&secret("private.example", &ANN), "private.example");
    let wrong = credentials(&secret("private.example", &User { password: "wrong", ..ANN }), "private.example");
    let anothers = credentials(&secret("private.example", &BOB), "private.example");
    let by_digest = format!("private.example/ann/app@{}", image.manifest.blob.digest);

    // Before it is cached, after that, and after the registry is gone.
    for round in 0..3 {
        let node = Containerd::start().await;
        node.configure("private.example", &hosts);
        for reference in ["private.example/ann/app:1", &by_digest] {
            for user in [None, Some(&*wrong), Some(&*anothers)] {
                node.try_pull_as(user, reference).await.failed();
            }
            let listed = node.run(&["content", "list", "--quiet"]).await.ok();
            assert!(listed.is_empty(), "{}", String::from_utf8_lossy(&listed));
        }
        for reference in ["private.example/ann/app:1", &by_digest] {
            node.try_pull_as(Some(&right), reference).await.ok();
        }
        for blob in image.layers.iter().chain([&image.config, &image.manifest.blob]) {
            assert_eq!(node.content(blob).await, blob.bytes);
        }
        if round == 1 {
            world.stop();
        }
    }
    world.assert_sent_once_at_most(super::blobs(&image));
}
