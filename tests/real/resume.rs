//! The upstream is killed at 50 % of a blob and comes back two seconds later; the client does not notice.

use std::time::Duration;

use forebay_test_support::{
    real::{download::download, forebay::Forebay, gate::Gate, image::Blob, registry::Registry},
    until::until,
};

const SIZE: usize = 64_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_half_way_is_resumed() {
    let mut registry = Registry::open().await;
    let blob = Blob::random(60, SIZE);
    registry.store("library/big", &blob);
    let gate = Gate::before(registry.port).await;
    // On a machine that does other work a transfer is slow, and forebay would try whether more connections bring more.
    let upstream = "name = \"docker.io\"\ndefault = true\nconnections = 1\n";
    let config = format!("[[upstream]]\n{upstream}urls = [\"{}\"]\n", gate.url());
    let forebay = Forebay::start(&config, &[]).await;

    gate.hold_after(SIZE as u64 / 2);
    let url = forebay.blob_url("library/big", &blob);
    let client = tokio::spawn(async move { download(&url).await });
    gate.until_holding().await;
    registry.kill();
    gate.cut();
    gate.open();
    // The outage itself: the promise is about one of this length.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!client.is_finished(), "the client is still waiting for the rest");
    registry.revive().await;

    let download = client.await.expect("a client does not panic");
    assert!(download.is_whole(&blob.digest), "{download:?}\n{}", forebay.log());
    until("the second half came by Range", async || (registry.resumptions_of(&blob) == 1).then_some(())).await;
    assert!(gate.passed() < SIZE as u64 * 11 / 10, "nothing was fetched twice");
    forebay.assert_stored_blobs_are_right();
}
