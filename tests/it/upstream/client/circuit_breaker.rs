//! Hosts that fail in a row.

use std::time::Duration;

use forebay::upstream::ErrorKind;
use http::Method;

use crate::upstream::{Subject, WHOLE, config_of, kind};
use forebay_test_support::fake_registry::{FakeRegistry, Fault, Server, To, When};

/// Lets time pass for what counts it by the runtime's clock.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_host_that_fails_in_a_row_is_spared() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let subject = Subject::of(&registry);
    for fault in [Fault::status(503), Fault::page(502), Fault::Disconnect] {
        registry.forget_requests();
        registry.fault(When::any(), fault.clone());
        for _ in 0..30 {
            let error = subject.manifest("team/app", "1").await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{fault:?}");
        }
        // The one that found its kept connection dead was sent twice, and is one failure.
        let sent_twice = usize::from(matches!(fault, Fault::Disconnect));
        assert_eq!(registry.requests().len(), 10 + sent_twice, "{fault:?}");
        assert!(subject.manifest("team/app", "1").await.unwrap_err().retry_after.is_some());
        assert_eq!(subject.metric("forebay_upstream_circuit_open{upstream=\"fake.example\"}"), 1);
        // The probe fails, and is one.
        pass(2).await;
        for _ in 0..5 {
            assert!(subject.manifest("team/app", "1").await.is_err());
        }
        assert_eq!(registry.requests().len(), 11 + sent_twice, "{fault:?}");
        registry.heal();
        pass(3).await;
        for _ in 0..3 {
            assert!(subject.manifest("team/app", "1").await.is_ok(), "{fault:?}");
        }
        assert_eq!(subject.metric("forebay_upstream_circuit_open{upstream=\"fake.example\"}"), 0);
    }
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_is_spared() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let subject = Subject::of(&registry);
    registry.take_down(Server::Api).await;
    for _ in 0..11 {
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    }
    registry.bring_up(Server::Api).await;
    let error = subject.manifest("team/app", "1").await.unwrap_err();
    assert!(error.to_string().contains("no connection could be made"), "{error}");
    assert!(registry.requests().is_empty());
    pass(2).await;
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

#[tokio::test]
async fn a_blob_host_that_fails_does_not_stop_its_registry() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let subject = Subject::of(&registry);
    registry.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Cdn });
    registry.fault(When::blobs().at(Server::Cdn), Fault::status(503));
    let asked = || registry.count(|request| request.server == Server::Cdn);
    for _ in 0..15 {
        let blob = subject.blob("team/app", &image.layers[0], WHOLE).await;
        assert_eq!(kind(blob), Some(ErrorKind::Unavailable));
    }
    assert_eq!(asked(), 10);
    assert!(subject.manifest("team/app", "1").await.is_ok());
    // What is there and what is not are answers.
    registry.heal();
    for _ in 0..15 {
        assert_eq!(kind(subject.manifest("team/app", "2").await), Some(ErrorKind::NotFound));
    }
    assert!(subject.manifest("team/app", "1").await.is_ok());
    pass(2).await;
    assert!(subject.blob("team/app", &image.layers[0], WHOLE).await.is_ok());
}

#[tokio::test]
async fn a_registry_that_fails_does_not_stop_its_blobs() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let subject = Subject::of(&registry);
    registry.fault(When::manifests(), Fault::status(504));
    for _ in 0..11 {
        assert!(subject.manifest("team/app", "1").await.is_err());
    }
    assert_eq!(subject.metric("forebay_upstream_circuit_open{upstream=\"fake.example\"}"), 1);
    assert!(subject.blob("team/app", &image.layers[0], WHOLE).await.is_ok());
}

#[tokio::test]
async fn an_open_breaker_leads_to_the_next_url() {
    let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    second.add_image("team/app", "1", &[]);
    let subject = Subject::new(&config_of([first.url(), second.url()]));
    first.fault(When::any(), Fault::status(503));
    second.fault(When::any(), Fault::status(500));
    for _ in 0..15 {
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    }
    assert_eq!((first.requests().len(), second.requests().len()), (10, 15));
    second.heal();
    assert!(subject.manifest("team/app", "1").await.is_ok());
    assert_eq!(first.requests().len(), 10);
}

/// A registry that says by 503 or 429 that it has had enough is up.
#[tokio::test]
async fn a_limit_is_no_failure_of_the_host() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let subject = Subject::of(&registry);
    let full = |status| Fault::Answer {
        status,
        headers: vec![("retry-after", "0".to_owned()), ("docker-distribution-api-version", "registry/2.0".to_owned())],
        body: String::new(),
    };
    for fault in [full(503), full(429), Fault::status(429), Fault::status(500), Fault::status(404)] {
        registry.fault(When::manifests().method(Method::GET), fault.clone());
        for _ in 0..12 {
            assert!(subject.manifest("team/app", "1").await.is_err());
        }
        registry.heal();
        assert!(subject.manifest("team/app", "1").await.is_ok(), "{fault:?}");
    }
}
