//! Eight clients and one cold blob of 256 MB: one transfer from the upstream; no other client depends on the first.

use std::fs;

use futures_util::future::join_all;
use tempfile::TempDir;

use forebay_test_support::{
    real::{
        daemon::Daemon, download::download, forebay::Forebay, gate::Gate, image::Blob, program, registry::Registry,
        turn::Turn,
    },
    until::until,
};

const SIZE: usize = 256_000_000;

async fn mirror(url: &str) -> Forebay {
    // On a machine that does other work a transfer is slow, and forebay would try whether more connections bring more.
    let upstream = "name = \"docker.io\"\ndefault = true\nconnections = 1\n";
    Forebay::start(&format!("[[upstream]]\n{upstream}urls = [\"{url}\"]\n"), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_clients_of_a_cold_blob_cost_the_upstream_one_get() {
    let _turn = Turn::of_the_big_blobs().await;
    let registry = Registry::open().await;
    let blob = Blob::random(50, SIZE);
    registry.store("library/big", &blob);
    let forebay = mirror(&registry.url()).await;
    let url = forebay.blob_url("library/big", &blob);

    let downloads = join_all((0..8).map(|_| tokio::spawn(download_owned(url.clone())))).await;

    for download in downloads {
        let download = download.expect("a client does not panic");
        assert!(download.is_whole(&blob.digest), "{download:?}");
    }
    registry.assert_one_get_of(&blob).await;
    let received = forebay.metric("forebay_upstream_received_bytes_total", &["upstream=\"docker.io\""]).await;
    let size = SIZE as f64;
    assert!((size..1.05 * size).contains(&received), "{received} bytes from the upstream for a blob of {size}");
    forebay.assert_stored_blobs_are_right();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_clients_go_on_when_the_first_is_killed() {
    let _turn = Turn::of_the_big_blobs().await;
    let registry = Registry::open().await;
    let blob = Blob::random(51, SIZE);
    registry.store("library/big", &blob);
    let gate = Gate::before(registry.port).await;
    let forebay = mirror(&gate.url()).await;
    let url = forebay.blob_url("library/big", &blob);
    let folder = TempDir::with_prefix("forebay-curl-").expect("a folder can be made");

    gate.hold_after(SIZE as u64 / 2);
    let mut curl = program::command("curl", "curl");
    curl.args(["--silent", "--output"]).arg(folder.path().join("first")).arg(&url);
    let mut first = Daemon::spawn("the first client", curl, &folder.path().join("log"));
    gate.until_holding().await;
    // It is in the middle of its body, and the fill was begun for it.
    let file = folder.path().join("first");
    until("the first client has a third", async || {
        let length = fs::metadata(&file).map_or(0, |metadata| metadata.len());
        (length > SIZE as u64 / 3).then_some(())
    })
    .await;
    let others: Vec<_> = (0..7).map(|_| tokio::spawn(download_owned(url.clone()))).collect();
    first.assert_alive();
    first.kill();
    gate.open();

    for download in join_all(others).await {
        let download = download.expect("a client does not panic");
        assert!(download.is_whole(&blob.digest), "{download:?}");
    }
    registry.assert_one_get_of(&blob).await;
}

async fn download_owned(url: String) -> forebay_test_support::real::download::Download {
    download(&url).await
}
