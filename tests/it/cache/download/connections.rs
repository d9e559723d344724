//! `connections`: how many requests for one blob the upstream has to answer at a time.

use std::time::Duration;

use futures_util::future::join_all;

use forebay_test_support::{
    blob::{add, path},
    fake_registry::{FakeRegistry, Fault, Record, When},
    mirror::Mirror,
    raw::Raw,
    until::until,
};

const MIB: usize = 1024 * 1024;
const LEN: usize = 64 * MIB;
/// More than there may be connections.
const READERS: usize = 9;

/// So slow that no request ends while the test runs, and quick enough that none looks silent.
const SLOW: Fault = Fault::Throttle { piece: 512, pause: Duration::from_millis(100) };

fn gets(registry: &FakeRegistry) -> usize {
    registry.count(|record: &Record| record.method == http::Method::GET && record.path.contains("/blobs/"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_far_apart_share_the_connections_of_a_blob() {
    for connections in 2..=6 {
        let registry = FakeRegistry::start().await;
        registry.fault(When::blobs().method(http::Method::GET), SLOW);
        let mirror =
            Mirror::build(&registry).config(|config| config.upstreams[0].connections = connections).start().await;
        let (digest, content) = add(&registry, LEN, 1);
        let (path, address) = (path(&digest), mirror.address());
        let read_at = |number: usize| {
            let first = number * LEN / READERS;
            let range = format!("bytes={first}-{}", first + 2 * MIB);
            let path = &path;
            async move { Raw::get(address, path, &[("range", &*range)]).await }
        };
        // Those in the front begin, so that there is a download; all wait for bytes of their own.
        let mut readers = vec![read_at(0).await];
        readers.extend(join_all((1..READERS).map(read_at)).await);
        registry.wait_for(|_| gets(&registry) >= connections).await;
        // Each of these is answered after the readers were looked at.
        for _ in 0..10 {
            mirror.metrics().await;
        }
        // A connection that was left is open a little longer for the registry.
        let at_most = || format!("at most {connections} of {}", registry.open_blobs());
        until(&at_most(), async || registry.open_blobs() <= connections).await;
        // Readers that leave, and others that come elsewhere, change nothing.
        readers.truncate(READERS / 2);
        readers.extend(join_all((1..READERS).rev().map(read_at)).await);
        for _ in 0..10 {
            mirror.metrics().await;
        }
        until(&at_most(), async || registry.open_blobs() <= connections).await;
        registry.heal();
        let first = readers.remove(0).read(100).await.to_vec();
        assert!(first == content[..100]);
    }
}
