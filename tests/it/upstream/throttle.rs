//! After a 429: one question at a time, of the kind that got it.

use std::time::Duration;

use forebay::upstream::ErrorKind;
use futures_util::future::join_all;
use http::Method;

use super::{MANIFEST, Subject, WHOLE, accept, kind, name, reference_of};
use forebay_test_support::fake_registry::{FakeRegistry, Fault, Gate, When};

#[tokio::test]
async fn after_a_429_manifests_are_requested_one_by_one() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let subject = Subject::of(&registry);
    let manifests = || When::manifests().method(Method::GET);
    registry.fault_times(1, manifests(), Fault::too_many("600"));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::TooManyRequests));
    registry.forget_requests();
    let gate = Gate::new();
    registry.fault(manifests(), Fault::HoldHead(gate.clone()));
    let pulls = join_all((0..8).map(|_| subject.manifest("team/app", "1")));
    let meanwhile = async {
        gate.reached().await;
        // Neither HEADs nor blobs got one.
        for _ in 0..2 {
            let (repository, tag) = (name("team/app"), reference_of("1"));
            assert!(subject.upstream.head_manifest(&repository, &tag, &accept(&[MANIFEST])).await.is_ok());
            assert!(subject.blob("team/app", &image.layers[0], WHOLE).await.is_ok());
        }
        assert_eq!(registry.count(|request| request.method == Method::GET && request.path.contains("/manifests/")), 1);
        gate.open();
    };
    let (pulled, ()) = tokio::join!(pulls, meanwhile);
    assert!(pulled.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_429_without_a_time_holds_back_nothing() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let subject = Subject::of(&registry);
    registry.fault_times(1, When::manifests(), Fault::status(429));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::TooManyRequests));
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::HoldHead(gate.clone()));
    let pulls = join_all((0..8).map(|_| subject.manifest("team/app", "1")));
    let meanwhile = async {
        gate.reached_by(8).await;
        gate.open();
    };
    let (pulled, ()) = tokio::join!(pulls, meanwhile);
    assert!(pulled.iter().all(Result::is_ok));
}

/// As a date, too; and for no longer than an hour, whatever it says.
#[tokio::test]
async fn a_429_holds_back_for_an_hour_at_most() {
    let in_a_while = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(900));
    for (value, is_held) in [
        ("31536000", true),
        ("99999999999999999999", true),
        ("Sun, 06 Nov 1994 08:49:37 GMT", false),
        (&in_a_while, true),
    ] {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[]);
        let subject = Subject::of(&registry);
        registry.fault_times(1, When::manifests(), Fault::too_many(value));
        let error = subject.manifest("team/app", "1").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::TooManyRequests);
        assert!(error.retry_after.is_none_or(|after| after <= Duration::from_secs(86_400)), "{value}");
        let at_once = async |number| {
            let gate = Gate::new();
            registry.forget_requests();
            registry.fault(When::manifests(), Fault::HoldHead(gate.clone()));
            let pulls = join_all((0..3).map(|_| subject.manifest("team/app", "1")));
            let meanwhile = async {
                gate.reached_by(number).await;
                assert_eq!(registry.requests().len(), number, "{value}");
                gate.open();
            };
            let (pulled, ()) = tokio::join!(pulls, meanwhile);
            assert!(pulled.iter().all(Result::is_ok), "{value}");
            registry.heal();
        };
        at_once(if is_held { 1 } else { 3 }).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(3601)).await;
        tokio::time::resume();
        at_once(3).await;
    }
}
