//! Answers that take longer than a request waits.

use std::time::Duration;

use forebay::{
    oci::Operation,
    upstream::{Config, Error, ErrorKind, WriteAction, WriteRequest, WriteTarget},
};
use http::{HeaderMap, Method};

use crate::upstream::{MANIFEST, Subject, WHOLE, accept, any_list, config, kind, name, read, reference_of};
use forebay_test_support::fake_registry::{Auth, Bearer, FakeRegistry, Fault, Gate, Server, To, When};

/// Waits as long as a request does, in no time.
async fn in_vain<T>(asking: impl Future<Output = Result<T, Error>>, gate: &Gate) {
    in_vain_while(asking, gate, async {}).await;
}

/// The same for one during which something else is done.
async fn in_vain_while<T>(
    asking: impl Future<Output = Result<T, Error>>,
    gate: &Gate,
    other: impl Future<Output = ()>,
) {
    let asked = async {
        gate.reached().await;
        other.await;
        tokio::time::pause();
    };
    let (answer, ()) = tokio::join!(asking, asked);
    tokio::time::resume();
    assert_eq!(answer.err().map(|error| error.kind), Some(ErrorKind::Timeout));
}

async fn ask(subject: &Subject, what: &str, registry: &FakeRegistry) -> Result<Vec<u8>, Error> {
    let (repository, tag) = (name("team/app"), reference_of("1"));
    let upstream = &subject.upstream;
    match what {
        "manifest" => subject.manifest("team/app", "1").await,
        "head" => upstream.head_manifest(&repository, &tag, &accept(&[MANIFEST])).await.map(|_| vec![]),
        "list" => {
            let list = upstream
                .forward(Operation::Tags, Some(&repository), "team/app/tags/list", &accept(&[]), any_list())
                .await;
            list.map(|list| list.body.to_vec())
        }
        _ => read(upstream.open_blob(&repository, &registry.add_blob("team/app", &b"layer"[..]), WHOLE).await?).await,
    }
}

#[tokio::test]
async fn a_late_answer_is_there_for_the_next_try() {
    for what in ["manifest", "head", "list", "blob"] {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[b"layer"]);
        let subject = Subject::of(&registry);
        let expected = ask(&subject, what, &registry).await.unwrap();
        registry.forget_requests();
        let gate = Gate::new();
        registry.fault_times(1, When::any(), Fault::HoldHead(gate.clone()));
        in_vain(ask(&subject, what, &registry), &gate).await;
        gate.open();
        assert_eq!(ask(&subject, what, &registry).await.unwrap(), expected, "{what}");
        assert_eq!(registry.requests().len(), 1, "{what}");
        // It was given once.
        assert_eq!(ask(&subject, what, &registry).await.unwrap(), expected, "{what}");
        assert_eq!(registry.requests().len(), 2, "{what}");
    }
}

#[tokio::test]
async fn a_request_goes_on_while_one_after_another_waits_in_vain() {
    for what in ["manifest", "blob"] {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[b"layer"]);
        let subject = Subject::of(&registry);
        let expected = ask(&subject, what, &registry).await.unwrap();
        registry.forget_requests();
        let gate = Gate::new();
        registry.fault_times(1, When::any(), Fault::HoldHead(gate.clone()));
        in_vain(ask(&subject, what, &registry), &gate).await;
        // The request beside it is answered later still.
        let never = Gate::new();
        registry.fault_times(10, When::any(), Fault::HoldHead(never.clone()));
        for _ in 0..3 {
            in_vain(ask(&subject, what, &registry), &gate).await;
        }
        gate.open();
        assert_eq!(ask(&subject, what, &registry).await.unwrap(), expected, "{what}");
        // One beside it, and one in its place.
        assert!(registry.requests().len() <= 3, "{what}");
        never.open();
    }
}

#[tokio::test]
async fn one_request_that_hangs_keeps_no_other_away() {
    let ask = async |what: &str| {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[b"layer"]);
        let subject = Subject::of(&registry);
        let expected = ask(&subject, what, &registry).await.unwrap();
        registry.forget_requests();
        let gate = Gate::new();
        registry.fault_times(1, When::any(), Fault::HoldHead(gate.clone()));
        in_vain(ask(&subject, what, &registry), &gate).await;
        assert_eq!(ask(&subject, what, &registry).await.unwrap(), expected, "{what}");
        assert_eq!(registry.requests().len(), 2, "{what}");
        gate.open();
    };
    // Each waits for a while before it asks beside the first.
    for what in ["manifest", "head", "list", "blob"] {
        ask(what).await;
    }
}

#[tokio::test]
async fn a_late_answer_is_found_with_a_new_token() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[]);
    registry.require(Auth::Bearer(Bearer { expires_in: Some(1), ..Bearer::default() }));
    let subject = Subject::of(&registry);
    assert!(subject.manifest("team/app", "1").await.is_ok());
    let gate = Gate::new();
    registry.fault_times(1, When::manifests(), Fault::HoldHead(gate.clone()));
    in_vain(subject.manifest("team/app", "1"), &gate).await;
    gate.open();
    registry.forget_requests();
    // The life of a token is no matter of the runtime's clock.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(subject.manifest("team/app", "1").await.unwrap(), image.manifest_bytes);
    let at = |server| registry.count(|request| request.server == server);
    assert_eq!((at(Server::Api), at(Server::Realm)), (0, 1));
}

#[tokio::test]
async fn a_late_answer_is_for_the_same_request_alone() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    registry.add_image("team/app", "2", &[]);
    let subject = Subject::of(&registry);
    let gate = Gate::new();
    registry.fault_times(1, When::manifests(), Fault::HoldHead(gate.clone()));
    in_vain(subject.manifest("team/app", "1"), &gate).await;
    assert!(subject.manifest("team/app", "2").await.is_ok());
    assert_eq!(registry.requests().len(), 2);
    gate.open();
}

#[tokio::test]
async fn a_late_answer_is_found_behind_a_url_that_is_signed_anew() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let subject = Subject::of(&registry);
    registry.fault(When::blobs().at(Server::Api), Fault::Redirect { status: 307, to: To::Cdn });
    let gate = Gate::new();
    registry.fault_times(1, When::any().at(Server::Cdn), Fault::HoldHead(gate.clone()));
    in_vain(subject.blob("team/app", &image.layers[0], WHOLE), &gate).await;
    gate.open();
    assert_eq!(subject.blob("team/app", &image.layers[0], WHOLE).await.unwrap(), b"layer");
    let at = |server| registry.count(|request| request.server == server);
    assert_eq!((at(Server::Api), at(Server::Cdn)), (2, 1));
}

async fn delete(subject: &Subject, tag: &str) {
    let repository = name("team/app");
    let write = WriteRequest {
        method: Method::DELETE,
        repository: &repository,
        target: WriteTarget::Path(format!("team/app/manifests/{tag}")),
        action: WriteAction::Delete,
        headers: HeaderMap::new(),
    };
    let written = subject.upstream.write(write, None).await.unwrap();
    assert_eq!(written.status, 202);
}

#[tokio::test]
async fn a_late_response_from_before_a_change_is_dropped() {
    for changed_first in [false, true] {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[]);
        let subject = Subject::new(&Config { push: true, ..config(&registry) });
        let gate = Gate::new();
        registry.fault_times(1, When::manifests().method(Method::GET), Fault::HoldHead(gate.clone()));
        let change = async { delete(&subject, image.manifest.as_str()).await };
        if changed_first {
            // The request is not late yet.
            in_vain_while(subject.manifest("team/app", "1"), &gate, change).await;
        } else {
            in_vain(subject.manifest("team/app", "1"), &gate).await;
            change.await;
        }
        gate.open();
        registry.forget_requests();
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::NotFound), "{changed_first}");
        assert_eq!(registry.requests().len(), 1, "{changed_first}");
    }
}

/// Does this until it is true: what is late may come a little later still.
async fn in_some_try(trying: impl AsyncFn() -> bool) {
    for _ in 0..20 {
        if trying().await {
            return;
        }
    }
    panic!("it was so in no try");
}

/// Gives an answer the time to come, and lets it be there for a while.
async fn lie(span: Duration) {
    tokio::time::sleep(Duration::from_millis(20)).await;
    tokio::time::pause();
    tokio::time::advance(span).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_late_answer_tells_how_old_it_is() {
    in_some_try(async || {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[]);
        let subject = Subject::of(&registry);
        let gate = Gate::new();
        registry.fault_times(1, When::any(), Fault::HoldHead(gate.clone()));
        in_vain(subject.manifest("team/app", "1"), &gate).await;
        gate.open();
        lie(Duration::from_secs(50)).await;
        let (repository, tag) = (name("team/app"), reference_of("1"));
        let got = subject.upstream.get_manifest(&repository, &tag, &accept(&[MANIFEST])).await.unwrap();
        got.age.as_secs() == 50
    })
    .await;
}

#[tokio::test]
async fn a_token_that_came_late_lives_no_longer_for_it() {
    in_some_try(async || {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[]);
        registry.require(Auth::Bearer(Bearer { expires_in: Some(60), ..Bearer::default() }));
        let subject = Subject::of(&registry);
        let gate = Gate::new();
        registry.fault_times(1, When::tokens(), Fault::HoldHead(gate.clone()));
        in_vain(subject.manifest("team/app", "1"), &gate).await;
        gate.open();
        lie(Duration::from_secs(55)).await;
        assert!(subject.manifest("team/app", "1").await.is_ok());
        registry.count(|request| request.server == Server::Realm) == 2
    })
    .await;
}

#[tokio::test]
async fn a_late_request_has_the_turn_of_its_limit() {
    let registry = FakeRegistry::start().await;
    let first = registry.add_image("team/app", "1", &[]);
    registry.add_image("team/app", "2", &[b"other"]);
    let subject = Subject::of(&registry);
    registry.fault_times(1, When::manifests(), Fault::too_many("600"));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::TooManyRequests));
    registry.forget_requests();
    let gate = Gate::new();
    registry.fault_times(1, When::manifests(), Fault::HoldHead(gate.clone()));
    in_vain(subject.manifest("team/app", "1"), &gate).await;
    tokio::time::pause();
    assert_eq!(kind(subject.manifest("team/app", "2").await), Some(ErrorKind::TooManyRequests));
    tokio::time::resume();
    assert_eq!(registry.requests().len(), 1);
    // It needs no second one.
    gate.open();
    assert_eq!(subject.manifest("team/app", "1").await.unwrap(), first.manifest_bytes);
    assert!(subject.manifest("team/app", "2").await.is_ok());
    assert_eq!(registry.requests().len(), 2);
}

#[tokio::test]
async fn so_many_requests_go_on_and_no_more() {
    for (what, count, most) in [("manifests", 40, 32), ("blobs", 40, 32)] {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[]);
        (0..count).for_each(|number| registry.tag("team/app", &format!("t{number}"), &image.manifest));
        let blobs: Vec<_> = (0..count).map(|number| registry.add_blob("team/app", number.to_string())).collect();
        let subject = &Subject::of(&registry);
        let ask = async |number: usize| match what {
            "manifests" => subject.manifest("team/app", &format!("t{number}")).await,
            _ => read(subject.upstream.open_blob(&name("team/app"), &blobs[number], WHOLE).await?).await,
        };
        let gate = Gate::new();
        registry.fault_times(count, When::any(), Fault::HoldHead(gate.clone()));
        let all_held = async {
            gate.reached_by(count).await;
            tokio::time::pause();
        };
        let (answers, ()) = tokio::join!(futures_util::future::join_all((0..count).map(ask)), all_held);
        tokio::time::resume();
        assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.kind == ErrorKind::Timeout)));
        gate.open();
        // The newest have the places.
        for number in (0..count).rev() {
            assert!(ask(number).await.is_ok(), "{what} {number}");
        }
        assert_eq!(registry.requests().len(), count + count - most, "{what}");
    }
}
