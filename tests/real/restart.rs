//! Killed at any moment of a fill, forebay keeps whole blobs or none, and goes on where it was.

use forebay_test_support::{
    real::{
        disk,
        download::download,
        forebay::Forebay,
        gate::Gate,
        image::{Blob, random},
        registry::Registry,
        turn::Turn,
    },
    until::until,
};

const SIZE: usize = 48_000_000;
const LIVES: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_of_a_fill_leaves_whole_blobs_or_none() {
    let _turn = Turn::of_the_big_blobs().await;
    let registry = Registry::open().await;
    let blobs: Vec<Blob> = (0..3).map(|number| Blob::random(100 + number, SIZE)).collect();
    for blob in &blobs {
        registry.store("library/big", blob);
    }
    let gate = Gate::before(registry.port).await;
    let config = format!("[[upstream]]\nname = \"docker.io\"\nurls = [\"{}\"]\ndefault = true\n", gate.url());
    let mut forebay = Forebay::start(&config, &[]).await;

    for (life, moment) in random(7, LIVES).into_iter().enumerate() {
        let clients: Vec<_> = blobs
            .iter()
            .map(|blob| {
                let url = forebay.blob_url("library/big", blob);
                tokio::spawn(async move { download(&url).await })
            })
            .collect();
        // At most a third of all that is wanted, so that a later life still has something to do.
        gate.hold_after(SIZE as u64 * u64::from(moment) / 255);
        gate.until_holding_or(|| clients.iter().all(|client| client.is_finished())).await;
        forebay.kill();
        gate.cut();
        gate.open();
        for client in clients {
            client.await.expect("a client does not panic");
        }
        forebay.revive().await;
        forebay.assert_stored_blobs_are_right();
        println!("life {life}: {} whole blobs", forebay.stored_blobs().len());
    }

    for blob in &blobs {
        let end = download(&forebay.blob_url("library/big", blob)).await;
        assert!(end.is_whole(&blob.digest), "{end:?}\n{}", forebay.log());
    }
    forebay.assert_stored_blobs_are_right();
    let leftovers = forebay.cache().join("tmp");
    until("what was left in tmp/ is resumed or swept", async || disk::files(&leftovers).is_empty().then_some(())).await;
}
