//! Killed at any moment, forebay keeps whole blobs or none, and the pins that it has confirmed; it goes on where it was.

use std::{collections::BTreeSet, path::Path};

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
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::mpsc,
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

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_keeps_the_pins_that_were_confirmed() {
    let _turn = Turn::of_the_big_blobs().await;
    let registry = Registry::open().await;
    let config = format!("[[upstream]]\nname = \"docker.io\"\nurls = [\"{}\"]\ndefault = true\n", registry.url());
    let mut forebay = Forebay::start(&config, &[]).await;
    let mut confirmed = BTreeSet::new();
    for (life, moment) in random(11, LIVES).into_iter().enumerate() {
        let (socket, (told, mut pinned)) = (forebay.control_socket(), mpsc::channel(1024));
        let pinning = tokio::spawn(async move {
            for number in 0.. {
                let name = format!("docker.io/team/app:{life}-{number}");
                if !pin(&socket, &name).await || told.send(name).await.is_err() {
                    break;
                }
            }
        });
        // The next one is under way then.
        for _ in 0..=moment % 8 {
            confirmed.extend(pinned.recv().await);
        }
        forebay.kill();
        pinning.await.expect("the client ends");
        while let Some(name) = pinned.recv().await {
            confirmed.insert(name);
        }
        forebay.revive().await;
        let told = forebay.told(&["cache", "pin"]).await;
        let pins = told["pins"].as_array().expect("a list").iter();
        let kept: BTreeSet<String> = pins.filter_map(|pin| Some(pin["match"].as_str()?.to_owned())).collect();
        assert!(kept.is_superset(&confirmed), "life {life}: {confirmed:?} {kept:?}");
        assert!(kept.len() <= confirmed.len() + 1, "one may have been written and not confirmed: {kept:?}");
        println!("life {life}: {} pins", kept.len());
        confirmed = kept;
    }
}

/// Whether forebay confirms a pin.
async fn pin(socket: &Path, name: &str) -> bool {
    let body = format!("{{\"match\":\"{name}\"}}");
    let head = format!(
        "POST /api/v1/images/pin HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let Ok(mut client) = UnixStream::connect(socket).await else { return false };
    let mut answer = String::new();
    let asked = client.write_all(format!("{head}{body}").as_bytes()).await;
    asked.is_ok() && client.read_to_string(&mut answer).await.is_ok() && answer.contains(" 200 OK\r\n")
}
