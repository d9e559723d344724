//! The end: what runs is finished, within bounds; what is half done is kept.

use std::time::Duration;

use rustix::process::Signal;

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::{Mirror, UPSTREAM},
    program::Program,
    raw::Raw,
    until::{bounded, until},
};

const LEN: usize = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_response_is_finished() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: LEN / 2, gate: gate.clone() });
    let address = mirror.address();
    let client = Raw::get(address, &path(&digest), &[]).await;
    gate.reached().await;
    let rest = async {
        // During the drain no new client is served.
        until("no client is accepted", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
        gate.open();
        client.rest().await
    };
    let ((), end) = tokio::join!(bounded(mirror.drain()), rest);
    assert!(end.is_whole() && end.bytes() == content);
    assert_eq!(std::fs::read(blob::file(&mirror.cache_dir(), &digest)).unwrap(), content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_timeout_breaks_responses_and_keeps_parts() {
    let registry = FakeRegistry::start().await;
    let short = Duration::from_millis(200);
    let mut mirror = Mirror::build(&registry).config(|config| config.server.drain_timeout = short).start().await;
    let (digest, content) = add(&registry, LEN, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: LEN / 2, gate: gate.clone() });
    let mut client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    client.read(LEN / 2).await;
    bounded(mirror.drain()).await;
    assert!(!client.rest().await.is_whole());
    assert_eq!(blob::left(&blob::partial(&mirror.cache_dir(), &digest)), &content[..LEN / 2]);
    assert!(blob::files(&mirror.cache_dir().join("blobs")).is_empty());
    mirror.start().await;
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
    assert_eq!(registry.requests().last().unwrap().header("range"), Some("bytes=500000-"));
}

/// The second signal ends the process in the middle of its downloads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_keeps_what_a_kill_keeps() {
    const CHUNK: usize = 1024 * 1024;
    let registry = FakeRegistry::start().await;
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[cache]\nmin_free = 0\n[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\n",
        registry.url()
    );
    std::fs::write(directory.path().join("forebay.toml"), text).unwrap();
    let (digest, content) = add(&registry, 4 * CHUNK, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: 2 * CHUNK + 100, gate: gate.clone() });
    let program = Program::serve(directory, "info").await;
    let part = blob::partial(&program.directory().join("cache"), &digest);
    let _client = Raw::get(program.registry, &path(&digest), &[]).await;
    until("two chunks are noted", async || part.exists() && blob::front(&part) == 2 * CHUNK as u64).await;
    program.signal(Signal::TERM);
    until("it drains", async || program.log().contains("draining")).await;
    let (directory, log) = program.ended_by(Signal::TERM).await;
    assert!(log.contains("second signal"), "{log}");
    assert_eq!(blob::left(&part), &content[..2 * CHUNK]);
    registry.forget_requests();
    let program = Program::serve(directory, "info").await;
    let end = Raw::get(program.registry, &path(&digest), &[]).await.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    assert_eq!(registry.requests()[0].header("range"), Some(&*format!("bytes={}-", 2 * CHUNK)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_without_readers_do_not_delay_the_drain() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let gate = Gate::new();
    let blobs: Vec<_> = (0..4).map(|seed| add(&registry, LEN, seed)).collect();
    // Two are held in the body, and two before the head.
    for (digest, _) in &blobs[..2] {
        registry.fault_times(1, When::blob(digest), Fault::HoldBody { at: LEN / 2, gate: gate.clone() });
        Raw::get(mirror.address(), &path(digest), &[]).await.read(LEN / 2).await;
    }
    let mut waiting = Vec::new();
    for (digest, _) in &blobs[2..] {
        registry.fault_times(1, When::blob(digest), Fault::HoldHead(gate.clone()));
        waiting.push(Raw::send(mirror.address(), &path(digest), &[]).await);
    }
    registry.wait_for(|seen| seen.len() == 4).await;
    drop(waiting);
    mirror.until_metric("forebay_connections", &[], 0.0).await;
    let started = std::time::Instant::now();
    bounded(mirror.drain()).await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(blob::files(&mirror.cache_dir().join("tmp")).len(), 2);
    mirror.start().await;
    for (digest, content) in &blobs {
        assert_eq!(&mirror.get(&path(digest)).await.body, content);
    }
}
