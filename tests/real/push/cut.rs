//! A push that is cut in the middle leaves nothing visible, and succeeds when it is repeated.

use std::fs;

use super::open_mirror;
use forebay_test_support::{
    real::{
        disk::files,
        download::client,
        forebay::Forebay,
        gate::Gate,
        image::{Format, Image},
        podman::Podman,
        registry::Registry,
    },
    until::until,
};

/// In the middle of the one layer: another one could arrive whole, and would be there.
const CUT_AT: u64 = 1_500_000;

/// An image in a folder, as `skopeo copy` has made it of one in a registry.
async fn in_a_folder(user: &Podman, registry: &Registry, image: &Image) -> String {
    registry.pusher().image("team/source", "1", image).await;
    let folder = format!("dir:{}", user.place("image").display());
    let source = format!("docker://127.0.0.1:{}/team/source:1", registry.port);
    user.skopeo(&["copy", "--src-tls-verify=false", &source, &folder]).await.ok();
    folder
}

/// What was pushed is not there, nor a part of it, nor is anything of it kept.
async fn assert_nothing_is_there(forebay: &Forebay, image: &Image) {
    for path in ["manifests/1".to_owned(), format!("manifests/{}", image.manifest.blob.digest), "tags/list".to_owned()]
    {
        let url = forebay.url(&format!("/v2/team/app/{path}"));
        let answer = client().get(url).header("accept", image.manifest.media_type).send().await.expect("an answer");
        assert_eq!(answer.status(), 404, "{path}");
    }
    for blob in &image.layers {
        for request in
            [client().head(forebay.blob_url("team/app", blob)), client().get(forebay.blob_url("team/app", blob))]
        {
            assert_eq!(request.send().await.expect("an answer").status(), 404, "{}", blob.digest);
        }
    }
    until("nothing of it is in the cache", async || {
        let (parts, kept) = (files(&forebay.cache().join("tmp")), forebay.stored_blobs());
        (parts.is_empty() && kept.is_empty()).then_some(())
    })
    .await;
}

async fn assert_all_is_there(user: &Podman, forebay: &Forebay, image: &Image) {
    let folder = user.place("pulled");
    let (source, to) = (format!("docker://127.0.0.1:{}/team/app:1", forebay.port), format!("dir:{}", folder.display()));
    user.skopeo(&["copy", "--src-tls-verify=false", &source, &to]).await.ok();
    assert_eq!(fs::read(folder.join("manifest.json")).expect("a manifest"), image.manifest.blob.bytes);
    for blob in image.layers.iter().chain([&image.config]) {
        assert_eq!(fs::read(folder.join(blob.hex())).expect("the blob was copied"), blob.bytes);
    }
    forebay.assert_stored_blobs_are_right();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_killed_while_pushing_leaves_no_file() {
    let (hub, registry) = (Registry::open().await, Registry::open().await);
    let image = Image::new(Format::Oci, 79, &[3_000_000]);
    let user = Podman::new("");
    let folder = in_a_folder(&user, &hub, &image).await;
    let forebay = open_mirror(&registry).await;
    let gate = Gate::of_requests_to(forebay.port).await;
    let target = format!("docker://127.0.0.1:{}/team/app:1", gate.port);
    let push = ["copy", "--dest-tls-verify=false", &folder, &target];

    gate.hold_after(CUT_AT);
    tokio::select! {
        ended = user.skopeo(&push) => panic!("it is held in the middle: {}", ended.failed()),
        // Then it is dropped, and so killed.
        () = gate.until_holding() => {}
    }
    gate.cut();
    gate.open();
    assert_nothing_is_there(&forebay, &image).await;

    user.skopeo(&push).await.ok();
    assert_all_is_there(&user, &forebay, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_cut_on_the_way_upstream_succeeds_when_repeated() {
    let (hub, registry) = (Registry::open().await, Registry::open().await);
    let image = Image::new(Format::Oci, 80, &[3_000_000]);
    let user = Podman::new("");
    let folder = in_a_folder(&user, &hub, &image).await;
    let gate = Gate::of_requests_to(registry.port).await;
    let upstream = format!("[[upstream]]\nname = \"hub.test\"\nurls = [\"{}\"]\ndefault = true\n", gate.url());
    let forebay = Forebay::start(&format!("{upstream}push = true\n"), &[]).await;
    let target = format!("docker://127.0.0.1:{}/team/app:1", forebay.port);
    let push = ["copy", "--dest-tls-verify=false", &folder, &target];

    gate.hold_after(CUT_AT);
    let (ended, ()) = tokio::join!(user.skopeo(&push), async {
        gate.until_holding().await;
        gate.cut();
        gate.open();
    });
    ended.failed();
    assert_nothing_is_there(&forebay, &image).await;

    user.skopeo(&push).await.ok();
    assert_all_is_there(&user, &forebay, &image).await;
}
