//! Turns to read documents: 64 at a time, and no request that waits for anything else holds one.

use std::time::Duration;

use forebay::{
    oci::{Algorithm, Digest},
    upstream::{ErrorKind, ReadBudget},
};
use futures_util::{FutureExt as _, future::join_all};
use http::Method;

use crate::upstream::{MANIFEST, Subject, WHOLE, accept, config, name, reference_of};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Gate, When},
    until::{bounded, until},
};

const OK: &str = r#"forebay_upstream_requests_total{operation="manifest",status="200",upstream="fake.example"}"#;

#[tokio::test]
async fn a_manifest_comes_past_64_questions_that_hang() {
    let registry = FakeRegistry::start().await;
    let manifest = registry.add_manifest("team/app", MANIFEST, "{}");
    let subject = Subject::of(&registry);
    let gate = Gate::new();
    let other = Digest::of(Algorithm::Sha256, b"other");
    for when in [When::blobs(), When::manifests().method(Method::HEAD), When::path_of("team/hung")] {
        registry.fault(when, Fault::HoldHead(gate.clone()));
    }
    let mut hung = tokio::task::JoinSet::new();
    for number in 0..64 {
        let (upstream, digest) = (subject.upstream.clone(), other.clone());
        hung.spawn(async move {
            let reference = reference_of("1");
            match number % 3 {
                0 => drop(upstream.head_blob(&name("team/app"), &digest).await),
                1 => drop(upstream.head_manifest(&name("team/app"), &reference, &accept(&[MANIFEST])).await),
                _ => drop(upstream.get_manifest(&name("team/hung"), &reference, &accept(&[MANIFEST])).await),
            }
        });
    }
    registry.wait_for(|seen| seen.len() == 64).await;
    let read = bounded(subject.manifest("team/app", manifest.as_str())).await;
    assert_eq!(read.unwrap(), b"{}");
    gate.open();
    hung.join_all().await;
}

#[tokio::test]
async fn a_manifest_comes_past_64_questions_for_a_token() {
    let registry = FakeRegistry::start().await;
    let manifest = registry.add_manifest("team/app", MANIFEST, "{}");
    let realm = format!("Bearer realm=\"{}\",service=\"s\"", registry.url().join("/token").unwrap());
    let gate = Gate::new();
    registry.fault(When::path_of("team/hung"), Fault::challenge(&realm));
    registry.fault(When::tokens(), Fault::HoldHead(gate.clone()));
    let subject = Subject::of(&registry);
    let mut hung = tokio::task::JoinSet::new();
    for number in 0..64 {
        let upstream = subject.upstream.clone();
        hung.spawn(async move {
            let repository = name(&format!("team/hung{number}"));
            drop(upstream.get_manifest(&repository, &reference_of("1"), &accept(&[MANIFEST])).await);
        });
    }
    gate.reached_by(64).await;
    let read = bounded(subject.manifest("team/app", manifest.as_str())).await;
    assert_eq!(read.unwrap(), b"{}");
    gate.open();
    hung.join_all().await;
}

#[tokio::test]
async fn sixty_four_large_documents_are_read_at_a_time() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[]);
    let digest = registry.add_blob("team/app", &b"layer"[..]);
    let gate = Gate::new();
    let content = format!("{{}}{}", " ".repeat(100_000));
    let large = registry.add_manifest("team/app", MANIFEST, content.clone());
    registry.tag("team/app", "1", &large);
    registry.fault(When::path_of("/manifests/1"), Fault::HoldBody { at: 1, gate: gate.clone() });
    let subject = Subject::of(&registry);
    let asked = || registry.count(|request| request.path.contains("/manifests/1"));
    let mut reading = Box::pin(join_all((0..64).map(|_| subject.manifest("team/app", "1"))));
    let all_read = until("64 are read", async || subject.metric(OK) == 64);
    tokio::select! { _ = &mut reading => panic!("they were not held"), () = all_read => {} }
    let mut last = Box::pin(subject.manifest("team/app", "1"));
    let answered = until("the last one is answered", async || subject.metric(OK) == 65);
    tokio::select! { _ = &mut last => panic!("it had a turn"), () = answered => {} }
    assert!((&mut last).now_or_never().is_none());
    // A small document and the stream of a blob wait for none of them.
    let small = bounded(subject.manifest("team/app", image.manifest.as_str()));
    let others = async { (small.await, subject.blob("team/app", &digest, WHOLE).await) };
    let others = tokio::select! { _ = &mut reading => panic!("they were not held"), others = others => others };
    assert_eq!((others.0.unwrap(), others.1.unwrap()), (image.manifest_bytes.to_vec(), b"layer".to_vec()));
    assert_eq!(asked(), 65);
    gate.open();
    assert!(reading.await.iter().all(Result::is_ok));
    assert_eq!(last.await.unwrap(), content.as_bytes());
    // Its first answer was not kept open while it waited.
    assert_eq!(asked(), 66);
}

#[tokio::test]
async fn a_request_that_waits_too_long_for_a_turn_fails() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::NoContentLength);
    registry.fault(When::manifests(), Fault::HoldBody { at: 1, gate: gate.clone() });
    let subject = Subject::of(&registry);
    let mut reading = Box::pin(join_all((0..64).map(|_| subject.manifest("team/app", "1"))));
    let all_read = until("64 are read", async || subject.metric(OK) == 64);
    tokio::select! { _ = &mut reading => panic!("they were not held"), () = all_read => {} }
    let mut late = Box::pin(subject.manifest("team/app", "1"));
    let answered = until("the last one is answered", async || subject.metric(OK) == 65);
    tokio::select! { _ = &mut late => panic!("it had a turn"), () = answered => {} }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    let error = late.await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.to_string().contains("too many documents"), "{error}");
    // It says nothing about the upstream.
    assert_eq!(subject.metric(r#"forebay_upstream_up{upstream="fake.example"}"#), 1);
}

#[tokio::test]
async fn documents_are_read_within_one_budget_for_all_upstreams() {
    let budget = ReadBudget::default();
    let mut registries = Vec::new();
    for _ in 0..2 {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[]);
        let (gate, subject) = (Gate::new(), Subject::within(&config(&registry), budget.clone()));
        // What announces no length may have 16 MiB.
        registry.fault(When::manifests(), Fault::NoContentLength);
        registry.fault(When::manifests(), Fault::HoldBody { at: 1, gate: gate.clone() });
        registries.push((registry, gate, subject));
    }
    let [(first, gate, subject), (second, other_gate, other)] = &registries[..] else { unreachable!() };
    let asked = |registry: &FakeRegistry| registry.count(|request| request.path.contains("/manifests/1"));
    // One upstream has room for twelve, and leaves room for four of others.
    let mut reading = Box::pin(join_all((0..20).map(|_| subject.manifest("team/app", "1"))));
    let answered = until("all are answered", async || subject.metric(OK) == 20);
    tokio::select! { _ = &mut reading => panic!("they were not held"), () = answered => {} }
    let mut others = Box::pin(join_all((0..6).map(|_| other.manifest("team/app", "1"))));
    let answered = until("all others are answered", async || other.metric(OK) == 6);
    tokio::select! { _ = &mut others => panic!("they were not held"), () = answered => {} }
    other_gate.open();
    let others = async {
        tokio::select! { _ = &mut reading => panic!("they were not held"), others = others => others }
    };
    assert!(bounded(others).await.iter().all(Result::is_ok));
    assert_eq!(asked(second), 6 + 2);
    gate.open();
    assert!(bounded(reading).await.iter().all(Result::is_ok));
    assert_eq!(asked(first), 20 + 8);
}
