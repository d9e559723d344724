//! Content of clients in the object store: it proves nothing about what a client may have.

use std::fs;

use forebay_test_support::{
    cluster::KEY,
    fake_registry::{Fault, When},
    fake_s3::FakeS3,
};

use super::*;

/// A mirror with a store for what its clients get.
fn build(world: &World, store: &FakeS3) -> Builder {
    let builder = Mirror::parse(&format!(
        "{}[cluster]\nkey_file = \"cluster.key\"\n[[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\ndefault = true\n\
         access = \"client\"\nstore = true\n",
        store.section(),
        world.registry.url()
    ));
    FakeS3::credentials(builder.directory());
    fs::write(builder.directory().join("cluster.key"), KEY).unwrap();
    builder
}

/// A registry may tell by the HEAD of a tag what it does not give: only the content that it sends proves that a client may
/// have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_registry_only_names_does_not_come_from_the_store() {
    let (world, store) = (World::new().await, FakeS3::start().await);
    let mut mirror = build(&world, &store).start().await;
    let tag = &World::pull("team/a", &world.of_ann)[0];
    assert_eq!(get_as(&mirror, ANN, tag).await.status, 200);
    store.wait_for("the tag", |objects| objects.keys().any(|name| name.starts_with("clients/tags/"))).await;
    let is_manifest = |name: &String| name.starts_with("clients/manifests/");
    store.wait_for("the manifest", |objects| objects.keys().any(is_manifest)).await;
    mirror.drain().await;
    fs::remove_dir_all(mirror.cache_dir()).unwrap();
    mirror.start().await;
    world.registry.fault(When::manifests().method(Method::GET), Fault::status(403));
    assert_ne!(get_as(&mirror, ANN, tag).await.status, 200);
    world.registry.heal();
    assert_eq!(get_as(&mirror, ANN, tag).await.body, world.of_ann.manifest_bytes);
}
