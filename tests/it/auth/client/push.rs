//! Pushes in the client's own name.

use super::*;
use forebay_test_support::{
    blob,
    fake_registry::{Fault, When},
    until::until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_decides_which_client_may_push() {
    let world = World::new().await;
    let mirror = world.mirror("push = true").start().await;
    let content = b"pushed by ann";
    let digest = forebay::oci::Digest::of(forebay::oci::Algorithm::Sha256, content);
    let uploads = "/v2/team/a/blobs/uploads/";
    for refused in [
        mirror.request(Method::POST, uploads, &[]).await,
        request_as(&mirror, BOB, Method::POST, uploads).await,
        request_as(&mirror, (ANN.0, "wrong"), Method::POST, uploads).await,
        mirror.send(Method::POST, &format!("{uploads}?digest={digest}"), &[], &content[..]).await,
        request_as(&mirror, BOB, Method::PUT, "/v2/team/a/manifests/2").await,
        request_as(&mirror, BOB, Method::DELETE, "/v2/team/a/manifests/1").await,
    ] {
        assert_eq!((refused.status, &*refused.error_code()), (401, "UNAUTHORIZED"));
        assert!(refused.header("www-authenticate").is_some());
    }
    let ann = basic(ANN.0, ANN.1);
    let as_ann = [("authorization", &*ann)];
    let pushed = mirror.send(Method::POST, &format!("{uploads}?digest={digest}"), &as_ann, &content[..]).await;
    assert_eq!(pushed.status, 201, "{}", String::from_utf8_lossy(&pushed.body));
    let begun = mirror.send(Method::POST, uploads, &as_ann, "").await;
    assert_eq!(begun.status, 202);
    let place = begun.header("location").unwrap().to_owned();
    // What she began is hers to go on with, by the upstream's word.
    assert_eq!(request_as(&mirror, BOB, Method::PATCH, &place).await.status, 401);
    assert_eq!(mirror.send(Method::PATCH, &place, &as_ann, &content[..]).await.status, 202);

    let path = format!("/v2/team/a/blobs/{digest}");
    assert_eq!(get_as(&mirror, ANN, &path).await.body, Bytes::from_static(content));
    assert_eq!(get_as(&mirror, BOB, &path).await.status, 401);
    assert!(world.registry.requests().iter().all(|request| {
        request.header("authorization").is_none_or(|shown| !shown.contains(&basic("bob", "")["Basic ".len()..]))
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_needs_a_grant_for_its_source() {
    let world = World::new().await;
    let mirror = world.mirror("push = true").start().await;
    assert_eq!(get_as(&mirror, ANN, &layer("team/a", &world.of_ann)).await.status, 200);
    let digest = &world.of_ann.layers[0];
    let mount = format!("/v2/team/b/blobs/uploads/?mount={digest}&from=team/a");
    // He may push to his, and not read hers: he has to send what he has.
    assert_eq!(request_as(&mirror, BOB, Method::POST, &mount).await.status, 202);
    assert_eq!(get_as(&mirror, BOB, &format!("/v2/team/b/blobs/{digest}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pushed_blob_is_cached_for_clients_with_a_grant() {
    let (world, hub) = (World::new().await, FakeRegistry::start().await);
    let private = format!("urls = [\"{}\"]\ndefault = true\naccess = \"client\"\npush = true\n", world.registry.url());
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"private.example\"\n{private}\
         [[upstream]]\nname = \"hub.example\"\nurls = [\"{}\"]\n",
        hub.url()
    ))
    .start()
    .await;
    let content = b"pushed by ann";
    let digest = forebay::oci::Digest::of(forebay::oci::Algorithm::Sha256, content);
    let ann = basic(ANN.0, ANN.1);
    let uploads = format!("/v2/team/a/blobs/uploads/?digest={digest}");
    let pushed = mirror.send(Method::POST, &uploads, &[("authorization", &ann)], &content[..]).await;
    assert_eq!(pushed.status, 201);
    let kept = blob::file(&mirror.cache_dir().join("clients"), &digest);
    until("it is kept", async || kept.exists()).await;
    assert!(!blob::file(&mirror.cache_dir(), &digest).exists());
    let path = format!("/v2/team/a/blobs/{digest}");
    let got = get_as(&mirror, ANN, &path).await;
    assert_eq!((got.header("cache-status"), &got.body[..]), (Some("forebay; hit"), &content[..]));
    assert_eq!(world.registry.count(|request| request.is_blob_get(&digest)), 0);
    for (who, path) in [(BOB, path.clone()), (BOB, format!("/v2/team/b/blobs/{digest}"))] {
        assert_ne!(get_as(&mirror, who, &path).await.status, 200, "{path}");
    }
    assert_eq!(mirror.get(&format!("/v2/hub.example/team/a/blobs/{digest}")).await.status, 404);
}

/// That it was not there is remembered for a moment, but not beyond a push.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_before_a_push_is_there_after_it() {
    let world = World::new().await;
    let hour = std::time::Duration::from_secs(3600);
    let mirror = world.mirror("push = true").config(|config| config.cache.negative_ttl = hour).start().await;
    let content = b"pushed by ann";
    let digest = forebay::oci::Digest::of(forebay::oci::Algorithm::Sha256, content);
    let path = format!("/v2/team/a/blobs/{digest}");
    let ann = basic(ANN.0, ANN.1);
    for round in 0..10 {
        let path = if round == 0 { path.clone() } else { format!("/v2/team/a/manifests/new-{round}") };
        assert_eq!(get_as(&mirror, ANN, &path).await.status, 404);
        let (method, target, body) = match round {
            0 => (Method::POST, format!("/v2/team/a/blobs/uploads/?digest={digest}"), Bytes::from_static(content)),
            _ => (Method::PUT, path.clone(), world.of_ann.manifest_bytes.clone()),
        };
        let typed = [("authorization", &*ann), ("content-type", "application/vnd.oci.image.manifest.v1+json")];
        let pushed = mirror.send(method, &target, &typed, body).await;
        assert_eq!(pushed.status, 201, "{}", String::from_utf8_lossy(&pushed.body));
        assert_eq!(get_as(&mirror, ANN, &path).await.status, 200, "{path}");
    }
}

/// By an ingress, or a registry that has it from elsewhere at the first request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_a_head_denies_is_given_to_a_get() {
    for fault in [Fault::status(404), Fault::page(404), Fault::no_backend()] {
        let world = World::new().await;
        let mirror = world.mirror("push = true").start().await;
        world.registry.fault(When::blobs().method(Method::HEAD), fault.clone());
        let path = layer("team/a", &world.of_ann);
        for _ in ["fetched", "cached"] {
            // A client that pushes is to send it.
            assert_eq!(request_as(&mirror, ANN, Method::HEAD, &path).await.status, 404, "{fault:?}");
            let answer = get_as(&mirror, ANN, &path).await;
            assert_eq!((answer.status, &answer.body[..]), (200, SECRET), "{fault:?}");
            assert_ne!(get_as(&mirror, BOB, &path).await.status, 200, "{fault:?}");
        }
    }
}
