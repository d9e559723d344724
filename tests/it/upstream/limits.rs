//! After a 429: one question at a time, of the kind that got it.

use forebay::upstream::ErrorKind;
use futures_util::future::join_all;
use http::Method;

use super::{MANIFEST, Subject, WHOLE, accept, kind, name, reference_of};
use crate::support::fake_registry::{FakeRegistry, Fault, Gate, When};

#[tokio::test]
async fn after_a_429_manifests_are_asked_for_one_by_one() {
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
