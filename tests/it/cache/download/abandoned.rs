//! Fills that no client waits for any more.
//!
//! The clock is paused, so it jumps to the next timer whenever everything waits: for that, all runs on one thread.

use std::time::Duration;

use forebay::oci::{Algorithm, Digest};

use forebay_test_support::{
    blob::{REPOSITORY, add, content, path},
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Gate, Server, To, When},
    mirror::Mirror,
    raw::Raw,
};

const LEN: usize = 400_000;

/// So many bytes in a second.
fn drip(piece: usize) -> Fault {
    Fault::Throttle { piece, pause: Duration::from_secs(1) }
}

/// For how many seconds fills are in flight: less than `most`.
async fn seconds_in_flight(mirror: &Mirror, most: u64) -> u64 {
    let begun = tokio::time::Instant::now();
    while mirror.metric("forebay_fills_in_flight", &[]).await > 0.0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed().as_secs() < most);
    }
    begun.elapsed().as_secs()
}

async fn until_result(mirror: &Mirror, result: &str) {
    mirror.until_metric("forebay_fills_total", &[("result", result)], 1.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_fill_without_clients_that_drips_is_given_up_and_kept() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blob(&digest), drip(2000));
    let mut client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    tokio::time::pause();
    client.read(70_000).await;
    drop(client);
    let left = tokio::time::Instant::now();
    until_result(&mirror, "abandoned").await;
    let seconds = left.elapsed().as_secs();
    assert!((30..40).contains(&seconds), "{seconds} s");
    tokio::time::resume();
    registry.heal();
    registry.forget_requests();
    // The next client gets the rest alone.
    assert!(mirror.get(&path(&digest)).await.body == content);
    let range = registry.requests()[0].header("range").map(str::to_owned);
    let from =
        range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    assert!(from.is_some_and(|from| (70_000..=140_000).contains(&from)), "{range:?}");
}

/// Enough for the measure of every 30 s, and yet it would go on for hours.
fn quick_drip() -> Fault {
    Fault::Throttle { piece: 40_000, pause: Duration::from_secs(10) }
}

#[tokio::test]
async fn a_fill_without_clients_ends_in_half_an_hour() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, _) = add(&registry, 60 * LEN, 1);
    registry.fault(When::blob(&digest), quick_drip());
    let mut client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    tokio::time::pause();
    // As long as it is there, nothing ends it.
    for part in 1..=80 {
        client.read(part * 100_000).await;
    }
    drop(client);
    let seconds = seconds_in_flight(&mirror, 2000).await;
    assert!(seconds >= 1790, "{seconds} s");
}

const MIB: usize = 1024 * 1024;

/// A download that no client waits for, and one whose client takes nothing, fill the cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_the_room_of_a_fill_without_clients() {
    for way in ["a client left", "no client came"] {
        let registry = FakeRegistry::start().await;
        let build = Mirror::build(&registry).max_size(128 * MIB as u64);
        let mirror = build.config(|config| config.cache.reader_window = Duration::from_secs(1)).start().await;
        let (held, _) = add(&registry, 50 * MIB, 1);
        let stuck = Raw::get(mirror.address(), &path(&held), &[]).await;
        mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
        let idle = content(20 * MIB, 2);
        let (digest, gate) = (Digest::of(Algorithm::Sha256, &idle), Gate::new());
        registry.fault(When::blob(&digest), Fault::HoldBody { at: MIB, gate: gate.clone() });
        match way {
            "a client left" => {
                registry.add_blob(REPOSITORY, idle.to_vec());
                let mut client = Raw::get(mirror.address(), &path(&digest), &[]).await;
                client.read(MIB / 2).await;
                drop(client);
                mirror.until_metric("forebay_connections", &[], 1.0).await;
            }
            _ => {
                let image = registry.add_image(REPOSITORY, "1", &[&idle]);
                assert_eq!(mirror.get(&format!("/v2/{REPOSITORY}/manifests/1")).await.status, 200);
                assert_eq!(mirror.get(&path(&image.config)).await.status, 200);
            }
        }
        gate.reached().await;
        // The end of either would be enough.
        let (wanted, content) = add(&registry, 70 * MIB, 3);
        let answer = mirror.get(&path(&wanted)).await;
        assert_eq!(answer.header("cache-status"), Some("forebay; fwd=miss; stored"), "{way}");
        assert!(answer.body == content);
        mirror.until_metric("forebay_fills_total", &[("result", "abandoned")], 1.0).await;
        assert_eq!(mirror.metric("forebay_stalls_total", &[("what", "scarce")]).await, 0.0, "{way}");
        assert_eq!(stuck.header("cache-status"), Some("forebay; fwd=miss; stored"));
        // One that a client joins again goes on with what was there.
        registry.heal();
        assert!(mirror.get(&path(&digest)).await.body == idle);
    }
}

#[tokio::test]
async fn a_fill_with_a_client_may_drip_for_as_long_as_it_likes() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blob(&digest), drip(2000));
    let mut client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    tokio::time::pause();
    for part in 1..=10 {
        client.read(LEN / 10 * part - 20_000).await;
    }
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    until_result(&mirror, "complete").await;
    assert_eq!(registry.count(|record| record.is_blob_get(&digest)), 1);
}

#[tokio::test]
async fn a_fill_without_clients_that_advances_ends_well() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blob(&digest), drip(8000));
    drop(Raw::get(mirror.address(), &path(&digest), &[]).await);
    tokio::time::pause();
    until_result(&mirror, "complete").await;
    tokio::time::resume();
    let hit = mirror.get(&path(&digest)).await;
    assert!(hit.header("cache-status") == Some("forebay; hit") && hit.body == content);
}

/// It is sent once more from the front, since the upstream knows no ranges: all of that comes for something.
#[tokio::test]
async fn bytes_that_are_passed_over_are_an_advance() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault_times(1, When::blob(&digest), Fault::Truncate { at: 380_000 });
    registry.fault(When::blob(&digest), Fault::IgnoreRange);
    let gate = Gate::new();
    registry.fault(When::blob(&digest).ranged(), Fault::HoldHead(gate.clone()));
    registry.fault(When::blob(&digest).ranged(), drip(8000));
    let mut client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    client.read(360_000).await;
    gate.reached().await;
    drop(client);
    gate.open();
    tokio::time::pause();
    until_result(&mirror, "complete").await;
    tokio::time::resume();
    assert!(mirror.get(&path(&digest)).await.body == content);
}

#[tokio::test]
async fn whatever_a_fill_waits_for_it_ends_without_clients() {
    let gate = || Gate::new();
    let cases: Vec<(&str, When, Fault)> = vec![
        ("the token", When::tokens(), Fault::HoldHead(gate())),
        ("the token's body", When::tokens(), Fault::HoldBody { at: 1, gate: gate() }),
        ("the head", When::blobs(), Fault::HoldHead(gate())),
        ("the first byte", When::blobs(), Fault::HoldBody { at: 0, gate: gate() }),
        ("a redirect's head", When::blobs().at(Server::Cdn), Fault::HoldHead(gate())),
        ("a redirect's body", When::blobs().at(Server::Cdn), Fault::HoldBody { at: 10_000, gate: gate() }),
        ("one byte a second", When::blobs(), drip(1)),
        ("one byte a second, without a length", When::blobs(), drip(1)),
        ("redirects", When::blobs(), Fault::Redirect { status: 307, to: To::Here }),
        ("a turn", When::blobs(), Fault::too_many("3600")),
    ];
    for (what, when, fault) in cases {
        println!("{what}");
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        let (digest, _) = add(&registry, LEN, 1);
        if what.contains("redirect's") {
            registry.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Cdn });
        }
        if what.contains("token") {
            registry.require(Auth::Bearer(Bearer::default()));
        }
        if what.contains("length") {
            registry.fault(When::blobs(), Fault::NoContentLength);
        }
        registry.fault(when, fault);
        let client = Raw::send(mirror.address(), &path(&digest), &[]).await;
        registry.wait_for(|records| !records.is_empty()).await;
        drop(client);
        tokio::time::pause();
        seconds_in_flight(&mirror, 70).await;
        tokio::time::resume();
    }
}
