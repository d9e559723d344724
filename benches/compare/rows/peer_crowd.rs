//! Two hundred clients of five peers want one blob that none of them has.

use std::thread;

use super::{REPOSITORY, Setup, peers};
use crate::{
    client::{Target, clear},
    proxy::{Line, Proxy},
    table::{Figure, Goal, Row},
};
use forebay_test_support::real::{image::Blob, registry::Registry};

const PEERS: usize = 5;
const CLIENTS: usize = 200;
const SIZE: usize = 256 << 20;
/// 1 Gbit/s, in bytes per second.
const RATE: f64 = 125e6;

/// They come round robin and compare every byte. A client that gets an error does not try again.
pub async fn crowd(setup: &Setup) -> Row {
    let registry = Registry::open().await;
    let blob = Blob::random(1, SIZE);
    registry.store(REPOSITORY, &blob);
    let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
    let (mut bytes, mut wrong, mut first, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setup.rounds.min(3) {
        let line = Line { shared_rate: Some(RATE), ..Line::default() };
        let proxy = Proxy::before(registry.port, line).await;
        let forebays = peers::start(setup, &proxy.url(), PEERS, true).await;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let forebay = &forebays[client % PEERS];
                let (address, process) = (forebay.address, forebay.process());
                let target = Target { address, process, path: path.clone(), length: SIZE as u64 };
                let expected = blob.bytes.clone();
                thread::spawn(move || clear::compare(&target, &expected))
            })
            .collect();
        let join = move || clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>();
        let results = tokio::task::spawn_blocking(join).await.unwrap();
        let right: Vec<_> = results.iter().flatten().collect();
        results.iter().filter_map(|result| result.as_ref().err()).for_each(|error| eprintln!("  a client: {error}"));
        let slowest = |times: &mut dyn Iterator<Item = f64>| times.fold(0.0, f64::max);
        bytes.push(proxy.received() as f64 / SIZE as f64);
        wrong.push((CLIENTS - right.len()) as f64);
        first.push(slowest(&mut right.iter().map(|download| download.first_byte.as_secs_f64())));
        last.push(slowest(&mut right.iter().map(|download| download.whole.as_secs_f64())));
        if setup.quick {
            break;
        }
    }
    let figure = |measure, unit, goal, forebay| Figure { measure, unit, goal, peer: Vec::new(), forebay };
    Row {
        work: format!("{CLIENTS} clients of {PEERS} peers in turn, one cold blob of 256 MiB, upstream at 1 Gbit/s"),
        peer: String::new(),
        figures: vec![
            figure("bytes from upstream / the blob's", "", Goal::AtMost(1.05), bytes),
            figure("clients without the right bytes", "", Goal::AtMost(0.0), wrong),
            figure("last client's first byte", "s", Goal::Shown, first),
            figure("last client done", "s", Goal::Shown, last),
        ],
        idle: None,
    }
}
